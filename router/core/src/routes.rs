//! Which route a request takes, and whether it may.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Nanos, ms_to_nanos};
use graft_wire::{LeftOut, Refused, RouteTarget, RoutesUpdate, Status};

use crate::gate::Gate;

/// Longest wait for a plan that serves a request.
const WAIT_AT_MOST: Nanos = Nanos::from_millis(2_000);
/// Time that a request which waits must have left, as a multiple of what its layers take.
const RUN_AFTER_WAITING: f64 = 2.0;

/// Part of their time that partitions are given at most where there is more load than devices.
const FULLEST: f64 = 0.9;
/// Factor by which a budget is larger where it is another class.
const LOOSER: f64 = 1.4;
/// Part of the room for surplus that the least urgent requests may take.
const LEAST_PART: f64 = 0.5;

/// All routes of one plan. It is replaced as a whole.
#[derive(Debug, Default)]
pub struct RouteTable {
    epoch: Epoch,
    /// This router's part of the requests a second that the plan is made for.
    planned_rps: f64,
    /// Routes of a (model, partition point), by ascending budget.
    routes: HashMap<(ModelId, CutPoint), Vec<Entry>>,
    server_ms: BTreeMap<ModelId, Vec<f64>>,
    price: BTreeMap<ModelId, Vec<f64>>,
    /// What is not served on purpose, by descending budget.
    left_out: HashMap<(ModelId, CutPoint), Vec<LeftOut>>,
    /// Where there is more load than devices: what routes that share partitions may take together.
    pools: HashMap<u32, Pool>,
    emulated: bool,
}

/// What routes that share partitions may take together.
#[derive(Debug)]
struct Pool {
    /// In milliseconds of the partitions.
    gate: Gate,
    /// The routes' budgets, ascending.
    budgets: Vec<Nanos>,
}

/// One route's part of a pool.
#[derive(Debug)]
struct Charge {
    budget: Nanos,
    rate_rps: f64,
    /// What one request takes of the pool.
    work_ms: f64,
    /// Time until the partitions that ran such requests before are done with those that they have, in nanoseconds.
    owed_ns: f64,
}

impl Pool {
    /// Of these routes on so many partitions, of whose time a part is this router's.
    fn new(now: Nanos, routes: &[Charge], partitions: usize, part: f64) -> Self {
        let mut budgets: Vec<Nanos> = routes.iter().map(|r| r.budget).collect();
        budgets.sort_unstable();
        budgets.dedup();
        let planned: f64 = routes.iter().map(|r| r.rate_rps * r.work_ms).sum();
        // What was planned for is an estimate; partitions carry what they have time for.
        let work = planned.max(partitions as f64 * 1e3 * FULLEST * part);
        let longest = routes.iter().map(|r| r.work_ms).fold(0.0, f64::max);
        let owed: f64 = routes.iter().map(|r| r.rate_rps * r.work_ms * r.owed_ns).sum();
        Pool {
            gate: Gate::new(work, longest).owing_ns(now, owed / planned.max(f64::MIN_POSITIVE)),
            budgets,
        }
    }

    /// The part of the room for surplus that is for requests with a budget: the more urgent, the more.
    fn part(&self, budget: Nanos) -> f64 {
        let less_urgent = self.budgets.iter().filter(|b| **b > budget).count();
        match self.budgets.len() {
            0 | 1 => 1.0,
            n => LEAST_PART + (1.0 - LEAST_PART) * less_urgent as f64 / (n - 1) as f64,
        }
    }
}

/// One route of a plan.
#[derive(Debug)]
struct Entry {
    /// The workers that run it; at least one.
    targets: Vec<Target>,
    /// Counts requests: workers with as little to do take turns.
    turn: AtomicUsize,
    /// Where there is more load than devices.
    gate: Option<Gate>,
}

/// A worker that runs a route.
#[derive(Debug)]
struct Target {
    target: RouteTarget,
    /// On so many of its partitions.
    partitions: usize,
    /// Requests of this route that it has.
    in_flight: Arc<AtomicUsize>,
}

impl Entry {
    fn budget(&self) -> Nanos {
        ms_to_nanos(self.targets[0].target.budget_ms)
    }

