//! What runs take: as multiples of what was measured at first, and as they were.

use std::collections::BTreeMap;

use graft_model::ModelId;
use graft_plan::{Nanos, Profile, nanos_to_ms};
use graft_wire::{Correction, RunsTook};

/// Time between two reports of a worker to the planner.
pub const REPORT_EVERY: Nanos = Nanos::from_millis(1_000);

/// What runs take on one kind of device, as multiples of what was measured at first.
#[derive(Debug, Clone, Default)]
pub struct CostCorrections(BTreeMap<(ModelId, u32), f64>);

impl CostCorrections {
    /// Of one kind of device, from what the planner sends with a plan; what makes no sense is left.
    pub fn new(list: &[Correction], kind: &str) -> Self {
        let of_kind = list.iter().filter(|c| c.kind == kind);
        let sound = of_kind.filter(|c| c.times.is_finite() && c.times > 0.0);
        CostCorrections(sound.map(|c| ((c.model, c.batch), c.times)).collect())
    }

    /// Of a model's runs in a batch of the profile.
    pub fn times(&self, model: ModelId, batch: u32) -> f64 {
        self.0.get(&(model, batch)).copied().unwrap_or(1.0)
    }

    /// A profile's costs, corrected. Its models are called by their identity.
    pub fn apply(&self, profile: &Profile) -> Profile {
        profile.times(|model, batch| model.parse().map_or(1.0, |model| self.times(model, batch)))
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    chunks: u64,
    expected_ms: f64,
    took_ms: f64,
}

/// What runs on one device took since it was last asked.
#[derive(Debug, Clone, Default)]
pub struct RunTimes(BTreeMap<(ModelId, u32), Sums>);

impl RunTimes {
    /// A chunk of a run in a batch of the profile was expected to take so long, by corrected costs, and took so long.
    pub fn ran(
        &mut self,
        model: ModelId,
        batch: u32,
        expected: Nanos,
        took: Nanos,
        corrections: &CostCorrections,
    ) {
        let sum = self.0.entry((model, batch)).or_default();
        sum.chunks += 1;
        sum.expected_ms += nanos_to_ms(expected) / corrections.times(model, batch);
        sum.took_ms += nanos_to_ms(took);
    }

    /// For the planner, by model and batch. `kind`: the device's.
    pub fn take(&mut self, kind: &str) -> Vec<RunsTook> {
        let runs = std::mem::take(&mut self.0).into_iter();
        let took = |((model, batch), sum): ((ModelId, u32), Sums)| RunsTook {
            kind: kind.to_owned(),
            model,
            batch,
            chunks: sum.chunks,
            expected_ms: sum.expected_ms,
            took_ms: sum.took_ms,
        };
        runs.map(took).collect()
    }
}
