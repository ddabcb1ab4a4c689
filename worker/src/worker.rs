//! The worker: wires models, partitions, routers and planner.
//!
//! What survives a restart: measured profiles (files). Plans are prepared again by the planner, to which the
//! worker joins anew.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::prelude::*;
use arc_swap::ArcSwap;
use bytes::Bytes;
use graft_plan::{Epoch, FormatFile};
use graft_service::Clock;
use graft_telemetry::health::{self, Readiness};
use graft_telemetry::metrics as names;
use graft_transport::{ClientAuth, Connection, Endpoint, EndpointOptions, Link, Protocol, Role};
use graft_wire::{
    ControlReply, ControlRequest, Join, Limits, WorkReply, WorkRequest, WorkerInfo, WorkerModel, WorkerPlan,
    WorkerReport,
};
use tokio::sync::oneshot;

use crate::config::Settings;
use crate::device::Opening;
use crate::epochs::{Epochs, Workshop, make_ready};
use crate::handle::Handle;
use crate::job::Budget;
use crate::observed::Observed;
use crate::peers::Peers;
use crate::scratch::Scratch;

/// Time for a request to come in whole, and for control messages to be answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for an engine to make ready what a plan runs; the planner waits a little longer.
const PREPARING: Duration = Duration::from_secs(20);
/// Time between two reports to the planner.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Plans that may be prepared at a time; the oldest is drained to make room.
const MAX_PLANS: usize = 8;

/// Make ready for a plan.
#[derive(Message)]
#[rtype(result = "Result<(), String>")]
struct Prepare(WorkerPlan);

/// Drain and drop all plans before this epoch.
#[derive(Message)]
#[rtype(result = "()")]
struct Retire {
    before: Epoch,
}

/// Drop a plan that no router will use.
#[derive(Message)]
#[rtype(result = "()")]
struct Abandon(Epoch);

/// Owns the prepared plans.
struct PlanKeeper {
    workshop: Workshop,
    epochs: Arc<ArcSwap<Epochs>>,
    drain: Duration,
    readiness: Readiness,
    /// The latest plan that is to be prepared, or that comes after all that were retired.
    wanted: Arc<AtomicU64>,
    /// The latest plans that were abandoned, maybe before they were prepared.
    given_up: VecDeque<Epoch>,
}

impl Actor for PlanKeeper {
    type Context = Context<Self>;
}

impl Handler<Prepare> for PlanKeeper {
    /// Partitions and other messages go on while the engine makes ready what the plan runs.
    type Result = ResponseActFuture<Self, Result<(), String>>;

    fn handle(&mut self, Prepare(work): Prepare, _: &mut Self::Context) -> Self::Result {
        let ranges = self.in_order(&work).and_then(|()| self.workshop.ranges(&work));
        let engine = Arc::clone(&self.workshop.engine);
        let epoch = work.plan.epoch.0;
        if ranges.is_ok() {
            self.wanted.fetch_max(epoch, Ordering::Relaxed);
        }
        let wanted = Arc::clone(&self.wanted);
        let making = async move {
            let ranges = ranges?;
            let overtaken = move || wanted.load(Ordering::Relaxed) > epoch;
            let making =
                tokio::task::spawn_blocking(move || make_ready(&*engine, &ranges, PREPARING, overtaken));
            making.await.map_err(|e| e.to_string())
        };
        let made = making.into_actor(self);
        Box::pin(made.map(move |made, keeper, _| {
            made?;
            // Meanwhile another plan may have been prepared, or this one given up.
            keeper.in_order(&work)?;
            keeper.use_plan(&work)
        }))
    }
}

impl PlanKeeper {
    /// Whether a plan comes after all that are prepared.
    fn in_order(&self, work: &WorkerPlan) -> Result<(), String> {
        let epoch = work.plan.epoch;
        if epoch.0 < self.wanted.load(Ordering::Relaxed) || self.given_up.contains(&epoch) {
            return Err(format!("plan {epoch} is not wanted any more"));
        }
        let epochs = self.epochs.load();
        match epochs.last_key_value() {
            Some((&latest, _)) if epoch < latest => Err(format!(
                "plan {epoch} is older than plan {latest}, which is prepared"
            )),
            _ => Ok(()),
        }
    }

