//! Merges fragments that hand over at the same cut point of a model and have like budgets.

use graft_model::CutPoint;
use graft_plan::Workload;

use crate::costs::{Costs, ModelIndex};

/// Fragments that are planned for as one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Merged {
    pub model: ModelIndex,
    pub point: CutPoint,
    /// The tightest.
    pub budget_ms: f64,
    pub rate_rps: f64,
    /// Places in the workload, by budget.
    pub fragments: Vec<usize>,
    /// Share that it fills at the best share and batch, headroom included: it can't be served with less.
    pub work: f64,
    /// Place of the smallest share that serves it in time.
    pub least_share: usize,
}

/// How far fragments are merged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MergeOptions {
    /// Largest budget over the smallest.
    pub budget_ratio: f64,
    /// Share that one merged fragment fills at most, unless one of its fragments alone does.
    pub most_work: f64,
}

/// What a workload is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sorted {
    pub merged: Vec<Merged>,
    /// Places of fragments that no share serves in time.
    pub infeasible: Vec<usize>,
    /// Places of fragments at the last cut point.
    pub nothing_owed: Vec<usize>,
}

/// Merges what can be served. The order of the workload's fragments does not matter.
pub(crate) fn merge(workload: &Workload, costs: &Costs<'_>, options: MergeOptions) -> Sorted {
    let mut sorted = Sorted::default();
    let mut owed = vec![];
    for (i, fragment) in workload.fragments.iter().enumerate() {
        let Some(model) = costs.model(&fragment.model) else {
            sorted.infeasible.push(i);
            continue;
        };
        if fragment.partition_point == costs.last(model) {
            sorted.nothing_owed.push(i);
        } else if let Some(least) = costs.least_share(model, fragment.partition_point, fragment.budget_ms) {
            owed.push((model, i, least));
        } else {
            sorted.infeasible.push(i);
        }
    }
    owed.sort_by(|&(m, i, _), &(n, j, _)| {
        let (a, b) = (&workload.fragments[i], &workload.fragments[j]);
        m.cmp(&n)
            .then(a.partition_point.cmp(&b.partition_point))
            .then(a.budget_ms.total_cmp(&b.budget_ms))
            .then_with(|| a.id.cmp(&b.id))
    });
    for (model, i, least_share) in owed {
        let fragment = &workload.fragments[i];
        let shares = least_share..costs.profile.shares.len();
        let range = costs.rest(model, fragment.partition_point);
        let each = shares.filter_map(|s| range.map(|r| costs.work_at(model, r, s)));
        let least_work = each.fold(f64::INFINITY, f64::min) / 1e3;
        let work = least_work * fragment.rate_rps * (1.0 + workload.headroom);
        let like = sorted.merged.last_mut().filter(|m| {
            m.model == model
                && m.point == fragment.partition_point
                && fragment.budget_ms <= m.budget_ms * options.budget_ratio
                && m.work + work <= options.most_work
        });
        match like {
            Some(merged) => {
                merged.rate_rps += fragment.rate_rps;
                merged.work += work;
                merged.fragments.push(i);
            }
            None => sorted.merged.push(Merged {
                model,
                point: fragment.partition_point,
                budget_ms: fragment.budget_ms,
                rate_rps: fragment.rate_rps,
                fragments: vec![i],
                work,
                least_share,
            }),
        }
    }
    sorted
}
