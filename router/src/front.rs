//! The life of a request in the router: check, admit, send on, answer. Shared by QUIC and HTTP.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::DashMap;
use graft_model::{Catalog, CatalogEntry, CutPoint, DType, ModelId, Tensor};
use graft_plan::{Epoch, Nanos};
use graft_router_core::{Arrived, Attempt, BudgetClass, ClassKey, InFlight, Life, Lives, RouteTable};
use graft_service::Clock;
use graft_telemetry::metrics as names;
use graft_wire::{
    AnswerHeader, Description, InferHeader, OutcomeEntry, Outcomes, Refused, RunHeader, Status, Visit,
    WireType,
};
use tokio::sync::Notify;

use crate::backend::{Backend, BackendFailure, BackendReply};

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
    /// What became of requests since the last report.
    pub outcomes: DashMap<OutcomeKey, Outcomes>,
    /// Lives of the latest requests.
    pub lives: Mutex<Lives>,
    /// Requests since the last report.
    pub counts: DashMap<ClassKey, Arrived>,
    /// A request came that no route serves.
    pub unserved: Notify,
    /// The routes changed.
    pub switched: Notify,
}

/// A plan, and where requests were handed over.
pub(crate) type OutcomeKey = (u64, ModelId, CutPoint);

/// A place among the requests in flight; given back when dropped.
struct Place<'a>(&'a Front);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let before = self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(names::ROUTER_IN_FLIGHT).set((before - 1) as f64);
    }
}

/// A request that is being served. Dropped before it has ended, its client took it back.
struct Living<'a> {
    front: &'a Front,
    start: Nanos,
    /// Its model is one of this router's.
    is_known: bool,
    life: Option<Life>,
    attempts: Vec<Attempt>,
}

impl Living<'_> {
    fn end(&mut self, refused: Option<Refused>, in_time: bool) {
        let Some(mut life) = self.life.take() else { return };
        let took = self.front.clock.now() - self.start;
        let status = refused.as_ref().map_or("ok", |r| r.status.name());
        life.took_ms = took.0 as f64 / 1e6;
        (life.in_time, life.refused) = (in_time, refused);
        life.attempts = std::mem::take(&mut self.attempts);
        metrics::counter!(names::ROUTER_REQUESTS, "model" => life.model_name.clone(), "status" => status)
            .increment(1);
        metrics::histogram!(names::ROUTER_SECONDS).record(took.as_secs());
        tracing::debug!(request = %life.request_id, status, took_ms = life.took_ms, "a request ended");
        if life.not_finite > 0 {
            metrics::counter!(names::ROUTER_NOT_FINITE, "model" => life.model_name.clone()).increment(1);
        }
        if self.is_known {
            self.front.ended(&life);
        }
        let mut lives = self.front.lives.lock().unwrap_or_else(|e| e.into_inner());
        lives.add(life);
    }
}

impl Drop for Living<'_> {
    fn drop(&mut self) {
        if self.life.is_some() {
            self.end(
                Some(Refused::new(Status::Late, "the client waited no longer")),
                false,
            );
        }
    }
}