    /// From now on requests of the plan are taken.
    fn use_plan(&mut self, work: &WorkerPlan) -> Result<(), String> {
        let plan = &work.plan;
        let mut epochs = (**self.epochs.load()).clone();
        let prepared = self.workshop.prepare(work)?;
        tracing::info!(epoch = %plan.epoch, partitions = prepared.partitions.len(), "prepared a plan");
        if let Some(same) = epochs.insert(plan.epoch, Arc::new(prepared)) {
            same.drain(self.drain);
        }
        while epochs.len() > MAX_PLANS {
            if let Some((_, oldest)) = epochs.pop_first() {
                oldest.drain(self.drain);
            }
        }
        metrics::gauge!(names::EPOCH).set(plan.epoch.0 as f64);
        self.epochs.store(Arc::new(epochs));
        self.readiness.ready();
        Ok(())
    }
}

impl Handler<Retire> for PlanKeeper {
    type Result = ();

    fn handle(&mut self, Retire { before }: Retire, _: &mut Self::Context) {
        self.wanted.fetch_max(before.0, Ordering::Relaxed);
        let mut old = (**self.epochs.load()).clone();
        let kept = old.split_off(&before);
        self.epochs.store(Arc::new(kept));
        for (epoch, plan) in old {
            tracing::info!(%epoch, "draining a plan");
            plan.drain(self.drain);
        }
    }
}

impl Handler<Abandon> for PlanKeeper {
    type Result = ();

    fn handle(&mut self, Abandon(epoch): Abandon, _: &mut Self::Context) {
        self.given_up.push_back(epoch);
        if self.given_up.len() > MAX_PLANS {
            self.given_up.pop_front();
        }
        let mut epochs = (**self.epochs.load()).clone();
        if let Some(plan) = epochs.remove(&epoch) {
            tracing::info!(%epoch, "a plan was abandoned");
            if epochs.is_empty() {
                self.readiness.not_ready("the only plan was abandoned");
            }
            self.epochs.store(Arc::new(epochs));
            plan.drain(self.drain);
        }
    }
}

/// A running worker.
pub struct Worker {
    handle: Handle,
    keeper: Addr<PlanKeeper>,
    endpoint: Endpoint,
    link: Option<Link>,
    readiness: Readiness,
    http: Option<(SocketAddr, actix_web::dev::ServerHandle)>,
    drain: Duration,
    failed: oneshot::Receiver<String>,
    address: SocketAddr,
    /// Where its engine keeps weights.
    _scratch: Option<Scratch>,
}

impl Worker {
    /// Loads and measures the models, listens, and joins the planner. Must be called on an actix system.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let readiness = Readiness::not_yet("models are being loaded and measured");
        let http = settings
            .http
            .map(|address| health::serve(address, readiness.clone()))
            .transpose()?;
        let options = EndpointOptions {
            open_requests: 1024,
            ..EndpointOptions::default()
        };
        let endpoint = Endpoint::server(
            settings.listen,
            &settings.identity,
            Protocol::Work,
            ClientAuth::Required,
            options,
        )?;
        let address = endpoint.local_addr()?;

        let opening = Opening {
            choice: settings.engine,
            catalog: settings.catalog.clone(),
            cores: settings.cores,
            batches: settings.batches,
            state: settings.state,
        };
        let device = tokio::task::spawn_blocking(move || opening.open()).await??;

        let clock = Clock::start();
        let epochs: Arc<ArcSwap<Epochs>> = Arc::default();
        let handle = Handle {
            epochs: Arc::clone(&epochs),
            clock,
            memory: Budget::new(settings.queue_bytes),
            next: Arc::new(AtomicU64::new(0)),
            draining: Arc::new(AtomicBool::new(false)),
        };
        readiness.not_ready("no plan yet: the planner has not sent one");
        let info = WorkerInfo {
            name: settings.name.clone(),
            address: settings.advertise.clone().unwrap_or_else(|| address.to_string()),
            device_kind: device.kind,
            share_total: u32::try_from(device.units.len()).unwrap_or(u32::MAX),
            memory_bytes: device.memory_bytes,
            emulated: device.emulated,
            profile: device.profile.clone(),
            models: settings
                .catalog
                .entries()
                .iter()
                .filter(|e| device.profile.models.contains_key(&e.info.id.to_string()))
                .map(|e| WorkerModel {
                    id: e.info.id,
                    name: e.manifest.name.clone(),
                })
                .collect(),
            epoch: Epoch(0),
        };
        let client = Endpoint::client(&settings.identity, EndpointOptions::default())?;
        let observed: Arc<Observed> = Arc::default();
        let keeper = PlanKeeper {
            workshop: Workshop {
                name: settings.name.clone(),
                engine: device.engine,
                profile: device.profile,
                cores: device.units,
                memory_bytes: device.memory_bytes,
                clock,
                shares: BTreeMap::new(),
                peers: Peers::new(client.clone()),
                observed: Arc::clone(&observed),
            },
            epochs,
            drain: settings.drain,
            readiness: readiness.clone(),
            wanted: Arc::default(),
            given_up: VecDeque::new(),
        }
        .start();

