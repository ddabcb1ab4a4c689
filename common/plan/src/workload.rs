//! `workload.json`: the fragments that must be served.

use std::collections::HashSet;

use graft_model::CutPoint;
use serde::{Deserialize, Serialize};

use crate::Nanos;
use crate::file::{Checked, Wrong, not_negative, positive, version, wrong};

/// The fragments that must be served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Version of the format: 1.
    pub version: u32,
    /// Headroom: part of the rate by which capacity must exceed it.
    pub headroom: f64,
    /// Fragments: what the server owes each class of clients.
    pub fragments: Vec<Fragment>,
}

/// A fragment: what the server owes one class of clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fragment {
    /// Unique in the workload.
    pub id: String,
    /// The profile's name of the model.
    pub model: String,
    /// Cut point at which the clients hand over.
    pub partition_point: CutPoint,
    /// Time budget of the server, in milliseconds.
    pub budget_ms: f64,
    /// Requests per second.
    pub rate_rps: f64,
    /// Index of dispersion: variance over mean of the requests in windows of [`BURST_WINDOW`]; 1: a Poisson process.
    #[serde(default = "poisson", skip_serializing_if = "is_poisson")]
    pub burstiness: f64,
}

/// Length of the windows in which requests are counted to measure how they come in bursts.
pub const BURST_WINDOW: Nanos = Nanos::from_millis(50);
/// The largest index of dispersion that is planned for.
pub const MOST_BURSTY: f64 = 16.0;

fn poisson() -> f64 {
    1.0
}

fn is_poisson(burstiness: &f64) -> bool {
    *burstiness == 1.0
}

impl Checked for Workload {
    fn verify(&self) -> Result<(), Wrong> {
        version(self.version)?;
        not_negative(|| "headroom".to_owned(), self.headroom, "parts of 1")?;
        let mut seen = HashSet::new();
        for (i, f) in self.fragments.iter().enumerate() {
            if f.id.is_empty() || !seen.insert(f.id.as_str()) {
                return wrong(
                    format!("fragments[{i}].id"),
                    format!("is {:?}; expected an id that no other fragment has", f.id),
                );
            }
            positive(
                || format!("fragments[{i}].budget_ms"),
                f.budget_ms,
                "milliseconds",
            )?;
            positive(
                || format!("fragments[{i}].rate_rps"),
                f.rate_rps,
                "requests per second",
            )?;
            let place = || format!("fragments[{i}].burstiness");
            positive(place, f.burstiness, "a variance over a mean")?;
            if f.burstiness > MOST_BURSTY {
                return wrong(
                    place(),
                    format!("is {}; expected {MOST_BURSTY} at most", f.burstiness),
                );
            }
        }
        Ok(())
    }
}
