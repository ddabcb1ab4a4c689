//! Says whether a cell keeps its deadlines.

use std::collections::BTreeMap;

use graft_certify::{Journey, Part, Tally};
use graft_plan::{Nanos, Workload, ms_to_nanos};
use graft_worker_core::{Admission, Instance, Leg, Manner, PartitionSpec, RouteStep, StageIndex, Work};

use crate::costs::{Costs, ModelIndex};
use crate::draft::Draft;
use crate::index::{StageAt, UnitAt};
use crate::merge::Merged;

/// What a judge found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Verdict {
    pub accepted: bool,
    /// Part of the requests that were late in the worst run, 0 to 1.
    pub late: f64,
}

/// Accepts cells whose merged fragments are in time.
pub(crate) trait Judge: Sync {
    fn judge(&self, draft: &Draft, merged: &[Merged], costs: &Costs<'_>) -> Verdict;
}

/// Judges by the reference simulation.
#[derive(Debug, Clone)]
pub(crate) struct Simulated<'w> {
    /// Workload whose fragments are simulated one by one with their own budgets; `None`: each merged fragment is
    /// simulated as one.
    pub fragments: Option<&'w Workload>,
    /// Approximate number of requests of a run.
    pub requests: f64,
    pub seeds: Vec<u64>,
    /// Part of all requests that may be late.
    pub late: f64,
    /// Part of a merged fragment's requests that may be late.
    pub late_each: f64,
    /// Standard deviations by which a count may exceed what is allowed, since it is a sample.
    pub doubt: f64,
}

/// Length of a run at least, in seconds.
const SHORTEST_S: f64 = 3.0;
/// Part of a run's time that a cell may compute: with more, work was left at the end that it can't catch up with.
const BUSIEST: f64 = 1.02;
/// Length of a run at most, in seconds.
const LONGEST_S: f64 = 120.0;
/// Requests below which fragments are judged together, by model.
const ENOUGH: f64 = 300.0;
/// Variance of the number of late requests, as a multiple of its mean: they come in bunches.
const BUNCHES: f64 = 1.5;

impl Judge for Simulated<'_> {
    fn judge(&self, draft: &Draft, merged: &[Merged], costs: &Costs<'_>) -> Verdict {
        let Some(part) = part(draft, merged, costs, self.fragments) else {
            return Verdict {
                accepted: false,
                late: 1.0,
            };
        };
        let rate: f64 = part.journeys.iter().map(|j| j.rate_rps).sum();
        let seconds = (self.requests / rate).clamp(SHORTEST_S, LONGEST_S);
        let hop = ms_to_nanos(costs.hop_ms());
        let length = ms_to_nanos(seconds * 1e3);
        let all = Allowed {
            part: self.late,
            doubt: self.doubt,
        };
        // The limit counts on a few more requests than are expected; the check after the run uses their exact number.
        let expected = rate * seconds;
        let limit = all.late(expected + 3.0 * expected.sqrt()) as u64;
        let owners: Vec<UnitAt> = owners(draft, merged, self.fragments.is_some()).collect();
        let mut each: Vec<Tally> = vec![Tally::default(); owners.len()];
        let last = self.seeds.len() as u32;
        let (mut accepted, mut latest) = (true, 0.0f64);
        for (seed, runs) in self.seeds.iter().zip(1u32..) {
            let outcome = part.run(hop, *seed, length, limit);
            let mut run = Tally::default();
            let mut certain = true;
            for (sum, tally) in each.iter_mut().zip(&outcome.tallies) {
                run += *tally;
                *sum += *tally;
                // The certificate asks the same of each run.
                let judged = self.fragments.is_some() && tally.requests as f64 >= ENOUGH;
                certain &= !judged || tally.attainment() >= 0.99;
            }
            let computed = outcome.busy.iter().map(|b| b.0).sum::<u64>() as f64;
            latest = latest.max(1.0 - run.attainment());
            accepted = certain
                && !outcome.given_up
                && all.allows(&run)
                && computed <= BUSIEST * length.0 as f64 * part.partitions.len() as f64
                && (runs < last || self.all_in_time(&each, &owners, merged, f64::from(runs)));
            if !accepted {
                break;
            }
        }
        Verdict {
            accepted,
            late: latest,
        }
    }
}

