//! A partition: an actor around a scheduler core, with the threads that compute.
//!
//! It holds requests only; after a restart of the worker there are none. When it ends, whoever waits for
//! one of them is told.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use graft_engine::{EngineError, Held};
use graft_model::ModelId;
use graft_plan::Nanos;
use graft_service::Clock;
use graft_telemetry::metrics as names;
use graft_wire::{BatchClosed, ChunkRun, Refused, Status, Visit};
use graft_worker_core::{
    Cancelled, Closed, CostCorrections, Finished, PartitionSpec, RequestId, Run, Scheduler, StageIndex,
};

use crate::compute::{Chunk, Command, Computer, Nearly, Place, Ran};
use crate::job::{Activation, Cancel, Job, Submit};
use crate::observed::{Observed, PartitionCounts};
use crate::onward::go_on;

/// No more requests of this plan come from routers: finish what is under way within `patience`, then end.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    pub patience: Duration,
    /// Requests of the plan, in whatever partition.
    pub under_way: Arc<AtomicUsize>,
}

/// Messages that may wait for a partition; a request that finds it full is refused as overload.
const MAILBOX: usize = 8192;

/// Time beyond twice what is expected after which a chunk is reported.
const LONG: Nanos = Nanos::from_millis(100);
/// Multiple of what a chunk is expected to take, after which its engine is silent.
const SILENT_TIMES: u64 = 10;
/// Time besides, after which an engine is silent: what is run for the first time may have to be loaded.
const SILENT_AFTER: Nanos = Nanos::from_millis(10_000);
/// Time between two looks whether the engine is silent.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks of a draining partition whether all is done.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Reason that is given to those whom a silent engine does not serve.
const SILENT: &str = "the partition's engine does not answer";

/// What a partition is made of.
pub(crate) struct PartitionParts {
    /// With its plan, for people.
    pub name: String,
    pub worker: String,
    /// As the plan calls it.
    pub id: String,
    pub spec: PartitionSpec,
    /// The model of each stage.
    pub models: Vec<ModelId>,
    /// Where its chunks are run.
    pub place: Place,
    pub clock: Clock,
    /// What the costs in `spec` are, as multiples of what was measured at first.
    pub corrections: Arc<CostCorrections>,
    pub observed: Arc<Observed>,
    pub counts: Arc<PartitionCounts>,
}

/// A chunk that is being computed, or waits on the device for that.
struct UnderWay {
    number: u64,
    run: Run,
    since: Nanos,
    /// It is about to end, which was told before the chunk before it came back.
    nearly: Option<Instant>,
    /// What the scheduler made of its end, where it was told before it came, so that it could choose the next.
    told: Option<Finished>,
}

/// A partition.
pub(crate) struct PartitionActor {
    parts: PartitionParts,
    scheduler: Scheduler,
    computer: Option<Computer>,
    jobs: HashMap<RequestId, Job>,
    /// The chunk that is being computed, and the next where it was put in already.
    running: VecDeque<UnderWay>,
    /// Chunks that were begun.
    chunks: u64,
    /// The engine has not answered for too long: nothing is taken until it does.
    silent: bool,
    present: Vec<Arc<AtomicUsize>>,
}

impl PartitionActor {
    /// A partition, and for each stage the count of its requests.
    pub fn new(parts: PartitionParts) -> (Self, Vec<Arc<AtomicUsize>>) {
        let present: Vec<Arc<AtomicUsize>> = parts.models.iter().map(|_| Arc::default()).collect();
        let actor = PartitionActor {
            scheduler: Scheduler::new(parts.spec.clone()),
            parts,
            computer: None,
            jobs: HashMap::new(),
            running: VecDeque::new(),
            chunks: 0,
            silent: false,
            present: present.clone(),
        };
        (actor, present)
    }

