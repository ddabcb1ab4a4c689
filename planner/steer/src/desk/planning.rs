//! Whether to make another plan, and whether to use the one that was made.

use std::collections::BTreeSet;

use graft_model::CutPoint;
use graft_plan::{Epoch, Nanos, Profiles};
use graft_planner_search::{Problem, changes};
use graft_wire::Correction;

use crate::decisions::{Decision, Outcome, Predicted};
use crate::doing::{Do, Made, NotReady, Note, Undone};
use crate::members::Premises;
use crate::replan::{Cause, Replanner};
use crate::wanted::{Wanted, workload};

use super::rolling::Rolling;
use super::{Desk, InUse};

/// A plan that is being made.
#[derive(Debug)]
pub(super) struct Making {
    epoch: Epoch,
    cause: Cause,
    wanted: Vec<Wanted>,
    problem: Problem,
    /// Of the problem's profiles.
    corrections: Vec<Correction>,
}

impl Desk {
    /// Begins to make another plan, if there is a reason to.
    pub(super) fn consider(&mut self, now: Nanos) {
        if self.making.is_some() || self.awaits(now) {
            return;
        }
        let Some(premises) = self.members.premises(now) else {
            return;
        };
        let wanted = self.wanted(&premises.hardware.profiles);
        let Some(cause) = self.replanner.decide(now, &wanted) else {
            return;
        };
        self.replanner.tried(now);
        let Premises {
            mut hardware,
            lacks,
            others,
        } = premises;
        if others {
            self.note(Note::OtherDevices);
        }
        hardware.profiles = hardware.profiles.map(|p| self.corrections.apply(p));
        let epoch = self.next_epoch();
        self.making = Some(Making {
            epoch,
            cause,
            corrections: self.corrections.of_profiles(&hardware.profiles),
            problem: Problem {
                workload: workload(self.options.headroom, &wanted),
                hardware,
                lacks,
            },
            wanted,
        });
        self.wants(Do::KeepEpoch(epoch));
    }

    /// What must be served of models that some worker has: requests for others are refused as not ready.
    fn wanted(&self, profiles: &Profiles) -> Vec<Wanted> {
        let models = profiles.models().filter_map(|name| name.parse().ok());
        let standing: Vec<Wanted> = match self.options.standing {
            None => vec![],
            Some(always) => models
                .map(|model| Wanted {
                    model,
                    point: CutPoint(0),
                    budget_ms: always.budget_ms,
                    rate_rps: always.rate_rps,
                    burstiness: 1.0,
                    standing: true,
                })
                .collect(),
        };
        let mut wanted = self.mix.wanted(&standing);
        wanted.retain(|w| {
            let last = profiles.last_cut(&w.model.to_string());
            last.is_some_and(|last| w.point < last)
        });
        wanted
    }

    /// The number of the plan that is to be made is kept, or can't be.
    pub(super) fn begin_making(&mut self, epoch: Epoch, kept: Result<(), Undone>) {
        let Some(making) = self.making.as_ref().filter(|m| m.epoch == epoch) else {
            return;
        };
        match kept {
            Ok(()) => {
                let problem = Box::new(making.problem.clone());
                let running = self.current.as_ref().map(|current| current.plan.clone());
                self.wants(Do::Plan {
                    epoch,
                    problem,
                    running,
                });
            }
            Err(why) => {
                self.not_made(epoch, &why);
                self.trouble = Some(NotReady::NoNumber(why));
            }
        }
    }

    fn not_made(&mut self, epoch: Epoch, why: &Undone) {
        self.making = None;
        self.replanner.members_changed();
        let why = why.to_string();
        self.note(Note::Failed { epoch, why });
    }

