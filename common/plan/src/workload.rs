//! `workload.json`: what must be served.

use std::collections::HashSet;

use graft_model::CutPoint;
use serde::{Deserialize, Serialize};

use crate::file::{Checked, Wrong, not_negative, positive, version, wrong};

/// What must be served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// 1.
    pub version: u32,
    /// Capacity must exceed the rate by this fraction.
    pub headroom: f64,
    /// What the server owes each class of clients.
    pub fragments: Vec<Fragment>,
}

/// What the server owes one class of clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fragment {
    /// Unique in the workload.
    pub id: String,
    /// The profile's name of the model.
    pub model: String,
    /// Where the clients hand over.
    pub partition_point: CutPoint,
    /// What the server has, in milliseconds.
    pub budget_ms: f64,
    /// Requests per second.
    pub rate_rps: f64,
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
        }
        Ok(())
    }
}
