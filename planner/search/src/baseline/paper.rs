//! Groups of about five similar merged fragments, one re-partition point a group, one stage a partition.

use graft_model::{CutPoint, StageRange};
use graft_plan::Order;

use super::slices::Size;
use super::{BaselineGround, Drafted};
use crate::cell::StageDraft;
use crate::costs::ModelIndex;
use crate::draft::{Draft, PartitionDraft};
use crate::fill::{Ground as Cells, MOST_COPIES, Placed};
use crate::index::{BatchAt, ShareAt, StageAt, UnitAt};
use crate::judge::Judge;
use graft_certify::gathered;

/// Approximate number of merged fragments of a group.
const GROUP: usize = 5;
/// Parts of the time budget, less two hops, that the alignment stage gets.
const SPLITS: [f64; 5] = [0.2, 0.35, 0.5, 0.65, 0.8];
/// Part of its deadline that a full batch may take, and headroom that is added as a part of the rate: least strict
/// first.
const MARGINS: [(f64, f64); 8] = [
    (0.95, 0.0),
    (0.8, 0.0),
    (0.65, 0.0),
    (0.5, 0.0),
    (0.5, 0.25),
    (0.4, 0.5),
    (0.3, 1.0),
    (0.2, 2.0),
];
/// Number of a group's cheapest candidates that are simulated.
const TRIED: usize = 24;

/// The cheapest groups that stand.
pub(super) fn groups(ground: &BaselineGround<'_, '_>) -> Drafted {
    let merged = &ground.sorted.merged;
    let mut order: Vec<UnitAt> = UnitAt::all(merged.len()).collect();
    // Similar: same model, neighbouring partition points, then budgets.
    order.sort_by(|&a, &b| {
        let (a, b) = (&merged[a], &merged[b]);
        a.model
            .cmp(&b.model)
            .then(a.point.cmp(&b.point))
            .then(a.budget_ms.total_cmp(&b.budget_ms))
            .then(a.rate_rps.total_cmp(&b.rate_rps))
    });
    let mut groups: Vec<Vec<UnitAt>> = vec![];
    for u in order {
        match groups.last_mut() {
            Some(g) if g.len() < GROUP && merged[g[0]].model == merged[u].model => g.push(u),
            _ => groups.push(vec![u]),
        }
    }
    let drafted = gathered(ground.crew, groups.len(), |i| group(&groups[i], ground));
    let mut all = Drafted {
        draft: Draft::default(),
        hopeless: vec![],
    };
    for (group, drafted) in groups.iter().zip(drafted) {
        match drafted {
            Some(draft) => append(&mut all.draft, draft),
            None => all.hopeless.extend(group),
        }
    }
    all
}

fn append(all: &mut Draft, more: Draft) {
    let first = all.stages.len();
    all.stages.extend(more.stages);
    let shifted = |stages: Vec<StageAt>| stages.into_iter().map(|s| s.after(first)).collect();
    all.partitions
        .extend(more.partitions.into_iter().map(|p| PartitionDraft {
            stages: shifted(p.stages),
            ..p
        }));
    all.routes
        .extend(more.routes.into_iter().map(|(u, stages)| (u, shifted(stages))));
}

/// The cheapest layout of one group that stands: over re-partition points (or none), splits and margins.
fn group(units: &[UnitAt], ground: &BaselineGround<'_, '_>) -> Option<Draft> {
    let merged = &ground.sorted.merged;
    let model = merged[units[0]].model;
    let latest = units.iter().map(|&u| merged[u].point).max()?;
    let apart = apart(units, ground);
    let mut candidates: Vec<(u64, Draft)> = vec![];
    if units.len() > 1 {
        for margin in MARGINS {
            for q in latest.0..ground.costs.last(model).0 {
                for split in SPLITS {
                    candidates.extend(joined(units, CutPoint(q), split, margin, ground));
                }
            }
        }
    }
    let below = apart.as_ref().map_or(u64::MAX, |d| d.cost(ground.costs));
    candidates.retain(|(cost, _)| *cost < below);
    candidates.sort_by_key(|(cost, d)| (*cost, d.partitions.len()));
    candidates.dedup_by(|a, b| a.0 == b.0 && a.1.stages == b.1.stages);
    // Many candidates are alike: the cheapest ones are tried, and a sample of the others.
    let few = candidates.len().min(TRIED);
    let others = candidates[few..]
        .iter()
        .step_by((candidates.len() / TRIED).max(1));
    let mut tried = candidates[..few].iter().chain(others);
    let found = tried.find(|(_, d)| ground.judge.judge(d, merged, ground.costs).accepted);
    found.map(|(_, d)| d.clone()).or(apart)
}

