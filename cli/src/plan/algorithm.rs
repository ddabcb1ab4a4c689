//! The ways to plan.

use clap::ValueEnum;
use graft_plan::{Epoch, Plan};
use graft_planner::Threads;
use graft_planner_search::{
    Baseline, Carried, GraftOptions, Problem, Progress, Test, plan_baseline, plan_exact, plan_graft,
    plan_what_fits,
};

/// A way to plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Algorithm {
    /// Merge, group, re-align, pack by deadline, with the simulation in the search
    Graft,
    /// Groups of about five, one re-partition point a group, one stage a partition
    Paper,
    /// Merge, pack into duty cycles
    Nexus,
    /// Each fragment on a share of its own
    Gslice,
    /// The same after merging
    #[value(name = "gslice+")]
    GslicePlus,
    /// Each model on whole devices
    Static,
    /// The optimum under the analytic test, for ten merged fragments at most
    Exact,
    /// Graft, by the analytic test alone
    GraftAnalytic,
    /// Graft without re-partition points
    GraftNoRealign,
    /// Graft with runs that are not cut
    GraftNoCuts,
    /// Graft with duty cycles instead of deadlines
    GraftNoEdf,
}

/// Planner and options that an algorithm stands for.
enum Way {
    Graft(GraftOptions),
    Baseline(Baseline),
    Exact,
}

impl Algorithm {
    /// Its name, as it is given on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }

    fn way(self, all: GraftOptions) -> Way {
        Way::Graft(match self {
            Algorithm::Static => return Way::Baseline(Baseline::Static),
            Algorithm::Gslice => return Way::Baseline(Baseline::Gslice),
            Algorithm::GslicePlus => return Way::Baseline(Baseline::GslicePlus),
            Algorithm::Paper => return Way::Baseline(Baseline::Paper),
            Algorithm::Nexus => return Way::Baseline(Baseline::Nexus),
            Algorithm::Exact => return Way::Exact,
            Algorithm::Graft => all,
            Algorithm::GraftAnalytic => GraftOptions {
                test: Test::Analytic,
                ..all
            },
            Algorithm::GraftNoRealign => GraftOptions {
                realign: false,
                ..all
            },
            Algorithm::GraftNoCuts => GraftOptions { cuts: false, ..all },
            Algorithm::GraftNoEdf => GraftOptions { edf: false, ..all },
        })
    }

    /// Makes a plan; `go_on` is asked before each move.
    pub(crate) fn plan(
        self,
        problem: &Problem,
        epoch: Epoch,
        running: Option<&Plan>,
        all: GraftOptions,
        go_on: &mut dyn FnMut(Progress) -> bool,
    ) -> anyhow::Result<Plan> {
        let crew = Threads::of_machine();
        match self.way(all) {
            Way::Graft(options) => Ok(plan_graft(problem, epoch, running, options, &crew, go_on)),
            Way::Baseline(baseline) => Ok(plan_baseline(problem, epoch, baseline, &crew)),
            Way::Exact => Ok(plan_exact(problem, epoch, &crew)?),
        }
    }

    /// Makes a plan for as much of the load as there are devices for; baselines leave fragments out.
    pub(crate) fn plan_what_fits(
        self,
        problem: &Problem,
        epoch: Epoch,
        running: Option<&Plan>,
        go_on: &mut dyn FnMut(Progress) -> bool,
    ) -> anyhow::Result<Carried> {
        if let Way::Graft(options) = self.way(GraftOptions::default()) {
            let crew = Threads::of_machine();
            return Ok(plan_what_fits(problem, epoch, running, options, &crew, go_on));
        }
        Ok(Carried {
            plan: self.plan(problem, epoch, running, GraftOptions::default(), go_on)?,
            workload: problem.workload.clone(),
            part: 1.0,
        })
    }
}
