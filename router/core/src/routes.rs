//! Which route a request takes, and whether it may.

use std::collections::{BTreeMap, HashMap};

use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Nanos, ms_to_nanos};
use graft_wire::{Refused, RouteTarget, RoutesUpdate, Status};

/// All routes of one plan. It is replaced as a whole, never changed.
#[derive(Debug, Default)]
pub struct RouteTable {
    epoch: Epoch,
    /// Routes of a (model, partition point), by ascending budget.
    routes: HashMap<(ModelId, CutPoint), Vec<RouteTarget>>,
    server_ms: BTreeMap<ModelId, Vec<f64>>,
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
        let mut routes: HashMap<(ModelId, CutPoint), Vec<RouteTarget>> = HashMap::new();
        for target in update.routes {
            routes
                .entry((target.model, target.partition_point))
                .or_default()
                .push(target);
        }
        for list in routes.values_mut() {
            list.sort_by(|a, b| a.budget_ms.total_cmp(&b.budget_ms).then(a.route.cmp(&b.route)));
        }
        RouteTable {
            epoch: update.epoch,
            routes,
            server_ms: update.server_ms,
        }
    }

    /// The plan it belongs to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
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
    /// `turn` counts requests: workers that run the same route take turns.
    pub fn admit(
        &self,
        model: ModelId,
        point: CutPoint,
        time_left: Nanos,
        turn: u64,
    ) -> Result<Admitted<'_>, Refused> {
        let Some(list) = self.routes.get(&(model, point)) else {
            let what = format!(
                "plan {} has no route for cut point {point} of this model yet",
                self.epoch
            );
            return Err(Refused::new(Status::NotReady, what));
        };
        let fitting = list.iter().rev().find(|t| ms_to_nanos(t.budget_ms) <= time_left);
        let Some(chosen) = fitting.or(list.first()) else {
            return Err(Refused::new(
                Status::NotReady,
                "the plan has no route for this model",
            ));
        };
        let equals = list.iter().filter(|t| t.route == chosen.route);
        let turn = turn as usize % equals.clone().count();
        let target = equals.clone().nth(turn).unwrap_or(chosen);
        if time_left < ms_to_nanos(target.least_ms) {
            let what = format!(
                "{:.3} ms are left, the layers after cut point {point} alone take {:.3} ms",
                time_left.0 as f64 / 1e6,
                target.least_ms
            );
            return Err(Refused::new(Status::Late, what));
        }
        Ok(Admitted {
            epoch: self.epoch,
            target,
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
                .admit(MODEL, CutPoint(5), ms(left), 0)
                .map(|a| a.target.route)
        };
        assert_eq!(route(100), Ok(0));
        assert_eq!(route(79), Ok(1));
        assert_eq!(route(15), Ok(1));
    }

    #[test]
    fn workers_that_run_the_same_route_take_turns() {
        let mut twin = target(2, 7, 50.0, 5.0);
        twin.worker = "v".to_owned();
        let table = RouteTable::new(RoutesUpdate {
            epoch: Epoch(3),
            workers: BTreeMap::new(),
            routes: vec![target(2, 7, 50.0, 5.0), twin],
            server_ms: BTreeMap::new(),
        });
        let worker = |turn| {
            table
                .admit(MODEL, CutPoint(7), ms(90), turn)
                .unwrap()
                .target
                .worker
                .clone()
        };
        assert_eq!([worker(0), worker(1), worker(2)], ["w", "v", "w"]);
    }

    #[test]
    fn late_not_ready_and_unknown_points_are_told_apart() {
        let table = table();
        let status = |point, left| {
            table
                .admit(MODEL, CutPoint(point), ms(left), 0)
                .unwrap_err()
                .status
        };
        assert_eq!(status(5, 9), Status::Late);
        assert_eq!(status(6, 1000), Status::NotReady);
        assert_eq!(
            table
                .admit(ModelId([2; 32]), CutPoint(5), ms(1000), 0)
                .unwrap_err()
                .status,
            Status::NotReady
        );
    }
}