    /// Where the chunk that runs is about to end, the scheduler hears that it has, and chooses the next.
    fn look_ahead(&mut self) {
        let Some(front) = self
            .running
            .front()
            .filter(|_| self.running.len() == 1 && !self.silent)
        else {
            return;
        };
        let Some(nearly) = front.nearly.filter(|_| front.told.is_none()) else {
            return;
        };
        let end = self.scheduler.finished();
        if let Some(front) = self.running.front_mut() {
            front.told = end;
        }
        self.pump_led_by(Some(nearly));
    }

    /// Whether it can be given a chunk: nothing runs, or what runs is about to end.
    fn is_free(&self) -> bool {
        match self.running.len() {
            0 => true,
            1 => self.running.front().is_some_and(|u| u.told.is_some()),
            _ => false,
        }
    }

    /// Gives the partition something to do if it is free.
    fn pump(&mut self) {
        self.pump_led_by(None);
    }

    /// As above; `led_by`: when the end was told that led to it.
    fn pump_led_by(&mut self, mut led_by: Option<Instant>) {
        while self.is_free() {
            let mut dropped = vec![];
            let run = self.scheduler.next(self.parts.clock.now(), &mut dropped);
            for id in dropped {
                self.refuse(
                    id,
                    Status::Late,
                    "it waited until it could not be in time any more",
                );
            }
            let Some(run) = run else { break };
            self.begin(run, led_by.take());
        }
        for batch in self.scheduler.take_abandoned() {
            self.command(Command::Forget(batch));
        }
        self.parts.counts.queued(self.scheduler.queued());
        for (stage, count) in self.present.iter().enumerate() {
            count.store(
                self.scheduler.present(StageIndex(stage as u16)),
                Ordering::Relaxed,
            );
        }
    }

    fn begin(&mut self, run: Run, led_by: Option<Instant>) {
        let spec = &self.parts.spec.stages[run.stage.index()];
        let first = run.range.from() == spec.range.from();
        let inputs = first.then(|| self.take_inputs(&run));
        self.chunks += 1;
        let chunk = Chunk {
            number: self.chunks,
            batch: run.batch,
            model: self.parts.models[run.stage.index()],
            range: run.range,
            expected: run.expected.duration(),
            inputs,
            last: run.last,
            leaves: !self.all_go_on_here(&run.requests),
            led_by,
        };
        if self.command(Command::Run(chunk)) {
            self.running.push_back(UnderWay {
                number: self.chunks,
                run,
                since: self.parts.clock.now(),
                nearly: None,
                told: None,
            });
        } else {
            let cause = "the partition's thread is gone";
            tracing::error!(cause, partition = %self.parts.name, "a chunk can't be run");
            for id in self.scheduler.failed() {
                self.refuse(id, Status::Internal, cause);
            }
        }
    }

    /// Whether every request's next stage runs on this device, and on no other.
    fn all_go_on_here(&self, requests: &[RequestId]) -> bool {
        let device = self.parts.place.device;
        let mut jobs = requests.iter().filter_map(|id| self.jobs.get(id));
        jobs.all(|job| {
            let next = job.route.hops.get(job.at + 1);
            next.is_some_and(|hop| hop.peers.is_empty() && hop.instances.iter().all(|i| i.device == device))
        })
    }

    fn take_inputs(&mut self, run: &Run) -> Vec<Activation> {
        let requests = &run.requests;
        let now = self.parts.clock.now();
        self.parts.counts.batch(requests.len());
        metrics::histogram!(names::WORKER_BATCH).record(requests.len() as f64);
        let size = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        requests
            .iter()
            .filter_map(|id| {
                let job = self.jobs.get_mut(id)?;
                let waited = now - job.entered;
                job.spent.queue += waited;
                job.spent.batch = job.spent.batch.max(size);
                job.entered = now;
                if let Some(visit) = job.visits.last_mut() {
                    visit.started_ns = Some((now - job.began).0);
                    visit.batch = size;
                    visit.closed = Some(closed(run.closed));
                }
                metrics::histogram!(names::WORKER_QUEUE_SECONDS).record(waited.as_secs());
                Some(std::mem::replace(&mut job.activation, Activation::taken()))
            })
            .collect()
    }