    /// The usable worker with the fewest requests for each of its partitions; of equals, one after the other.
    fn choose(&self, usable: &dyn Fn(&str) -> bool) -> Option<&Target> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.targets.len();
        let in_turn = (0..count).map(|i| &self.targets[(turn + i) % count]);
        in_turn
            .filter(|t| usable(&t.target.worker))
            .min_by(|a, b| a.pressure().total_cmp(&b.pressure()))
    }
}

impl Target {
    fn pressure(&self) -> f64 {
        self.in_flight.load(Ordering::Relaxed) as f64 / self.partitions as f64
    }
}

/// A request's place among those that a worker has of a route; given back when dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that may go, and where.
#[derive(Debug)]
pub struct Admitted<'a> {
    /// The plan.
    pub epoch: Epoch,
    /// The route, and the worker.
    pub target: &'a RouteTarget,
    /// To be kept until the worker has answered.
    pub in_flight: InFlight,
}

/// Of the routes for a model and partition point, by ascending budget, the one for a request that has `time_left`.
fn fitting(list: &[Entry], time_left: Nanos) -> Option<&Entry> {
    let fitting = list.iter().rev().find(|e| e.budget() <= time_left);
    fitting.or(list.first())
}

impl RouteTable {
    /// From what the planner sends.
    pub fn new(update: RoutesUpdate) -> Self {
        Self::after(&RouteTable::default(), Nanos::ZERO, update)
    }

    /// The same after another plan: what passed its gates is still on its way, and counts.
    pub(crate) fn after(before: &RouteTable, now: Nanos, update: RoutesUpdate) -> Self {
        let mut by_route: BTreeMap<u32, Vec<Target>> = BTreeMap::new();
        for target in update.routes {
            let list = by_route.entry(target.route).or_default();
            match list.iter_mut().find(|t| t.target.worker == target.worker) {
                Some(known) => known.partitions += 1,
                None => list.push(Target {
                    target,
                    partitions: 1,
                    in_flight: Arc::default(),
                }),
            }
        }
        let part = 1.0 / f64::from(update.routers.max(1));
        let mut planned_rps = 0.0;
        let mut routes: HashMap<(ModelId, CutPoint), Vec<Entry>> = HashMap::new();
        for targets in by_route.into_values() {
            let first = &targets[0].target;
            let key = (first.model, first.partition_point);
            planned_rps += first.rate_rps * part;
            let owed = before.owed(now, key, ms_to_nanos(first.budget_ms)).0;
            let gate = || Gate::new(first.rate_rps * part, 1.0).owing(now, owed);
            routes.entry(key).or_default().push(Entry {
                gate: update.limited.then(gate),
                targets,
                turn: AtomicUsize::new(0),
            });
        }
        for list in routes.values_mut() {
            list.sort_by_key(|e| (e.budget(), e.targets[0].target.route));
        }
        let mut shared: HashMap<u32, (usize, Vec<Charge>)> = HashMap::new();
        for entry in routes.values().flatten().filter(|e| e.gate.is_some()) {
            let first = &entry.targets[0].target;
            let (partitions, of_pool) = shared.entry(first.pool).or_default();
            *partitions = (*partitions).max(entry.targets.iter().map(|t| t.partitions).sum());
            of_pool.push(Charge {
                budget: entry.budget(),
                rate_rps: first.rate_rps * part,
                work_ms: first.work_ms,
                owed_ns: before
                    .owed(now, (first.model, first.partition_point), entry.budget())
                    .1,
            });
        }
        let pools = shared
            .into_iter()
            .map(|(number, (partitions, routes))| (number, Pool::new(now, &routes, partitions, part)));
        let pools = pools.collect();
        let mut left_out: HashMap<(ModelId, CutPoint), Vec<LeftOut>> = HashMap::new();
        for out in update.left_out {
            left_out
                .entry((out.model, out.partition_point))
                .or_default()
                .push(out);
        }
        for list in left_out.values_mut() {
            list.sort_by(|a, b| b.budget_ms.total_cmp(&a.budget_ms));
        }
        RouteTable {
            epoch: update.epoch,
            planned_rps,
            routes,
            left_out,
            pools,
            price: update.price,
            server_ms: update.server_ms,
            emulated: update.emulated,
        }
    }

