//! The life of a request in the router: check, admit, send on, answer. Shared by QUIC and HTTP.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::DashMap;
use graft_model::{Catalog, CatalogEntry, CutPoint, DType, ModelId};
use graft_plan::Nanos;
use graft_router_core::{Arrived, BudgetClass, ClassKey, InFlight, RouteTable};
use graft_service::Clock;
use graft_telemetry::metrics as names;
use graft_wire::{AnswerHeader, Description, InferHeader, Refused, RunHeader, Status};
use tokio::sync::Notify;

use crate::backend::{Backend, BackendFailure};

/// An answer, or why there is none.
pub(crate) type Answer = Result<(AnswerHeader, Bytes), Refused>;

/// A worker's answer is waited for so much longer than the deadline: it may be on its way.
const GRACE: Duration = Duration::from_millis(20);
/// Classes that are counted between two reports at most.
const MAX_COUNTED: usize = 4096;

/// Routes and the workers that they lead to, replaced together.
#[derive(Default)]
pub(crate) struct Routing {
    pub table: RouteTable,
    pub backends: HashMap<String, Arc<dyn Backend>>,
}

/// What all connections share. Readers of the routes take no lock.
pub(crate) struct Front {
    pub catalog: Catalog,
    pub clock: Clock,
    pub routing: ArcSwap<Routing>,
    pub max_in_flight: usize,
    pub in_flight: AtomicUsize,
    /// Of those, requests that wait for a plan that serves them.
    pub waiting: AtomicUsize,
    pub draining: AtomicBool,
    /// Requests since the last report.
    pub counts: DashMap<ClassKey, Arrived>,
    /// A request came that no route serves.
    pub unserved: Notify,
    /// The routes changed.
    pub switched: Notify,
}

/// A place among the requests in flight; given back when dropped.
struct Place<'a>(&'a Front);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let before = self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(names::ROUTER_IN_FLIGHT).set((before - 1) as f64);
    }
}

/// One in so many places in flight may be taken by a request that waits for a plan.
const WAITING_PART: usize = 4;