    /// A chunk took so long.
    fn note(&mut self, run: &Run, took: Duration) {
        let took = Nanos::from(took);
        let now = self.parts.clock.now();
        if took > run.expected + run.expected + LONG {
            tracing::warn!(
                partition = %self.parts.name, from = %run.range.from(), to = %run.range.to(), batch = run.requests.len(),
                expected_ms = run.expected.0 as f64 / 1e6, took_ms = took.0 as f64 / 1e6, "a chunk took far too long"
            );
        }
        self.parts.counts.computed(took);
        let model = self.parts.models[run.stage.index()];
        let batch = self.parts.spec.stages[run.stage.index()].listed(run.requests.len());
        self.parts
            .observed
            .ran(model, batch, run.expected, took, &self.parts.corrections);
        for id in &run.requests {
            let Some(job) = self.jobs.get_mut(id) else {
                continue;
            };
            let began = job.began;
            if let Some(visit) = job.visits.last_mut()
                && visit.chunks.len() < Visit::MOST_CHUNKS
            {
                visit.chunks.push(ChunkRun {
                    started_ns: (now - took - began).0,
                    took_ns: took.0,
                    to: run.range.to(),
                });
            }
        }
    }

    /// Whoever waits is told that others may serve him, and so is whoever comes.
    fn go_silent(&mut self, running: &[RequestId], reason: &str) {
        self.silent = true;
        for &id in running {
            self.scheduler.cancel(id);
            self.refuse(id, Status::WorkerLost, reason);
        }
        let (waiting, batches) = self.scheduler.give_up();
        for id in waiting {
            self.refuse(id, Status::WorkerLost, reason);
        }
        for batch in batches {
            self.command(Command::Forget(batch));
        }
    }

    /// The device failed; what was run on it, another device may serve. A lost one takes nothing more: the worker joins the planner
    /// anew without it.
    fn device_failed(&mut self, under_way: UnderWay, lost: bool, cause: &str) {
        tracing::error!(cause, lost, partition = %self.parts.name, "the device failed");
        let requests = under_way.run.requests.clone();
        self.give_up(under_way, Status::WorkerLost, cause);
        if lost {
            self.parts.observed.lose();
            let running = self.running.iter().flat_map(|u| u.run.requests.clone());
            let running: Vec<RequestId> = requests.into_iter().chain(running).collect();
            self.go_silent(&running, cause);
        }
    }

    /// The batch that was run can't go on.
    fn fail(&mut self, under_way: UnderWay, cause: &str) {
        tracing::error!(cause, partition = %self.parts.name, "a chunk failed");
        self.give_up(under_way, Status::Internal, cause);
    }

    /// Whoever waits for a chunk's batch is refused.
    fn give_up(&mut self, under_way: UnderWay, status: Status, cause: &str) {
        let batch = under_way.run.batch;
        if under_way.told != Some(Finished::SetAside) {
            // What its chunks left so far.
            self.command(Command::Forget(batch));
        }
        let ids = match under_way.told {
            None => self.scheduler.failed(),
            Some(Finished::Done(done)) => done,
            Some(Finished::Abandoned) => vec![],
            // It is set aside, or its next chunk is on the device: it is abandoned when that comes back.
            Some(Finished::SetAside) => {
                let live = |id: &RequestId| self.scheduler.cancel(*id) != Cancelled::Unknown;
                under_way.run.requests.into_iter().filter(live).collect()
            }
        };
        for id in ids {
            self.refuse(id, status, cause);
        }
    }

    /// Where the engine has not answered for longer than its costs allow by far, whoever waits is told at once, and the
    /// planner with the next report. The chunk may come back all the same.
    fn watch(&mut self) {
        let Some(UnderWay { run, since, .. }) = self.running.front() else {
            return;
        };
        let allowed = Nanos(run.expected.0.saturating_mul(SILENT_TIMES)) + SILENT_AFTER;
        if self.silent || self.parts.clock.now() - *since < allowed {
            return;
        }
        tracing::error!(
            partition = %self.parts.name, from = %run.range.from(), to = %run.range.to(),
            expected_ms = run.expected.0 as f64 / 1e6, "the engine does not answer; the partition takes no requests until it does"
        );
        let running: Vec<RequestId> = self.running.iter().flat_map(|u| u.run.requests.clone()).collect();
        // The planner is told with the next report.
        self.told_silent(true);
        self.go_silent(&running, SILENT);
    }

