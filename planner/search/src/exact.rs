//! The optimum, for small inputs.
//!
//! Over every division of the merged fragments into cells, and for each cell over every share, number of copies and
//! shape of a stated grid, under the analytic test: a dynamic programme over subsets.

use graft_certify::{Crew, gathered};
use graft_plan::{Epoch, Order, Plan};

use crate::cell::BatchRule;
use crate::costs::Costs;
use crate::demand::Analytic;
use crate::draft::Draft;
use crate::fill::{Ground, Joining, Placed, Shape};
use crate::index::{KindAt, ShareAt, UnitAt};
use crate::merge::{merge, merging};
use crate::problem::Problem;

/// Merged fragments at most that the exact planner takes.
pub const EXACT_MOST: usize = 10;
/// Most copies of a cell on the grid.
const COPIES: usize = 8;
/// Quanta of the grid, as parts of the tightest budget; 0: runs are not cut.
const QUANTA: [f64; 4] = [0.5, 0.25, 0.1, 0.0];
/// Multiples of a cell's tightest budget beyond which members make groups of their own, on the grid.
const SPLITS: [f64; 2] = [4.0, f64::INFINITY];

/// An input that is too large.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the exact planner takes at most {EXACT_MOST} merged fragments, and there are {0}: leave some out, or use another algorithm"
)]
pub struct TooMany(pub usize);

/// The cheapest plan over the grid that the analytic test accepts.
pub fn plan_exact(problem: &Problem, epoch: Epoch, crew: &dyn Crew) -> Result<Plan, TooMany> {
    let costs = Costs::new(&problem.hardware);
    let sorted = merge(
        &problem.workload,
        &costs,
        merging(&costs, problem.workload.fragments.len()),
        &|_| None,
    );
    let count = sorted.merged.len();
    if count > EXACT_MOST {
        return Err(TooMany(count));
    }
    let ground = Ground::new(&costs, &sorted.merged, problem);
    let (chosen, hopeless) = optimum(&ground, crew);
    let mut plan =
        Draft::of_cells(chosen.iter().map(|c| &c.laid)).placed("exact", epoch, problem, &costs, &sorted);
    sorted.leave_out(&mut plan, &hopeless, problem);
    Ok(plan)
}

/// The cheapest cells for all merged fragments, [`EXACT_MOST`] at most, over the grid; and those that can't be served.
pub(crate) fn optimum(ground: &Ground<'_>, crew: &dyn Crew) -> (Vec<Placed>, Vec<UnitAt>) {
    let (count, costs) = (ground.merged.len(), ground.costs);
    let all = (1usize << count) - 1;
    let mut cells: Vec<Option<Placed>> = vec![None; all + 1];
    // For each set, the cost of its cheapest division, and the set of one of that division's cells.
    let mut best: Vec<(u64, usize)> = vec![(u64::MAX, 0); all + 1];
    best[0] = (0, 0);
    for size in 1..=count as u32 {
        let sets: Vec<usize> = (1..=all).filter(|s| s.count_ones() == size).collect();
        // The cost of divisions into smaller sets; a single cell must cost less.
        for &set in &sets {
            best[set] = divided(set, &best, &cells, costs);
        }
        let found = gathered(crew, sets.len(), |i| cheapest(sets[i], best[sets[i]].0, ground));
        for (set, cell) in sets.into_iter().zip(found) {
            if let Some(placed) = cell {
                best[set] = (placed.cell.cost(costs), set);
                cells[set] = Some(placed);
            }
        }
    }
    let mut chosen = vec![];
    let mut hopeless = vec![];
    let mut left = all;
    // Those that can't be served at all are left out.
    if best[all].0 == u64::MAX {
        for unit in UnitAt::all(count) {
            let alone = 1 << unit.get();
            if cells[alone].is_none() {
                hopeless.push(unit);
                left &= !alone;
            }
        }
    }
    while left != 0 {
        let part = best[left].1;
        chosen.extend(cells[part].clone());
        left &= !part;
    }
    (chosen, hopeless)
}

/// The cheapest division of a set into a cell with its first member and a rest.
fn divided(set: usize, best: &[(u64, usize)], cells: &[Option<Placed>], costs: &Costs<'_>) -> (u64, usize) {
    let first = set & set.wrapping_neg();
    let others = set & !first;
    let mut found = (u64::MAX, 0);
    // All subsets of the set without its first member, but the set of all others itself.
    let mut sub = others;
    while sub != 0 {
        sub = (sub - 1) & others;
        let part = sub | first;
        if let Some(cell) = &cells[part] {
            let cost = cell.cell.cost(costs).saturating_add(best[set & !part].0);
            if cost < found.0 {
                found = (cost, part);
            }
        }
        if sub == 0 {
            break;
        }
    }
    found
}

/// The cheapest cell for a set, if it costs less than `below`.
fn cheapest(set: usize, below: u64, ground: &Ground<'_>) -> Option<Placed> {
    let units: Vec<UnitAt> = UnitAt::all(ground.merged.len())
        .filter(|u| set >> u.get() & 1 == 1)
        .collect();
    let work: f64 = units.iter().map(|&u| ground.merged[u].work).sum();
    // On each kind the shares on which each member alone is in time.
    let least_on = |kind: KindAt| {
        let each = units.iter().map(|&u| ground.merged[u].least_on(kind));
        each.collect::<Option<Vec<ShareAt>>>()?.into_iter().max()
    };
    let least = ground.costs.kinds().filter_map(least_on);
    let shares = least.flat_map(|least| ground.costs.shares_from(least));
    let cost = |(share, copies): (ShareAt, usize)| ground.costs.cost(share) * copies as u64;
    let mut sizes: Vec<(ShareAt, usize)> = shares.flat_map(|s| (1..=COPIES).map(move |n| (s, n))).collect();
    sizes.retain(|&s| cost(s) < below && cost(s) as f64 >= work - 1e-9);
    sizes.sort_by_key(|&s| (cost(s), s));
    let analytic = Analytic::new(ground.headroom);
    sizes.into_iter().find_map(|(share, copies)| {
        shapes().find_map(|shape| {
            ground.judged(
                ground.cell(&units, share, copies, shape),
                shape.batches,
                &analytic,
            )
        })
    })
}

fn shapes() -> impl Iterator<Item = Shape> {
    let joinings = [Joining::Never, Joining::Latest, Joining::Nested];
    joinings.into_iter().flat_map(|joining| {
        QUANTA.into_iter().flat_map(move |quantum| {
            SPLITS.into_iter().map(move |split| Shape {
                joining,
                quantum,
                order: Order::Edf,
                batches: BatchRule::default(),
                split,
            })
        })
    })
}
