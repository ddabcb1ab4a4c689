//! Spatial sharing: every (merged) fragment on partitions of its own; and whole devices by model.

use std::collections::BTreeMap;

use graft_plan::Order;

use super::{BaselineGround, Drafted};
use crate::cell::BatchRule;
use crate::costs::ModelIndex;
use crate::draft::Draft;
use crate::fill::{Ground as Cells, Joining, MOST_COPIES, Placed, Shape};
use crate::index::{ShareAt, UnitAt};
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
        alone(&[UnitAt::new(unit)], ShareAt::LEAST, &cells, ground)
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
    let whole = ground.costs.largest_share();
    let models: Vec<Vec<UnitAt>> = by_model.into_values().collect();
    let placed = gathered(ground.crew, models.len(), |i| {
        alone(&models[i], whole, &cells, ground)
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

/// The cheapest partitions, of `smallest` share at least, for some merged fragments.
pub(super) fn alone(
    units: &[UnitAt],
    smallest: ShareAt,
    cells: &Cells<'_>,
    ground: &BaselineGround<'_, '_>,
) -> Option<Placed> {
    let merged = &ground.sorted.merged;
    let work: f64 = units.iter().map(|&u| merged[u].work).sum();
    let least = units.iter().map(|&u| merged[u].least_share).max()?.max(smallest);
    let mut best: Option<Placed> = None;
    for share in ground.costs.shares_from(least) {
        let size = f64::from(ground.costs.share(share).0);
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
        if best.is_some() && share > least && size >= 4.0 * below {
            break;
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
