//! Fills one cell with as many merged fragments as a judge accepts.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use graft_model::CutPoint;
use graft_model::SplitMix;
use graft_plan::{Device, Order, Share};

use crate::cell::{BatchRule, Cell, Group, Laid, lay};
use crate::costs::{Costs, ModelIndex};
use crate::draft::{Draft, bytes_of};
use crate::index::{KindAt, RunningAt, ShareAt, UnitAt};
use crate::judge::Judge;
use crate::merge::Merged;
use crate::problem::Problem;

/// Order in which merged fragments are offered to a cell, after the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// Nearest budgets to the first one's come first, whatever the model.
    NearBudget,
    /// The first one's model comes first, then the others; nearest budgets first in both.
    OneModel,
    /// Budgets within a factor of two of the first one's come first, nearest first; then the loosest.
    LooseFiller,
    /// Models and budgets are mixed at random, always in the same order.
    Mixed,
}

/// Re-partition points at which a group's members join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joining {
    /// None: members never join.
    Never,
    /// One, at the latest partition point of the group.
    Latest,
    /// Each partition point of the group but the first, one after the other.
    Nested,
}

/// How a cell's content is turned into stages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    pub joining: Joining,
    /// Quantum as a part of the tightest budget; 0: runs are not cut.
    pub quantum: f64,
    pub order: Order,
    pub batches: BatchRule,
    /// Multiple of the cell's tightest budget beyond which members make groups of their own.
    pub split: f64,
}

/// A cell before it is filled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Empty {
    pub share: ShareAt,
    pub copies: usize,
    pub shape: Shape,
    /// Part of its size that the first try fills.
    pub likely: f64,
}

/// A cell that was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub cell: Cell,
    pub laid: Laid,
    /// Sum of its members' work: the least cost of what they fill.
    pub work: f64,
    /// Whether it stood the thorough test.
    pub sound: bool,
    /// Part of its requests that were late in the last test, in the worst run.
    pub late: f64,
    /// The same cell in the running plan.
    pub runs_as: Option<RunningAt>,
}

/// What filling a cell needs to know: costs, merged fragments, devices.
pub(crate) struct Ground<'a> {
    pub costs: &'a Costs<'a>,
    pub merged: &'a [Merged],
    pub headroom: f64,
    /// Devices of the profiles' kinds.
    pub devices: Vec<DeviceGround>,
}

/// What filling cells needs to know of a device.
pub(crate) struct DeviceGround {
    pub kind: KindAt,
    pub share_total: Share,
    pub memory_bytes: u64,
    /// Models that it lacks.
    pub lacks: Vec<ModelIndex>,
}

/// Most copies of a cell; what needs more is not served.
pub(crate) const MOST_COPIES: usize = 4096;
/// Part of a cell's remaining size that the first try fills when the loosest fragments are added at the end.
const LIKELY_MORE: f64 = 0.25;
/// First stride of the search from its first guess, as a part of a cell's size.
const FIRST_STRIDE: f64 = 0.04;
/// Difference between accepted and rejected content at which the search stops, as a part of a cell's size.
const FINE: f64 = 0.01;
/// Length of a quantum at least, in overheads of a chunk.
const LEAST_QUANTUM_OVERHEADS: f64 = 10.0;

impl<'a> Ground<'a> {
    pub fn new(costs: &'a Costs<'a>, merged: &'a [Merged], problem: &Problem) -> Self {
        let device = |(_, d): (usize, &Device)| {
            let models = costs.models();
            Some(DeviceGround {
                kind: costs.kind(&d.kind)?,
                share_total: d.share_total,
                memory_bytes: d.memory_bytes,
                lacks: models.filter(|&m| !problem.has(&d.id, costs.name(m))).collect(),
            })
        };
        let devices = problem.usable().filter_map(device).collect();
        Ground {
            costs,
            merged,
            headroom: problem.workload.headroom,
            devices,
        }
    }

    /// Whether some device could hold the cell, if the device were empty.
    fn fits_a_device(&self, cell: &Cell) -> bool {
        let (kind, share) = (self.costs.kind_of(cell.share), self.costs.share(cell.share));
        let bytes = bytes_of(cell.units(), kind, self.merged, self.costs);
        let has = |lacks: &[ModelIndex]| cell.groups.iter().all(|g| !lacks.contains(&g.model));
        self.devices
            .iter()
            .any(|d| d.kind == kind && d.share_total >= share && d.memory_bytes >= bytes && has(&d.lacks))
    }