    fn told_silent(&self, silent: bool) {
        if self.parts.counts.becomes_silent(silent) {
            self.parts.observed.partition_is_silent(silent);
        }
    }

    fn command(&self, command: Command) -> bool {
        self.computer.as_ref().is_some_and(|c| c.send(command))
    }

    fn refuse(&mut self, id: RequestId, status: Status, reason: &str) {
        if let Some(job) = self.jobs.remove(&id) {
            job.end(Err(Refused::new(status, reason)));
        }
    }

    /// The rows of a finished batch go on: to the next stage of their routes, or back.
    fn hand_on(&mut self, run: &Run, done: &[RequestId], result: &Held) {
        let now = self.parts.clock.now();
        for (row, id) in run.requests.iter().enumerate() {
            if !done.contains(id) {
                continue;
            }
            let Some(mut job) = self.jobs.remove(id) else {
                continue;
            };
            let Some(row) = result.row(row) else {
                job.end(Err(Refused::new(Status::Internal, "the batch lost a row")));
                continue;
            };
            // From the first chunk to the last: a batch that was set aside waits within it.
            job.spent.run += now - job.entered;
            if let Some(visit) = job.visits.last_mut() {
                visit.done_ns = Some((now - job.began).0);
            }
            job.at += 1;
            job.activation = Activation::Held(self.parts.place.device, row);
            go_on(job, self.parts.clock);
        }
    }
}

fn closed(closed: Closed) -> BatchClosed {
    match closed {
        Closed::NoneWaiting => BatchClosed::NoneWaiting,
        Closed::Full => BatchClosed::Full,
        Closed::Deadline => BatchClosed::Deadline,
    }
}

impl Actor for PartitionActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        context.run_interval(WATCH_EVERY, |this, _| this.watch());
        let PartitionParts { place, name, .. } = &self.parts;
        match Computer::start(place.clone(), name, context.address()) {
            Ok(computer) => self.computer = Some(computer),
            Err(error) => {
                tracing::error!(%error, partition = %name, "no thread for this partition");
                context.stop();
            }
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        let ids: Vec<RequestId> = self.jobs.keys().copied().collect();
        for id in ids {
            self.refuse(id, Status::NotReady, "the partition is gone with its plan");
        }
    }
}

impl Handler<Submit> for PartitionActor {
    type Result = ();

    fn handle(&mut self, Submit { stage, mut job }: Submit, _: &mut Self::Context) {
        let now = self.parts.clock.now();
        job.entered = now;
        if self.silent {
            job.end(Err(Refused::new(Status::WorkerLost, SILENT)));
            self.pump();
            return;
        }
        if job.reply.is_closed() {
            // It was cancelled while it went from one stage to the next.
            self.pump();
            return;
        }
        let Some(hop) = job.route.hops.get(job.at) else {
            job.end(Err(Refused::new(Status::Internal, "the route has no such stage")));
            return;
        };
        let request = hop.step.request(job.id, job.due);
        job.visits.push(Visit {
            worker: self.parts.worker.clone(),
            partition: self.parts.id.clone(),
            from: hop.range.from(),
            to: hop.range.to(),
            entered_ns: (now - job.began).0,
            started_ns: None,
            done_ns: None,
            batch: 0,
            closed: None,
            chunks: vec![],
        });
        match self.scheduler.submit(now, stage, request) {
            Ok(()) => {
                self.jobs.insert(job.id, job);
                self.pump();
            }
            Err(refusal) => {
                job.end(Err(Refused::new(refusal.status(), refusal.to_string())));
                // It counted as present.
                self.pump();
            }
        }
    }
}

impl Handler<Cancel> for PartitionActor {
    type Result = ();

