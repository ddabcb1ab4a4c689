//! The worker: wires models, partitions, routers and planner.
//!
//! What survives a restart: measured profiles (files). Plans are prepared again by the planner, to which the
//! worker joins anew.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::prelude::*;
use anyhow::Context as _;
use arc_swap::ArcSwap;
use bytes::Bytes;
use graft_plan::Epoch;
use graft_service::{Clock, Renewal};
use graft_telemetry::health::{self, Readiness, Served};
use graft_transport::{ClientAuth, Connection, Endpoint, EndpointOptions, Link, Protocol, Role, Telling};
use graft_wire::{Limits, WorkReply, WorkRequest, WorkerInfo, WorkerModel};
use tokio::sync::oneshot;

use crate::config::Settings;
use crate::device::{Device, DeviceSettings, EngineChoice, Opening};
use crate::epochs::Epochs;
use crate::handle::Handle;
use crate::held::HeldBytes;
use crate::keeper::{PlanKeeper, Retire};
use crate::membership::{attend, watch_devices};
use crate::peers::Peers;
use crate::reporter::Reporter;
use crate::scratch::Scratch;
use crate::station::Station;
use crate::workshop::Workshop;

/// Time for a request to come in whole.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time without a request after which a worker that shuts down takes it that routers ask others.
const QUIET: Duration = Duration::from_millis(500);

/// A running worker.
pub struct Worker {
    handle: Handle,
    keeper: Addr<PlanKeeper>,
    endpoint: Endpoint,
    link: Option<Link>,
    readiness: Readiness,
    http: Option<Served>,
    drain: Duration,
    failed: oneshot::Receiver<String>,
    address: SocketAddr,
    /// Where its engines keep weights.
    _scratch: Vec<Scratch>,
    _renewal: Renewal,
    watching: tokio::task::JoinHandle<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Worker {
    /// Loads and measures the models, listens, and joins the planner. Must be called on an actix system.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let readiness = Readiness::not_yet("models are being loaded and measured");
        let http = settings
            .http
            .map(|(address, admin)| health::serve(address, &admin, &readiness, |_| ()))
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

        let (name, catalog) = (settings.name.clone(), settings.catalog.clone());
        let opening = move || -> anyhow::Result<Vec<Device>> {
            let compute = |d: &&DeviceSettings| matches!(d.engine, EngineChoice::Cpu(_));
            let sharers = settings.devices.iter().filter(compute).count() as u64;
            let (mut opened, mut failed) = (vec![], None);
            for device in &settings.devices {
                let id = device.id(&name);
                let opening = Opening {
                    id: id.clone(),
                    settings: device,
                    sharers,
                    catalog: &catalog,
                    batches: &settings.batches,
                    state: &settings.state,
                };
                match opening.open().with_context(|| format!("device {id}")) {
                    Ok(device) => opened.push(device),
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "a device is left out");
                        failed.get_or_insert(error);
                    }
                }
            }
            match failed {
                Some(error) if opened.is_empty() => Err(error),
                _ => Ok(opened),
            }
        };
        let mut devices = tokio::task::spawn_blocking(opening).await??;

        let clock = Clock::start();
        let epochs: Arc<ArcSwap<Epochs>> = Arc::default();
        let handle = Handle {
            epochs: Arc::clone(&epochs),
            clock,
            memory: HeldBytes::new(settings.queue_bytes),
            next: Arc::new(AtomicU64::new(0)),
            draining: Arc::new(AtomicBool::new(false)),
        };
        readiness.not_ready("the planner is not joined yet");
        let info = WorkerInfo {
            name: settings.name.clone(),
            address: settings.advertise.clone().unwrap_or_else(|| address.to_string()),
            devices: devices.iter().map(Device::told).collect(),
            models: settings
                .catalog
                .entries()
                .iter()
                .filter(|e| {
                    let id = e.info.id.to_string();
                    devices.iter().any(|d| d.profile.models.contains_key(&id))
                })
                .map(|e| WorkerModel {
                    id: e.info.id,
                    name: e.manifest.name.clone(),
                })
                .collect(),
            epoch: Epoch(0),
        };
        let client = Endpoint::client(&settings.identity, EndpointOptions::default())?;
        let renewed = [endpoint.clone(), client.clone()];
        let renewal = Renewal::of(settings.identity, move |identity| {
            for endpoint in &renewed {
                if let Err(error) = endpoint.renew(identity) {
                    tracing::warn!(%error, "the renewed certificate can't be used");
                }
            }
        });
        let stations: Vec<Station> = devices.iter().map(Station::new).collect();
        let observed = stations.iter().map(|s| Arc::clone(&s.observed)).collect();
        let peers = Peers::new(client.clone());
        let suspects = peers.suspects();
        let workshop = Workshop {
            name: settings.name.clone(),
            stations,
            clock,
            peers,
        };
        let seen: Arc<AtomicU64> = Arc::default();
        let keeper = PlanKeeper::new(workshop, epochs, settings.drain, Arc::clone(&seen)).start();

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
            seen,
            observed,
            suspects,
        };
        let watching = tokio::spawn(watch_devices(reporter.clone(), readiness.clone()));
        let (told, telling) = (readiness.clone(), Arc::new(Telling::default()));
        let link = Link::open(
            client,
            settings.planner,
            Role::Planner,
            Protocol::Control,
            move |connection| {
                let mut info = info.clone();
                info.epoch = reporter.seen();
                tokio::spawn(reporter.clone().report_while_open(connection.clone()));
                tokio::spawn(reporter.clone().tell_suspects(connection.clone()));
                let (keeping, reporter, told) = (keeping.clone(), reporter.clone(), told.clone());
                let telling = Arc::clone(&telling);
                tokio::spawn(async move {
                    attend(connection, info, keeping, reporter, told, &telling).await;
                });
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
            _renewal: renewal,
            watching,
            _scratch: devices.iter_mut().filter_map(|d| d.scratch.take()).collect(),
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
        self.http.as_ref().map(|http| http.address)
    }

    /// Whether it has joined the planner, or has a plan.
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
        // Leaving the planner first: it plans without this worker, and what comes until routers know is served here.
        self.link.take();
        let start = tokio::time::Instant::now();
        let came = || self.handle.next.load(Ordering::Relaxed);
        let (mut seen, mut quiet) = (came(), start);
        while quiet.elapsed() < QUIET && start.elapsed() < self.drain / 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if came() != seen || self.handle.memory.is_used() {
                (seen, quiet) = (came(), tokio::time::Instant::now());
            }
        }
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
        if let Some(http) = self.http.take() {
            http.stop().await;
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
            move |_, request: WorkRequest, payload: Bytes| {
                let handle = handle.clone();
                async move {
                    let WorkRequest::Run(header) = request else {
                        return (WorkReply::Alive, Bytes::new());
                    };
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