/// Each merged fragment of the group on partitions of its own.
fn apart(units: &[UnitAt], ground: &BaselineGround<'_, '_>) -> Option<Draft> {
    let cells = Cells::new(ground.costs, &ground.sorted.merged, ground.problem);
    let placed: Option<Vec<Placed>> = units
        .iter()
        .map(|&u| super::slices::alone(&[u], Size::Any, &cells, ground))
        .collect();
    Some(Draft::of_cells(placed?.iter().map(|p| &p.laid)))
}

/// The cheapest partitions for one stage.
fn sized(
    model: ModelIndex,
    range: StageRange,
    rate_rps: f64,
    deadline_ms: f64,
    margin: (f64, f64),
    ground: &BaselineGround<'_, '_>,
) -> Option<(StageDraft, PartitionDraft)> {
    let costs = ground.costs;
    let valid = 1.0 + ground.problem.workload.headroom;
    let mut best: Option<(u64, ShareAt, usize, BatchAt)> = None;
    for share in costs.shares() {
        if costs.uncut_ms(model, range, BatchAt::ONE, share) > deadline_ms * margin.0.max(0.5) {
            continue;
        }
        for (batch, requests) in costs.batches(share) {
            let time = costs.uncut_ms(model, range, batch, share);
            if batch > BatchAt::ONE && time > deadline_ms * margin.0 {
                break;
            }
            let load = rate_rps * (valid + margin.1) * time / requests / 1e3;
            let copies = (load - 1e-9).ceil().max(1.0) as usize;
            let cost = costs.cost(share).saturating_mul(copies as u64);
            if copies <= MOST_COPIES && best.is_none_or(|b| (cost, copies) < (b.0, b.2)) {
                best = Some((cost, share, copies, batch));
            }
        }
    }
    let (_, share, copies, batch) = best?;
    let stage = StageDraft {
        model,
        range,
        batch,
        rate_rps,
        deadline_ms,
    };
    Some((
        stage,
        PartitionDraft {
            share,
            copies,
            order: Order::Edf,
            quantum_ms: 0.0,
            stages: vec![],
            homes: vec![],
        },
    ))
}

fn push(draft: &mut Draft, (stage, mut partition): (StageDraft, PartitionDraft)) -> StageAt {
    let at = StageAt::new(draft.stages.len());
    partition.stages = vec![at];
    draft.stages.push(stage);
    draft.partitions.push(partition);
    at
}

/// A layout in which all members join at `q`.
fn joined(
    units: &[UnitAt],
    q: CutPoint,
    split: f64,
    margin: (f64, f64),
    ground: &BaselineGround<'_, '_>,
) -> Option<(u64, Draft)> {
    let merged = &ground.sorted.merged;
    let hop = ground.costs.hop_ms();
    let model = merged[units[0]].model;
    let shared = ground.costs.rest(model, q)?;
    let mut shared_deadline = f64::INFINITY;
    for &u in units {
        let m = &merged[u];
        let left = if m.point < q {
            (m.budget_ms - 2.0 * hop) * (1.0 - split)
        } else {
            m.budget_ms - hop
        };
        shared_deadline = shared_deadline.min(left);
    }
    let mut draft = Draft::default();
    let rate = units.iter().map(|&u| merged[u].rate_rps).sum();
    let at = push(
        &mut draft,
        sized(model, shared, rate, shared_deadline, margin, ground)?,
    );
    for &u in units {
        let m = &merged[u];
        let mut route = vec![at];
        if let Some(range) = StageRange::new(m.point, q) {
            let left = m.budget_ms - 2.0 * hop - shared_deadline;
            route.insert(
                0,
                push(&mut draft, sized(model, range, m.rate_rps, left, margin, ground)?),
            );
        }
        draft.routes.push((u, route));
    }
    Some((draft.cost(ground.costs), draft))
}
