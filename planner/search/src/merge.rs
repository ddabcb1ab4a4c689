//! Merges fragments that hand over at the same cut point of a model and have like budgets.

use std::collections::HashMap;

use graft_model::CutPoint;
use graft_plan::{Plan, Workload};

use crate::costs::{Costs, ModelIndex};
use crate::index::{FragmentAt, KindAt, RunningAt, ShareAt, UnitAt, looks_into};
use crate::problem::Problem;

/// Part of all work that a merged fragment is at most, if that is more and there are many fragments.
const MOST_PART: f64 = 1.0 / 400.0;
/// Number of fragments above which they are many.
const MANY_FRAGMENTS: usize = 2000;
/// Largest budget of a merged fragment over its smallest.
const BUDGET_RATIO: f64 = 1.15;
/// Part of the cheapest partition that a merged fragment fills at most.
const MOST_WORK: f64 = 0.05;

/// Where a fragment is served now: its cell, and the place of its group there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Home {
    pub cell: RunningAt,
    pub group: u32,
}

/// How far fragments are merged.
pub(crate) fn merging(costs: &Costs<'_>, fragments: usize) -> MergeOptions {
    MergeOptions {
        budget_ratio: BUDGET_RATIO,
        most_work: costs.cheapest() * MOST_WORK,
        most_part: if fragments > MANY_FRAGMENTS {
            MOST_PART
        } else {
            0.0
        },
    }
}

/// Fragments that are planned for as one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Merged {
    pub model: ModelIndex,
    pub point: CutPoint,
    /// Tightest time budget of its fragments, in milliseconds.
    pub budget_ms: f64,
    pub rate_rps: f64,
    /// Sum over its fragments of rate times index of dispersion, per second.
    pub variance_rps: f64,
    /// Its fragments, tightest budget first.
    pub fragments: Vec<FragmentAt>,
    /// Least cost of what it fills, at the best share and batch and with headroom: it can't be served for less.
    pub work: f64,
    /// What it takes on each kind of device. `None`: no share of that kind serves it in time.
    pub on: Vec<Option<OnKind>>,
    /// Cell and group that serve it in the running plan; `None`: it is new there.
    pub home: Option<Home>,
}

looks_into!(UnitAt, Merged);

/// What a merged fragment takes on one kind of device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct OnKind {
    /// The smallest share that serves it in time.
    pub least_share: ShareAt,
    /// Least cost of what it fills.
    pub work: f64,
}

fn least_work(on: &[Option<OnKind>]) -> f64 {
    let each = on.iter().flatten();
    each.map(|o| o.work).fold(f64::INFINITY, f64::min)
}

impl Merged {
    /// The smallest share of a kind that serves it in time.
    pub fn least_on(&self, kind: KindAt) -> Option<ShareAt> {
        self.on[kind.get()].map(|o| o.least_share)
    }

    /// The smallest share of each kind that serves it in time.
    pub fn least_shares(&self) -> impl Iterator<Item = ShareAt> + '_ {
        self.on.iter().flatten().map(|o| o.least_share)
    }

    /// Cost of the cheapest share that serves it in time.
    pub fn least_cost(&self, costs: &Costs<'_>) -> u64 {
        self.least_shares()
            .map(|s| costs.cost(s))
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Whether some share of a kind, of that size at least, serves it in time.
    pub fn fits(&self, share: ShareAt, costs: &Costs<'_>) -> bool {
        self.least_on(costs.kind_of(share))
            .is_some_and(|least| least <= share)
    }

    /// Index of dispersion of its arrivals: its fragments come independently of one another.
    pub fn burstiness(&self) -> f64 {
        self.variance_rps / self.rate_rps
    }
}

/// Limits on how far fragments are merged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MergeOptions {
    /// Largest budget over the smallest.
    pub budget_ratio: f64,
    /// Cost of what one merged fragment fills at most, unless one of its fragments alone does.
    pub most_work: f64,
    /// Part of what all fragments fill, up to which one merged fragment may grow where that is more than `most_work`:
    /// the search should not drown in small ones.
    pub most_part: f64,
}

/// A workload's fragments: merged, infeasible, or with nothing left to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sorted {
    pub merged: Vec<Merged>,
    /// Fragments that no share serves in time.
    pub infeasible: Vec<FragmentAt>,
    /// Fragments that only a kind of device serves in time that there is not.
    pub elsewhere: Vec<FragmentAt>,
    /// Fragments at the last cut point.
    pub nothing_owed: Vec<FragmentAt>,
}

