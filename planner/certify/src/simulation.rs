//! A whole plan's run: its parts one by one.

use graft_plan::{Fleet, Nanos, Plan, Workload};

use crate::arrivals::Arrivals;
use crate::crew::{Alone, Crew, gathered};
use crate::setup::{Setup, SetupError};
use crate::tally::Tally;

/// Result of a run of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Each fragment's id and tally.
    pub fragments: Vec<(String, Tally)>,
}

impl Outcome {
    /// Tally of all requests.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for (_, tally) in &self.fragments {
            total += *tally;
        }
        total
    }
}

/// Runs a plan once: arrivals for `length`, then until all is done.
pub fn simulate(
    plan: &Plan,
    workload: &Workload,
    fleet: &Fleet<'_>,
    seed: u64,
    length: Nanos,
) -> Result<Outcome, SetupError> {
    let setup = Setup::new(plan, workload, fleet)?;
    Ok(setup.outcomes(&[seed], length, &Alone).swap_remove(0))
}

impl Setup {
    /// A run for each seed; parts that have nothing to do with one another may run at the same time.
    pub fn outcomes(&self, seeds: &[u64], length: Nanos, crew: &dyn Crew) -> Vec<Outcome> {
        let parts = self.parts.len();
        // The largest part comes first, so that the others don't have to wait for it at the end.
        let mut order: Vec<usize> = (0..parts).collect();
        let rate = |p: &usize| self.parts[*p].0.journeys.iter().map(|j| j.rate_rps).sum::<f64>();
        order.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        let runs = gathered(crew, parts * seeds.len(), |i| {
            let (part, seed) = (order[i / seeds.len()], i % seeds.len());
            (
                seed,
                part,
                self.parts[part]
                    .0
                    .run(self.hop, seeds[seed], length, u64::MAX)
                    .tallies,
            )
        });
        let mut tallies = vec![vec![Tally::default(); self.fragments.len()]; seeds.len()];
        for (seed, part, of_part) in runs {
            for (fragment, tally) in self.parts[part].1.iter().zip(of_part) {
                tallies[seed][*fragment] = tally;
            }
        }
        let outcome = |(tallies, &seed): (Vec<Tally>, &u64)| {
            let mut fragments: Vec<(String, Tally)> = self.fragments.iter().cloned().zip(tallies).collect();
            fragments.extend(
                self.nothing_owed
                    .iter()
                    .map(|(id, rate)| (id.clone(), answered(seed, id, *rate, length))),
            );
            fragments.sort();
            Outcome { fragments }
        };
        tallies.into_iter().zip(seeds).map(outcome).collect()
    }
}

/// Tally of a fragment at the last cut point: all its requests are in time.
fn answered(seed: u64, id: &str, rate_rps: f64, length: Nanos) -> Tally {
    let mut arrivals = Arrivals::new(seed, id, rate_rps, 1.0);
    let requests = std::iter::repeat_with(|| arrivals.next())
        .take_while(|&at| at < length.0)
        .count() as u64;
    Tally {
        requests,
        in_time: requests,
    }
}
