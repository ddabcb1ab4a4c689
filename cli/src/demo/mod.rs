//! `graft demo`: phones and a server share a real, trained network on this machine.

mod phones;
mod picture_of_plan;
mod report;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use graft_client::{Device, ModelHere, Routers, picture};
use graft_cuda::Gpu;
use graft_engine::usable_cores;
use graft_files::{Catalog, CatalogEntry};
use graft_model::{Batch, Precision};
use graft_router::Clients;
use graft_service::run_system;
use graft_telemetry::admin::Admin;
use graft_transport::{Authority, Endpoint, EndpointOptions, Role};
use graft_worker::{DeviceSettings, EngineChoice};

use crate::Verdict;
use crate::engines::EngineArguments;
use crate::output::line;
use crate::site::{Site, SiteSettings};
use phones::{Fleet, Phone, Sample};

/// Run router, planner, worker and six simulated phones here, and show what they do.
///
/// Everything is real: the network is trained, phones run its first layers and send the intermediate tensor
/// over QUIC, the planner plans for what the router observes. Only the phones' speed and links are emulated.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Folder of models, each with a model.toml
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Which of them; default: the first that has a sample picture
    #[arg(long)]
    model: Option<String>,
    /// A picture instead of the model's sample (PNG or JPEG)
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// How long the phones send, in seconds
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=600))]
    seconds: u64,
    #[command(flatten)]
    engine: EngineArguments,
    /// Where the server's layers run: cpu, or a GPU as cuda:N; default: cuda:0 where a GPU is there, else cpu
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// One JSON object on standard output instead of text
    #[arg(long)]
    json: bool,
}

/// Longest wait for the first plan, and for every phone to be served.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    graft_telemetry::logs::start("error");
    graft_telemetry::metrics::start();
    run_system(demonstrate(arguments))
}

/// Progress, on standard error: one line that is replaced on a terminal, lines elsewhere.
pub(crate) struct Progress {
    terminal: bool,
    start: Instant,
}

impl Progress {
    fn start() -> Self {
        Progress {
            terminal: std::io::stderr().is_terminal(),
            start: Instant::now(),
        }
    }

    pub fn say(&self, text: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let mut out = std::io::stderr().lock();
        let written = if self.terminal {
            write!(out, "\r\x1b[K[{seconds:5.1} s] {text}").and_then(|()| out.flush())
        } else {
            writeln!(out, "[{seconds:5.1} s] {text}")
        };
        if written.is_err() {
            tracing::debug!("nobody reads the progress");
        }
    }

    fn done(&self) {
        if self.terminal {
            eprintln!();
        }
    }
}

/// The folder of models: as given, `models` here, or the one of the source tree.
fn models_folder(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| {
        let here = PathBuf::from("models");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        if here.is_dir() || !source.is_dir() {
            here
        } else {
            source
        }
    })
}

/// The server's device: as asked, else a GPU where one is there.
fn devices(
    arguments: &Arguments,
    entry: &CatalogEntry,
    cores: Vec<usize>,
) -> anyhow::Result<Vec<DeviceSettings>> {
    let ordinal = match arguments.device.as_deref() {
        Some("cpu") => None,
        Some(device) => {
            let number = device.strip_prefix("cuda:").and_then(|n| n.parse().ok());
            let number = number.with_context(|| format!("--device {device}: expected cpu or cuda:N"))?;
            Some(Gpu::find(number)?.ordinal)
        }
        None => {
            let allowed = entry.manifest.precision.contains(&Precision::F16);
            let first = Gpu::all().unwrap_or_default().into_iter().next();
            first
                .filter(|gpu| allowed && !gpu.is_softgpu())
                .map(|gpu| gpu.ordinal)
        }
    };
    let engine = ordinal.map_or_else(|| arguments.engine.choice(), EngineChoice::Cuda);
    Ok(vec![DeviceSettings::only(engine, cores)])
}