impl Sorted {
    /// Lists merged fragments that would be in time alone and uncut, but not so often as they must be, and fragments whose
    /// kind of device there is not.
    pub fn leave_out(&self, plan: &mut Plan, hopeless: &[UnitAt], problem: &Problem) {
        let fragments = hopeless.iter().flat_map(|&u| &self.merged[u].fragments);
        let all = fragments.chain(&self.elsewhere);
        plan.infeasible
            .extend(all.map(|&i| problem.workload.fragments[i].id.clone()));
        plan.infeasible.sort();
        plan.capacity_exhausted |= !hopeless.is_empty() || !self.elsewhere.is_empty();
    }
}

/// Merges what can be served. The order of the workload's fragments does not matter.
///
/// Fragments with different homes in a running plan are not merged.
pub(crate) fn merge(
    workload: &Workload,
    costs: &Costs<'_>,
    options: MergeOptions,
    home: &dyn Fn(&str) -> Option<Home>,
) -> Sorted {
    let mut sorted = Sorted::default();
    let mut owed = vec![];
    for i in FragmentAt::all(workload.fragments.len()) {
        let fragment = &workload.fragments[i];
        let Some(model) = costs.model(&fragment.model) else {
            sorted.infeasible.push(i);
            continue;
        };
        if fragment.partition_point == costs.last(model) {
            sorted.nothing_owed.push(i);
            continue;
        }
        let on = |kind| costs.least_share(kind, model, fragment.partition_point, fragment.budget_ms);
        let there = |kind| on(kind).filter(|_| costs.is_present(kind));
        let least: Vec<Option<ShareAt>> = costs.kinds().map(there).collect();
        if least.iter().any(Option::is_some) {
            owed.push((model, i, least, home(&fragment.id)));
        } else if costs.kinds().any(|kind| on(kind).is_some()) {
            sorted.elsewhere.push(i);
        } else {
            sorted.infeasible.push(i);
        }
    }
    owed.sort_by(|(m, i, _, g), (n, j, _, h)| {
        let (a, b) = (&workload.fragments[*i], &workload.fragments[*j]);
        m.cmp(n)
            .then(a.partition_point.cmp(&b.partition_point))
            .then(g.cmp(h))
            .then(a.budget_ms.total_cmp(&b.budget_ms))
            .then_with(|| a.id.cmp(&b.id))
    });
    let mut known: HashMap<(ModelIndex, CutPoint), Vec<f64>> = HashMap::new();
    let mut on_kinds = |model: ModelIndex, i: FragmentAt, shares: &[Option<ShareAt>]| {
        let fragment = &workload.fragments[i];
        let from = fragment.partition_point;
        let least = known
            .entry((model, from))
            .or_insert_with(|| costs.least_work_from(model, from));
        let on = |share: &Option<ShareAt>| {
            share.map(|least_share| OnKind {
                least_share,
                work: least[least_share.get()] / 1e3 * fragment.rate_rps * (1.0 + workload.headroom),
            })
        };
        shares.iter().map(on).collect::<Vec<Option<OnKind>>>()
    };
    let each: Vec<Vec<Option<OnKind>>> = owed
        .iter()
        .map(|(model, i, shares, _)| on_kinds(*model, *i, shares))
        .collect();
    let all_work: f64 = each.iter().map(|on| least_work(on)).sum();
    let most_work = options.most_work.max(options.most_part * all_work);
    for ((model, i, _, home), on) in owed.into_iter().zip(each) {
        let fragment = &workload.fragments[i];
        let work = least_work(&on);
        let like = sorted.merged.last_mut().filter(|m| {
            m.model == model
                && m.point == fragment.partition_point
                && m.home == home
                && fragment.budget_ms <= m.budget_ms * options.budget_ratio
                && m.work + work <= most_work
        });
        match like {
            Some(merged) => {
                merged.rate_rps += fragment.rate_rps;
                merged.variance_rps += fragment.rate_rps * fragment.burstiness;
                // It has the most time of those merged so far: it can be where they can.
                for (sum, more) in merged.on.iter_mut().zip(&on) {
                    if let (Some(sum), Some(more)) = (sum, more) {
                        sum.work += more.work;
                    }
                }
                merged.work = least_work(&merged.on);
                merged.fragments.push(i);
            }
            None => sorted.merged.push(Merged {
                model,
                point: fragment.partition_point,
                budget_ms: fragment.budget_ms,
                rate_rps: fragment.rate_rps,
                variance_rps: fragment.rate_rps * fragment.burstiness,
                fragments: vec![i],
                work,
                on,
                home,
            }),
        }
    }
    sorted
}
