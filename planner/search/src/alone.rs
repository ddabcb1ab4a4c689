//! What it would take to serve every class of fragments by itself.

use graft_plan::{Hardware, Workload};

use crate::costs::Costs;
use crate::index::{BatchAt, ShareAt};
use crate::merge::{MergeOptions, Merged, merge};

/// Part of its deadline that a full batch takes at most: the rest is for waiting.
const BATCH_PART: f64 = 0.5;

/// Cost of serving the fragments of each model and partition point on partitions of their own, with no re-alignment and
/// no sharing, on as many devices as that needs: in share, or in the devices' prices. Infeasible fragments cost nothing.
pub fn cost_alone(workload: &Workload, hardware: &Hardware) -> f64 {
    of_all(workload, &Costs::new(hardware))
}

pub(crate) fn of_all(workload: &Workload, costs: &Costs<'_>) -> f64 {
    let all = MergeOptions {
        budget_ratio: f64::INFINITY,
        most_work: f64::INFINITY,
        most_part: 0.0,
    };
    let sorted = merge(workload, costs, all, &|_| None);
    let each = sorted
        .merged
        .iter()
        .map(|m| cheapest(m, workload.headroom, costs));
    each.sum::<u64>() as f64 / costs.scale()
}

fn cheapest(m: &Merged, headroom: f64, costs: &Costs<'_>) -> u64 {
    let Some(range) = costs.rest(m.model, m.point) else {
        return 0;
    };
    let deadline = m.budget_ms - costs.hop_ms();
    let on = |share: ShareAt| {
        let in_time = costs.batches(share).filter_map(|(b, n)| {
            let time = costs.uncut_ms(m.model, range, b, share);
            (b == BatchAt::ONE || time <= deadline * BATCH_PART).then(|| time / n)
        });
        let load = m.rate_rps * (1.0 + headroom) * in_time.fold(f64::INFINITY, f64::min) / 1e3;
        costs.cost(share) * (load - 1e-9).ceil().max(1.0) as u64
    };
    let shares = m.least_shares().flat_map(|least| costs.shares_from(least));
    shares.map(on).min().unwrap_or(0)
}
