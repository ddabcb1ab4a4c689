//! The life of a request in the router: check, let in, send on, answer. Shared by QUIC and HTTP.
//!
//! What happens to a request is decided by `graft-router-core`'s [`Passage`]; here it is carried out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use graft_files::{Catalog, CatalogEntry};
use graft_model::{Cut, CutPoint, ModelId};
use graft_plan::{Nanos, nanos_to_ms};
use graft_router_core::{
    Asked, Attempt, Attempted, Entrance, Go, Life, Passage, RouteTable, Sending, Source,
};
use graft_service::Clock;
use graft_telemetry::metrics as names;
use graft_wire::{
    AnswerHeader, Description, InferHeader, Refused, RunHeader, Status, TraceContext, Visit, WireType,
};
use tokio::sync::Notify;

use crate::backend::{Backend, BackendFailure, BackendReply};
use crate::bearers::{Bearer, Bearers};
use crate::check::check;
use crate::counts::Counts;

/// How a request came in.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    /// From where.
    pub source: Source,
    /// Who asks, if it is shown.
    pub bearer: Option<Arc<Bearer>>,
    /// Time from its first byte to its last.
    pub coming_in: Duration,
}

/// Numbers of connections over HTTP, which are their ports, begin here; below are those over QUIC.
pub(crate) const HTTP: u64 = 1 << 48;

/// Who asks from an address, on a connection of this number.
fn source_at(address: IpAddr, connection: u64) -> Source {
    let group = match graft_transport::network_of(address) {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    Source { group, connection }
}

impl Came {
    /// From an address, on a connection of this number.
    pub fn new(address: IpAddr, connection: u64, bearer: Option<Arc<Bearer>>, coming_in: Duration) -> Self {
        let named = bearer.as_ref().map(|bearer| bearer.source(connection));
        Came {
            source: named.unwrap_or_else(|| source_at(address, connection)),
            bearer,
            coming_in,
        }
    }
}

/// An answer, or why there is none.
pub(crate) type Answer = Result<(AnswerHeader, Bytes), Refused>;

/// Routes and the workers that they lead to, replaced together.
#[derive(Default)]
pub(crate) struct Routing {
    pub table: RouteTable,
    pub backends: HashMap<String, Arc<dyn Backend>>,
}

impl Routing {
    fn is_usable(&self, worker: &str) -> bool {
        self.backends.get(worker).is_some_and(|b| b.is_alive())
    }
}

/// What all connections share. Readers of the routes take no lock.
pub(crate) struct Front {
    pub catalog: Catalog,
    pub clock: Clock,
    pub bearers: Bearers,
    pub routing: ArcSwap<Routing>,
    pub entrance: Entrance,
    pub draining: AtomicBool,
    /// Number of requests that came.
    came: AtomicU64,
    pub counts: Counts,
    /// A request came that no route serves.
    pub unserved: Notify,
    /// The routes changed.
    pub switched: Notify,
}

/// A request that is being served. Dropped before it has ended, its client took it back.
struct Living<'a> {
    front: &'a Front,
    start: Nanos,
    /// It counts as one of its model's: that is one of this router's, and what was asked for may be planned for.
    counts: bool,
    /// Its client waited no longer.
    taken_back: bool,
    life: Option<Life>,
    passage: Option<Passage>,
}

impl Living<'_> {
    fn end(&mut self, refused: Option<Refused>, in_time: bool) {
        let Some(mut life) = self.life.take() else { return };
        let took = self.front.clock.now() - self.start;
        let status = refused.as_ref().map_or("ok", |r| r.status.name());
        life.took_ms = nanos_to_ms(took);
        (life.in_time, life.refused) = (in_time, refused);
        if let Some(passage) = &self.passage {
            let outcome = life
                .refused
                .as_ref()
                .map_or(Ok(()), |refused| Err(refused.status));
            let heard = (!self.taken_back).then_some(outcome);
            self.front.entrance.over(self.front.clock.now(), passage, heard);
        }
        life.attempts = self.passage.take().map_or_else(Vec::new, Passage::into_attempts);
        metrics::gauge!(names::ROUTER_IN_FLIGHT).set(self.front.entrance.in_flight() as f64);
        metrics::counter!(names::ROUTER_REQUESTS, "model" => life.model_name.clone(), "status" => status)
            .increment(1);
        metrics::histogram!(names::ROUTER_SECONDS).record(took.as_secs());
        tracing::debug!(request = %life.request_id, status, took_ms = life.took_ms, "a request ended");
        if life.not_finite > 0 {
            metrics::counter!(names::ROUTER_NOT_FINITE, "model" => life.model_name.clone()).increment(1);
        }
        if self.counts {
            let latest = life.attempts.last().map(|a: &Attempt| a.epoch);
            let epoch = latest.unwrap_or_else(|| self.front.routing.load().table.epoch());
            self.front.counts.ended(epoch, &life);
        }
        self.front.counts.remember(life);
    }
}

