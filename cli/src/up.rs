//! `graft up`: a small site in one process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use graft_engine::usable_cores;
use graft_router::Clients;
use graft_service::{Shutdown, administered, read_catalog, read_config, resolve, run_system};
use graft_transport::Authority;
use graft_worker::{DeviceSettings, EngineChoice, EngineName};
use serde::Deserialize;

use crate::Verdict;
use crate::ca::write_new;
use crate::output::line;
use crate::site::{Site, SiteSettings, only_gpus, with_gpus};

/// Run router, planner and worker in one process, for a small site.
///
/// The configuration is a TOML file:
///
///   models = "models"          folder of models, each with a model.toml
///   state = "state"            plans, measured profiles and the certificate authority are kept here
///   listen = "0.0.0.0:4433"    UDP address for clients (QUIC); they trust state/ca.pem
///   http = "0.0.0.0:8000"      Open Inference Protocol v2, /healthz, /readyz
///   admin = "127.0.0.1:8001"   /metrics and /v1/requests (graft explain); default: at http, where that is this machine's
///                              alone, else 127.0.0.1 at the port after it
///   admin_token = "admin.txt"  file with a token that has to be shown there; needed where others reach it
///   clients = "anyone"         "token": those alone that show a token of `graft ca token --dir state`
///   names = ["graft.example"]  host names and addresses that clients use
///   cores = [1]                cores to run layers on; default: all but the first
///   engine = "cpu"             each model on the fastest engine here; or one engine: "rten", "onnxruntime"; or "cuda":
///                              GPUs; default: the cores, and all GPUs beside them where models may be in f16
///   gpu = 0                    number of the only GPU, with engine = "cuda" alone; default: all of them
///   onnxruntime = "/opt/ort"   its library or the library's folder; default: ORT_DYLIB_PATH, else it is looked for
///   batches = [1, 2, 4, 8]     batches that are measured
///   headroom = 0.2             capacity exceeds the rate by this part
///   standing_budget_ms = 1000  whole models are always served within this; 0: only what is asked for
///   standing_rps = 1.0         and at this rate
///   http_budget_ms = 1000      deadline of HTTP requests that name none
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    models: PathBuf,
    state: PathBuf,
    listen: String,
    http: String,
    #[serde(default)]
    admin: Option<String>,
    #[serde(default)]
    admin_token: Option<PathBuf>,
    #[serde(default)]
    clients: Clients,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    cores: Option<Vec<usize>>,
    #[serde(default)]
    engine: Option<EngineName>,
    #[serde(default)]
    gpu: Option<u32>,
    #[serde(default)]
    onnxruntime: Option<PathBuf>,
    #[serde(default = "default_batches")]
    batches: Vec<u32>,
    #[serde(default = "default_headroom")]
    headroom: f64,
    #[serde(default = "default_ms")]
    standing_budget_ms: f64,
    #[serde(default = "default_rps")]
    standing_rps: f64,
    #[serde(default = "default_ms")]
    http_budget_ms: f64,
}

fn default_batches() -> Vec<u32> {
    vec![1, 2, 4, 8]
}

fn default_headroom() -> f64 {
    0.2
}

fn default_ms() -> f64 {
    1000.0
}

fn default_rps() -> f64 {
    1.0
}

impl Config {
    fn check(self) -> anyhow::Result<SiteSettings> {
        let usable = usable_cores();
        let default = if usable.len() > 1 {
            usable[1..].to_vec()
        } else {
            usable.clone()
        };
        let cores = self.cores.unwrap_or(default);
        anyhow::ensure!(
            !cores.is_empty() && cores.iter().all(|c| usable.contains(c)),
            "cores = {cores:?}: expected some of the cores that this process may use: {usable:?}"
        );
        anyhow::ensure!(
            self.batches.first() == Some(&1) && self.batches.windows(2).all(|w| w[0] < w[1]),
            "batches = {:?}: expected ascending batches from 1",
            self.batches
        );
        for (key, value) in [
            ("headroom", self.headroom),
            ("standing_budget_ms", self.standing_budget_ms),
            ("standing_rps", self.standing_rps),
            ("http_budget_ms", self.http_budget_ms),
        ] {
            anyhow::ensure!(
                value.is_finite() && (0.0..=1e6).contains(&value),
                "{key} = {value}: expected a number from 0 to 1e6"
            );
        }
        anyhow::ensure!(
            self.http_budget_ms > 0.0,
            "http_budget_ms = 0: expected a number above 0"
        );
        anyhow::ensure!(
            self.gpu.is_none() || self.engine == Some(EngineName::Cuda),
            "gpu is given, but engine is not \"cuda\""
        );
        std::fs::create_dir_all(&self.state)
            .with_context(|| format!("state = {}: the folder can't be made", self.state.display()))?;
        let catalog = read_catalog(&self.models)?;
        let devices = match self.engine {
            None => with_gpus(&catalog, EngineName::Cpu.on_cpu(self.onnxruntime)?, cores),
            Some(EngineName::Cuda) => match self.gpu {
                Some(ordinal) => vec![DeviceSettings::only(EngineChoice::Cuda(ordinal), cores)],
                None => only_gpus(cores),
            },
            Some(engine) => vec![DeviceSettings::only(engine.on_cpu(self.onnxruntime)?, cores)],
        };
        let http = resolve("http", &self.http)?;
        Ok(SiteSettings {
            catalog,
            listen: resolve("listen", &self.listen)?,
            http,
            admin: administered(http, self.admin.as_deref(), self.admin_token.as_deref())?,
            clients: self.clients,
            authority: authority(&self.state)?,
            state: self.state,
            devices,
            batches: self.batches,
            names: self.names,
            headroom: self.headroom,
            standing: (self.standing_budget_ms > 0.0 && self.standing_rps > 0.0)
                .then_some((self.standing_budget_ms, self.standing_rps)),
            http_budget: Duration::from_secs_f64(self.http_budget_ms / 1e3),
            in_memory: true,
        })
    }
}

/// The site's own authority; made at the first start.
fn authority(state: &Path) -> anyhow::Result<Authority> {
    let (certificate, key) = (state.join("ca.pem"), state.join("ca.key"));
    if certificate.is_file() && key.is_file() {
        return Ok(Authority::read(&certificate, &key)?);
    }
    let authority = Authority::new()?;
    write_new(&key, authority.key_pem(), true)?;
    write_new(&certificate, authority.certificate_pem(), false)?;
    Ok(authority)
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    graft_telemetry::logs::start("info");
    graft_telemetry::metrics::start();
    let config: Config = read_config(&arguments.config)?;
    let settings = config.check()?;
    let state = settings.state.clone();
    run_system(async move {
        let mut shutdown = Shutdown::listen()?;
        let site = tokio::select! {
            site = Site::start(settings) => site?,
            _ = shutdown.wait() => return Ok(Verdict::Yes),
        };
        line(format_args!(
            "serving: QUIC on {}, HTTP on {}; clients trust {}",
            site.router.address(),
            site.router.http_address(),
            state.join("ca.pem").display()
        ))?;
        let signal = shutdown.wait().await;
        tracing::info!(signal, "shutting down");
        site.stop().await;
        Ok(Verdict::Yes)
    })
}
