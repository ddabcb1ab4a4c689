//! Spatial sharing: every (merged) fragment on partitions of its own; and whole devices by model.

use std::collections::BTreeMap;

use graft_plan::Order;

use super::{BaselineGround, Drafted};
use crate::cell::BatchRule;
use crate::costs::ModelIndex;
use crate::draft::Draft;
use crate::fill::{Ground as Cells, Joining, MOST_COPIES, Placed, Shape};
use crate::index::{KindAt, ShareAt, UnitAt};
use graft_certify::gathered;

/// Shapes of baselines, whose runs are not cut: a batch may take half of its budget, or nine tenths.
pub(super) const SHAPES: [Shape; 2] = [shape(0.5), shape(0.9)];

const fn shape(of_budget: f64) -> Shape {
    Shape {
        joining: Joining::Never,
        quantum: 0.0,
        order: Order::Edf,
        batches: BatchRule {
            of_loosest: of_budget,
            of_tightest: of_budget,
            chunk: f64::INFINITY,
        },
        split: f64::INFINITY,
    }
}

/// Most copies of a partition, as a multiple of what its load needs.
const COPIES: usize = 8;

/// Each merged fragment on the cheapest partitions of its own.
pub(super) fn each_alone(ground: &BaselineGround<'_, '_>) -> Drafted {
    let cells = Cells::new(ground.costs, &ground.sorted.merged, ground.problem);
    let placed = gathered(ground.crew, ground.sorted.merged.len(), |unit| {
        alone(&[UnitAt::new(unit)], Size::Any, &cells, ground)
    });
    collect(placed, ground)
}

/// Each model on whole devices; fragments with equal partition points batch.
pub(super) fn whole_devices(ground: &BaselineGround<'_, '_>) -> Drafted {
    let mut by_model: BTreeMap<ModelIndex, Vec<UnitAt>> = BTreeMap::new();
    for u in UnitAt::all(ground.sorted.merged.len()) {
        let m = &ground.sorted.merged[u];
        by_model.entry(m.model).or_default().push(u);
    }
    let cells = Cells::new(ground.costs, &ground.sorted.merged, ground.problem);
    let models: Vec<Vec<UnitAt>> = by_model.into_values().collect();
    let placed = gathered(ground.crew, models.len(), |i| {
        alone(&models[i], Size::Largest, &cells, ground)
    });
    let hopeless = models
        .iter()
        .zip(&placed)
        .filter(|(_, p)| p.is_none())
        .flat_map(|(m, _)| m.clone())
        .collect();
    let draft = Draft::of_cells(placed.iter().flatten().map(|p| &p.laid));
    Drafted { draft, hopeless }
}

/// Shares that a partition may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// All.
    Any,
    /// The largest of a kind.
    Largest,
}

/// The cheapest partitions for some merged fragments.
pub(super) fn alone(
    units: &[UnitAt],
    size: Size,
    cells: &Cells<'_>,
    ground: &BaselineGround<'_, '_>,
) -> Option<Placed> {
    let merged = &ground.sorted.merged;
    let mut best: Option<Placed> = None;
    let costs = ground.costs;
    // On each kind the shares on which each of them alone is in time.
    let least_on = |kind: KindAt| {
        let each = units.iter().map(|&u| merged[u].least_on(kind));
        let least = each.collect::<Option<Vec<ShareAt>>>()?.into_iter().max()?;
        Some(match size {
            Size::Any => least,
            Size::Largest => least.max(costs.largest_of(kind)),
        })
    };
    let least: Vec<ShareAt> = costs.kinds().filter_map(least_on).collect();
    let mut done: Option<KindAt> = None;
    for share in least.iter().flat_map(|&least| costs.shares_from(least)) {
        if done == Some(costs.kind_of(share)) {
            continue;
        }
        let size = costs.size(share);
        let work: f64 = units.iter().map(|&u| cells.work_on(u, share)).sum();
        let below = best
            .as_ref()
            .map_or(f64::INFINITY, |b| b.cell.cost(ground.costs) as f64);
        let fewest = (work / size).ceil().max(1.0) as usize;
        let copies = (fewest..=fewest.saturating_mul(COPIES).min(MOST_COPIES))
            .take_while(|&n| size * (n as f64) < below);
        let found = copies
            .flat_map(|n| SHAPES.map(|s| (n, s)))
            .find_map(|(n, shape)| {
                cells.judged(cells.cell(units, share, n, shape), shape.batches, &ground.judge)
            });
        best = found.or(best);
        // Much larger shares of the same kind don't become cheaper.
        if best.is_some() && !least.contains(&share) && size >= 4.0 * below {
            done = Some(costs.kind_of(share));
        }
    }
    best
}

fn collect(placed: Vec<Option<Placed>>, ground: &BaselineGround<'_, '_>) -> Drafted {
    let hopeless = UnitAt::all(ground.sorted.merged.len())
        .filter(|u| placed[u.get()].is_none())
        .collect();
    let draft = Draft::of_cells(placed.iter().flatten().map(|p| &p.laid));
    Drafted { draft, hopeless }
}