    fn handle(&mut self, Cancel(id): Cancel, _: &mut Self::Context) {
        if self.scheduler.cancel(id) != Cancelled::Unknown {
            self.jobs.remove(&id);
            self.pump();
        }
    }
}

impl Handler<Ran> for PartitionActor {
    type Result = ();

    fn handle(&mut self, ran: Ran, _: &mut Self::Context) {
        let Some(under_way) = self.running.pop_front() else {
            return tracing::error!(partition = %self.parts.name, "a chunk came back that was not running");
        };
        if let Some(next) = self.running.front_mut() {
            next.since = self.parts.clock.now();
        }
        if std::mem::replace(&mut self.silent, false) {
            self.told_silent(false);
            tracing::warn!(partition = %self.parts.name, "the engine answers again");
        }
        if ran.batch != under_way.run.batch {
            self.fail(under_way, "the engine answered for another batch");
            return self.pump();
        }
        metrics::histogram!(names::WORKER_CHUNK_SECONDS).record(ran.elapsed.as_secs_f64());
        self.note(&under_way.run, ran.elapsed);
        for (row, cause) in ran.spoiled {
            if let Some(&id) = under_way.run.requests.get(row) {
                // The batch goes on without it, as it does without what was cancelled.
                self.scheduler.cancel(id);
                self.refuse(id, Status::BadRequest, &cause);
            }
        }
        let rows = under_way.run.last.then_some(under_way.run.requests.len());
        match ran.result {
            Err(EngineError::Device { lost, cause }) => self.device_failed(under_way, lost, &cause),
            Err(cause) => self.fail(under_way, &cause.to_string()),
            Ok(result) if result.as_ref().map(Held::requests) != rows => {
                self.fail(under_way, "the engine's answer has not the batch's rows");
            }
            Ok(result) => {
                let run = under_way.run;
                let end = under_way.told.or_else(|| self.scheduler.finished());
                match (end, result) {
                    (Some(Finished::Done(done)), Some(result)) => self.hand_on(&run, &done, &result),
                    (Some(Finished::Done(done)), None) => {
                        for id in done {
                            self.refuse(id, Status::Internal, "the batch ended without a result");
                        }
                    }
                    (Some(Finished::Abandoned), _) => {
                        self.command(Command::Forget(run.batch));
                    }
                    (Some(Finished::SetAside), _) => {
                        self.pump_led_by(Some(ran.told));
                        let now = self.running.front();
                        if now.is_some_and(|now| now.run.batch != run.batch) {
                            metrics::counter!(names::WORKER_GAVE_WAY).increment(1);
                        }
                        return self.look_ahead();
                    }
                    (None, _) => {
                        tracing::error!(partition = %self.parts.name, "a chunk ended that the scheduler did not begin")
                    }
                }
            }
        }
        self.pump_led_by(Some(ran.told));
        self.look_ahead();
    }
}

impl Handler<Nearly> for PartitionActor {
    type Result = ();

    /// The chunk that runs counts as finished now, so that the next is on the device when it is free.
    fn handle(&mut self, Nearly { number, told }: Nearly, _: &mut Self::Context) {
        if let Some(chunk) = self.running.iter_mut().find(|u| u.number == number) {
            chunk.nearly = Some(told);
        }
        self.look_ahead();
    }
}

impl Handler<Drain> for PartitionActor {
    type Result = ();

    fn handle(&mut self, Drain { patience, under_way }: Drain, context: &mut Self::Context) {
        let started = self.parts.clock.now();
        context.run_interval(DRAIN_LOOK, move |this, context| {
            let idle =
                under_way.load(Ordering::SeqCst) == 0 && this.scheduler.is_idle() && this.running.is_empty();
            if !idle && (this.parts.clock.now() - started).duration() < patience {
                return;
            }
            for id in this.scheduler.give_up().0 {
                this.refuse(id, Status::NotReady, "the plan that served it was retired");
            }
            if !this.parts.counts.is_silent() || this.parts.observed.is_lost() {
                // Else the planner is to know that the engine does not answer, until it does.
                context.stop();
            }
        });
    }
}

#[cfg(test)]
mod tests;