impl Drop for Living<'_> {
    fn drop(&mut self) {
        if self.life.is_some() {
            self.taken_back = true;
            let now = self.front.clock.now();
            let late = self
                .passage
                .as_ref()
                .is_some_and(|passage| !passage.is_in_time(now));
            // One that was given up early says nothing of how its model is served.
            self.counts &= late;
            let why = Refused::new(Status::Cancelled, "the client waited no longer");
            self.end(Some(why), false);
        }
    }
}

/// Elements of an answer that are NaN or infinite. `outputs`: what the model gives.
fn not_finite(outputs: &Cut, types: &[WireType], bytes: &[u8]) -> u64 {
    let Ok(parts) = outputs.apart(&WireType::dtypes(types), bytes) else {
        return 0;
    };
    let floats = types.iter().zip(parts).filter(|(t, _)| **t == WireType::F32);
    let words = floats.flat_map(|(_, part)| part.as_chunks::<4>().0);
    words.filter(|&&w| !f32::from_le_bytes(w).is_finite()).count() as u64
}

impl Front {
    pub fn new(catalog: Catalog, max_in_flight: usize, bearers: Bearers) -> Self {
        Front {
            catalog,
            bearers,
            clock: Clock::start(),
            routing: ArcSwap::default(),
            entrance: Entrance::new(max_in_flight),
            draining: AtomicBool::new(false),
            came: AtomicU64::default(),
            counts: Counts::default(),
            unserved: Notify::new(),
            switched: Notify::new(),
        }
    }

    /// Number of requests that came so far.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// What is served of a model, for whoever may ask for that.
    pub fn describe(&self, model: &ModelId, bearer: Option<&Bearer>) -> Result<Description, Refused> {
        self.bearers.may_look(bearer)?;
        let entry = self.entry(model)?;
        self.bearers.may_see(bearer, &entry.manifest)?;
        let routing = self.routing.load();
        Ok(Description {
            name: entry.manifest.name.clone(),
            server_ms: routing.table.server_ms(model).to_vec(),
            price: routing.table.price(model).to_vec(),
            emulated: routing.table.is_emulated(),
            wire: entry.manifest.wire.clone(),
        })
    }

    fn entry(&self, model: &ModelId) -> Result<&CatalogEntry, Refused> {
        self.catalog.get(model).ok_or_else(|| {
            Refused::new(
                Status::UnknownModel,
                format!("this router has no model {model:?}"),
            )
        })
    }

    /// A call over HTTP that did not come to be a request: it is counted and remembered.
    pub fn refused_at_door(&self, model: &str, trace: TraceContext, refused: &Refused) {
        let entry = self.catalog.find(model);
        let name = entry.map_or("unknown", |e| e.manifest.name.as_str());
        metrics::counter!(names::ROUTER_REQUESTS, "model" => name.to_owned(), "status" => refused.status.name())
            .increment(1);
        self.counts.remember(Life {
            request_id: trace.request_id(),
            model: entry.map_or(ModelId([0; 32]), |e| e.info.id),
            model_name: name.to_owned(),
            partition_point: CutPoint(0),
            budget_ms: 0.0,
            at_unix_ms: unix_ms(),
            upload_ms: 0.0,
            bytes: 0,
            took_ms: 0.0,
            in_time: false,
            not_finite: 0,
            refused: Some(refused.clone()),
            attempts: vec![],
        });
    }

    /// Runs the rest of one request. Dropping the future takes the request back.
    /// One that no route serves waits for a plan that does, as long as it can afford.
    pub async fn infer(&self, header: InferHeader, payload: Bytes, came: Came) -> Answer {
        let start = self.clock.now();
        let known = self.catalog.get(&header.model);
        let name = known.map_or("unknown", |e| e.manifest.name.as_str());
        let life = Life {
            request_id: header.trace.request_id(),
            model: header.model,
            model_name: name.to_owned(),
            partition_point: header.partition_point,
            budget_ms: nanos_to_ms(header.time_left),
            at_unix_ms: unix_ms(),
            upload_ms: came.coming_in.as_secs_f64() * 1e3,
            bytes: payload.len() as u64,
            took_ms: 0.0,
            in_time: false,
            not_finite: 0,
            refused: None,
            attempts: vec![],
        };
        let mut living = Living {
            front: self,
            start,
            counts: known.is_some(),
            taken_back: false,
            life: Some(life),
            passage: None,
        };
        let mut outcome = self.serve(&header, payload, start, &came, &mut living).await;
        let now = self.clock.now();
        if let Ok((answer, bytes)) = &mut outcome {
            answer.timing.router_ns = (now - start).0;
            if let (Some(life), Some(entry)) = (&mut living.life, known) {
                life.not_finite = not_finite(entry.info.outputs(), &answer.dtypes, bytes);
            }
        }
        let in_time = |passage: &Passage| passage.is_in_time(now);
        let in_time = outcome.is_ok() && living.passage.as_ref().is_some_and(in_time);
        living.end(outcome.as_ref().err().cloned(), in_time);
        outcome
    }

