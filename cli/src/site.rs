//! Router, planner and worker in one process: what `graft up` and `graft demo` run.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use graft_cuda::{CudaEngine, Gpu};
use graft_files::Catalog;
use graft_model::Precision;
use graft_planner::Planner;
use graft_router::{Backend, BackendFailure, BackendReply, Clients, Router};
use graft_telemetry::admin::Admin;
use graft_transport::{Authority, Role};
use graft_wire::RunHeader;
use graft_worker::{DeviceSettings, EngineChoice, Handle, Worker};

/// Settings of a site.
pub(crate) struct SiteSettings {
    pub catalog: Catalog,
    /// Folder for plans and measured profiles.
    pub state: PathBuf,
    /// Address for clients (QUIC over UDP).
    pub listen: SocketAddr,
    pub http: SocketAddr,
    /// Where the router is administered.
    pub admin: Admin,
    /// Clients that the router answers.
    pub clients: Clients,
    /// The worker's devices, at least one.
    pub devices: Vec<DeviceSettings>,
    pub batches: Vec<u32>,
    pub authority: Authority,
    /// Names and addresses that clients use for the router.
    pub names: Vec<String>,
    pub headroom: f64,
    /// Time budget in milliseconds, and rate per second, at which whole models are always served; `None`: only what is
    /// asked for is.
    pub standing: Option<(f64, f64)>,
    pub http_budget: Duration,
    /// Whether router and worker hand over in memory instead of over QUIC.
    pub in_memory: bool,
}

/// Prices of a GPU and of the cores beside it: what the GPU can serve goes there, and the cores are kept for what it can't.
const GPU_PRICE: f64 = 1.0;
const CPU_PRICE: f64 = 100.0;

/// This machine's cores, and its GPUs beside them where they can be used for some of the models.
pub(crate) fn with_gpus(catalog: &Catalog, cpu: EngineChoice, cores: Vec<usize>) -> Vec<DeviceSettings> {
    let allowed = catalog
        .entries()
        .iter()
        .any(|e| e.manifest.precision.contains(&Precision::F16));
    let gpus = Gpu::all().unwrap_or_default();
    if gpus.is_empty() || !allowed {
        return vec![DeviceSettings::only(cpu, cores)];
    }
    let mut devices = priced(&gpus);
    devices.push(DeviceSettings {
        name: Some("cpu".to_owned()),
        engine: cpu,
        cores,
        price: Some(CPU_PRICE),
    });
    devices
}

/// This machine's GPUs that can be used; where there are not several, the first is looked for when the worker starts, and cores serve
/// instead of one that can't be used.
pub(crate) fn only_gpus(cores: Vec<usize>) -> Vec<DeviceSettings> {
    let mut gpus = Gpu::all().unwrap_or_default();
    if gpus.len() > 1 {
        gpus.retain(|gpu| CudaEngine::open(gpu).is_ok());
    }
    match gpus.as_slice() {
        [] => vec![DeviceSettings::only(EngineChoice::Cuda(0), cores)],
        [gpu] => vec![DeviceSettings::only(EngineChoice::Cuda(gpu.ordinal), cores)],
        gpus => priced(gpus),
    }
}

fn priced(gpus: &[Gpu]) -> Vec<DeviceSettings> {
    let device = |gpu: &Gpu| DeviceSettings {
        name: Some(format!("gpu{}", gpu.ordinal)),
        engine: EngineChoice::Cuda(gpu.ordinal),
        cores: vec![],
        price: Some(GPU_PRICE),
    };
    gpus.iter().map(device).collect()
}

/// A running site.
pub(crate) struct Site {
    pub planner: Planner,
    pub worker: Worker,
    pub router: Router,
}

const WORKER: &str = "worker";

impl Site {
    /// Starts router, planner and worker; planner and worker on any free ports.
    pub async fn start(settings: SiteSettings) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let authority = &settings.authority;
        let drain = Duration::from_secs(5);
        for part in ["planner", "worker"] {
            let folder = settings.state.join(part);
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("{}: the folder can't be made", folder.display()))?;
        }
        let planner = Planner::start(graft_planner::Settings {
            listen: any,
            http: None,
            state: settings.state.join("planner"),
            headroom: settings.headroom,
            standing: settings.standing,
            retire_after: Duration::from_secs(3),
            identity: authority.issue(Role::Planner, &[])?,
        })
        .await?;
        let worker = Worker::start(graft_worker::Settings {
            name: WORKER.to_owned(),
            catalog: settings.catalog.clone(),
            listen: any,
            advertise: None,
            planner: planner.address(),
            http: None,
            state: settings.state.join("worker"),
            devices: settings.devices,
            batches: settings.batches,
            queue_bytes: 1 << 30,
            drain,
            identity: authority.issue(Role::Worker, &[])?,
        })
        .await?;
        let local: Vec<(String, Arc<dyn Backend>)> = if settings.in_memory {
            vec![(WORKER.to_owned(), Arc::new(InMemory(worker.handle())))]
        } else {
            vec![]
        };
        let router = Router::start(
            graft_router::Settings {
                name: "router".to_owned(),
                catalog: settings.catalog,
                listen: settings.listen,
                http: settings.http,
                admin: settings.admin,
                clients: settings.clients,
                planner: planner.address(),
                max_in_flight: 1024,
                http_budget: settings.http_budget,
                drain,
                identity: authority.issue(Role::Router, &settings.names)?,
            },
            local,
        )
        .await?;
        Ok(Site {
            planner,
            worker,
            router,
        })
    }

    /// Waits until a plan is rolled out and routed by.
    pub async fn ready(&self, patience: Duration) -> anyhow::Result<()> {
        let start = tokio::time::Instant::now();
        while let Some(reason) = self.router.readiness().why_not() {
            anyhow::ensure!(start.elapsed() < patience, "the router is not ready: {reason}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Ends router, planner and worker; the router first, so that nothing more comes in.
    pub async fn stop(self) {
        self.router.stop().await;
        self.worker.stop().await;
        self.planner.stop().await;
    }
}

/// Connection to a worker in the same process.
struct InMemory(Handle);

impl Backend for InMemory {
    fn run(
        &self,
        header: RunHeader,
        payload: Bytes,
        patience: Duration,
    ) -> Pin<Box<dyn Future<Output = BackendReply> + Send + '_>> {
        Box::pin(async move {
            match tokio::time::timeout(patience, self.0.run(header, payload)).await {
                Ok((Ok((header, bytes)), visits)) => Ok((header, bytes, visits)),
                Ok((Err(refused), visits)) => Err(BackendFailure::Refused(refused, visits)),
                Err(_) => Err(BackendFailure::TimedOut),
            }
        })
    }

    fn is_alive(&self) -> bool {
        true
    }

    fn silent(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }

    fn heard(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    fn expect_chunks(&self, _longest: Duration) {}
}