    /// Cost of all devices of a kind.
    pub fn there_is(&self, kind: KindAt) -> u64 {
        let of_kind = self.devices.iter().filter(|d| d.kind == kind);
        of_kind
            .map(|d| self.costs.cost_of_device(kind, d.share_total))
            .sum()
    }

    /// Cost of what a merged fragment fills on a share, at least.
    pub fn work_on(&self, unit: UnitAt, share: ShareAt) -> f64 {
        let m = &self.merged[unit];
        m.on[self.costs.kind_of(share).get()].map_or(m.work, |on| on.work)
    }

    /// Those that shares of a kind can serve in time.
    pub fn servable(&self, units: &[UnitAt], kind: KindAt) -> Vec<UnitAt> {
        let can = |u: &UnitAt| self.merged[*u].least_on(kind).is_some();
        units.iter().copied().filter(can).collect()
    }

    pub fn cell(&self, units: &[UnitAt], share: ShareAt, copies: usize, shape: Shape) -> Cell {
        let budgets = units.iter().map(|&u| self.merged[u].budget_ms);
        let tightest = budgets.fold(f64::INFINITY, f64::min);
        let mut by_model: BTreeMap<(ModelIndex, bool), Vec<UnitAt>> = BTreeMap::new();
        for &unit in units {
            let m = &self.merged[unit];
            by_model
                .entry((m.model, m.budget_ms > tightest * shape.split))
                .or_default()
                .push(unit);
        }
        let least = self.costs.overhead_ms(share) * LEAST_QUANTUM_OVERHEADS;
        let quantum_ms = if shape.quantum > 0.0 {
            (tightest * shape.quantum).max(least)
        } else {
            0.0
        };
        let groups = by_model
            .into_iter()
            .map(|((model, _), mut units)| {
                units.sort_unstable();
                let mut points: Vec<CutPoint> = units.iter().map(|&u| self.merged[u].point).collect();
                points.sort_unstable();
                points.dedup();
                let joins = match shape.joining {
                    Joining::Never => vec![],
                    _ if points.len() < 2 => vec![],
                    Joining::Latest => points.last().copied().into_iter().collect(),
                    Joining::Nested => points[1..].to_vec(),
                };
                Group { model, joins, units }
            })
            .collect();
        Cell {
            share,
            copies,
            order: shape.order,
            quantum_ms,
            groups,
        }
    }

    pub fn judged(&self, cell: Cell, batches: BatchRule, judge: &dyn Judge) -> Option<Placed> {
        if cell.copies > MOST_COPIES || !self.fits_a_device(&cell) {
            return None;
        }
        let laid = lay(&cell, self.merged, self.costs, self.headroom, batches)?;
        let verdict = judge.judge(&Draft::of_cells([&laid]), self.merged, self.costs);
        let work = cell.units().map(|u| self.merged[u].work).sum();
        verdict.accepted.then_some(Placed {
            cell,
            laid,
            work,
            sound: false,
            late: verdict.late,
            runs_as: None,
        })
    }

    /// Fills a cell: `first`, and as long a run of the recipe's order over `left` as is accepted.
    pub fn fill(
        &self,
        first: UnitAt,
        left: &[UnitAt],
        empty: Empty,
        recipe: Recipe,
        judge: &dyn Judge,
    ) -> Option<Placed> {
        let mut ordered = self.servable(left, self.costs.kind_of(empty.share));
        ordered.retain(|&u| u != first);
        self.order(&mut ordered, first, recipe);
        ordered.insert(0, first);
        let near = self.longest(vec![], &ordered, empty, judge)?;
        // The rest of the cell's time is for the loosest fragments, which can wait.
        let taken: Vec<UnitAt> = near.cell.units().collect();
        ordered.retain(|u| !taken.contains(u));
        ordered.sort_by(|&a, &b| {
            self.merged[b]
                .budget_ms
                .total_cmp(&self.merged[a].budget_ms)
                .then(a.cmp(&b))
        });
        Some(self.longest(taken, &ordered, empty, judge).unwrap_or(near))
    }

