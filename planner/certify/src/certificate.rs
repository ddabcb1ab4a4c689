//! Whether a plan attains what it must.

use std::collections::BTreeMap;

use graft_plan::{Fleet, Nanos, Plan, Workload};
use serde::Serialize;

use crate::crew::Crew;
use crate::setup::{Setup, SetupError};
use crate::simulation::Outcome;
use crate::tally::Tally;

/// Seeds of the three runs of a certificate.
pub const SEEDS: [u64; 3] = [1, 2, 3];
/// Time for which requests arrive in each run.
const LENGTH: Nanos = Nanos::from_millis(120_000);
/// Part of all requests that must be in time.
const ALL: f64 = 0.999;
/// Part of each fragment's requests that must be in time.
const EACH: f64 = 0.99;
/// Requests below which fragments are judged together, by model.
const ENOUGH: u64 = 300;

/// Result of the runs that certify a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Certificate {
    /// Whether every run attained what it must.
    pub certified: bool,
    /// Part of all requests of all runs that were in time.
    pub attainment: f64,
    /// The least attainment of a fragment (or of a model's small fragments together) in any run.
    pub worst_fragment: f64,
    /// The fragment, or the small fragments of a model, with that least attainment.
    pub worst: String,
    /// Requests of all runs; where there are none, the plan is not certified.
    pub requests: u64,
    /// Requests of all runs that were late or dropped.
    pub late: u64,
}

/// Runs a plan with three seeds. Certified: in each run 99.9% of all requests, 99% of each fragment's with at least
/// 300 requests, and 99% of a model's other fragments' together.
pub fn certify(
    plan: &Plan,
    workload: &Workload,
    fleet: &Fleet<'_>,
    crew: &dyn Crew,
) -> Result<Certificate, SetupError> {
    certify_each(plan, workload, fleet, &SEEDS, crew).map(|(certificate, _)| certificate)
}

/// The certificate by other seeds, and the requests of each fragment in all runs.
pub fn certify_each(
    plan: &Plan,
    workload: &Workload,
    fleet: &Fleet<'_>,
    seeds: &[u64],
    crew: &dyn Crew,
) -> Result<(Certificate, Vec<(String, Tally)>), SetupError> {
    let setup = Setup::new(plan, workload, fleet)?;
    let mut all = Tally::default();
    let mut certified = true;
    let mut worst = (1.0, String::new());
    let mut each: BTreeMap<String, Tally> = BTreeMap::new();
    for outcome in setup.outcomes(seeds, LENGTH, crew) {
        let total = outcome.total();
        all += total;
        certified &= total.attainment() >= ALL;
        for (name, tally) in judged(&outcome, workload) {
            let attained = tally.attainment();
            certified &= attained >= EACH;
            if attained < worst.0 {
                worst = (attained, name);
            }
        }
        for (id, tally) in outcome.fragments {
            *each.entry(id).or_default() += tally;
        }
    }
    let certificate = Certificate {
        // Where nothing is served there is nothing to certify.
        certified: certified && all.requests > 0,
        attainment: all.attainment(),
        worst_fragment: worst.0,
        worst: worst.1,
        requests: all.requests,
        late: all.requests - all.in_time,
    };
    Ok((certificate, each.into_iter().collect()))
}

/// Tallies to be judged: of fragments with at least [`ENOUGH`] requests one by one, of the others by model.
fn judged(outcome: &Outcome, workload: &Workload) -> Vec<(String, Tally)> {
    let models: std::collections::HashMap<&str, &str> = workload
        .fragments
        .iter()
        .map(|f| (f.id.as_str(), f.model.as_str()))
        .collect();
    let mut small: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut list = vec![];
    for (id, tally) in &outcome.fragments {
        if tally.requests >= ENOUGH {
            list.push((id.clone(), *tally));
        } else {
            let model = models.get(id.as_str()).copied().unwrap_or_default();
            *small.entry(model).or_default() += *tally;
        }
    }
    list.extend(
        small
            .into_iter()
            .map(|(model, tally)| (format!("small fragments of {model}"), tally)),
    );
    list
}