impl Simulated<'_> {
    /// Whether each fragment is in time often enough; fragments with few requests are judged together, by model.
    fn all_in_time(&self, each: &[Tally], owners: &[UnitAt], merged: &[Merged], runs: f64) -> bool {
        let each_allows = |tally: &Tally| {
            let (requests, late) = (tally.requests as f64, (tally.requests - tally.in_time) as f64);
            match self.fragments {
                Some(_) => {
                    let likely = likely_late(requests / runs) * runs;
                    // The worst of many fragments is partly bad luck: two more standard deviations are allowed.
                    late <= likely + 2.0 * (BUNCHES * likely).sqrt()
                }
                None => {
                    let allowed = Allowed {
                        part: self.late_each,
                        doubt: self.doubt,
                    };
                    allowed.allows(tally)
                }
            }
        };
        let mut few: BTreeMap<ModelIndex, Tally> = BTreeMap::new();
        for (&unit, tally) in owners.iter().zip(each) {
            if self.fragments.is_some() && (tally.requests as f64) < ENOUGH * runs {
                *few.entry(merged[unit].model).or_default() += *tally;
            } else if !each_allows(tally) {
                return false;
            }
        }
        few.values().all(each_allows)
    }
}

/// Mean number of late requests with which a run of `requests` stays, by three standard deviations, below the 1% that
/// the certificate allows a fragment.
fn likely_late(requests: f64) -> f64 {
    let deviations = 3.0 * BUNCHES.sqrt();
    let root = (-deviations + (deviations * deviations + 0.04 * requests).sqrt()) / 2.0;
    root * root
}

/// Rule for how many requests may be late.
#[derive(Clone, Copy)]
struct Allowed {
    part: f64,
    doubt: f64,
}

impl Allowed {
    fn late(self, requests: f64) -> f64 {
        let allowed = self.part * requests;
        allowed + self.doubt * (allowed + 1.0).sqrt()
    }

    fn allows(self, tally: &Tally) -> bool {
        (tally.requests - tally.in_time) as f64 <= self.late(tally.requests as f64)
    }
}

/// For each journey of a part its merged fragment.
fn owners<'a>(draft: &'a Draft, merged: &'a [Merged], fragments: bool) -> impl Iterator<Item = UnitAt> + 'a {
    draft.routes.iter().flat_map(move |(u, _)| {
        let count = if fragments { merged[*u].fragments.len() } else { 1 };
        std::iter::repeat_n(*u, count)
    })
}

/// The draft as the reference simulation runs it.
fn part(draft: &Draft, merged: &[Merged], costs: &Costs<'_>, fragments: Option<&Workload>) -> Option<Part> {
    let hop = ms_to_nanos(costs.hop_ms());
    let mut instances: Vec<Vec<Instance>> = vec![vec![]; draft.stages.len()];
    let mut alone = vec![Nanos::ZERO; draft.stages.len()];
    let mut partitions = vec![];
    for partition in &draft.partitions {
        let share = costs.share(partition.share);
        let profile = costs.profile(costs.kind_of(partition.share));
        for (at, &s) in partition.stages.iter().enumerate() {
            if instances[s.get()].is_empty() {
                let stage = &draft.stages[s];
                let name = costs.name(stage.model);
                alone[s.get()] = profile.latency(name, stage.range, 1, share, 0.0).ok()?;
            }
            let copies = partitions.len()..partitions.len() + partition.copies;
            let stage = StageIndex(u16::try_from(at).ok()?);
            instances[s.get()].extend(copies.map(|partition| Instance { partition, stage }));
        }
        let manner = Manner {
            share,
            order: partition.order,
            quantum_ms: partition.quantum_ms,
            admission: Admission::Off,
        };
        let work = partition.stages.iter().map(|&s| Work {
            model: costs.name(draft.stages[s].model),
            range: draft.stages[s].range,
            batch: profile.batches[draft.stages[s].batch],
        });
        let spec = PartitionSpec::new(manner, work, profile).ok()?;
        partitions.extend(std::iter::repeat_n(spec, partition.copies));
    }
    let mut journeys = vec![];
    for (unit, route) in &draft.routes {
        let m = &merged[*unit];
        let leg = |&s: &StageAt| Leg {
            instances: instances[s.get()].clone(),
            alone: alone[s.get()],
            deadline: ms_to_nanos(draft.stages[s].deadline_ms),
        };
        let steps = RouteStep::of_route(hop, route.iter().map(leg).collect());
        match fragments {
            Some(workload) => journeys.extend(m.fragments.iter().map(|&i| {
                let f = &workload.fragments[i];
                Journey {
                    id: f.id.clone(),
                    rate_rps: f.rate_rps,
                    burstiness: f.burstiness,
                    budget: ms_to_nanos(f.budget_ms),
                    steps: steps.clone(),
                }
            })),
            None => journeys.push(Journey {
                id: format!("merged {}", unit.get()),
                rate_rps: m.rate_rps,
                burstiness: m.burstiness(),
                budget: ms_to_nanos(m.budget_ms),
                steps,
            }),
        }
    }
    Some(Part { journeys, partitions })
}
