//! The router's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use graft_files::Catalog;
use graft_router_core::MOST_IN_FLIGHT;
use graft_service::{ConfigError, TlsConfig, administered, read_catalog, resolve};
use graft_telemetry::admin::Admin;
use graft_transport::Identity;
use serde::Deserialize;

/// Clients that a router answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clients {
    /// Anyone.
    #[default]
    Anyone,
    /// Those that show a token of the site's authority.
    Token,
}

/// The configuration file. `graft-router --help` describes the keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Unique name of this router.
    pub name: String,
    /// Folder of models.
    pub models: PathBuf,
    /// UDP address for clients.
    pub listen: String,
    /// Open Inference Protocol, and health.
    pub http: String,
    /// TCP address of metrics and administration.
    #[serde(default)]
    pub admin: Option<String>,
    /// File with a token that has to be shown there.
    #[serde(default)]
    pub admin_token: Option<PathBuf>,
    /// The planner.
    pub planner: String,
    /// Clients that are answered.
    #[serde(default)]
    pub clients: Clients,
    /// Requests waited for; more are refused as overload.
    #[serde(default = "default_in_flight")]
    pub max_in_flight: usize,
    /// Deadline of HTTP requests that name none.
    #[serde(default = "default_http_budget_ms")]
    pub http_budget_ms: u64,
    /// Longest wait for answers at the end.
    #[serde(default = "default_drain_ms")]
    pub drain_ms: u64,
    /// Who it is.
    pub tls: TlsConfig,
}

fn default_in_flight() -> usize {
    MOST_IN_FLIGHT
}

fn default_http_budget_ms() -> u64 {
    1000
}

fn default_drain_ms() -> u64 {
    5000
}

/// A configuration that was checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Unique name of this router.
    pub name: String,
    /// The models.
    pub catalog: Catalog,
    /// UDP address for clients.
    pub listen: SocketAddr,
    /// Open Inference Protocol, and health.
    pub http: SocketAddr,
    /// Where it is administered.
    pub admin: Admin,
    /// The planner.
    pub planner: SocketAddr,
    /// Clients that are answered.
    pub clients: Clients,
    /// Requests waited for; more are refused as overload.
    pub max_in_flight: usize,
    /// Deadline of HTTP requests that name none.
    pub http_budget: Duration,
    /// Longest wait for answers at the end.
    pub drain: Duration,
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
        if self.name.is_empty() || self.name.len() > 64 {
            return Err(wrong("name", self.name, "expected 1 to 64 characters").into());
        }
        if self.max_in_flight == 0 {
            return Err(wrong("max_in_flight", "0".to_owned(), "expected 1 or more").into());
        }
        if self.http_budget_ms == 0 {
            return Err(wrong("http_budget_ms", "0".to_owned(), "expected 1 or more").into());
        }
        let http = resolve("http", &self.http)?;
        Ok(Settings {
            listen: resolve("listen", &self.listen)?,
            http,
            admin: administered(http, self.admin.as_deref(), self.admin_token.as_deref())?,
            planner: resolve("planner", &self.planner)?,
            identity: self.tls.identity()?,
            catalog: read_catalog(&self.models)?,
            name: self.name,
            clients: self.clients,
            max_in_flight: self.max_in_flight,
            http_budget: Duration::from_millis(self.http_budget_ms),
            drain: Duration::from_millis(self.drain_ms),
        })
    }
}