/// A place among those who wait; given back when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// `None`: as many wait as may.
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let place = Waiting(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < most.max(1)).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Front {
    pub fn new(catalog: Catalog, max_in_flight: usize) -> Self {
        Front {
            catalog,
            clock: Clock::start(),
            routing: ArcSwap::default(),
            max_in_flight,
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            counts: DashMap::new(),
            unserved: Notify::new(),
            switched: Notify::new(),
        }
    }

    /// What is served of a model.
    pub fn describe(&self, model: &ModelId) -> Result<Description, Refused> {
        let entry = self.entry(model)?;
        Ok(Description {
            name: entry.manifest.name.clone(),
            server_ms: self.routing.load().table.server_ms(model).to_vec(),
            emulated: self.routing.load().table.is_emulated(),
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

    /// Runs the rest of one request. Dropping the future takes the request back.
    /// One that no route serves waits for a plan that does, as long as it can afford.
    pub async fn infer(&self, header: InferHeader, payload: Bytes) -> Answer {
        let start = self.clock.now();
        let model = ModelId(header.model);
        let name = self
            .catalog
            .get(&model)
            .map_or("unknown", |e| e.manifest.name.as_str())
            .to_owned();
        let mut outcome = self.route(model, &header, payload, start).await;
        let took = self.clock.now() - start;
        if let Ok((answer, _)) = &mut outcome {
            answer.timing.router_ns = took.0;
        }
        let status = outcome.as_ref().map_or_else(|r| r.status.name(), |_| "ok");
        metrics::counter!(names::ROUTER_REQUESTS, "model" => name, "status" => status).increment(1);
        metrics::histogram!(names::ROUTER_SECONDS).record(took.as_secs());
        outcome
    }

    async fn route(&self, model: ModelId, header: &InferHeader, payload: Bytes, start: Nanos) -> Answer {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::new(Status::NotReady, "the router is draining"));
        }
        let point = CutPoint(header.partition_point);
        self.check(model, point, header, payload.len())?;
        let place = self.take_place()?;
        let budget = Nanos(header.time_left_ns);
        self.count(ClassKey {
            model,
            partition_point: point,
            budget: BudgetClass::of(budget),
        });
        let answer = self.send_on(model, point, header, payload, start).await;
        drop(place);
        answer
    }

    fn check(
        &self,
        model: ModelId,
        point: CutPoint,
        header: &InferHeader,
        bytes: usize,
    ) -> Result<(), Refused> {
        let entry = self.entry(&model)?;
        let info = &entry.info;
        let bad = |what: String| Err(Refused::new(Status::BadRequest, what));
        let Some(cut) = info.cut(point) else {
            return bad(format!(
                "cut point {point} is beyond the last one, {}",
                info.last()
            ));
        };
        if point == info.last() {
            return bad(format!("cut point {point} is the output: nothing is left to run"));
        }
        let dtype = header.dtype.dtype();
        let allowed = match cut.dtype {
            DType::F32 | DType::F16 => entry.manifest.wire.contains(&dtype) || dtype == DType::F32,
            _ => matches!(dtype, DType::I32 | DType::I64),
        };
        if !allowed {
            let what = format!(
                "elements of type {dtype} at cut point {point}, which holds {}",
                cut.dtype
            );
            return bad(format!(
                "{what}; the manifest allows {:?} on the way",
                entry.manifest.wire
            ));
        }
        let want = cut.elements.saturating_mul(header.dtype.dtype().bytes());
        if bytes != want {
            return bad(format!(
                "{bytes} bytes at cut point {point}: expected {want} ({:?} in {})",
                cut.shape,
                header.dtype.dtype()
            ));
        }
        Ok(())
    }

    fn take_place(&self) -> Result<Place<'_>, Refused> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = Place(self);
        metrics::gauge!(names::ROUTER_IN_FLIGHT).set((before + 1) as f64);
        if before >= self.max_in_flight {
            let what = format!(
                "{} requests are in flight, as many as are allowed",
                self.max_in_flight
            );
            return Err(Refused::new(Status::Overloaded, what));
        }
        Ok(place)
    }

    fn count(&self, key: ClassKey) {
        let now = self.clock.now();
        if let Some(mut count) = self.counts.get_mut(&key) {
            count.add(now);
        } else if self.counts.len() < MAX_COUNTED {
            self.counts.entry(key).or_default().add(now);
        }
    }

    async fn send_on(
        &self,
        model: ModelId,
        point: CutPoint,
        header: &InferHeader,
        payload: Bytes,
        start: Nanos,
    ) -> Answer {
        let deadline = start + Nanos(header.time_left_ns);
        // Until then it waits for another plan.
        let mut until: Option<tokio::time::Instant> = None;
        // The worker that had it and is gone, and the plan of then.
        let mut lost: Option<(String, u64)> = None;
        loop {
            let (backend, run, worker, _in_flight) = loop {
                let switched = self.switched.notified();
                let refused = match self.admitted(model, point, header, deadline, lost.as_ref()) {
                    Ok(admitted) => break admitted,
                    Err(refused) => refused,
                };
                if refused.status == Status::NotReady {
                    self.unserved.notify_one();
                }
                if !matches!(refused.status, Status::NotReady | Status::WorkerLost) {
                    return Err(refused);
                }
                let until = *until.get_or_insert_with(|| {
                    let left = deadline - self.clock.now();
                    let patience = self.routing.load().table.patience(&model, point, left);
                    tokio::time::Instant::now() + patience.duration()
                });
                // Those who wait keep their places, but for a part of them only: others are served meanwhile.
                let Some(_waiting) = Waiting::take(&self.waiting, self.max_in_flight / WAITING_PART) else {
                    return Err(refused);
                };
                if tokio::time::timeout_at(until, switched).await.is_err() {
                    return Err(refused);
                }
            };
            let limit = Nanos(run.time_left_ns).duration() + GRACE;
            let epoch = run.epoch;
            let failed = match backend.run(run, payload.clone(), limit).await {
                Ok(answer) => return Ok(answer),
                Err(BackendFailure::Refused(refused)) if refused.status == Status::NotReady => refused,
                Err(BackendFailure::Refused(refused)) => return Err(refused),
                Err(BackendFailure::Lost(why)) => Refused::new(Status::WorkerLost, why),
                Err(BackendFailure::TimedOut) => {
                    let what = "the worker did not answer before the deadline";
                    return Err(Refused::new(Status::Late, what));
                }
            };
            // Once more on another worker, if the deadline allows.
            if lost.replace((worker, epoch)).is_some() || self.clock.now() >= deadline {
                return Err(failed);
            }
            metrics::counter!(names::ROUTER_RETRIES).increment(1);
        }
    }

    /// Where a request may go now: the backend, what to tell it, its worker's name.
    fn admitted(
        &self,
        model: ModelId,
        point: CutPoint,
        header: &InferHeader,
        deadline: Nanos,
        lost: Option<&(String, u64)>,
    ) -> Result<(Arc<dyn Backend>, RunHeader, String, InFlight), Refused> {
        let routing = self.routing.load();
        let now = self.clock.now();
        let left = deadline - now;
        let usable = |worker: &str| {
            let backend = routing.backends.get(worker);
            let was_lost = lost.is_some_and(|(w, epoch)| w == worker && *epoch == routing.table.epoch().0);
            !was_lost && backend.is_some_and(|b| b.is_connected())
        };
        let admitted = routing.table.admit(now, model, point, left, &usable)?;
        let worker = &admitted.target.worker;
        let gone = || Refused::new(Status::WorkerLost, format!("worker {worker} is gone"));
        let backend = routing.backends.get(worker).ok_or_else(gone)?;
        let run = RunHeader {
            epoch: admitted.epoch.0,
            route: admitted.target.route,
            dtype: header.dtype,
            time_left_ns: left.0,
        };
        Ok((Arc::clone(backend), run, worker.clone(), admitted.in_flight))
    }
}
