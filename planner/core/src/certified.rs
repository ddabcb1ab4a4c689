//! Tightens what is planned for until a judge accepts the plan.

use graft_plan::{Epoch, Fragment, Plan};

use crate::problem::Problem;
use crate::simple::{Options, least_alone_ms, plan};

/// Parts of their budgets that fragments are planned with.
const MARGINS: [f64; 5] = [1.0, 0.85, 0.7, 0.55, 0.4];
/// What is added to the workload's headroom.
const EXTRA_HEADROOM: [f64; 7] = [0.0, 0.1, 0.25, 0.45, 0.7, 1.2, 2.0];
/// A fragment is not planned with less than so many times what it takes alone, unless its budget is less.
const ROOM_ALONE: f64 = 1.05;

/// The cheapest plan that `judge` accepts, of those that tighter budgets and more headroom give; all of them are
/// valid for the problem as it is. `None`: it accepts none.
///
/// `judge` is asked in the order of cost, so the first that it accepts is the answer.
pub fn plan_accepted(
    problem: &Problem,
    epoch: Epoch,
    options: Options,
    mut judge: impl FnMut(&Plan) -> bool,
) -> Option<Plan> {
    let mut candidates: Vec<Plan> = vec![];
    for margin in MARGINS {
        for extra in EXTRA_HEADROOM {
            let mut tightened = problem.clone();
            tightened.workload.headroom += extra;
            for fragment in &mut tightened.workload.fragments {
                fragment.budget_ms = tightened_ms(fragment, margin, problem);
            }
            let candidate = plan(&tightened, epoch, options);
            if !candidate.capacity_exhausted && !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
    }
    let served = candidates.iter().map(|c| c.routes.len()).max()?;
    candidates.retain(|c| c.routes.len() == served);
    candidates.sort_by_key(|c| (c.total_share, c.partitions.len(), c.stages.len()));
    candidates.into_iter().find(|c| judge(c))
}

/// A tighter budget; never so tight that a fragment that can be served alone can't be any more.
fn tightened_ms(fragment: &Fragment, margin: f64, problem: &Problem) -> f64 {
    let floor = least_alone_ms(fragment, &problem.profile).map_or(0.0, |ms| ms * ROOM_ALONE);
    (fragment.budget_ms * margin).max(floor).min(fragment.budget_ms)
}