    async fn serve(
        &self,
        header: &InferHeader,
        payload: Bytes,
        start: Nanos,
        came: &Came,
        living: &mut Living<'_>,
    ) -> Answer {
        self.came.fetch_add(1, Ordering::Relaxed);
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::new(Status::NotReady, "the router is draining"));
        }
        let entry = self.entry(&header.model)?;
        let allowed = self
            .bearers
            .may_ask(start, came.bearer.as_deref(), &entry.manifest);
        allowed.inspect_err(|_| living.counts = false)?;
        check(entry, header, payload.len())?;
        let asked = Asked {
            model: header.model,
            point: header.partition_point,
            time_left: header.time_left,
        };
        let passage = match Passage::enter(&self.entrance, start, Some(came.source), asked) {
            Ok(passage) => living.passage.insert(passage),
            Err(outside) => {
                match outside.demand {
                    Some(class) => self.counts.came(self.clock.now(), class),
                    // It says nothing of how the model is served.
                    None => living.counts = false,
                }
                return Err(outside.refused);
            }
        };
        metrics::gauge!(names::ROUTER_IN_FLIGHT).set(self.entrance.in_flight() as f64);
        self.counts.came(self.clock.now(), passage.class());
        loop {
            let switched = self.switched.notified();
            let (go, backend) = {
                let routing = self.routing.load();
                let usable = |worker: &str| routing.is_usable(worker);
                let go = passage.go(self.clock.now(), &self.entrance, &routing.table, &usable);
                let backend = match &go {
                    Go::Send(sending) => routing.backends.get(&sending.worker).map(Arc::clone),
                    Go::Wait { .. } | Go::Refuse(_) => None,
                };
                (go, backend)
            };
            if passage.is_unserved() {
                self.unserved.notify_one();
            }
            match go {
                Go::Refuse(refused) => return Err(refused),
                Go::Wait { until } => {
                    let left = until - self.clock.now();
                    let _either = tokio::time::timeout(left.duration(), switched).await;
                }
                Go::Send(sending) => {
                    let reply = self.reply(backend, header, &payload, sending, passage).await;
                    let (answer, attempted, visits) = sorted(reply);
                    if let Some(outcome) = passage.replied(self.clock.now(), attempted, visits) {
                        let lost = || Refused::new(Status::Internal, "the answer is gone");
                        return outcome.and_then(|()| answer.ok_or_else(lost));
                    }
                    metrics::counter!(names::ROUTER_RETRIES).increment(1);
                }
            }
        }
    }
}

impl Front {
    /// A worker's reply; or none, where it gives no sign of life and another can have the request.
    async fn reply(
        &self,
        backend: Option<Arc<dyn Backend>>,
        header: &InferHeader,
        payload: &Bytes,
        sending: Sending,
        passage: &Passage,
    ) -> BackendReply {
        let worker = sending.worker.clone();
        let Some(backend) = backend else {
            return Err(BackendFailure::Lost(format!("worker {worker} is gone")));
        };
        let mut reply = std::pin::pin!(send(&*backend, header, payload.clone(), sending));
        loop {
            tokio::select! {
                reply = &mut reply => return reply,
                () = backend.silent() => {}
            }
            let switched = self.switched.notified();
            let elsewhere = {
                let routing = self.routing.load();
                let usable = |worker: &str| routing.is_usable(worker);
                passage.may_go_elsewhere(self.clock.now(), &routing.table, &usable)
            };
            if elsewhere {
                let what = format!("worker {worker} gives no sign of life");
                return Err(BackendFailure::Lost(what));
            }
            tokio::select! {
                reply = &mut reply => return reply,
                () = backend.heard() => {}
                () = switched => {}
            }
        }
    }
}

/// Has a worker run the rest of a request.
async fn send(backend: &dyn Backend, header: &InferHeader, payload: Bytes, sending: Sending) -> BackendReply {
    let Sending {
        worker: _,
        epoch,
        route,
        time_left,
        patience,
    } = sending;
    let run = RunHeader {
        epoch,
        route,
        stage: 0,
        dtypes: header.dtypes.clone(),
        coded: header.coded,
        time_left,
        trace: header.trace.child(fastrand::u64(..)),
    };
    backend.run(run, payload, patience.duration()).await
}

/// What a worker's reply means for a request: the answer, how the attempt ended, where it was.
fn sorted(reply: BackendReply) -> (Option<(AnswerHeader, Bytes)>, Attempted, Vec<Visit>) {
    match reply {
        Ok((header, bytes, visits)) => (Some((header, bytes)), Attempted::Answered, visits),
        Err(BackendFailure::Refused(refused, visits)) => (None, Attempted::Refused(refused), visits),
        Err(BackendFailure::Lost(why)) => (None, Attempted::Lost(why), vec![]),
        Err(BackendFailure::TimedOut) => (None, Attempted::TimedOut, vec![]),
    }
}

/// Milliseconds since 1970, for people.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as u64)
}
