//! Workers: plans that they have prepared, queues, chunks. Decided by `graft-worker-core`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use graft_model::ModelId;
use graft_plan::{Devices, Epoch, Nanos, Plan, Profile, Profiles, ms_to_nanos};
use graft_router_core::{Attempted, Sending};
use graft_wire::{PartitionReport, Refused, Status, WorkerPlan, WorkerReport};
use graft_worker_core::{
    Admission, AloneTimes, CostCorrections, Due, Finished, Instance, Next, PartitionSpec, RequestId,
    RouteError, RouteIndex, RouteStep, RunTimes, Scheduler, SpecError, fewest, next,
};

use crate::context::Context;
use crate::events::Event;
use crate::requests::{Place, Ticket};

/// A plan that can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A partition can't be run.
    #[error(transparent)]
    Partition(#[from] SpecError),
    /// A route can't be run.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// No profile is of a partition's device.
    #[error("partition {0}: no profile is of the kind of device {1}")]
    UnknownDevice(String, String),
    /// A model is not called by its identity.
    #[error("stage {0} is of a model that is not called by its identity")]
    NoIdentity(String),
}

/// One worker, with its device.
struct Worker {
    name: String,
    /// Kind of its device.
    kind: String,
    share_total: u32,
    alive: bool,
    /// Others know that it is gone.
    noticed: bool,
    /// Multiple of what chunks should take.
    slow: f64,
    /// Share of the partitions that run something now.
    running: u32,
    prepared: BTreeSet<Epoch>,
    /// What runs took since its last report.
    took: RunTimes,
}

struct Partition {
    scheduler: Scheduler,
    /// Of its device's kind.
    corrections: Arc<CostCorrections>,
    worker: u32,
    share: u32,
    /// By stage.
    models: Vec<ModelId>,
    /// Tells its chunks from those before its worker died.
    life: u32,
    /// The batch that a chunk was run of last, while it is not done.
    open: Option<u64>,
    /// What the chunk that it runs is expected to take, its model and batch, and what it takes.
    busy: Option<Chunk>,
}

#[derive(Clone, Copy)]
struct Chunk {
    model: ModelId,
    batch: u32,
    expected: Nanos,
    takes: Nanos,
}

/// A plan that workers have prepared.
struct Prepared {
    plan: Arc<Plan>,
    steps: Vec<Vec<RouteStep>>,
    partitions: Vec<Partition>,
    under_way: usize,
    retired: bool,
}

impl Prepared {
    /// It is retired, and nothing of it is under way or runs.
    fn is_over(&self) -> bool {
        self.retired && self.under_way == 0 && !self.partitions.iter().any(|p| p.busy.is_some())
    }

    /// Where a request of a worker goes for a stage: the worker, and the place there.
    fn place(&self, step: &RouteStep, worker: u32) -> Option<(u32, Instance)> {
        let of = |i: &Instance| self.partitions[i.partition].worker;
        let present = |i: &Instance| self.partitions[i.partition].scheduler.present(i.stage);
        let on = |w: u32| step.instances.iter().filter(move |i| of(i) == w);
        let places = |w: u32| on(w).map(move |i| (present(i), *i));
        // Workers of other places are looked for only where the stage runs nowhere here.
        let others = || -> BTreeSet<u32> { step.instances.iter().map(of).filter(|w| *w != worker).collect() };
        let others = std::iter::once_with(others).flatten();
        let pressure = |w: u32| {
            let there: usize = on(w).map(present).sum();
            there as f64 / on(w).count().max(1) as f64
        };
        match next(places(worker), others.map(|w| (pressure(w), w)))? {
            Next::Here(place) => Some((worker, place)),
            Next::There(other) => Some((other, fewest(places(other))?)),
        }
    }
}

/// All workers.
pub(crate) struct Workers {
    hop: Nanos,
    workers: Vec<Worker>,
    by_name: HashMap<String, u32>,
    plans: BTreeMap<Epoch, Prepared>,
    /// Partitions that something happened to at this instant.
    touched: Vec<(Epoch, u32)>,
    /// What workers say to routers at this instant.
    pub replies: Vec<(Ticket, Attempted)>,
    dropped: Vec<RequestId>,
}

fn refused(status: Status) -> Attempted {
    Attempted::Refused(Refused::new(status, String::new()))
}

