//! Plans for more load than the devices carry: the same smaller part of every fragment's rate.

use graft_certify::Crew;
use graft_plan::{Epoch, Plan, Workload};

use crate::graft::{GraftOptions, Progress, plan_all, plan_graft, plan_rationed};
use crate::problem::Problem;

/// A plan, and the load that it carries.
#[derive(Debug, Clone)]
pub struct Carried {
    /// The plan; valid for `workload`.
    pub plan: Plan,
    /// The problem's workload, with the rates that are carried.
    pub workload: Workload,
    /// Part of the rates that is carried: 1 unless devices ran out.
    pub part: f64,
}

/// Number of steps from the observed bursts to none: each halves what the index of dispersion exceeds 1 by, and the
/// last removes it.
const BURST_STEPS: u32 = 4;
/// Load of each step as a part of the one before.
const STEP: f64 = 0.93;
/// Number of smaller loads that are tried, the smallest about 4%, before fragments are left out altogether.
const STEPS: usize = 45;

/// Plans for as much of the load as the devices carry. When they run out, it plans for smaller bursts, then with half
/// of the headroom, then for smaller rates of all fragments rather than for some fragments at their full rates.
/// Routers refuse what comes beyond the carried rates.
pub fn plan_what_fits(
    problem: &Problem,
    epoch: Epoch,
    running: Option<&Plan>,
    options: GraftOptions,
    crew: &dyn Crew,
    go_on: &mut dyn FnMut(Progress) -> bool,
) -> Carried {
    let plan = plan_graft(problem, epoch, running, options, crew, go_on);
    let mut best = Carried {
        plan,
        workload: problem.workload.clone(),
        part: 1.0,
    };
    if !best.plan.capacity_exhausted {
        return best;
    }
    let all_of = |scaled: &Problem| {
        let (plan, _) = plan_rationed(scaled, epoch, running, options, crew, &mut |p| !p.sound);
        let workload = scaled.workload.clone();
        (!plan.capacity_exhausted).then_some(Carried {
            plan,
            workload,
            part: 1.0,
        })
    };
    let mut scaled = problem.clone();
    // Bursts that no share absorbs in time are planned for as far as it goes: some requests of a burst will be late.
    for halved in 1..=BURST_STEPS {
        if scaled.workload.fragments.iter().all(|f| f.burstiness <= 1.0) {
            break;
        }
        for fragment in &mut scaled.workload.fragments {
            let over = (fragment.burstiness - 1.0).max(0.0);
            fragment.burstiness = if halved < BURST_STEPS {
                1.0 + over / 2.0
            } else {
                1.0
            };
        }
        if let Some(carried) = all_of(&scaled) {
            return carried;
        }
    }
    // Headroom gives way before rates: these are estimates, and it is there for what they miss.
    scaled.workload.headroom = problem.workload.headroom / 2.0;
    if let Some(carried) = all_of(&scaled) {
        return carried;
    }
    scaled.workload.headroom = problem.workload.headroom;
    let scale = |scaled: &mut Problem, step: usize| {
        let part = STEP.powi(step as i32);
        let originals = &problem.workload.fragments;
        for (fragment, original) in scaled.workload.fragments.iter_mut().zip(originals) {
            fragment.rate_rps = original.rate_rps * part;
        }
        part
    };
    // A load for which even the quick first plan has no room is not worth a simulation: the first step that such a
    // plan carries is found by halving.
    let (mut too_much, mut carried) = (0, STEPS);
    while carried - too_much > 1 {
        let step = (too_much + carried) / 2;
        scale(&mut scaled, step);
        let (at_once, _) = plan_all(&scaled, epoch, running, options, crew, 1.0, &mut |_| false);
        if at_once.capacity_exhausted {
            too_much = step;
        } else {
            carried = step;
        }
    }
    for step in carried..=STEPS {
        let part = scale(&mut scaled, step);
        let (plan, _) = plan_rationed(&scaled, epoch, running, options, crew, &mut |p| !p.sound);
        let fits = !plan.capacity_exhausted;
        if plan.infeasible.len() < best.plan.infeasible.len() {
            best = Carried {
                plan,
                workload: scaled.workload.clone(),
                part,
            };
        }
        if fits {
            break;
        }
    }
    best
}
