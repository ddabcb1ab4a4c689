//! A cell: a partition (or equal copies of it) with the groups that it serves, and the stages that follow.

use graft_model::{CutPoint, StageRange};
use graft_plan::Order;

use crate::costs::{Costs, ModelIndex};
use crate::index::{BatchAt, ShareAt, StageAt, UnitAt, looks_into};
use crate::merge::Merged;

/// Merged fragments of one model that the same cell serves, with the re-partition points at which they join.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub model: ModelIndex,
    /// Re-partition points, ascending; empty: each member runs to the end without joining others.
    pub joins: Vec<CutPoint>,
    /// Members.
    pub units: Vec<UnitAt>,
}

/// The content of a partition, or of equal copies of it, before it has a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    pub share: ShareAt,
    /// Equal partitions that split its load.
    pub copies: usize,
    pub order: Order,
    pub quantum_ms: f64,
    pub groups: Vec<Group>,
}

impl Cell {
    pub fn units(&self) -> impl Iterator<Item = UnitAt> + '_ {
        self.groups.iter().flat_map(|g| g.units.iter().copied())
    }

    /// Cost of all copies together.
    pub fn cost(&self, costs: &Costs<'_>) -> u64 {
        costs.cost(self.share) * self.copies as u64
    }
}

/// A stage before it has an id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StageDraft {
    pub model: ModelIndex,
    pub range: StageRange,
    pub batch: BatchAt,
    pub rate_rps: f64,
    pub deadline_ms: f64,
}

looks_into!(StageAt, StageDraft);

/// A cell's stages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Laid {
    pub share: ShareAt,
    pub copies: usize,
    pub order: Order,
    pub quantum_ms: f64,
    pub stages: Vec<StageDraft>,
    /// Merged fragments, each with its stages, in order.
    pub routes: Vec<(UnitAt, Vec<StageAt>)>,
    /// Load of one copy: seconds of work a second, headroom included.
    pub load: f64,
}

/// How batch limits are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BatchRule {
    /// Part of its stage's loosest budget that a full batch may take ...
    pub of_loosest: f64,
    /// ... or part of its tightest; the larger of the two times counts.
    pub of_tightest: f64,
    /// Quanta that a chunk of a full batch may take, unless a single request's chunk takes more.
    pub chunk: f64,
}

impl Default for BatchRule {
    fn default() -> Self {
        BatchRule {
            of_loosest: 0.25,
            of_tightest: 0.5,
            chunk: 1.5,
        }
    }
}

/// The chain of ranges from a partition point to the end, over the re-partition points behind it.
fn chain(point: CutPoint, joins: &[CutPoint], last: CutPoint) -> Vec<StageRange> {
    let stops = joins
        .iter()
        .copied()
        .filter(|&q| q > point && q < last)
        .chain([last]);
    let mut from = point;
    let mut ranges = vec![];
    for to in stops {
        ranges.extend(StageRange::new(from, to));
        from = to;
    }
    ranges
}

/// Lays out a cell's stages: ranges, local deadlines, batch limits, load.
///
/// `None`: some merged fragment can't be in time, or the cell is overloaded.
pub(crate) fn lay(
    cell: &Cell,
    merged: &[Merged],
    costs: &Costs<'_>,
    headroom: f64,
    batches: BatchRule,
) -> Option<Laid> {
    let mut laid = Laid {
        share: cell.share,
        copies: cell.copies,
        order: cell.order,
        quantum_ms: cell.quantum_ms,
        stages: vec![],
        routes: vec![],
        load: 0.0,
    };
    for group in &cell.groups {
        lay_group(group, cell, merged, costs, &mut laid, batches)?;
    }
    for stage in &laid.stages {
        let time = costs
            .run(stage.model, stage.range, stage.batch, cell.share, laid.quantum_ms)
            .total_ms;
        let batch = f64::from(costs.requests(cell.share, stage.batch));
        laid.load += stage.rate_rps / cell.copies as f64 * (1.0 + headroom) * time / batch / 1e3;
    }
    (laid.load <= 1.0).then_some(laid)
}

