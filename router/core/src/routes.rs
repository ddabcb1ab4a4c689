//! Which route a request takes, and whether it may.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Nanos, ms_to_nanos};
use graft_wire::{Refused, RouteTarget, RoutesUpdate, Status};

use crate::gate::Gate;

/// All routes of one plan. It is replaced as a whole.
#[derive(Debug, Default)]
pub struct RouteTable {
    epoch: Epoch,
    /// Routes of a (model, partition point), by ascending budget.
    routes: HashMap<(ModelId, CutPoint), Vec<Entry>>,
    server_ms: BTreeMap<ModelId, Vec<f64>>,
    emulated: bool,
}

/// One route of a plan.
#[derive(Debug)]
struct Entry {
    /// The partitions that run it, equal but for their places; at least one.
    targets: Vec<RouteTarget>,
    /// Counts requests: the partitions take turns.
    turn: AtomicUsize,
    /// Where there is more load than devices.
    gate: Option<Gate>,
}

impl Entry {
    fn budget(&self) -> Nanos {
        ms_to_nanos(self.targets[0].budget_ms)
    }
}

/// A request that may go, and where.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Admitted<'a> {
    /// The plan.
    pub epoch: Epoch,
    /// The route.
    pub target: &'a RouteTarget,
}

impl RouteTable {
    /// From what the planner sends.
    pub fn new(update: RoutesUpdate) -> Self {
        let mut by_route: BTreeMap<u32, Vec<RouteTarget>> = BTreeMap::new();
        for target in update.routes {
            by_route.entry(target.route).or_default().push(target);
        }
        let mut routes: HashMap<(ModelId, CutPoint), Vec<Entry>> = HashMap::new();
        for targets in by_route.into_values() {
            let key = (targets[0].model, targets[0].partition_point);
            routes.entry(key).or_default().push(Entry {
                gate: update.limited.then(|| Gate::new(targets[0].rate_rps)),
                targets,
                turn: AtomicUsize::new(0),
            });
        }
        for list in routes.values_mut() {
            list.sort_by_key(|e| (e.budget(), e.targets[0].route));
        }
        RouteTable {
            epoch: update.epoch,
            routes,
            server_ms: update.server_ms,
            emulated: update.emulated,
        }
    }

    /// The plan it belongs to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
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

    /// Finds the route for a request that has `time_left`, or says why there is none.
    ///
    /// Of the routes for its model and partition point it takes the one with the largest budget that is not
    /// above what it has; below all budgets the tightest, as long as the layers alone can be run in time.
    /// Where devices ran out, a route lets no more through than it was planned for.
    pub fn admit(
        &self,
        now: Nanos,
        model: ModelId,
        point: CutPoint,
        time_left: Nanos,
    ) -> Result<Admitted<'_>, Refused> {
        let Some(list) = self.routes.get(&(model, point)) else {
            let what = format!(
                "plan {} has no route for cut point {point} of this model yet",
                self.epoch
            );
            return Err(Refused::new(Status::NotReady, what));
        };
        let fitting = list.iter().rev().find(|e| e.budget() <= time_left);
        let Some(entry) = fitting.or(list.first()) else {
            return Err(Refused::new(
                Status::NotReady,
                "the plan has no route for this model",
            ));
        };
        let first = &entry.targets[0];
        if time_left < ms_to_nanos(first.least_ms) {
            let what = format!(
                "{:.3} ms are left, the layers after cut point {point} alone take {:.3} ms",
                time_left.0 as f64 / 1e6,
                first.least_ms
            );
            return Err(Refused::new(Status::Late, what));
        }
        if entry.gate.as_ref().is_some_and(|g| !g.pass(now)) {
            let what = format!(
                "the devices carry {:.1} requests/s at cut point {point}, and more come",
                first.rate_rps
            );
            return Err(Refused::new(Status::Overloaded, what));
        }
        let turn = entry.turn.fetch_add(1, Ordering::Relaxed) % entry.targets.len();
        Ok(Admitted {
            epoch: self.epoch,
            target: &entry.targets[turn],
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
        }
    }

    fn table() -> RouteTable {
        RouteTable::new(RoutesUpdate {
            epoch: Epoch(3),
            limited: false,
            emulated: false,
            workers: BTreeMap::new(),
            routes: vec![
                target(0, 5, 80.0, 10.0),
                target(1, 5, 20.0, 10.0),
                target(2, 7, 50.0, 5.0),
            ],
            server_ms: BTreeMap::new(),
        })
    }

    fn ms(ms: u64) -> Nanos {
        Nanos::from_millis(ms)
    }

    #[test]
    fn a_request_takes_the_loosest_route_that_it_can_afford() {
        let table = table();
        let route = |left| {
            table
                .admit(ms(0), MODEL, CutPoint(5), ms(left))
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
            workers: BTreeMap::new(),
            routes: vec![target(2, 7, 50.0, 5.0), twin],
            server_ms: BTreeMap::new(),
        })
    }

    #[test]
    fn partitions_that_run_the_same_route_take_turns() {
        let table = twins(false);
        let worker = || {
            table
                .admit(ms(0), MODEL, CutPoint(7), ms(90))
                .unwrap()
                .target
                .worker
                .clone()
        };
        assert_eq!([worker(), worker(), worker()], ["w", "v", "w"]);
    }

    #[test]
    fn where_devices_ran_out_surplus_is_refused_as_overload() {
        let count = |limited| {
            let table = twins(limited);
            let outcomes: Vec<_> = (0..20)
                .map(|i| table.admit(ms(i * 100), MODEL, CutPoint(7), ms(90)).map(|_| ()))
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
    fn late_not_ready_and_unknown_points_are_told_apart() {
        let table = table();
        let status = |point, left| {
            table
                .admit(ms(0), MODEL, CutPoint(point), ms(left))
                .unwrap_err()
                .status
        };
        assert_eq!(status(5, 9), Status::Late);
        assert_eq!(status(6, 1000), Status::NotReady);
        assert_eq!(
            table
                .admit(ms(0), ModelId([2; 32]), CutPoint(5), ms(1000))
                .unwrap_err()
                .status,
            Status::NotReady
        );
    }
}