        let serving = handle.clone();
        let listening = endpoint.clone();
        let (failing, failed) = oneshot::channel();
        tokio::spawn(async move {
            listening
                .listen(&[Role::Router, Role::Worker], move |connection| {
                    tokio::spawn(serve_router(connection, serving.clone()));
                })
                .await;
            let _nobody_waits = failing.send("the QUIC endpoint closed".to_owned());
        });

        let keeping = keeper.clone();
        let reporter = Reporter {
            epochs: Arc::clone(&handle.epochs),
            observed,
        };
        let link = Link::open(
            client,
            settings.planner,
            Role::Planner,
            Protocol::Control,
            move |connection| {
                let mut info = info.clone();
                info.epoch = reporter.epoch();
                tokio::spawn(reporter.clone().report_while_open(connection.clone()));
                tokio::spawn(attend(connection, info, keeping.clone()));
            },
        );
        tracing::info!(name = %settings.name, %address, "serving");
        Ok(Worker {
            handle,
            keeper,
            endpoint,
            link: Some(link),
            readiness,
            http,
            drain: settings.drain,
            failed,
            address,
            _scratch: device.scratch,
        })
    }

    /// The way in for a router in the same process.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where it listens for routers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where health and metrics are.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(address, _)| *address)
    }

    /// Whether it has a plan.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Resolves when it can't serve any more, with the reason.
    pub async fn failed(&mut self) -> String {
        match (&mut self.failed).await {
            Ok(reason) => reason,
            Err(_) => "the listening task is gone".to_owned(),
        }
    }

    /// Not ready at once; leaves the planner; what runs is finished, within the drain time.
    pub async fn stop(mut self) {
        self.readiness.end("shutting down");
        // Leaving the planner first: it plans without this worker while requests here are finished.
        self.link.take();
        let start = tokio::time::Instant::now();
        let grace = self.drain.min(Duration::from_millis(300));
        tokio::time::sleep(grace).await;
        self.handle.draining.store(true, Ordering::Relaxed);
        let retired = self
            .keeper
            .send(Retire {
                before: Epoch(u64::MAX),
            })
            .await;
        if retired.is_err() {
            tracing::warn!("the plan keeper was gone before the end");
        }
        while self.handle.memory.is_used() && start.elapsed() < self.drain {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.endpoint.close("the worker shuts down").await;
        if let Some((_, server)) = self.http.take() {
            server.stop(false).await;
        }
    }
}

async fn serve_router(connection: Connection, handle: Handle) {
    let peer = connection.peer();
    tracing::info!(%peer, "a router or another worker connected");
    let reason = connection
        .serve(
            Limits::default(),
            PATIENCE,
            move |_, WorkRequest::Run(header), payload: Bytes| {
                let handle = handle.clone();
                async move {
                    match handle.run(header, payload).await {
                        (Ok((header, bytes)), visits) => (WorkReply::Answer(header, visits), bytes),
                        (Err(refused), visits) => (WorkReply::Refused(refused, visits), Bytes::new()),
                    }
                }
            },
        )
        .await;
    tracing::info!(%peer, reason, "a router or another worker left");
}

/// Tells the planner what the partitions do.
#[derive(Clone)]
struct Reporter {
    epochs: Arc<ArcSwap<Epochs>>,
    observed: Arc<Observed>,
}

