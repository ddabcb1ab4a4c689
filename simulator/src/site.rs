//! Routers and workers: routes, admission, queues, chunks. Decided by `graft-router-core` and `graft-worker-core`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use graft_client_core::Hints;
use graft_model::ModelId;
use graft_plan::{Devices, Epoch, Nanos, Plan, Profile, Workload, ms_to_nanos};
use graft_planner_core::routes;
use graft_router_core::{Arrived, BudgetClass, ClassKey, MixWindow, RouteTable, URGENT_EVERY};
use graft_wire::{MixEntry, RoutesUpdate, Status, WorkerEndpoint};
use graft_worker_core::{
    Admission, Due, Finished, Instance, Next, PartitionSpec, RequestId, RouteIndex, RouteStep, Scheduler,
    SpecError, fewest, next,
};

use crate::context::Context;
use crate::events::Event;
use crate::fleet::{Asker, Words};
use crate::requests::{Place, Ticket};

/// One router.
struct Router {
    table: RouteTable,
    window: MixWindow,
    counts: BTreeMap<ClassKey, Arrived>,
    /// No urgent report before that.
    urgent_at: Nanos,
    /// Requests that wait for a plan that serves them.
    waiting: Vec<(Ticket, Asker)>,
}

/// One worker, with its device.
struct Worker {
    name: String,
    share_total: u32,
    alive: bool,
    /// Others know that it is gone.
    noticed: bool,
    /// Chunks take so many times what they should.
    slow: f64,
    /// Share of the partitions that run something now.
    running: u32,
    prepared: BTreeSet<Epoch>,
}

struct Partition {
    scheduler: Scheduler,
    worker: u32,
    share: u32,
    /// Tells its chunks from those before its worker died.
    life: u32,
    /// The batch that a chunk was run of last, while it is not done.
    open: Option<u64>,
    /// It runs a chunk.
    busy: bool,
}

/// A plan that workers have prepared.
struct InUse {
    plan: Arc<Plan>,
    routes: RoutesUpdate,
    steps: Vec<Vec<RouteStep>>,
    partitions: Vec<Partition>,
    under_way: usize,
    retired: bool,
}

impl InUse {
    /// It is retired, and nothing of it is under way or runs.
    fn is_over(&self) -> bool {
        self.retired && self.under_way == 0 && !self.partitions.iter().any(|p| p.busy)
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

/// Routers and workers.
pub(crate) struct Site {
    hop: Nanos,
    /// Messages take longer by so much.
    pub late: Nanos,
    routers: Vec<Router>,
    workers: Vec<Worker>,
    by_name: HashMap<String, u32>,
    plans: BTreeMap<Epoch, InUse>,
    /// Partitions that something happened to at this instant.
    touched: Vec<(Epoch, u32)>,
    /// Requests that the server is done with at this instant.
    pub done: Vec<(Ticket, Result<(), Status>)>,
    dropped: Vec<RequestId>,
}

impl Words for Site {
    fn hints(&self, router: u32, model: &ModelId) -> Hints<'_> {
        let table = &self.routers[router as usize].table;
        Hints {
            server_ms: table.server_ms(model),
            price: table.price(model),
        }
    }
}

impl Site {
    pub fn new(devices: &Devices, routers: u32, hop_ms: f64) -> Self {
        let workers: Vec<Worker> = devices
            .devices
            .iter()
            .map(|d| Worker {
                name: d.id.clone(),
                share_total: d.share_total.0,
                alive: true,
                noticed: false,
                slow: 1.0,
                running: 0,
                prepared: BTreeSet::new(),
            })
            .collect();
        let router = |_| Router {
            table: RouteTable::default(),
            window: MixWindow::of_router(Nanos::ZERO),
            counts: BTreeMap::new(),
            urgent_at: Nanos::ZERO,
            waiting: vec![],
        };
        Site {
            hop: ms_to_nanos(hop_ms),
            late: Nanos::ZERO,
            routers: (0..routers.max(1)).map(router).collect(),
            by_name: workers
                .iter()
                .zip(0..)
                .map(|(w, i)| (w.name.clone(), i))
                .collect(),
            workers,
            plans: BTreeMap::new(),
            touched: vec![],
            done: vec![],
            dropped: vec![],
        }
    }

    pub fn routers(&self) -> u32 {
        self.routers.len() as u32
    }