async fn demonstrate(arguments: Arguments) -> anyhow::Result<Verdict> {
    let progress = Progress::start();
    let folder = models_folder(arguments.models.clone());
    let catalog = Catalog::read(&folder)?;
    let entry = pick(&catalog, arguments.model.as_deref())?.clone();
    progress.say(&format!(
        "{}: {} cut points; measuring its layers here",
        entry.manifest.name,
        entry.info.cuts.len()
    ));

    let usable = usable_cores();
    let phone_core = &usable[..1];
    let worker_core = usable[usable.len() - 1..].to_vec();
    let device = Arc::new(Device::with_engines(
        Some(phone_core),
        &arguments.engine.options(),
    )?);
    let (here, samples) = {
        let (device, entry) = (Arc::clone(&device), entry.clone());
        let image = arguments.image.clone();
        tokio::task::spawn_blocking(move || prepare(&device, &entry, image.as_deref())).await??
    };

    progress.say("starting planner, worker and router; the worker measures its core");
    let state = tempfile::tempdir().context("no folder for plans and profiles")?;
    let authority = Authority::new()?;
    let trust = authority.issue(Role::Router, &[])?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let site = Site::start(SiteSettings {
        catalog: catalog.clone(),
        state: state.path().to_owned(),
        listen: any,
        http: any,
        devices: devices(&arguments, &entry, worker_core)?,
        batches: vec![1, 2, 4],
        authority,
        names: vec![],
        admin: Admin::default(),
        clients: Clients::Anyone,
        headroom: 0.2,
        standing: Some((1000.0, 0.5)),
        http_budget: Duration::from_secs(1),
        in_memory: false,
    })
    .await?;
    site.ready(PATIENCE).await?;

    let endpoint = Endpoint::anonymous_trusting(&trust, EndpointOptions::for_phones())?;
    let name = Role::Router.server_name();
    let routers = Routers::new(endpoint, name, vec![site.router.address()], None);
    let whole_ms = here.whole_ms();
    let fleet = Fleet {
        model: Arc::new(here),
        routers,
        samples: Arc::new(samples),
    };
    let phones = Phone::six(whole_ms);
    progress.say("phones connect, measure their links and choose partition points");
    let sessions = fleet.sessions(&phones)?;
    fleet.warm_up(&phones, &sessions, PATIENCE).await?;
    let records = fleet
        .run(
            &phones,
            &sessions,
            Duration::from_secs(arguments.seconds),
            &progress,
        )
        .await?;
    let view = site.planner.view().await?;
    progress.say("done");
    progress.done();
    site.stop().await;

    let report = report::Report::new(&entry, &fleet.samples, &phones, records, view);
    if arguments.json {
        line(format_args!("{}", report.json()))?;
    } else {
        line(report.text().trim_end())?;
    }
    Ok(if report.failures().is_empty() {
        Verdict::Yes
    } else {
        Verdict::No
    })
}

fn pick<'a>(catalog: &'a Catalog, name: Option<&str>) -> anyhow::Result<&'a CatalogEntry> {
    match name {
        Some(name) => catalog
            .find(name)
            .with_context(|| format!("there is no model {name}")),
        None => {
            let mut entries = catalog.entries().iter();
            entries
                .find(|e| e.manifest.sample.is_some())
                .context("no model has a [sample]: give --model and --image")
        }
    }
}

/// Loads the model here, and makes the inputs with their right answers: the whole model's outputs.
fn prepare(
    device: &Arc<Device>,
    entry: &CatalogEntry,
    image: Option<&Path>,
) -> anyhow::Result<(ModelHere, Vec<Sample>)> {
    let model = entry.load()?;
    let here = device.load(entry.clone(), &model)?;
    let spec = entry
        .manifest
        .input
        .image
        .as_ref()
        .context("the model's manifest has no [input.image]")?;
    let (file, label) = match (image, &entry.manifest.sample) {
        (Some(file), _) => (file.to_owned(), None),
        (None, Some(sample)) => (entry.folder.join(&sample.file), Some(sample.label.clone())),
        (None, None) => anyhow::bail!("the model has no [sample]: give --image"),
    };
    let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
    let photo = picture::decode(&bytes)?;
    let mut mirrored = photo.clone();
    graft_client::picture::mirror(&mut mirrored);
    let mut samples = vec![];
    for (picture, label) in [(photo, label), (mirrored, None)] {
        let input: Batch = picture::tensor(&picture, spec)?.into();
        let outputs = device.run_whole(&entry.info, input.clone())?;
        samples.push(Sample {
            input,
            outputs,
            label,
        });
    }
    Ok((here, samples))
}
