//! When to make another plan.

use std::collections::BTreeMap;
use std::fmt;

use graft_model::CutPoint;
use graft_plan::{Nanos, Workload};

/// Why another plan is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Cause {
    /// Workers came or went.
    Members,
    /// A partition point has no route.
    Unserved(String),
    /// A model's rate moved so far: from, to.
    Rate(String, f64, f64),
    /// The tightest budget at a partition point moved so far, in milliseconds: from, to.
    Budget(String, f64, f64),
    /// Partition points are not used, and their stages not needed any more.
    Gone(usize),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Members => f.write_str("workers came or went"),
            Cause::Unserved(id) => write!(f, "{id} has no route"),
            Cause::Rate(model, from, to) => {
                write!(f, "the rate of {model} went from {from:.1} to {to:.1} requests/s")
            }
            Cause::Budget(point, from, to) => {
                write!(f, "the budget at {point} went from {from:.1} to {to:.1} ms")
            }
            Cause::Gone(n) => write!(f, "{n} partition points are not used any more"),
        }
    }
}

/// Members that join within this time of one another get one plan.
pub const SETTLE: Nanos = Nanos::from_millis(100);
/// The planner looks at the mix this often, besides at every report that is urgent.
pub const LOOK_EVERY: Nanos = Nanos::from_millis(500);

/// A rate that moved by less than this part is not worth a plan.
const RATE_MOVE: f64 = 0.3;
/// A budget that moved by less than this factor is not worth a plan: 1.25 is one class.
const BUDGET_MOVE: f64 = 1.4;
/// Rates below are noise, in requests per second.
const RATE_NOISE: f64 = 1.0;
/// Least time between plans when somebody is not served.
const URGENT_AFTER: Nanos = Nanos::from_millis(150);
/// Least life of a plan otherwise.
const LEAST_LIFE: Nanos = Nanos::from_millis(3_000);

/// What is planned for at one partition point: rate, and tightest budget in milliseconds.
type Points = BTreeMap<(String, CutPoint), (f64, f64)>;

/// Says when to make another plan.
#[derive(Debug, Default)]
pub struct Replanner {
    planned: Option<(Nanos, Points)>,
    members_changed: bool,
}

fn points(workload: &Workload) -> Points {
    let mut points = Points::new();
    for f in &workload.fragments {
        let point = points
            .entry((f.model.clone(), f.partition_point))
            .or_insert((0.0, f64::INFINITY));
        point.0 += f.rate_rps;
        point.1 = point.1.min(f.budget_ms);
    }
    points
}

fn rates(points: &Points) -> BTreeMap<&str, f64> {
    let mut rates: BTreeMap<&str, f64> = BTreeMap::new();
    for ((model, _), (rate, _)) in points {
        *rates.entry(model).or_default() += rate;
    }
    rates
}

impl Replanner {
    /// Workers came or went.
    pub fn members_changed(&mut self) {
        self.members_changed = true;
    }

    /// A plan was made for this.
    pub fn planned(&mut self, now: Nanos, workload: &Workload) {
        self.planned = Some((now, points(workload)));
        self.members_changed = false;
    }

    /// Whether to make another plan for `workload` now, and why.
    pub fn decide(&self, now: Nanos, workload: &Workload) -> Option<Cause> {
        if self.members_changed {
            return Some(Cause::Members);
        }
        let Some((at, planned)) = &self.planned else {
            return Some(Cause::Members);
        };
        let wanted = points(workload);
        let unserved = wanted.keys().find(|k| !planned.contains_key(*k));
        if let Some((model, point)) = unserved
            && now >= *at + URGENT_AFTER
        {
            let model = model.get(..12).unwrap_or(model);
            return Some(Cause::Unserved(format!("{model}/{point}")));
        }
        if now < *at + LEAST_LIFE {
            return None;
        }
        let (before, after) = (rates(planned), rates(&wanted));
        for (model, rate) in &after {
            let old = before.get(model).copied().unwrap_or(0.0);
            if (rate - old).abs() > RATE_MOVE * old + RATE_NOISE {
                return Some(Cause::Rate((*model).to_owned(), old, *rate));
            }
        }
        for (key, (_, budget)) in &wanted {
            let old = planned.get(key).map_or(0.0, |p| p.1);
            if *budget < old / BUDGET_MOVE || *budget > old * BUDGET_MOVE {
                return Some(Cause::Budget(
                    format!("{}/{}", key.0.get(..12).unwrap_or(&key.0), key.1),
                    old,
                    *budget,
                ));
            }
        }
        let gone = planned.keys().filter(|k| !wanted.contains_key(*k)).count();
        (gone > 0).then_some(Cause::Gone(gone))
    }
}