    /// Names of the workers that are there, and their places.
    pub fn workers(&self) -> impl Iterator<Item = (u32, &str)> {
        let workers = self.workers.iter().zip(0..);
        workers
            .filter(|(w, _)| w.alive)
            .map(|(w, i)| (i, w.name.as_str()))
    }

    /// The n-th worker of those that a plan runs on, by name.
    pub fn nth_in_use(&self, epoch: Epoch, n: u32) -> Option<u32> {
        let used: BTreeSet<&str> = match self.plans.get(&epoch) {
            Some(p) => p.plan.partitions.iter().map(|p| p.device.as_str()).collect(),
            None => BTreeSet::new(),
        };
        let name = used.iter().nth(n as usize)?;
        self.by_name.get(*name).copied()
    }

    /// Share of all plans that are prepared or drain.
    pub fn held(&self) -> u64 {
        self.plans.values().map(|p| p.plan.total_share).sum()
    }

    // Plans.

    /// A plan is known; workers can prepare it. An error: it can't be run.
    pub fn add_plan(
        &mut self,
        plan: Plan,
        limited: bool,
        workload: &Workload,
        profile: &Profile,
    ) -> Result<(), SpecError> {
        let index = RouteIndex::new(&plan, profile);
        let mut partitions = vec![];
        for partition in &plan.partitions {
            let spec = PartitionSpec::of_plan(&plan, partition, profile, Admission::On)?;
            partitions.push(Partition {
                scheduler: Scheduler::new(spec),
                worker: self.by_name.get(&partition.device).copied().unwrap_or(0),
                share: partition.share.0,
                life: 0,
                open: None,
                busy: false,
            });
        }
        let steps = plan.routes.iter().map(|r| index.steps(r).unwrap_or_default());
        let steps = steps.collect();
        let nowhere = |name: &str| {
            let address = String::new();
            (name.to_owned(), WorkerEndpoint { address })
        };
        let workers = self.workers().map(|(_, name)| nowhere(name)).collect();
        let routes = RoutesUpdate {
            routers: self.routers(),
            ..routes(&plan, limited, workload, profile, &workers)
        };
        let in_use = InUse {
            routes,
            steps,
            partitions,
            under_way: 0,
            retired: false,
            plan: Arc::new(plan),
        };
        self.plans.insert(in_use.plan.epoch, in_use);
        Ok(())
    }

    /// A plan that was not rolled out is forgotten.
    pub fn drop_plan(&mut self, epoch: Epoch) {
        self.plans.remove(&epoch);
    }

    /// A worker prepares its part. `false`: it is not there.
    pub fn prepare(&mut self, worker: u32, epoch: Epoch) -> bool {
        let w = &mut self.workers[worker as usize];
        if w.alive && self.plans.contains_key(&epoch) {
            w.prepared.insert(epoch);
        }
        w.alive
    }

    /// A router switches. `false`: it uses a later plan.
    pub fn switch(&mut self, now: Nanos, router: u32, epoch: Epoch, cx: &mut Context) -> bool {
        let r = &mut self.routers[router as usize];
        let newer = r.table.epoch() <= epoch;
        if let Some(plan) = self.plans.get(&epoch).filter(|_| newer) {
            r.table = RouteTable::new(plan.routes.clone());
            for (ticket, asker) in std::mem::take(&mut r.waiting) {
                let place = cx.requests.get(ticket).map(|r| r.place);
                if matches!(place, Some(Place::Waiting(_))) {
                    self.send_on(now, ticket, &asker, cx);
                    if matches!(cx.requests.get(ticket).map(|r| r.place), Some(Place::Waiting(_))) {
                        self.routers[router as usize].waiting.push((ticket, asker));
                    }
                }
            }
        }
        newer
    }

    /// A request has waited long enough.
    pub fn no_route(&mut self, ticket: Ticket, cx: &mut Context) {
        if let Some(request) = cx.requests.get(ticket)
            && let Place::Waiting(status) = request.place
        {
            request.place = Place::Outside;
            self.done.push((ticket, Err(status)));
        }
    }

    /// The plan that a router uses.
    pub fn epoch_of(&self, router: u32) -> Epoch {
        self.routers[router as usize].table.epoch()
    }

    /// Plans before this one end when their requests have.
    pub fn retire(&mut self, before: Epoch) {
        for plan in self.plans.range_mut(..before).map(|(_, p)| p) {
            plan.retired = true;
        }
        self.plans.retain(|_, p| !p.is_over());
    }

    // Observation.

