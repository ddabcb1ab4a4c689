//! What a plan in use is expected to attain.

use graft_certify::{SetupError, simulate};
use graft_plan::{Hardware, Plan, Workload, ms_to_nanos};

/// Requests of the simulation, about.
const REQUESTS: f64 = 50_000.0;
/// Length of the simulation at least and at most, in seconds.
const LENGTH_S: (f64, f64) = (2.0, 60.0);
/// Seed of the simulation's arrivals.
const SEED: u64 = 1;

/// The part of all requests that a plan answers in time in the reference simulation. Takes up to seconds.
pub fn predict(plan: &Plan, workload: &Workload, hardware: &Hardware) -> Result<f64, SetupError> {
    let rate: f64 = workload.fragments.iter().map(|f| f.rate_rps).sum();
    let seconds = (REQUESTS / rate.max(1e-3)).clamp(LENGTH_S.0, LENGTH_S.1);
    let outcome = simulate(
        plan,
        workload,
        &hardware.fleet(),
        SEED,
        ms_to_nanos(seconds * 1e3),
    )?;
    Ok(outcome.total().attainment())
}