/// Elements of an answer that are NaN or infinite.
fn not_finite(dtype: WireType, bytes: &[u8]) -> u64 {
    if dtype != WireType::F32 {
        return 0;
    }
    let words = bytes.as_chunks::<4>().0.iter();
    words.filter(|&&w| !f32::from_le_bytes(w).is_finite()).count() as u64
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
            outcomes: DashMap::new(),
            lives: Mutex::default(),
            counts: DashMap::new(),
            unserved: Notify::new(),
            switched: Notify::new(),
        }
    }

    /// What is served of a model.
    pub fn describe(&self, model: &ModelId) -> Result<Description, Refused> {
        let entry = self.entry(model)?;
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

    /// Runs the rest of one request, which took `coming_in` to come in. Dropping the future takes the request back.
    /// One that no route serves waits for a plan that does, as long as it can afford.
    pub async fn infer(&self, header: InferHeader, payload: Bytes, coming_in: Duration) -> Answer {
        let start = self.clock.now();
        let model = ModelId(header.model);
        let known = self.catalog.get(&model);
        let name = known.map_or("unknown", |e| e.manifest.name.as_str());
        let life = Life {
            request_id: header.trace.request_id(),
            model,
            model_name: name.to_owned(),
            partition_point: CutPoint(header.partition_point),
            budget_ms: header.time_left_ns as f64 / 1e6,
            at_unix_ms: unix_ms(),
            upload_ms: coming_in.as_secs_f64() * 1e3,
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
            is_known: known.is_some(),
            life: Some(life),
            attempts: vec![],
        };
        let mut outcome = self.route(&header, payload, start, &mut living.attempts).await;
        let took = self.clock.now() - start;
        if let Ok((answer, bytes)) = &mut outcome {
            answer.timing.router_ns = took.0;
            if let Some(life) = &mut living.life {
                life.not_finite = not_finite(answer.dtype, bytes);
            }
        }
        let in_time = outcome.is_ok() && took.0 <= header.time_left_ns;
        living.end(outcome.as_ref().err().cloned(), in_time);
        outcome
    }

    /// Counts what became of a request.
    fn ended(&self, life: &Life) {
        // What was no request of the model says nothing of how it is served.
        if life
            .refused
            .as_ref()
            .is_some_and(|r| r.status == Status::BadRequest)
        {
            return;
        }
        let epoch = match life.attempts.last() {
            Some(attempt) => attempt.epoch,
            None => self.routing.load().table.epoch(),
        };
        let key = (epoch.0, life.model, life.partition_point);
        if self.outcomes.len() >= MAX_COUNTED && !self.outcomes.contains_key(&key) {
            return;
        }
        let mut outcomes = self.outcomes.entry(key).or_default();
        match &life.refused {
            None => outcomes.answered(life.took_ms, life.in_time),
            Some(refused) => outcomes.refused(refused.status),
        }
    }

    /// What became of requests since this was last asked.
    pub fn take_outcomes(&self) -> Vec<OutcomeEntry> {
        let keys: Vec<OutcomeKey> = self.outcomes.iter().map(|e| *e.key()).collect();
        let entries = keys.iter().filter_map(|key| self.outcomes.remove(key));
        let entry = |((epoch, model, partition_point), outcomes)| OutcomeEntry {
            epoch: Epoch(epoch),
            model,
            partition_point,
            outcomes,
        };
        entries.map(entry).collect()
    }

    /// What could not be told is told the next time.
    pub fn put_back(&self, entries: Vec<OutcomeEntry>) {
        for entry in entries {
            let key = (entry.epoch.0, entry.model, entry.partition_point);
            if self.outcomes.len() < MAX_COUNTED || self.outcomes.contains_key(&key) {
                *self.outcomes.entry(key).or_default() += &entry.outcomes;
            }
        }
    }

    async fn route(
        &self,
        header: &InferHeader,
        payload: Bytes,
        start: Nanos,
        attempts: &mut Vec<Attempt>,
    ) -> Answer {
        let model = ModelId(header.model);
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::new(Status::NotReady, "the router is draining"));
        }
        let point = CutPoint(header.partition_point);
        self.check(model, point, header, &payload)?;
        let place = self.take_place()?;
        let budget = Nanos(header.time_left_ns);
        self.count(ClassKey {
            model,
            partition_point: point,
            budget: BudgetClass::of(budget),
        });
        let answer = self.send_on(header, payload, start, attempts).await;
        drop(place);
        answer
    }

    fn check(
        &self,
        model: ModelId,
        point: CutPoint,
        header: &InferHeader,
        payload: &[u8],
    ) -> Result<(), Refused> {
        let bytes = payload.len();
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
            DType::I64 => matches!(dtype, DType::I32 | DType::I64),
            _ => dtype == cut.dtype,
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
        // One request that no engine can take would spoil its batch.
        if dtype == DType::I64
            && let Err(error) = Tensor::from_requests(cut, &[(dtype, payload)])
        {
            return bad(error.to_string());
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
        header: &InferHeader,
        payload: Bytes,
        start: Nanos,
        attempts: &mut Vec<Attempt>,
    ) -> Answer {
        let (model, point) = (ModelId(header.model), CutPoint(header.partition_point));
        let deadline = start + Nanos(header.time_left_ns);
        // Until then it waits for another plan.
        let mut until: Option<tokio::time::Instant> = None;
        // The worker that had it and is gone, and the plan of then.
        let mut lost: Option<(String, u64)> = None;
        loop {
            let (backend, run, worker, _in_flight) = loop {
                let switched = self.switched.notified();
                let refused = match self.admitted(header, deadline, lost.as_ref()) {
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
            let (epoch, route, sent) = (run.epoch, run.route, self.clock.now());
            attempts.push(Attempt {
                worker: worker.clone(),
                epoch: Epoch(epoch),
                route,
                sent_ms: (sent - start).0 as f64 / 1e6,
                took_ms: 0.0,
                failed: None,
                visits: vec![],
            });
            let reply = backend.run(run, payload.clone(), limit).await;
            let (outcome, visits, again) = sorted(reply);
            if let Some(attempt) = attempts.last_mut() {
                attempt.took_ms = (self.clock.now() - sent).0 as f64 / 1e6;
                attempt.failed = outcome.as_ref().err().cloned();
                attempt.visits = visits;
            }
            // Once more on another worker, if the deadline allows.
            if !again || lost.replace((worker, epoch)).is_some() || self.clock.now() >= deadline {
                return outcome;
            }
            metrics::counter!(names::ROUTER_RETRIES).increment(1);
        }
    }

    /// Where a request may go now: the backend, what to tell it, its worker's name.
    fn admitted(
        &self,
        header: &InferHeader,
        deadline: Nanos,
        lost: Option<&(String, u64)>,
    ) -> Result<(Arc<dyn Backend>, RunHeader, String, InFlight), Refused> {
        let (model, point) = (ModelId(header.model), CutPoint(header.partition_point));
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
            stage: 0,
            dtype: header.dtype,
            time_left_ns: left.0,
            trace: header.trace.child(fastrand::u64(..)),
        };
        Ok((Arc::clone(backend), run, worker.clone(), admitted.in_flight))
    }
}

/// What a worker's reply means for a request: the outcome, where it was, and whether another worker may be asked.
fn sorted(reply: BackendReply) -> (Answer, Vec<Visit>, bool) {
    match reply {
        Ok((header, bytes, visits)) => (Ok((header, bytes)), visits, false),
        Err(BackendFailure::Refused(refused, visits)) => {
            let again = matches!(refused.status, Status::NotReady | Status::WorkerLost);
            (Err(refused), visits, again)
        }
        Err(BackendFailure::Lost(why)) => (Err(Refused::new(Status::WorkerLost, why)), vec![], true),
        Err(BackendFailure::TimedOut) => {
            let what = "the worker did not answer before the deadline";
            (Err(Refused::new(Status::Late, what)), vec![], false)
        }
    }
}

/// Milliseconds since 1970, for people.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as u64)
}