    /// What is owed for requests that passed: at the gate of a route, in requests, and at that of its pool, in nanoseconds.
    fn owed(&self, now: Nanos, key: (ModelId, CutPoint), budget: Nanos) -> (f64, f64) {
        let entry = self.routes.get(&key).and_then(|list| fitting(list, budget));
        let pool = entry.and_then(|entry| self.pools.get(&entry.targets[0].target.pool));
        (
            entry
                .and_then(|entry| entry.gate.as_ref())
                .map_or(0.0, |gate| gate.owed(now)),
            pool.map_or(0.0, |pool| pool.gate.owed_ns(now)),
        )
    }

    /// The plan it belongs to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// This router's part of the requests a second that the plan is made for.
    pub(crate) fn planned_rps(&self) -> f64 {
        self.planned_rps
    }

    /// Devices are emulated.
    pub fn is_emulated(&self) -> bool {
        self.emulated
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.routes.values().map(Vec::len).sum()
    }

    /// Nothing is served.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Milliseconds that the server needs from each cut point on; empty: not known.
    pub fn server_ms(&self, model: &ModelId) -> &[f64] {
        self.server_ms.get(model).map_or(&[], Vec::as_slice)
    }

    /// What a request costs from each cut point on: milliseconds of one unit of share; empty: not known.
    pub fn price(&self, model: &ModelId) -> &[f64] {
        self.price.get(model).map_or(&[], Vec::as_slice)
    }

    /// Whether a request of a route may pass where there is more load than devices: within the route's own rate, or in the
    /// room that others which share its partitions leave. That room is for the urgent ones first, so that of a surplus the
    /// least urgent requests are refused.
    fn passes(&self, now: Nanos, entry: &Entry) -> bool {
        let Some(own) = &entry.gate else { return true };
        let target = &entry.targets[0].target;
        let pool = self.pools.get(&target.pool);
        if own.pass(now, 1.0, 1.0) {
            if let Some(pool) = pool {
                pool.gate.passed(now, target.work_ms);
            }
            return true;
        }
        pool.is_some_and(|p| p.gate.pass(now, target.work_ms, p.part(entry.budget())))
    }

    /// A request of a route passes in any case.
    fn passed(&self, now: Nanos, entry: &Entry) {
        let target = &entry.targets[0].target;
        if let Some(own) = &entry.gate {
            own.passed(now, 1.0);
        }
        if let Some(pool) = self.pools.get(&target.pool) {
            pool.gate.passed(now, target.work_ms);
        }
    }

    /// Whether requests at a cut point have no route, since the plan leaves them out.
    pub fn leaves_out(&self, model: &ModelId, point: CutPoint) -> bool {
        let key = (*model, point);
        !self.routes.contains_key(&key) && self.left_out.contains_key(&key)
    }

    /// A plan's hints name every model that a worker runs.
    fn runs_nowhere(&self, model: &ModelId) -> bool {
        self.epoch > Epoch(0) && !self.server_ms.is_empty() && !self.server_ms.contains_key(model)
    }

    /// Why a request that has no route gets none.
    fn without_route(&self, model: ModelId, point: CutPoint, time_left: Nanos) -> Refused {
        let out = self.left_out.get(&(model, point)).and_then(|list| list.first());
        // Who has clearly more time than those that are left out may be served by another plan.
        let looser = |out: &&LeftOut| out.too_tight && time_left > ms_to_nanos(out.budget_ms * LOOSER);
        let out = out.filter(|out| !looser(out));
        let epoch = self.epoch;
        match out {
            None if self.runs_nowhere(&model) => Refused::new(
                Status::NotReady,
                "no worker that is here runs this model: their logs say why, and so does `graft model inspect`",
            ),
            None => Refused::new(
                Status::NotReady,
                format!("plan {epoch} has no route for cut point {point} of this model yet"),
            ),
            Some(out) if out.too_tight => Refused::new(
                Status::Late,
                format!(
                    "cut point {point} of this model can't be served within {:.1} ms, not even alone",
                    out.budget_ms
                ),
            ),
            Some(_) => Refused::new(
                Status::Overloaded,
                format!("plan {epoch} has no room for cut point {point} of this model: the devices are full"),
            ),
        }
    }