impl Workers {
    pub fn new(devices: &Devices, hop_ms: f64) -> Self {
        let workers: Vec<Worker> = devices
            .devices
            .iter()
            .map(|d| Worker {
                name: d.id.clone(),
                kind: d.kind.clone(),
                share_total: d.share_total.0,
                alive: true,
                noticed: false,
                slow: 1.0,
                running: 0,
                prepared: BTreeSet::new(),
                took: RunTimes::default(),
            })
            .collect();
        let numbered = workers.iter().zip(0..);
        Workers {
            hop: ms_to_nanos(hop_ms),
            by_name: numbered.map(|(w, i)| (w.name.clone(), i)).collect(),
            workers,
            plans: BTreeMap::new(),
            touched: vec![],
            replies: vec![],
            dropped: vec![],
        }
    }

    /// A worker's place, by its name.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub fn is_alive(&self, worker: u32) -> bool {
        self.workers[worker as usize].alive
    }

    /// Places of the workers that are there.
    pub fn alive(&self) -> Vec<u32> {
        let numbered = self.workers.iter().zip(0..);
        numbered.filter(|(w, _)| w.alive).map(|(_, i)| i).collect()
    }

    /// Routers take a worker for being there.
    pub fn seems_there(&self, name: &str) -> bool {
        let known = |w: u32| {
            let worker = &self.workers[w as usize];
            worker.alive || !worker.noticed
        };
        self.number(name).is_some_and(known)
    }

    /// The n-th worker of those that a plan runs on, by name.
    pub fn nth_in_use(&self, epoch: Epoch, n: u32) -> Option<u32> {
        let plan = self.plans.get(&epoch)?;
        let devices = plan.plan.partitions.iter().map(|p| p.device.as_str());
        let used: BTreeSet<&str> = devices.collect();
        used.iter().nth(n as usize).and_then(|name| self.number(name))
    }

    /// Share of all plans that are prepared or drain.
    pub fn held(&self) -> u64 {
        self.plans.values().map(|p| p.plan.total_share).sum()
    }

    // Plans.

    /// A worker prepares its part of a plan, on the costs of `profiles` as the plan corrects them. `Ok(false)`: it is not
    /// there.
    pub fn prepare(
        &mut self,
        worker: u32,
        work: &WorkerPlan,
        profiles: &Profiles,
    ) -> Result<bool, PlanError> {
        let epoch = work.plan.epoch;
        if !self.workers[worker as usize].alive {
            return Ok(false);
        }
        if !self.plans.contains_key(&epoch) {
            let prepared = self.prepared(work, profiles)?;
            self.plans.insert(epoch, prepared);
        }
        self.workers[worker as usize].prepared.insert(epoch);
        Ok(true)
    }

    fn prepared(&self, work: &WorkerPlan, profiles: &Profiles) -> Result<Prepared, PlanError> {
        let plan = &work.plan;
        let kinds: HashMap<&str, (Arc<CostCorrections>, Profile)> = profiles
            .kinds()
            .iter()
            .map(|profile| {
                let kind = profile.device_kind.as_str();
                let corrections = CostCorrections::new(&work.corrections, kind);
                let profile = corrections.apply(profile);
                (kind, (Arc::new(corrections), profile))
            })
            .collect();
        let index = RouteIndex::new(plan, AloneTimes::told(&work.times));
        let model = |id: &String| {
            let stage = index.stage(id);
            let model = stage.and_then(|s| s.model.parse().ok());
            model.ok_or_else(|| PlanError::NoIdentity(id.clone()))
        };
        let mut partitions = vec![];
        for partition in &plan.partitions {
            let unknown = || PlanError::UnknownDevice(partition.id.clone(), partition.device.clone());
            let worker = self.number(&partition.device).ok_or_else(unknown)?;
            let kind = self.workers[worker as usize].kind.as_str();
            let (corrections, profile) = kinds.get(kind).ok_or_else(unknown)?;
            partitions.push(Partition {
                scheduler: Scheduler::new(PartitionSpec::of_plan(plan, partition, profile, Admission::On)?),
                corrections: Arc::clone(corrections),
                worker,
                share: partition.share.0,
                models: partition.stages.iter().map(model).collect::<Result<_, _>>()?,
                life: 0,
                open: None,
                busy: None,
            });
        }
        let steps = plan.routes.iter().map(|r| index.steps(r));
        Ok(Prepared {
            steps: steps.collect::<Result<_, _>>()?,
            partitions,
            under_way: 0,
            retired: false,
            plan: Arc::new(plan.clone()),
        })
    }

    /// A plan that no router will use is freed.
    pub fn abandon(&mut self, epoch: Epoch) {
        self.plans.remove(&epoch);
    }

    /// Plans before this one end when their requests have.
    pub fn retire(&mut self, before: Epoch) {
        for plan in self.plans.range_mut(..before).map(|(_, p)| p) {
            plan.retired = true;
        }
        self.plans.retain(|_, p| !p.is_over());
    }

    /// What a worker tells the planner. `None`: it is not there.
    pub fn report(&mut self, worker: u32) -> Option<WorkerReport> {
        let w = &mut self.workers[worker as usize];
        let epoch = w.prepared.last().copied().unwrap_or_default();
        let partitions: Vec<PartitionReport> = vec![];
        w.alive.then(|| WorkerReport {
            epoch,
            partitions,
            runs: w.took.take(&w.kind),
        })
    }

    // Requests.

    /// A router sends a request to a worker.
    pub fn take(&mut self, now: Nanos, ticket: Ticket, sending: &Sending, late: Nanos, cx: &mut Context) {
        let worker = self.number(&sending.worker).unwrap_or(0);
        let there = &self.workers[worker as usize];
        // A worker that is gone, and not yet known to be, is sent to all the same.
        let is_ready = there.prepared.contains(&sending.epoch) || !there.alive;
        let plan = self.plans.get_mut(&sending.epoch).filter(|_| is_ready);
        let (Some(plan), Some(request)) = (plan, cx.requests.get(ticket)) else {
            self.replies.push((ticket, refused(Status::NotReady)));
            return;
        };
        plan.under_way += 1;
        request.epoch = sending.epoch;
        request.route = sending.route;
        request.worker = worker;
        request.step = 0;
        request.place = Place::Hop;
        cx.events.at(now + self.hop + late, Event::AtStage(ticket));
    }

    pub fn at_stage(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket).filter(|r| r.place == Place::Hop) else {
            return;
        };
        let worker = request.worker;
        if !self.workers[worker as usize].alive {
            request.place = Place::Lost;
            return;
        }
        let (epoch, route, at) = (request.epoch, request.route as usize, request.step as usize);
        let plan = self.plans.get_mut(&epoch);
        let found = plan.and_then(|plan| {
            let step = plan.steps.get(route)?.get(at)?;
            let (there, instance) = plan.place(step, worker)?;
            if at == 0 || there != worker {
                request.due = Due::with_guard(now, request.server_deadline - now, step);
            }
            let entering = step.request(ticket.id(), request.due);
            Some((
                there,
                instance,
                entering,
                &mut plan.partitions[instance.partition],
            ))
        });
        let Some((there, instance, entering, partition)) = found else {
            self.over(ticket, refused(Status::Internal), cx);
            return;
        };
        request.worker = there;
        if !self.workers[there as usize].alive {
            request.place = Place::Lost;
            return;
        }
        match partition.scheduler.submit(now, instance.stage, entering) {
            Ok(()) => {
                request.place = Place::Partition(instance.partition as u32);
                self.touched.push((epoch, instance.partition as u32));
            }
            Err(refusal) => self.over(ticket, refused(refusal.status()), cx),
        }
    }

    /// Nobody waits for a request any more.
    pub fn cancel(&mut self, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        let place = std::mem::replace(&mut request.place, Place::Outside);
        if matches!(place, Place::Outside | Place::AtRouter) {
            return;
        }
        let epoch = request.epoch;
        if let (Place::Partition(number), Some(plan)) = (place, self.plans.get_mut(&epoch)) {
            plan.partitions[number as usize].scheduler.cancel(ticket.id());
            self.touched.push((epoch, number));
        }
        self.leave(epoch);
    }

    /// A worker is done with a request.
    fn over(&mut self, ticket: Ticket, how: Attempted, cx: &mut Context) {
        if let Some(request) = cx.requests.get(ticket) {
            request.place = Place::AtRouter;
            self.leave(request.epoch);
            self.replies.push((ticket, how));
        }
    }

    fn leave(&mut self, epoch: Epoch) {
        if let Some(plan) = self.plans.get_mut(&epoch) {
            plan.under_way -= 1;
            if plan.is_over() {
                self.plans.remove(&epoch);
            }
        }
    }

    pub fn chunk_done(&mut self, now: Nanos, epoch: Epoch, number: u32, life: u32, cx: &mut Context) {
        let Some(plan) = self.plans.get_mut(&epoch) else {
            return;
        };
        let partition = &mut plan.partitions[number as usize];
        if partition.life != life {
            return;
        }
        let worker = &mut self.workers[partition.worker as usize];
        worker.running -= partition.share;
        if let Some(chunk) = partition.busy.take() {
            let Chunk {
                model,
                batch,
                expected,
                takes,
            } = chunk;
            worker
                .took
                .ran(model, batch, expected, takes, &partition.corrections);
        }
        self.touched.push((epoch, number));
        match partition.scheduler.finished() {
            Some(Finished::Done(done)) => {
                partition.open = None;
                for id in done {
                    self.stage_done(now, Ticket::of(id), cx);
                }
            }
            Some(Finished::Abandoned) => partition.open = None,
            Some(Finished::SetAside) | None => {}
        }
        if self.plans.get(&epoch).is_some_and(Prepared::is_over) {
            self.plans.remove(&epoch);
        }
    }

    fn stage_done(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        request.step += 1;
        let plan = self.plans.get(&request.epoch);
        let steps = plan.and_then(|p| p.steps.get(request.route as usize));
        if steps.is_some_and(|s| (request.step as usize) < s.len()) {
            request.place = Place::Hop;
            cx.events.at(now + self.hop, Event::AtStage(ticket));
        } else {
            cx.ledger.answered_by(request, request.epoch.0);
            self.over(ticket, Attempted::Answered, cx);
        }
    }

    /// Free partitions that something happened to choose what to run. All events of this instant are in.
    pub fn choose(&mut self, now: Nanos, cx: &mut Context) {
        while let Some((epoch, number)) = self.touched.pop() {
            let Some(plan) = self.plans.get_mut(&epoch) else {
                continue;
            };
            let partition = &mut plan.partitions[number as usize];
            let worker = &mut self.workers[partition.worker as usize];
            if !worker.alive {
                continue;
            }
            // What was abandoned while set aside is not gone on with.
            partition.scheduler.take_abandoned();
            if let Some(run) = partition.scheduler.next(now, &mut self.dropped) {
                worker.running += partition.share;
                let spec = &partition.scheduler.spec().stages[run.stage.index()];
                let (model, batch) = (
                    partition.models[run.stage.index()],
                    spec.listed(run.requests.len()),
                );
                // Plans that overlap may want more than the device has: all get less.
                let crowded = f64::from(worker.running) / f64::from(worker.share_total);
                let times = worker.slow * crowded.max(1.0) / partition.corrections.times(model, batch);
                let takes = Nanos((run.expected.0 as f64 * times).round() as u64);
                let begins = run.range.from() == spec.range.from();
                partition.busy = Some(Chunk {
                    model,
                    batch,
                    expected: run.expected,
                    takes,
                });
                cx.events.at(
                    now + takes,
                    Event::ChunkDone {
                        epoch,
                        partition: number,
                        life: partition.life,
                    },
                );
                let gave_way = partition.open.is_some_and(|open| open != run.batch.0);
                partition.open = (!run.last).then_some(run.batch.0);
                cx.ledger.ran(now, takes, partition.share, gave_way);
                if begins {
                    cx.ledger.batch(now, run.requests.len(), run.closed);
                }
            }
            for id in std::mem::take(&mut self.dropped) {
                self.over(Ticket::of(id), refused(Status::Late), cx);
            }
        }
    }

    // Faults.

    /// A worker dies with all that it has; who waits for it learns that when it is noticed.
    pub fn kill(&mut self, worker: u32, cx: &mut Context) {
        let w = &mut self.workers[worker as usize];
        w.alive = false;
        w.noticed = false;
        w.running = 0;
        w.prepared.clear();
        w.took = RunTimes::default();
        for partition in self.plans.values_mut().flat_map(|p| &mut p.partitions) {
            if partition.worker == worker {
                partition.life += 1;
                (partition.open, partition.busy) = (None, None);
                partition.scheduler = Scheduler::new(partition.scheduler.spec().clone());
            }
        }
        for ticket in cx.requests.of_worker(worker) {
            if let Some(request) = cx.requests.get(ticket) {
                request.place = Place::Lost;
            }
        }
    }

    /// Routers notice that a worker is gone, and what it had with it.
    pub fn noticed(&mut self, worker: u32, cx: &mut Context) {
        self.workers[worker as usize].noticed = true;
        for ticket in cx.requests.of_worker(worker) {
            let lost = cx.requests.get(ticket).is_some_and(|r| r.place == Place::Lost);
            if lost {
                self.over(ticket, Attempted::Lost("the worker is gone".to_owned()), cx);
            }
        }
    }

    pub fn revive(&mut self, worker: u32) {
        self.workers[worker as usize].alive = true;
    }

    pub fn slow(&mut self, worker: u32, times: f64) {
        self.workers[worker as usize].slow = times;
    }
}