impl Reporter {
    /// The latest plan that is prepared.
    fn epoch(&self) -> Epoch {
        let epochs = self.epochs.load();
        epochs.last_key_value().map_or(Epoch(0), |(&epoch, _)| epoch)
    }

    fn report(&self, since: Duration) -> WorkerReport {
        let epochs = self.epochs.load();
        let latest = epochs.last_key_value().map(|(_, plan)| &plan.counts);
        let partitions = latest.into_iter().flatten();
        WorkerReport {
            epoch: self.epoch(),
            partitions: partitions.map(|(id, counts)| counts.take(id, since)).collect(),
            runs: self.observed.take(),
        }
    }

    async fn report_while_open(self, connection: Connection) {
        let mut last = tokio::time::Instant::now();
        // What happened while nobody listened is not this second's.
        self.report(Duration::ZERO);
        while !connection.is_closed() {
            tokio::time::sleep(REPORT_EVERY).await;
            let report = self.report(last.elapsed());
            last = tokio::time::Instant::now();
            let json = match serde_json::to_vec(&report) {
                Ok(json) => Bytes::from(json),
                Err(error) => return tracing::error!(%error, "a report can't be written"),
            };
            let sent = connection
                .call::<_, ControlReply>(&ControlRequest::Work, json, Limits::default(), PATIENCE)
                .await;
            if let Err(error) = sent {
                tracing::debug!(%error, "a report did not reach the planner");
            }
        }
    }
}

/// Joins the planner on a new connection and does what it says.
async fn attend(connection: Connection, info: WorkerInfo, keeper: Addr<PlanKeeper>) {
    let serving = connection.clone();
    let server = tokio::spawn(async move {
        serving
            .serve(
                Limits::default(),
                PATIENCE,
                move |_, request: ControlRequest, payload: Bytes| {
                    let keeper = keeper.clone();
                    async move { (obey(request, &payload, &keeper).await, Bytes::new()) }
                },
            )
            .await
    });
    let join = match serde_json::to_vec(&Join::Worker(Box::new(info))) {
        Ok(json) => Bytes::from(json),
        Err(error) => {
            tracing::error!(%error, "can't say who I am");
            return;
        }
    };
    let joined = connection
        .call::<_, ControlReply>(&ControlRequest::Join, join, Limits::default(), PATIENCE)
        .await;
    match joined {
        Ok((ControlReply::Done, _)) => tracing::info!("joined the planner"),
        Ok((ControlReply::Failed(reason), _)) => {
            tracing::error!(reason, "the planner does not take this worker");
            connection.close("refused");
        }
        Err(error) => {
            tracing::warn!(%error, "joining the planner failed; trying again");
            connection.close("joining failed");
        }
    }
    if let Ok(reason) = server.await {
        tracing::debug!(reason, "left the planner");
    }
}

async fn obey(request: ControlRequest, payload: &[u8], keeper: &Addr<PlanKeeper>) -> ControlReply {
    let gone = |e: MailboxError| ControlReply::Failed(e.to_string());
    match request {
        ControlRequest::Prepare => match serde_json::from_slice::<WorkerPlan>(payload) {
            Err(error) => ControlReply::Failed(format!("the plan can't be read: {error}")),
            Ok(WorkerPlan {
                plan,
                workers,
                corrections,
            }) => match plan.verified() {
                Err(error) => ControlReply::Failed(error.to_string()),
                Ok(plan) => match keeper
                    .send(Prepare(WorkerPlan {
                        plan,
                        workers,
                        corrections,
                    }))
                    .await
                {
                    Ok(Ok(())) => ControlReply::Done,
                    Ok(Err(reason)) => ControlReply::Failed(reason),
                    Err(e) => gone(e),
                },
            },
        },
        ControlRequest::Retire { before } => match keeper
            .send(Retire {
                before: Epoch(before),
            })
            .await
        {
            Ok(()) => ControlReply::Done,
            Err(e) => gone(e),
        },
        ControlRequest::Abandon { epoch } => match keeper.send(Abandon(Epoch(epoch))).await {
            Ok(()) => ControlReply::Done,
            Err(e) => gone(e),
        },
        ControlRequest::Join | ControlRequest::Mix | ControlRequest::Work | ControlRequest::Switch => {
            ControlReply::Failed("a worker does not do that".to_owned())
        }
    }
}