fn lay_group(
    group: &Group,
    cell: &Cell,
    merged: &[Merged],
    costs: &Costs<'_>,
    laid: &mut Laid,
    batches: BatchRule,
) -> Option<()> {
    let hop = costs.hop_ms();
    let last = costs.last(group.model);
    let first = laid.stages.len();
    let mut alone: Vec<f64> = vec![];
    // Tightest and loosest budget of the members that run each stage.
    let mut budgets: Vec<(f64, f64)> = vec![];
    // For each stage, the factor by which its members' budgets let it exceed its time for a single request: the least.
    let mut stretch: Vec<f64> = vec![];
    let mut chains: Vec<(UnitAt, Vec<StageAt>)> = vec![];
    for &unit in &group.units {
        let m = &merged[unit];
        let mut stages = vec![];
        for range in chain(m.point, &group.joins, last) {
            let found = laid.stages[first..].iter().position(|s| s.range == range);
            let at = StageAt::new(found.map_or(laid.stages.len(), |i| first + i));
            if found.is_none() {
                laid.stages.push(StageDraft {
                    model: group.model,
                    range,
                    batch: BatchAt::ONE,
                    rate_rps: 0.0,
                    deadline_ms: f64::INFINITY,
                });
                alone.push(
                    costs
                        .run(group.model, range, BatchAt::ONE, cell.share, laid.quantum_ms)
                        .total_ms,
                );
                budgets.push((f64::INFINITY, 0.0));
                stretch.push(f64::INFINITY);
            }
            laid.stages[at].rate_rps += m.rate_rps;
            stages.push(at);
        }
        let needed: f64 = stages.iter().map(|s| alone[s.get() - first]).sum();
        let budget = m.budget_ms - hop * stages.len() as f64;
        if needed > budget {
            return None;
        }
        for s in &stages {
            let (stretch, budgets) = (&mut stretch[s.get() - first], &mut budgets[s.get() - first]);
            *stretch = stretch.min(budget / needed.max(1e-9));
            *budgets = (budgets.0.min(m.budget_ms), budgets.1.max(m.budget_ms));
        }
        chains.push((unit, stages));
    }
    // Later stages take their part of the tightest budget; a first stage takes what they leave.
    let followers: Vec<StageAt> = chains.iter().flat_map(|(_, c)| c[1..].iter().copied()).collect();
    for s in followers {
        laid.stages[s].deadline_ms = alone[s.get() - first] * stretch[s.get() - first];
    }
    for (unit, stages) in &chains {
        let later: f64 = stages[1..].iter().map(|&s| laid.stages[s].deadline_ms).sum();
        let left = merged[*unit].budget_ms - hop * stages.len() as f64 - later;
        let stage = &mut laid.stages[stages[0]];
        stage.deadline_ms = stage.deadline_ms.min(left);
    }
    for (i, stage) in laid.stages[first..].iter_mut().enumerate() {
        let most = (budgets[i].0 * batches.of_tightest).max(budgets[i].1 * batches.of_loosest);
        let mut each = alone[i];
        // A batch whose chunks are long would keep others waiting.
        let longest = costs
            .run(
                stage.model,
                stage.range,
                BatchAt::ONE,
                cell.share,
                laid.quantum_ms,
            )
            .chunk_ms;
        let longest = if laid.quantum_ms > 0.0 {
            longest.max(laid.quantum_ms * batches.chunk)
        } else {
            f64::INFINITY
        };
        for (b, each_of) in costs.batches(cell.share).skip(1) {
            let run = costs.run(stage.model, stage.range, b, cell.share, laid.quantum_ms);
            let time = run.total_ms;
            if run.chunk_ms <= longest && time <= most && time / each_of <= each {
                stage.batch = b;
                each = time / each_of;
            }
        }
    }
    laid.routes.extend(chains);
    Some(())
}
