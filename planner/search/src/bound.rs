//! Lower bound on the cost of any plan.

use graft_plan::Workload;

use crate::costs::{Costs, ModelIndex};
use crate::index::ShareAt;
use crate::problem::Problem;

/// Number of multipliers λ that are tried, in share: 0 and powers of two.
const MULTIPLIERS: usize = 24;

fn multiplier(i: usize) -> f64 {
    if i == 0 { 0.0 } else { 2f64.powi(i as i32 - 12) }
}

/// Lower bound, in share, on the cost of every valid plan that serves every fragment that can be served.
///
/// Each request takes, of some share, the time of its segments at that share and some batch, and a plan must have
/// room for that and the headroom (rule 3). Where no large share is cheap for a fragment and no small one is in
/// time, it takes more: by weak duality, Σ over segments of the least, over shares, of (work + λ · time alone),
/// less λ · budget, bounds the work from below for every λ ≥ 0. Shares are indivisible: the sum is rounded up to
/// what listed shares can add up to; and the fragment that needs the largest share needs a partition of that size.
pub fn lower_bound(problem: &Problem) -> u64 {
    bound_of(&problem.workload, &Costs::new(&problem.profile))
}

pub(crate) fn bound_of(workload: &Workload, costs: &Costs<'_>) -> u64 {
    let profile = costs.profile;
    let tables: Vec<Vec<Vec<f64>>> = (0..profile.models.len())
        .map(|m| duals(ModelIndex(m as u16), costs))
        .collect();
    // A stage's overhead is shared by a batch at best.
    let least_share = f64::from(costs.share(ShareAt::LEAST).0);
    let largest_batch = profile.batches.last().map_or(1.0, |b| f64::from(*b));
    let overhead = least_share * profile.stage_overhead_ms / largest_batch;
    let (mut work, mut hardest) = (0.0, 0u64);
    for fragment in &workload.fragments {
        let (from, budget_ms) = (fragment.partition_point, fragment.budget_ms);
        let Some(model) = costs.model(&fragment.model) else {
            continue;
        };
        let Some(share) = costs.least_share(model, from, budget_ms) else {
            continue;
        };
        hardest = hardest.max(u64::from(costs.share(share).0));
        let budget = budget_ms - profile.hop_ms;
        let rests = tables[usize::from(model.0)].iter().map(|rest| rest[from.index()]);
        let each = rests
            .enumerate()
            .map(|(i, rest)| rest - multiplier(i) * budget)
            .fold(0.0, f64::max);
        work += (each + overhead) * fragment.rate_rps * (1.0 + workload.headroom) / 1e3;
    }
    let least = (work - 1e-6).ceil().max(0.0) as u64;
    let shares: Vec<u64> = profile.shares.iter().map(|s| u64::from(s.0)).collect();
    sum_of_shares(least.max(hardest), &shares)
}

/// Dual of the segments from a cut point to the end, by multiplier and cut point.
fn duals(model: ModelIndex, costs: &Costs<'_>) -> Vec<Vec<f64>> {
    let last = costs.last(model).index();
    (0..MULTIPLIERS)
        .map(|i| {
            let mut rest = vec![0.0; last + 1];
            for k in (0..last).rev() {
                rest[k] = rest[k + 1] + costs.least_work(model, k, multiplier(i));
            }
            rest
        })
        .collect()
}

/// The smallest sum of listed shares that is at least `least`.
fn sum_of_shares(least: u64, shares: &[u64]) -> u64 {
    if least == 0 {
        return 0;
    }
    // Beyond the square of the smallest share all multiples of the shares' divisor can be reached.
    let divisor = shares.iter().fold(0, |a, &b| gcd(a, b));
    let first = shares.iter().copied().min().unwrap_or(1);
    let largest = shares.iter().copied().max().unwrap_or(1);
    if least > largest * first {
        return least.div_ceil(divisor) * divisor;
    }
    let mut reached = vec![false; (least + largest) as usize + 1];
    reached[0] = true;
    for at in 0..reached.len() {
        if reached[at] {
            if at as u64 >= least {
                return at as u64;
            }
            for &s in shares {
                if let Some(r) = reached.get_mut(at + s as usize) {
                    *r = true;
                }
            }
        }
    }
    least
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