    /// A cell with `base` and the longest run of `ordered` that is accepted, at least one.
    pub fn longest(
        &self,
        base: Vec<UnitAt>,
        ordered: &[UnitAt],
        empty: Empty,
        judge: &dyn Judge,
    ) -> Option<Placed> {
        let Empty {
            share,
            copies,
            shape,
            likely,
        } = empty;
        let size = self.costs.size(share) * copies as f64;
        let held: f64 = base.iter().map(|&u| self.work_on(u, share)).sum();
        let mut sum = held;
        let sums: Vec<f64> = ordered
            .iter()
            .map(|&u| {
                sum += self.work_on(u, share);
                sum
            })
            .collect();
        // Members whose work exceeds the cell's size can't be accepted.
        let mut above = sums
            .iter()
            .position(|&w| w > size * 1.0001)
            .unwrap_or(ordered.len())
            + 1;
        let mut below = 0;
        let mut best: Option<Placed> = None;
        let likely = if base.is_empty() {
            size * likely
        } else {
            held + (size - held) * LIKELY_MORE
        };
        let upto = |work: f64| sums.iter().position(|&w| w > work).unwrap_or(ordered.len());
        let reached = |below: usize| if below > 0 { sums[below - 1] } else { held };
        let mut guess = upto(likely).max(1);
        let mut stride = size * FIRST_STRIDE;
        let (mut before, mut by_halves) = (None, false);
        while below + 1 < above {
            guess = guess.clamp(below + 1, above - 1);
            let mut units = base.clone();
            units.extend(&ordered[..guess]);
            let judged = self.judged(self.cell(&units, share, copies, shape), shape.batches, judge);
            let accepted = judged.is_some();
            match judged {
                Some(placed) => {
                    best = Some(placed);
                    below = guess;
                }
                None => above = guess,
            }
            if above <= ordered.len() && sums[above - 1] - reached(below) < size * FINE {
                break;
            }
            // The search goes in growing strides from the first guess until it has seen both answers; then by halves.
            by_halves |= before.is_some_and(|b| b != accepted);
            before = Some(accepted);
            guess = match accepted {
                _ if by_halves => (below + above) / 2,
                true => upto(reached(below) + stride),
                false => upto((sums[above - 1] - stride).max(held)),
            };
            stride *= 2.0;
        }
        best
    }

    /// The same content on fewer copies and smaller shares, as long as the judge accepts that.
    pub fn shrunk(&self, mut placed: Placed, shape: Shape, judge: &dyn Judge) -> Placed {
        loop {
            let Cell { share, copies, .. } = placed.cell;
            let mut smaller = vec![];
            if copies > 1 {
                smaller.push((share, copies - 1));
            }
            smaller.extend(self.costs.below(share).map(|less| (less, copies)));
            let found = smaller.into_iter().find_map(|(share, copies)| {
                let size = self.costs.size(share) * copies as f64;
                let mut cell = placed.cell.clone();
                (cell.share, cell.copies) = (share, copies);
                if size < placed.work {
                    return None;
                }
                self.judged(cell, shape.batches, judge)
            });
            match found {
                Some(p) => placed = p,
                None => return placed,
            }
        }
    }

    fn order(&self, units: &mut [UnitAt], first: UnitAt, recipe: Recipe) {
        let m = |u: UnitAt| &self.merged[u];
        let start = m(first).budget_ms;
        let away = |u: UnitAt| (m(u).budget_ms / start).ln().abs();
        let near = |a: UnitAt, b: UnitAt| away(a).total_cmp(&away(b)).then(a.cmp(&b));
        let other = |u: UnitAt| m(u).model != m(first).model;
        match recipe {
            Recipe::NearBudget => units.sort_by(|&a, &b| near(a, b)),
            Recipe::OneModel => units.sort_by(|&a, &b| other(a).cmp(&other(b)).then(near(a, b))),
            Recipe::LooseFiller => units.sort_by(|&a, &b| {
                let far = |u: UnitAt| away(u) > std::f64::consts::LN_2;
                far(a)
                    .cmp(&far(b))
                    .then(if far(a) {
                        m(b).budget_ms.total_cmp(&m(a).budget_ms)
                    } else {
                        Ordering::Equal
                    })
                    .then(near(a, b))
            }),
            Recipe::Mixed => units.sort_by_key(|&u| scrambled(u)),
        }
    }
}

fn scrambled(unit: UnitAt) -> u64 {
    SplitMix(unit.get() as u64).bits()
}
