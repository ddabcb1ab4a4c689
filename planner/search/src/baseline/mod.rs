//! Baselines that Graft is compared with, each as strong as the simulation lets it be.
//!
//! A baseline keeps its own structure; within it, shares, copies, batch limits and margins are the cheapest with
//! which the simulation finds its parts in time.

mod nexus;
mod paper;
mod slices;

use graft_plan::{Epoch, Plan};

use crate::costs::Costs;
use crate::draft::Draft;
use crate::graft::{in_short, thorough};
use crate::index::UnitAt;
use crate::judge::Simulated;
use crate::merge::{MergeOptions, Sorted, merge};
use crate::problem::Problem;
use graft_certify::Crew;

/// A baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Each model on whole devices of its own; only equal fragments batch.
    Static,
    /// Each fragment alone on a share of its own, with adaptive batches. After: Dhakal, Kulkarni and Ramakrishnan,
    /// "GSLICE: controlled spatial sharing of GPUs for a scalable inference platform", 2020.
    Gslice,
    /// `Gslice`, after fragments with the same partition point and like budgets were merged.
    GslicePlus,
    /// Merge, group about five similar ones, one re-partition point a group, one stage a partition. After: Wu,
    /// Wang, Jin and Liu, "Graft: efficient inference serving for hybrid deep learning with SLO guarantees via DNN
    /// re-alignment", 2024.
    Paper,
    /// Merge, pack into duty cycles, no re-alignment. After: Shen et al., "Nexus: a GPU cluster engine for
    /// accelerating DNN-based video analysis", 2019.
    Nexus,
}

impl Baseline {
    /// Its name on the command line and in plans.
    pub fn name(self) -> &'static str {
        match self {
            Baseline::Static => "static",
            Baseline::Gslice => "gslice",
            Baseline::GslicePlus => "gslice+",
            Baseline::Paper => "paper",
            Baseline::Nexus => "nexus",
        }
    }
}

/// Ratios of a merged fragment's largest budget to its smallest, from which baselines choose the cheapest.
const RATIOS: [f64; 6] = [1.0, 1.2, 1.5, 2.0, 4.0, f64::INFINITY];

/// What a baseline works with: the problem with fragments merged its way.
struct BaselineGround<'a, 'p> {
    problem: &'p Problem,
    costs: &'a Costs<'p>,
    sorted: Sorted,
    judge: Simulated<'p>,
    /// The thorough test with fewer requests, for candidates that fail early.
    quick: Simulated<'p>,
    crew: &'a dyn Crew,
}

/// A draft of a part, and the merged fragments that it can't serve as often in time as it must.
struct Drafted {
    draft: Draft,
    hopeless: Vec<UnitAt>,
}

/// A baseline's cheapest plan whose parts the simulation finds in time.
pub fn plan_baseline(problem: &Problem, epoch: Epoch, baseline: Baseline, crew: &dyn Crew) -> Plan {
    let costs = Costs::new(&problem.hardware);
    let merged = |budget_ratio: f64| BaselineGround {
        problem,
        costs: &costs,
        sorted: merge(
            &problem.workload,
            &costs,
            MergeOptions {
                budget_ratio,
                most_work: f64::INFINITY,
                most_part: 0.0,
            },
            &|_| None,
        ),
        judge: thorough(problem),
        quick: in_short(problem),
        crew,
    };
    let apart = || BaselineGround {
        sorted: merge(
            &problem.workload,
            &costs,
            MergeOptions {
                budget_ratio: 1.0,
                most_work: 0.0,
                most_part: 0.0,
            },
            &|_| None,
        ),
        ..merged(1.0)
    };
    let ways: Vec<(BaselineGround<'_, '_>, Drafted)> = match baseline {
        Baseline::Static => vec![with(merged(f64::INFINITY), slices::whole_devices)],
        Baseline::Gslice => vec![with(apart(), slices::each_alone)],
        Baseline::GslicePlus => RATIOS
            .iter()
            .map(|&r| with(merged(r), slices::each_alone))
            .collect(),
        Baseline::Paper => RATIOS.iter().map(|&r| with(merged(r), paper::groups)).collect(),
        Baseline::Nexus => {
            // A plan that costs more than the cheapest one so far that serves all can't become the cheapest.
            let mut enough = u64::MAX;
            let cheapest = |&ratio: &f64| {
                let way = with(merged(ratio), |ground| nexus::duty_cycles(ground, enough));
                if way.1.hopeless.is_empty() {
                    enough = enough.min(way.1.draft.cost(&costs));
                }
                way
            };
            RATIOS.iter().map(cheapest).collect()
        }
    };
    let cheapest = ways
        .into_iter()
        .min_by_key(|(g, d)| (d.hopeless.len(), d.draft.cost(g.costs), d.draft.partitions.len()));
    let Some((ground, drafted)) = cheapest else {
        return Plan::empty(baseline.name(), epoch);
    };
    let mut plan = drafted
        .draft
        .placed(baseline.name(), epoch, problem, &costs, &ground.sorted);
    ground.sorted.leave_out(&mut plan, &drafted.hopeless, problem);
    plan
}

fn with<'a, 'p>(
    ground: BaselineGround<'a, 'p>,
    way: impl Fn(&BaselineGround<'a, 'p>) -> Drafted,
) -> (BaselineGround<'a, 'p>, Drafted) {
    let drafted = way(&ground);
    (ground, drafted)
}
