//! The planner's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use graft_service::{ConfigError, TlsConfig, administered, resolve};
use graft_telemetry::admin::Admin;
use graft_transport::Identity;
use serde::Deserialize;

/// The configuration file. `graft-planner --help` describes the keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// UDP address for workers and routers.
    pub listen: String,
    /// Health.
    pub http: String,
    /// TCP address of metrics and administration.
    #[serde(default)]
    pub admin: Option<String>,
    /// File with a token that has to be shown there.
    #[serde(default)]
    pub admin_token: Option<PathBuf>,
    /// The last plan is kept here.
    pub state: PathBuf,
    /// Capacity exceeds the rate by this part.
    #[serde(default = "default_headroom")]
    pub headroom: f64,
    /// Whole models are always served within this many milliseconds; 0: only what is asked for.
    #[serde(default = "default_standing_budget_ms")]
    pub standing_budget_ms: f64,
    /// And at this rate.
    #[serde(default = "default_standing_rps")]
    pub standing_rps: f64,
    /// The plan before goes on so long after a switch.
    #[serde(default = "default_retire_after_ms")]
    pub retire_after_ms: u64,
    /// Who it is.
    pub tls: TlsConfig,
}

fn default_headroom() -> f64 {
    0.2
}

fn default_standing_budget_ms() -> f64 {
    1000.0
}

fn default_standing_rps() -> f64 {
    1.0
}

fn default_retire_after_ms() -> u64 {
    3000
}

/// A configuration that was checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// UDP address for workers and routers.
    pub listen: SocketAddr,
    /// Health, and where it is administered; `None`: neither is served.
    pub http: Option<(SocketAddr, Admin)>,
    /// The last plan is kept here.
    pub state: PathBuf,
    /// Capacity exceeds the rate by this part.
    pub headroom: f64,
    /// Budget in milliseconds and rate at which whole models are always served.
    pub standing: Option<(f64, f64)>,
    /// The plan before goes on so long after a switch.
    pub retire_after: Duration,
    /// Who it is.
    pub identity: Identity,
}

impl Config {
    /// Checks everything that can be checked before a port is bound.
    pub fn check(self) -> anyhow::Result<Settings> {
        let wrong = |key, value: String, cause: &str| ConfigError::Value {
            key,
            value,
            cause: cause.to_owned(),
        };
        let within = |v: f64, top: f64| v.is_finite() && (0.0..=top).contains(&v);
        if !within(self.headroom, 10.0) {
            return Err(wrong(
                "headroom",
                self.headroom.to_string(),
                "expected a part of 1, from 0 to 10",
            )
            .into());
        }
        if !within(self.standing_budget_ms, 1e6) || !within(self.standing_rps, 1e6) {
            let value = format!("{} ms, {} rps", self.standing_budget_ms, self.standing_rps);
            return Err(wrong(
                "standing_budget_ms, standing_rps",
                value,
                "expected numbers from 0",
            )
            .into());
        }
        std::fs::create_dir_all(&self.state)
            .map_err(|e| wrong("state", self.state.display().to_string(), &e.to_string()))?;
        let http = resolve("http", &self.http)?;
        let admin = administered(http, self.admin.as_deref(), self.admin_token.as_deref())?;
        Ok(Settings {
            listen: resolve("listen", &self.listen)?,
            http: Some((http, admin)),
            identity: self.tls.identity()?,
            state: self.state,
            headroom: self.headroom,
            standing: (self.standing_budget_ms > 0.0 && self.standing_rps > 0.0)
                .then_some((self.standing_budget_ms, self.standing_rps)),
            retire_after: Duration::from_millis(self.retire_after_ms),
        })
    }
}
