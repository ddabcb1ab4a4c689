//! Lower bound on the cost of any plan.

use graft_plan::Workload;

use crate::costs::{Costs, ModelIndex};
use crate::index::KindAt;
use crate::problem::Problem;

/// Number of multipliers λ that are tried, in costs of a unit of share: 0 and powers of two.
const MULTIPLIERS: usize = 24;

/// Largest sum of costs that is looked for among the sums of shares' costs; a larger bound is not rounded up to one.
const MOST_SUMS: u64 = 200_000;

fn multiplier(i: usize, costs: &Costs<'_>) -> f64 {
    if i == 0 {
        0.0
    } else {
        2f64.powi(i as i32 - 12) * costs.unit()
    }
}

/// Lower bound, in share or in the devices' prices, on the cost of every valid plan that serves every fragment that can be served.
///
/// Each request takes, of some share, the time of its segments at that share and some batch, and a plan must have
/// room for that and the headroom (rule 3). Where no large share is cheap for a fragment and no small one is in
/// time, it takes more: by weak duality, Σ over segments of the least, over shares, of (work + λ · time alone),
/// less λ · budget, bounds the work from below for every λ ≥ 0. Shares are indivisible: the sum is rounded up to
/// what listed shares can add up to; and the fragment that needs the largest share needs a partition of that size.
pub fn lower_bound(problem: &Problem) -> f64 {
    let costs = Costs::new(&problem.hardware);
    costs.at_least(bound_of(&problem.workload, &costs))
}

pub(crate) fn bound_of(workload: &Workload, costs: &Costs<'_>) -> u64 {
    let tables: Vec<Vec<Vec<f64>>> = costs.models().map(|m| duals(m, costs)).collect();
    // A stage's overhead is shared by a batch at best.
    let at_best = |kind: KindAt| {
        let profile = costs.profile(kind);
        let largest_batch = profile.batches.last().map_or(1.0, |b| f64::from(*b));
        costs.size(costs.least_of(kind)) * profile.stage_overhead_ms / largest_batch
    };
    let overhead = costs.kinds().map(at_best).fold(f64::INFINITY, f64::min);
    let (mut work, mut hardest) = (0.0, 0u64);
    for fragment in &workload.fragments {
        let (from, budget_ms) = (fragment.partition_point, fragment.budget_ms);
        let Some(model) = costs.model(&fragment.model) else {
            continue;
        };
        let on = |kind| costs.least_share(kind, model, from, budget_ms);
        let shares = costs.kinds().filter_map(on);
        let Some(cheapest) = shares.map(|share| costs.cost(share)).min() else {
            continue;
        };
        hardest = hardest.max(cheapest);
        let budget = budget_ms - costs.hop_ms();
        let rests = tables[usize::from(model.0)].iter().map(|rest| rest[from.index()]);
        let each = rests
            .enumerate()
            .map(|(i, rest)| rest - multiplier(i, costs) * budget)
            .fold(0.0, f64::max);
        work += (each + overhead) * fragment.rate_rps * (1.0 + workload.headroom) / 1e3;
    }
    let least = (work - 1e-6).ceil().max(0.0) as u64;
    let shares: Vec<u64> = costs.shares().map(|s| costs.cost(s)).collect();
    sum_of_shares(least.max(hardest), &shares)
}

/// Dual of the segments from a cut point to the end, by multiplier and cut point.
fn duals(model: ModelIndex, costs: &Costs<'_>) -> Vec<Vec<f64>> {
    let last = costs.last(model).index();
    (0..MULTIPLIERS)
        .map(|i| {
            let mut rest = vec![0.0; last + 1];
            for k in (0..last).rev() {
                rest[k] = rest[k + 1] + costs.least_work(model, k, multiplier(i, costs));
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
    if least + largest > MOST_SUMS {
        return least;
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
