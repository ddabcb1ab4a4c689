//! The worker's configuration.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use graft_engine::{EngineKind, EngineOptions, usable_cores};
use graft_files::{Catalog, ReadFile};
use graft_plan::{PRICES, Profile};
use graft_service::{ConfigError, TlsConfig, administered, read_catalog, resolve};
use graft_telemetry::admin::Admin;
use graft_transport::Identity;
use serde::Deserialize;

use crate::device::{DeviceSettings, Emulated, EngineChoice};

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
    /// Health.
    pub http: String,
    /// TCP address of metrics and administration.
    #[serde(default)]
    pub admin: Option<String>,
    /// File with a token that has to be shown there.
    #[serde(default)]
    pub admin_token: Option<PathBuf>,
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
    pub engine: Option<EngineName>,
    /// Where onnxruntime's library is: a file, or a folder with it; looked for, if not given.
    #[serde(default)]
    pub onnxruntime: Option<PathBuf>,
    /// The device that `engine = "emulated"` emulates.
    #[serde(default)]
    pub emulated: Option<EmulatedConfig>,
    /// Number of the GPU that `engine = "cuda"` uses.
    #[serde(default)]
    pub gpu: Option<u32>,
    /// Price of the device.
    #[serde(default)]
    pub price: Option<f64>,
    /// Several devices, instead of `cores`, `engine`, `onnxruntime`, `emulated`, `gpu` and `price`.
    #[serde(default)]
    pub devices: Vec<DeviceConfig>,
    /// Who it is.
    pub tls: TlsConfig,
}

