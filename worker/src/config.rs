//! The worker's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use graft_engine::{EngineKind, EngineOptions, usable_cores};
use graft_files::{Catalog, ReadFile};
use graft_plan::Profile;
use graft_service::{ConfigError, TlsConfig, read_catalog, resolve};
use graft_transport::Identity;
use serde::Deserialize;

use crate::device::{Emulated, EngineChoice};

/// The configuration file. `graft-worker --help` describes the keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Unique name of this worker.
    pub name: String,
    /// Folder of models.
    pub models: PathBuf,
    /// UDP address for routers.
    pub listen: String,
    /// Where routers reach it.
    #[serde(default)]
    pub advertise: Option<String>,
    /// The planner.
    pub planner: String,
    /// Health and metrics.
    pub http: String,
    /// Measured profiles are kept here.
    pub state: PathBuf,
    /// Cores to run on.
    #[serde(default)]
    pub cores: Option<Vec<usize>>,
    /// Batches that are measured.
    #[serde(default = "default_batches")]
    pub batches: Vec<u32>,
    /// Tensors held for requests, in bytes.
    #[serde(default = "default_queue_bytes")]
    pub queue_bytes: u64,
    /// Longest wait for running requests at the end.
    #[serde(default = "default_drain_ms")]
    pub drain_ms: u64,
    /// Layers run there.
    #[serde(default)]
    pub engine: EngineName,
    /// Where onnxruntime's library is: a file, or a folder with it; looked for, if not given.
    #[serde(default)]
    pub onnxruntime: Option<PathBuf>,
    /// The device that `engine = "emulated"` emulates.
    #[serde(default)]
    pub emulated: Option<EmulatedConfig>,
    /// Who it is.
    pub tls: TlsConfig,
}

/// Names of engines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// The cores of this machine, each model on the fastest engine.
    #[default]
    Cpu,
    /// The cores of this machine, by the engine that is always there.
    Rten,
    /// The cores of this machine, by onnxruntime's library.
    OnnxRuntime,
    /// A device that there is not: layers take the time that a profile says.
    Emulated,
}

impl EngineName {
    /// The engines on the cores of this machine. `library`: where onnxruntime is, instead of looking for it. `Err`: it is
    /// none of them.
    pub fn on_cpu(self, library: Option<PathBuf>) -> Result<EngineChoice, ConfigError> {
        let kind = match self {
            EngineName::Cpu => EngineKind::Fastest,
            EngineName::Rten => EngineKind::Rten,
            EngineName::OnnxRuntime => EngineKind::OnnxRuntime,
            EngineName::Emulated => {
                return Err(ConfigError::Value {
                    key: "engine",
                    value: "emulated".to_owned(),
                    cause: "expected \"cpu\", \"rten\" or \"onnxruntime\"".to_owned(),
                });
            }
        };
        Ok(EngineChoice::Cpu(EngineOptions {
            kind,
            library,
            scratch: None,
        }))
    }
}

/// A device that there is not.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmulatedConfig {
    /// What stages cost there (profiles.json), models by their names.
    pub profiles: PathBuf,
    /// Everything takes so many times as long.
    #[serde(default = "one")]
    pub stretch: f64,
    /// For weights.
    #[serde(default = "default_memory_bytes")]
    pub memory_bytes: u64,
}

fn one() -> f64 {
    1.0
}

fn default_memory_bytes() -> u64 {
    80_000_000_000
}

fn default_batches() -> Vec<u32> {
    vec![1, 2, 4, 8]
}

fn default_queue_bytes() -> u64 {
    1 << 30
}

fn default_drain_ms() -> u64 {
    5000
}

/// A configuration that was checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Unique name of this worker.
    pub name: String,
    /// The models, their files read and understood.
    pub catalog: Catalog,
    /// UDP address for routers.
    pub listen: SocketAddr,
    /// Where routers reach it; `None`: where it listens.
    pub advertise: Option<String>,
    /// The planner.
    pub planner: SocketAddr,
    /// Health and metrics; `None`: not served.
    pub http: Option<SocketAddr>,
    /// Measured profiles are kept here.
    pub state: PathBuf,
    /// Cores to run on, at least one.
    pub cores: Vec<usize>,
    /// Batches that are measured, ascending from 1.
    pub batches: Vec<u32>,
    /// Tensors held for requests, in bytes.
    pub queue_bytes: u64,
    /// Longest wait for running requests at the end.
    pub drain: Duration,
    /// Layers run there.
    pub engine: EngineChoice,
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
        if self.batches.first() != Some(&1) || self.batches.windows(2).any(|w| w[0] >= w[1]) {
            return Err(wrong(
                "batches",
                format!("{:?}", self.batches),
                "expected ascending batches from 1",
            )
            .into());
        }
        let usable = usable_cores();
        let cores = self.cores.clone().unwrap_or_else(|| default_cores(&usable));
        if cores.is_empty() || cores.iter().any(|c| !usable.contains(c)) {
            let cause = format!("expected some of the cores that this process may use: {usable:?}");
            return Err(wrong("cores", format!("{cores:?}"), &cause).into());
        }
        if let Some(advertise) = &self.advertise {
            resolve("advertise", advertise)?;
        }
        let engine = match (self.engine, &self.emulated) {
            (EngineName::Emulated, _) if self.onnxruntime.is_some() => {
                let cause = "is given, but nothing is computed with `engine` \"emulated\"";
                return Err(wrong("onnxruntime", String::new(), cause).into());
            }
            (EngineName::Cpu | EngineName::Rten | EngineName::OnnxRuntime, None) => {
                self.engine.on_cpu(self.onnxruntime.clone())?
            }
            (EngineName::Cpu | EngineName::Rten | EngineName::OnnxRuntime, Some(_)) => {
                let cause = "is given, but `engine` is not \"emulated\"";
                return Err(wrong("emulated", String::new(), cause).into());
            }
            (EngineName::Emulated, None) => {
                let cause = "expected a table [emulated] with `profiles`";
                return Err(wrong("engine", "emulated".to_owned(), cause).into());
            }
            (EngineName::Emulated, Some(emulated)) => {
                if !(emulated.stretch.is_finite() && emulated.stretch > 0.0) {
                    let value = emulated.stretch.to_string();
                    return Err(wrong("emulated.stretch", value, "expected a number above 0").into());
                }
                EngineChoice::Emulated(Emulated {
                    profile: Profile::read(&emulated.profiles)?,
                    stretch: emulated.stretch,
                    memory_bytes: emulated.memory_bytes,
                })
            }
        };
        std::fs::create_dir_all(&self.state)
            .map_err(|e| wrong("state", self.state.display().to_string(), &e.to_string()))?;
        Ok(Settings {
            listen: resolve("listen", &self.listen)?,
            planner: resolve("planner", &self.planner)?,
            http: Some(resolve("http", &self.http)?),
            identity: self.tls.identity()?,
            catalog: read_catalog(&self.models)?,
            advertise: self.advertise,
            name: self.name,
            state: self.state,
            cores,
            batches: self.batches,
            queue_bytes: self.queue_bytes,
            drain: Duration::from_millis(self.drain_ms),
            engine,
        })
    }
}

/// All usable cores but the first, which sockets and actors need; the first too where there is no other.
fn default_cores(usable: &[usize]) -> Vec<usize> {
    match usable {
        [] | [_] => usable.to_vec(),
        [_, rest @ ..] => rest.to_vec(),
    }
}
