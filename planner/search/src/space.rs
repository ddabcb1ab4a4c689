//! What the search may use: shares, copies, orders, shapes.

use graft_plan::{Order, Share};

use crate::cell::BatchRule;
use crate::costs::Costs;
use crate::fill::{Ground, Joining, Recipe, Shape};
use crate::index::{KindAt, ShareAt};

/// What the search may use.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    /// The shares that are tried.
    pub shares: Vec<ShareAt>,
    /// Most copies of a cell, unless one merged fragment alone needs more.
    pub copies: usize,
    pub recipes: Vec<Recipe>,
    pub shapes: Vec<Shape>,
}

/// Shares of a kind that are tried, at most; the rest come in when a cell is shrunk.
const SHARES: usize = 12;
/// Merged fragments at most that are tried on any share.
pub(crate) const FEW: usize = 16;
/// Largest share that is tried, as a part of a device, unless a fragment needs more.
const LARGEST_PART: f64 = 0.4;

/// The shares of a kind that are tried, up to a part of a device.
fn shares_of(kind: KindAt, part: f64, costs: &Costs<'_>) -> Vec<ShareAt> {
    let largest = Share((f64::from(costs.profile(kind).share_total.0) * part) as u32);
    let useful: Vec<ShareAt> = costs
        .shares_of(kind)
        .filter(|&s| s == costs.least_of(kind) || costs.share(s) <= largest)
        .collect();
    if useful.len() <= SHARES {
        return useful;
    }
    // Of many, some in ever larger steps.
    let last = (useful.len() - 1) as f64;
    let mut shares: Vec<ShareAt> = (0..SHARES)
        .map(|i| (last + 1.0).powf(i as f64 / (SHARES - 1) as f64).round() as usize - 1)
        .chain(0..SHARES / 2)
        .map(|place| useful[place])
        .collect();
    shares.sort_unstable();
    shares.dedup();
    shares
}

impl Space {
    pub fn new(ground: &Ground<'_>, realign: bool, cuts: bool, order: Order) -> Self {
        // A few merged fragments may well fit one large share.
        let part = if ground.merged.len() <= FEW {
            1.0
        } else {
            LARGEST_PART
        };
        let there = ground.costs.kinds().filter(|&k| ground.there_is(k) > 0);
        let shares = there
            .flat_map(|kind| shares_of(kind, part, ground.costs))
            .collect();
        let mut shapes = vec![];
        for &(joining, quantum, split) in &[
            (Joining::Never, 0.5, 4.0),
            (Joining::Never, 0.25, 4.0),
            (Joining::Never, 0.25, f64::INFINITY),
            (Joining::Never, 0.5, f64::INFINITY),
            (Joining::Never, 0.1, 4.0),
            (Joining::Never, 0.1, f64::INFINITY),
            (Joining::Never, 0.0, f64::INFINITY),
            (Joining::Latest, 0.25, f64::INFINITY),
            (Joining::Latest, 0.5, 4.0),
            (Joining::Latest, 0.0, f64::INFINITY),
            (Joining::Nested, 0.25, f64::INFINITY),
        ] {
            if realign || joining == Joining::Never {
                let quantum = if cuts { quantum } else { 0.0 };
                let shape = Shape {
                    joining,
                    quantum,
                    order,
                    batches: BatchRule::default(),
                    split,
                };
                if !shapes.contains(&shape) {
                    shapes.push(shape);
                }
            }
        }
        Space {
            shares,
            copies: 6,
            recipes: vec![
                Recipe::NearBudget,
                Recipe::OneModel,
                Recipe::LooseFiller,
                Recipe::Mixed,
            ],
            shapes,
        }
    }
}