/// One of several devices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Its name, unique on this worker.
    pub name: String,
    /// Layers run there.
    #[serde(default)]
    pub engine: Option<EngineName>,
    /// Cores to run on.
    #[serde(default)]
    pub cores: Option<Vec<usize>>,
    /// Where onnxruntime's library is.
    #[serde(default)]
    pub onnxruntime: Option<PathBuf>,
    /// The device that `engine = "emulated"` emulates.
    #[serde(default)]
    pub emulated: Option<EmulatedConfig>,
    /// Number of the GPU that `engine = "cuda"` uses.
    #[serde(default)]
    pub gpu: Option<u32>,
    /// Price of the device.
    #[serde(default)]
    pub price: Option<f64>,
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
    /// A GPU of this machine; its cores, where there is none that can be used.
    Cuda,
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
            EngineName::Cuda | EngineName::Emulated => {
                return Err(ConfigError::Value {
                    key: "engine",
                    value: if self == EngineName::Cuda {
                        "cuda"
                    } else {
                        "emulated"
                    }
                    .to_owned(),
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
    pub http: Option<(SocketAddr, Admin)>,
    /// Measured profiles are kept here.
    pub state: PathBuf,
    /// Its devices, at least one.
    pub devices: Vec<DeviceSettings>,
    /// Batches that are measured, ascending from 1.
    pub batches: Vec<u32>,
    /// Tensors held for requests, in bytes.
    pub queue_bytes: u64,
    /// Longest wait for running requests at the end.
    pub drain: Duration,
    /// Who it is.
    pub identity: Identity,
}

fn wrong(key: &'static str, value: impl ToString, cause: &str) -> ConfigError {
    ConfigError::Value {
        key,
        value: value.to_string(),
        cause: cause.to_owned(),
    }
}

impl DeviceConfig {
    fn check(self, only: bool) -> anyhow::Result<DeviceSettings> {
        let usable = usable_cores();
        if let Some(price) = self.price.filter(|p| !PRICES.contains(p)) {
            let cause = format!("expected {} to {}", PRICES.start(), PRICES.end());
            return Err(wrong("price", price, &cause).into());
        }
        let engine = self.engine.unwrap_or_default();
        if self.gpu.is_some() && engine != EngineName::Cuda {
            return Err(wrong("gpu", "", "is given, but `engine` is not \"cuda\"").into());
        }
        let emulates = engine == EngineName::Emulated;
        let cores = match self.cores {
            Some(_) if emulates && !only => {
                let cause = "are given, but nothing is computed with `engine` \"emulated\"";
                return Err(wrong("cores", "", cause).into());
            }
            Some(cores) => cores,
            None if emulates || (engine == EngineName::Cuda && !only) => vec![],
            None => default_cores(&usable),
        };
        let twice = (0..cores.len()).any(|at| cores[..at].contains(&cores[at]));
        let elsewhere = emulates || engine == EngineName::Cuda;
        if (cores.is_empty() && !elsewhere) || twice || cores.iter().any(|c| !usable.contains(c)) {
            let cause =
                format!("expected some of the cores that this process may use, each once: {usable:?}");
            return Err(wrong("cores", format!("{cores:?}"), &cause).into());
        }
        let engine = match (engine, &self.emulated) {
            (EngineName::Emulated, _) if self.onnxruntime.is_some() => {
                let cause = "is given, but nothing is computed with `engine` \"emulated\"";
                return Err(wrong("onnxruntime", "", cause).into());
            }
            (EngineName::Cuda, None) => EngineChoice::Cuda(self.gpu.unwrap_or(0)),
            (EngineName::Cpu | EngineName::Rten | EngineName::OnnxRuntime, None) => {
                engine.on_cpu(self.onnxruntime)?
            }
            (EngineName::Cpu | EngineName::Rten | EngineName::OnnxRuntime | EngineName::Cuda, Some(_)) => {
                let cause = "is given, but `engine` is not \"emulated\"";
                return Err(wrong("emulated", "", cause).into());
            }
            (EngineName::Emulated, None) => {
                let cause = "expected a table [emulated] with `profiles`";
                return Err(wrong("engine", "emulated", cause).into());
            }
            (EngineName::Emulated, Some(emulated)) => {
                if !(emulated.stretch.is_finite() && emulated.stretch > 0.0) {
                    return Err(
                        wrong("emulated.stretch", emulated.stretch, "expected a number above 0").into(),
                    );
                }
                EngineChoice::Emulated(Box::new(Emulated {
                    profile: Profile::read(&emulated.profiles)?,
                    stretch: emulated.stretch,
                    memory_bytes: emulated.memory_bytes,
                }))
            }
        };
        Ok(DeviceSettings {
            name: (!only).then_some(self.name),
            engine,
            cores,
            price: self.price,
        })
    }
}

impl Config {
    /// Checks everything that can be checked before a port is bound.
    pub fn check(mut self) -> anyhow::Result<Settings> {
        if self.name.is_empty() || self.name.len() > 64 || self.name.contains('/') {
            return Err(wrong("name", self.name, "expected 1 to 64 characters without a slash").into());
        }
        if self.batches.first() != Some(&1) || self.batches.windows(2).any(|w| w[0] >= w[1]) {
            let given = format!("{:?}", self.batches);
            return Err(wrong("batches", given, "expected ascending batches from 1").into());
        }
        if let Some(advertise) = &self.advertise {
            resolve("advertise", advertise)?;
        }
        let devices = self.devices()?;
        std::fs::create_dir_all(&self.state)
            .map_err(|e| wrong("state", self.state.display().to_string(), &e.to_string()))?;
        let http = resolve("http", &self.http)?;
        let admin = administered(http, self.admin.as_deref(), self.admin_token.as_deref())?;
        Ok(Settings {
            listen: resolve("listen", &self.listen)?,
            planner: resolve("planner", &self.planner)?,
            http: Some((http, admin)),
            identity: self.tls.identity()?,
            catalog: read_catalog(&self.models)?,
            advertise: self.advertise,
            name: self.name,
            state: self.state,
            devices,
            batches: self.batches,
            queue_bytes: self.queue_bytes,
            drain: Duration::from_millis(self.drain_ms),
        })
    }

    /// Its devices: those of the tables, or the one that the file's own keys describe.
    fn devices(&mut self) -> anyhow::Result<Vec<DeviceSettings>> {
        let own = DeviceConfig {
            name: String::new(),
            engine: self.engine.take(),
            cores: self.cores.take(),
            onnxruntime: self.onnxruntime.take(),
            emulated: self.emulated.take(),
            gpu: self.gpu.take(),
            price: self.price.take(),
        };
        let tables = std::mem::take(&mut self.devices);
        if tables.is_empty() {
            return Ok(vec![own.check(true)?]);
        }
        for (key, given) in [
            ("engine", own.engine.is_some()),
            ("cores", own.cores.is_some()),
            ("onnxruntime", own.onnxruntime.is_some()),
            ("emulated", own.emulated.is_some()),
            ("gpu", own.gpu.is_some()),
            ("price", own.price.is_some()),
        ] {
            if given {
                let cause = "is given beside [[devices]]: give it to one of these";
                return Err(wrong(key, "", cause).into());
            }
        }
        let (mut names, mut taken) = (BTreeSet::new(), BTreeSet::new());
        let mut devices = vec![];
        for table in tables {
            let name = &table.name;
            if name.is_empty() || name.len() > 64 || name.contains('/') || !names.insert(name.clone()) {
                let cause = "expected 1 to 64 characters without a slash, that no other device has";
                return Err(wrong("devices.name", name, cause).into());
            }
            let described = format!("[[devices]] {name:?}");
            let device = table.check(false).context(described)?;
            if let Some(core) = device.cores.iter().find(|core| !taken.insert(**core)) {
                let cause =
                    "this core is another device's already: give `cores` to each device that computes here";
                return Err(wrong("devices.cores", core, cause).into());
            }
            devices.push(device);
        }
        let priced = devices.iter().filter(|d| d.price.is_some()).count();
        if priced != 0 && priced != devices.len() {
            let cause = "is given for some devices: expected one for all or for none";
            return Err(wrong("devices.price", "", cause).into());
        }
        Ok(devices)
    }
}

/// All usable cores but the first, which sockets and actors need; the first too where there is no other.
fn default_cores(usable: &[usize]) -> Vec<usize> {
    match usable {
        [] | [_] => usable.to_vec(),
        [_, rest @ ..] => rest.to_vec(),
    }
}