    /// What a router has observed.
    pub fn observed(&mut self, now: Nanos, router: u32) -> Vec<MixEntry> {
        let r = &mut self.routers[router as usize];
        for (key, count) in std::mem::take(&mut r.counts) {
            r.window.add(now, key, count);
        }
        r.window.rates(now).1
    }

    // Requests.

    pub fn at_router(&mut self, now: Nanos, ticket: Ticket, asker: &Asker, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        request.at_router = now;
        request.server_deadline = now + request.budget;
        cx.ledger.arrived(request);
        let router = &mut self.routers[asker.router as usize];
        let key = ClassKey {
            model: asker.model,
            partition_point: request.point,
            budget: BudgetClass::of(request.budget),
        };
        router.counts.entry(key).or_default().add(now);
        // Those that wait no longer go when there is no room for more.
        if router.waiting.len() == router.waiting.capacity() {
            router.waiting.retain(|(ticket, _)| {
                let place = cx.requests.get(*ticket).map(|r| r.place);
                matches!(place, Some(Place::Waiting(_)))
            });
        }
        self.send_on(now, ticket, asker, cx);
    }

    /// The router looks for a worker.
    fn send_on(&mut self, now: Nanos, ticket: Ticket, asker: &Asker, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        let router = &mut self.routers[asker.router as usize];
        let (workers, by_name) = (&self.workers, &self.by_name);
        // The worker that had it is passed over, in the plan of then.
        let same = router.table.epoch() == request.epoch;
        let lost = (request.retried && same).then_some(request.worker);
        let usable = |name: &str| {
            let known = |w: u32| workers[w as usize].alive || !workers[w as usize].noticed;
            let worker = by_name.get(name).copied();
            worker.is_some_and(|w| known(w) && lost != Some(w))
        };
        let left = request.server_deadline - now;
        let admitted = match router.table.admit(now, asker.model, request.point, left, &usable) {
            Ok(admitted) => admitted,
            Err(refused) => {
                if refused.status == Status::NotReady && now >= router.urgent_at {
                    router.urgent_at = now + URGENT_EVERY;
                    cx.events.at(
                        now,
                        Event::Reports {
                            router: asker.router,
                            urgent: true,
                        },
                    );
                }
                let patience = router.table.patience(&asker.model, request.point, left);
                let waits = matches!(refused.status, Status::NotReady | Status::WorkerLost);
                if waits && patience > Nanos::ZERO && request.place == Place::Outside {
                    request.place = Place::Waiting(refused.status);
                    router.waiting.push((ticket, *asker));
                    cx.events.at(now + patience, Event::NoRoute(ticket));
                } else if !waits || !matches!(request.place, Place::Waiting(_)) {
                    request.place = Place::Outside;
                    self.done.push((ticket, Err(refused.status)));
                }
                return;
            }
        };
        let worker = self.by_name.get(&admitted.target.worker).copied().unwrap_or(0);
        let there = &self.workers[worker as usize];
        match self.plans.get_mut(&admitted.epoch) {
            // A worker that is gone, and not yet known to be, is sent to all the same.
            Some(plan) if there.prepared.contains(&admitted.epoch) || !there.alive => {
                plan.under_way += 1;
                request.epoch = admitted.epoch;
                request.route = admitted.target.route;
                request.worker = worker;
                request.step = 0;
                request.place = Place::Hop;
                request.in_flight = Some(admitted.in_flight);
                cx.events.at(now + self.hop + self.late, Event::AtStage(ticket));
            }
            // It says that it is not ready: once more, elsewhere.
            _ if !std::mem::replace(&mut request.retried, true) => {
                request.worker = worker;
                request.epoch = admitted.epoch;
                drop(admitted);
                self.send_on(now, ticket, asker, cx);
            }
            _ => {
                request.place = Place::Outside;
                self.done.push((ticket, Err(Status::NotReady)));
            }
        }
    }