    /// How long a request without a route, or whose worker is gone, may wait for another plan: as long as it could still
    /// be run then, no more than half of its time, and not for ever. Where nothing is served, not at all.
    pub fn patience(&self, model: &ModelId, point: CutPoint, time_left: Nanos) -> Nanos {
        if self.is_empty() && self.epoch > Epoch(0) {
            return Nanos::ZERO;
        }
        let needed = self.server_ms(model).get(point.index()).copied().unwrap_or(0.0);
        let left = time_left - ms_to_nanos(needed * RUN_AFTER_WAITING);
        left.min(Nanos(time_left.0 / 2)).min(WAIT_AT_MOST)
    }

    /// Whether some usable worker would have time for a request that has `time_left`.
    pub fn could_serve(
        &self,
        model: ModelId,
        point: CutPoint,
        time_left: Nanos,
        usable: &dyn Fn(&str) -> bool,
    ) -> bool {
        let list = self.routes.get(&(model, point));
        let entry = list.and_then(|list| fitting(list, time_left));
        entry.is_some_and(|entry| {
            let in_time = time_left >= ms_to_nanos(entry.targets[0].target.least_ms);
            in_time && entry.targets.iter().any(|t| usable(&t.target.worker))
        })
    }

    /// Finds the route for a request that has `time_left`, or says why there is none.
    ///
    /// Of the routes for its model and partition point it takes the one with the largest budget that is not
    /// above what it has; below all budgets the tightest, as long as the layers alone can be run in time.
    /// Where devices ran out, a route lets no more through than it was planned for, but in room that others leave. Of the
    /// workers that run the route and are `usable`, the one with the fewest requests of it for each of its partitions
    /// gets it, so that one that does not answer gets no more.
    pub fn admit(
        &self,
        now: Nanos,
        model: ModelId,
        point: CutPoint,
        time_left: Nanos,
        usable: &dyn Fn(&str) -> bool,
    ) -> Result<Admitted<'_>, Refused> {
        self.find(now, (model, point), time_left, usable, false)
    }

    /// The same for a request that was let in before and goes to another worker: it counts, and is not refused for the rate.
    pub fn admit_again(
        &self,
        now: Nanos,
        model: ModelId,
        point: CutPoint,
        time_left: Nanos,
        usable: &dyn Fn(&str) -> bool,
    ) -> Result<Admitted<'_>, Refused> {
        self.find(now, (model, point), time_left, usable, true)
    }

    fn find(
        &self,
        now: Nanos,
        (model, point): (ModelId, CutPoint),
        time_left: Nanos,
        usable: &dyn Fn(&str) -> bool,
        again: bool,
    ) -> Result<Admitted<'_>, Refused> {
        let Some(list) = self.routes.get(&(model, point)) else {
            return Err(self.without_route(model, point, time_left));
        };
        let Some(entry) = fitting(list, time_left) else {
            return Err(Refused::new(
                Status::NotReady,
                "the plan has no route for this model",
            ));
        };
        let first = &entry.targets[0].target;
        if time_left < ms_to_nanos(first.least_ms) {
            let what = format!(
                "{:.3} ms are left, the layers after cut point {point} alone take {:.3} ms",
                time_left.0 as f64 / 1e6,
                first.least_ms
            );
            return Err(Refused::new(Status::Late, what));
        }
        let Some(chosen) = entry.choose(usable) else {
            let what = format!("no worker that runs cut point {point} of this model can be reached");
            return Err(Refused::new(Status::WorkerLost, what));
        };
        if again {
            self.passed(now, entry);
        } else if !self.passes(now, entry) {
            let what = format!(
                "the devices carry {:.1} requests/s at cut point {point}, and more come",
                first.rate_rps
            );
            return Err(Refused::new(Status::Overloaded, what));
        }
        Ok(Admitted {
            epoch: self.epoch,
            target: &chosen.target,
            in_flight: InFlight::take(&chosen.in_flight),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ModelId = ModelId([1; 32]);

    fn target(route: u32, point: u16, budget_ms: f64, least_ms: f64) -> RouteTarget {
        RouteTarget {
            route,
            model: MODEL,
            partition_point: CutPoint(point),
            budget_ms,
            rate_rps: 1.0,
            least_ms,
            worker: "w".to_owned(),
            pool: 0,
            work_ms: 1800.0,
        }
    }

    fn update(limited: bool, routes: Vec<RouteTarget>) -> RoutesUpdate {
        RoutesUpdate {
            epoch: Epoch(3),
            limited,
            emulated: false,
            routers: 1,
            workers: BTreeMap::new(),
            routes,
            server_ms: BTreeMap::new(),
            price: BTreeMap::new(),
            left_out: vec![],
        }
    }

    fn table() -> RouteTable {
        RouteTable::new(update(
            false,
            vec![
                target(0, 5, 80.0, 10.0),
                target(1, 5, 20.0, 10.0),
                target(2, 7, 50.0, 5.0),
            ],
        ))
    }

    fn ms(ms: u64) -> Nanos {
        Nanos::from_millis(ms)
    }

    #[test]
    fn a_request_takes_the_loosest_route_that_it_can_afford() {
        let table = table();
        let route = |left| {
            table
                .admit(ms(0), MODEL, CutPoint(5), ms(left), &|_| true)
                .map(|a| a.target.route)
        };
        assert_eq!(route(100), Ok(0));
        assert_eq!(route(79), Ok(1));
        assert_eq!(route(15), Ok(1));
    }

    fn twins(limited: bool) -> RouteTable {
        let mut twin = target(2, 7, 50.0, 5.0);
        twin.worker = "v".to_owned();
        RouteTable::new(RoutesUpdate {
            epoch: Epoch(3),
            limited,
            emulated: false,
            routers: 1,
            workers: BTreeMap::new(),
            routes: vec![target(2, 7, 50.0, 5.0), twin],
            server_ms: BTreeMap::new(),
            price: BTreeMap::new(),
            left_out: vec![],
        })
    }

    #[test]
    fn workers_that_have_as_little_to_do_take_turns_and_one_that_does_not_answer_gets_no_more() {
        let table = twins(false);
        let admit = || table.admit(ms(0), MODEL, CutPoint(7), ms(90), &|_| true).unwrap();
        let name = |a: &Admitted<'_>| a.target.worker.clone();
        // Answered at once.
        let order = [name(&admit()), name(&admit()), name(&admit())];
        assert_eq!(order, ["w", "v", "w"]);
        // One keeps what it gets.
        let held = admit();
        assert_eq!(name(&held), "v");
        assert!((0..5).all(|_| name(&admit()) == "w"));
        drop(held);
        assert!((0..2).any(|_| name(&admit()) == "v"));
    }

    #[test]
    fn workers_that_are_gone_are_passed_over() {
        let table = twins(false);
        let admit = |gone: &[&str]| {
            let usable = |worker: &str| !gone.contains(&worker);
            let admitted = table.admit(ms(0), MODEL, CutPoint(7), ms(90), &usable);
            admitted.map(|a| a.target.worker.clone()).map_err(|r| r.status)
        };
        assert!((0..3).all(|_| admit(&["w"]) == Ok("v".to_owned())));
        assert_eq!(admit(&["w", "v"]), Err(Status::WorkerLost));
    }

    #[test]
    fn where_devices_ran_out_surplus_is_refused_as_overload() {
        let count = |limited| {
            let table = twins(limited);
            let outcomes: Vec<_> = (0..20)
                .map(|i| {
                    table
                        .admit(ms(i * 100), MODEL, CutPoint(7), ms(90), &|_| true)
                        .map(|_| ())
                })
                .collect();
            outcomes
                .iter()
                .filter(|o| o.as_ref().is_err_and(|r| r.status == Status::Overloaded))
                .count()
        };
        assert_eq!(count(false), 0);
        // Two seconds at one request a second, and a burst of one more.
        assert_eq!(count(true), 17);
    }

    #[test]
    fn another_plan_in_the_middle_of_a_flood_lets_no_second_burst_in() {
        let route = RouteTarget {
            rate_rps: 50.0,
            ..target(2, 7, 50.0, 5.0)
        };
        let routes = || update(true, vec![route.clone()]);
        let count = |switches: bool| {
            let mut table = RouteTable::new(routes());
            (0..2000u64)
                .filter(|at| {
                    if switches && at % 100 == 99 {
                        table = RouteTable::after(&table, ms(*at), routes());
                    }
                    table
                        .admit(ms(*at), MODEL, CutPoint(7), ms(90), &|_| true)
                        .is_ok()
                })
                .count()
        };
        let (without, with) = (count(false), count(true));
        assert!(
            without > 10 && with.abs_diff(without) <= 2,
            "{with}, {without} without"
        );
    }

    #[test]
    fn room_that_others_leave_is_for_the_urgent_first() {
        let routes = [(5, 20.0), (7, 80.0), (9, 200.0)].iter().zip(0..);
        let routes = routes.map(|(&(point, budget), number)| RouteTarget {
            rate_rps: 20.0,
            work_ms: 15.0,
            ..target(number, point, budget, 1.0)
        });
        let table = RouteTable::new(update(true, routes.collect()));
        // Ten seconds: twenty a second are planned for each. Forty of the urgent ones come, forty of the patient ones, and
        // none of the third kind.
        let (mut urgent, mut patient) = (0, 0);
        for t in (0..10_000u64).step_by(25) {
            let passed = |point, left| {
                let admitted = table.admit(ms(t), MODEL, CutPoint(point), ms(left), &|_| true);
                u64::from(admitted.is_ok())
            };
            patient += passed(7, 80);
            urgent += passed(5, 20);
        }
        // Sixty a second in all: everybody's own twenty, and the twenty that are left for the urgent.
        assert!((370..=400).contains(&urgent), "{urgent}, {patient}");
        assert!((195..=245).contains(&patient), "{patient}");
        assert!((595..=630).contains(&(urgent + patient)), "{urgent}, {patient}");
    }

    #[test]
    fn what_is_left_out_on_purpose_is_refused_at_once() {
        let out = |point, too_tight| LeftOut {
            model: MODEL,
            partition_point: CutPoint(point),
            budget_ms: 30.0,
            too_tight,
        };
        let table = RouteTable::new(RoutesUpdate {
            left_out: vec![out(1, true), out(2, false)],
            ..update(true, vec![target(0, 5, 80.0, 10.0)])
        });
        let status = |point| {
            let outcome = table.admit(ms(0), MODEL, CutPoint(point), ms(30), &|_| true);
            outcome.map(|_| ()).unwrap_err().status
        };
        assert_eq!(status(1), Status::Late);
        assert_eq!(status(2), Status::Overloaded);
        assert_eq!(status(3), Status::NotReady);
        let patient = table.admit(ms(0), MODEL, CutPoint(1), ms(300), &|_| true);
        assert_eq!(patient.map(|_| ()).unwrap_err().status, Status::NotReady);
    }

    #[test]
    fn a_request_waits_for_a_plan_as_long_as_it_can_afford() {
        let mut update = update(false, vec![target(0, 0, 80.0, 10.0)]);
        update.server_ms.insert(MODEL, vec![20.0, 10.0, 0.0]);
        let table = RouteTable::new(update.clone());
        assert_eq!(table.patience(&MODEL, CutPoint(1), ms(100)), ms(50));
        assert_eq!(table.patience(&MODEL, CutPoint(1), ms(24)), ms(4));
        assert_eq!(table.patience(&MODEL, CutPoint(0), ms(30)), ms(0));
        assert_eq!(table.patience(&MODEL, CutPoint(1), ms(60_000)), WAIT_AT_MOST);
        update.routes.clear();
        let nothing = RouteTable::new(update);
        assert_eq!(nothing.patience(&MODEL, CutPoint(1), ms(60_000)), ms(0));
    }

    #[test]
    fn late_not_ready_and_unknown_points_are_told_apart() {
        let table = table();
        let status = |point, left| {
            table
                .admit(ms(0), MODEL, CutPoint(point), ms(left), &|_| true)
                .unwrap_err()
                .status
        };
        assert_eq!(status(5, 9), Status::Late);
        assert_eq!(status(6, 1000), Status::NotReady);
        assert_eq!(
            table
                .admit(ms(0), ModelId([2; 32]), CutPoint(5), ms(1000), &|_| true)
                .unwrap_err()
                .status,
            Status::NotReady
        );
    }
}