    /// A plan is made: it is rolled out, if it is valid and worth it.
    pub(super) fn made(&mut self, now: Nanos, epoch: Epoch, outcome: Result<Made, Undone>) {
        if self.making.as_ref().is_none_or(|m| m.epoch != epoch) {
            return;
        }
        let made = match outcome {
            Ok(made) => made,
            Err(why) => return self.not_made(epoch, &why),
        };
        let Some(making) = self.making.take() else { return };
        self.trouble = None;
        let plan = &made.carried.plan;
        let share = plan.total_share;
        let cause = making.cause.told(&|model| self.members.name_of(model));
        let running = self.current.as_ref().map(|current| &current.plan);
        let decision = |outcome| Decision {
            epoch,
            at_unix_ms: self.unix_ms(now),
            cause: cause.clone(),
            outcome,
            predicted: predicted(&made, running),
            measured: None,
        };
        let problem = &making.problem;
        let broken = plan.check(&made.carried.workload, &problem.hardware.fleet());
        if let Some(first) = broken.first() {
            let why = format!("the plan breaks a rule: {first}");
            let decision = decision(Outcome::Failed { why: why.clone() });
            if making.cause == Cause::Members {
                self.replanner.members_changed();
            }
            self.note(Note::Failed { epoch, why });
            return self.decided(decision);
        }
        let begun = self.rollouts.on_its_way().max(self.rollouts.current());
        // A router may have joined meanwhile that uses a later one, of another planner's life.
        let begun = begun.max(self.rollouts.latest_of_routers());
        if begun.is_some_and(|begun| epoch <= begun) {
            // Routers were told of a later one while this was made.
            self.replanner.members_changed();
            return;
        }
        let cost = problem.hardware.fleet().cost(plan);
        let is_worth = |running: &InUse| {
            let before = running.hardware.fleet().cost(&running.plan);
            Replanner::is_worth(&making.cause, cost, before, self.replanner.is_limited())
        };
        let kept = self.current.as_ref().filter(|running| !is_worth(running));
        if let Some(before) = kept.map(|running| running.plan.total_share) {
            let decision = decision(Outcome::NotWorth);
            self.replanner.kept(now);
            self.note(Note::NotWorth {
                epoch,
                cause,
                share,
                running: before,
            });
            return self.decided(decision);
        }
        let decision = decision(Outcome::RollingOut);
        self.note(Note::RollingOut {
            epoch,
            cause,
            fragments: problem.workload.fragments.len(),
            share,
            infeasible: plan.infeasible.len(),
            part: made.carried.part,
        });
        self.decided(decision);
        let limited = plan.capacity_exhausted || made.carried.part < 1.0;
        self.replanner
            .planned(now, &making.wanted, &making.cause, limited);
        self.replanner.left_out(&making.wanted, &plan.infeasible);
        let standing: BTreeSet<String> = making
            .wanted
            .iter()
            .filter(|w| w.standing)
            .map(Wanted::id)
            .collect();
        let rolling = Rolling::of_plan(
            made.carried,
            limited,
            standing,
            making.problem.hardware,
            making.corrections,
            &self.members,
        );
        match rolling {
            Ok(rolling) => self.roll_out(now, epoch, rolling),
            Err(error) => {
                let why = error.to_string();
                self.note(Note::Failed {
                    epoch,
                    why: why.clone(),
                });
                self.decision_ended(epoch, Outcome::Failed { why });
            }
        }
    }
}

/// What is expected of a plan.
fn predicted(made: &Made, running: Option<&graft_plan::Plan>) -> Predicted {
    let (plan, fragments) = (&made.carried.plan, &made.carried.workload.fragments);
    let served = fragments.iter().filter(|f| !plan.infeasible.contains(&f.id));
    Predicted {
        share: plan.total_share,
        share_before: running.map(|plan| plan.total_share),
        fragments: plan.routes.len(),
        rate_rps: served.map(|f| f.rate_rps).sum(),
        part: made.carried.part,
        infeasible: plan.infeasible.len(),
        attainment: None,
        planning_ms: made.planning_ms,
        changed: running
            .map(|running| changes(running, plan).counts())
            .unwrap_or_default(),
    }
}