    pub fn at_stage(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        if request.place != Place::Hop {
            return;
        }
        let worker = request.worker;
        if !self.workers[worker as usize].alive {
            request.place = Place::Lost;
            return;
        }
        let (epoch, route, at) = (request.epoch, request.route as usize, request.step as usize);
        let Some(plan) = self.plans.get_mut(&epoch) else {
            return;
        };
        let Some(step) = plan.steps.get(route).and_then(|steps| steps.get(at)) else {
            self.over(ticket, Err(Status::Internal), cx);
            return;
        };
        let Some((there, instance)) = plan.place(step, worker) else {
            self.over(ticket, Err(Status::Internal), cx);
            return;
        };
        if at == 0 || there != worker {
            request.due = Due::with_guard(now, request.server_deadline - now, step);
        }
        request.worker = there;
        if !self.workers[there as usize].alive {
            request.place = Place::Lost;
            return;
        }
        let submitted = step.request(ticket.id(), request.due);
        let (stage, number) = (instance.stage, instance.partition);
        match plan.partitions[number].scheduler.submit(now, stage, submitted) {
            Ok(()) => {
                request.place = Place::Partition(number as u32);
                self.touched.push((epoch, number as u32));
            }
            Err(refusal) => {
                self.over(ticket, Err(refusal.status()), cx);
            }
        }
    }

    /// The client waits no longer.
    pub fn cancel(&mut self, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        let (epoch, place) = (request.epoch, request.place);
        if matches!(place, Place::Outside | Place::Waiting(_)) {
            request.place = Place::Outside;
            return;
        }
        let Some(plan) = self.plans.get_mut(&epoch) else {
            return;
        };
        request.in_flight = None;
        if let Place::Partition(number) = place {
            plan.partitions[number as usize].scheduler.cancel(ticket.id());
            self.touched.push((epoch, number));
        }
        self.leave(epoch);
    }

    /// A request of a plan is over.
    fn over(&mut self, ticket: Ticket, outcome: Result<(), Status>, cx: &mut Context) {
        if let Some(request) = cx.requests.get(ticket) {
            request.in_flight = None;
            self.leave(request.epoch);
            self.done.push((ticket, outcome));
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
        self.workers[partition.worker as usize].running -= partition.share;
        partition.busy = false;
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
        if self.plans.get(&epoch).is_some_and(InUse::is_over) {
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
            self.over(ticket, Ok(()), cx);
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
                partition.busy = true;
                // Plans that overlap may want more than the device has: all get less.
                let crowded = f64::from(worker.running) / f64::from(worker.share_total);
                let times = worker.slow * crowded.max(1.0);
                let time = Nanos((run.expected.0 as f64 * times).round() as u64);
                cx.events.at(
                    now + time,
                    Event::ChunkDone {
                        epoch,
                        partition: number,
                        life: partition.life,
                    },
                );
                let gave_way = partition.open.is_some_and(|open| open != run.batch.0);
                partition.open = (!run.last).then_some(run.batch.0);
                let spec = &partition.scheduler.spec().stages[run.stage.index()];
                let begins = run.from == spec.range.from();
                cx.ledger.ran(now, time, partition.share, gave_way);
                if begins {
                    cx.ledger.batch(now, run.requests.len(), run.closed);
                }
            }
            for id in std::mem::take(&mut self.dropped) {
                self.over(Ticket::of(id), Err(Status::Late), cx);
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
        for partition in self.plans.values_mut().flat_map(|p| &mut p.partitions) {
            if partition.worker == worker {
                partition.life += 1;
                (partition.open, partition.busy) = (None, false);
                partition.scheduler = Scheduler::new(partition.scheduler.spec().clone());
            }
        }
        for ticket in cx.requests.of_worker(worker) {
            if let Some(request) = cx.requests.get(ticket) {
                request.place = Place::Lost;
            }
        }
    }

    /// Routers notice that a worker is gone: what it had goes to another, once, if the deadline allows.
    pub fn noticed(&mut self, now: Nanos, worker: u32, asker: &dyn Fn(u32) -> Asker, cx: &mut Context) {
        self.workers[worker as usize].noticed = true;
        for ticket in cx.requests.of_worker(worker) {
            let Some(request) = cx.requests.get(ticket).filter(|r| r.place == Place::Lost) else {
                continue;
            };
            let again = !std::mem::replace(&mut request.retried, true) && now < request.server_deadline;
            let asker = asker(request.client);
            if again {
                (request.in_flight, request.place) = (None, Place::Outside);
                let epoch = request.epoch;
                self.leave(epoch);
                self.send_on(now, ticket, &asker, cx);
            } else {
                self.over(ticket, Err(Status::WorkerLost), cx);
            }
        }
    }

    pub fn is_alive(&self, worker: u32) -> bool {
        self.workers[worker as usize].alive
    }

    pub fn revive(&mut self, worker: u32) {
        self.workers[worker as usize].alive = true;
    }

    pub fn slow(&mut self, worker: u32, times: f64) {
        self.workers[worker as usize].slow = times;
    }
}
