//! What partitions do, for the planner: how busy they are, and what runs take.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use graft_model::ModelId;
use graft_plan::{Nanos, Profile};
use graft_wire::{Correction, PartitionReport, RunsTook};

/// What runs take, as multiples of what was measured at first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Corrections(BTreeMap<(ModelId, u32), f64>);

impl Corrections {
    pub fn new(list: &[Correction]) -> Self {
        let sound = list.iter().filter(|c| c.times.is_finite() && c.times > 0.0);
        Corrections(sound.map(|c| ((c.model, c.batch), c.times)).collect())
    }

    pub fn times(&self, model: ModelId, batch: u32) -> f64 {
        self.0.get(&(model, batch)).copied().unwrap_or(1.0)
    }

    /// A profile's costs, corrected.
    pub fn apply(&self, profile: &Profile) -> Profile {
        profile.times(|model, batch| model.parse().map_or(1.0, |model| self.times(model, batch)))
    }
}

#[derive(Debug, Default)]
struct Sums {
    chunks: u64,
    expected_ns: f64,
    took_ns: f64,
}

/// What runs took since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Observed(Mutex<BTreeMap<(ModelId, u32), Sums>>);

impl Observed {
    pub fn ran(&self, model: ModelId, batch: u32, expected_ns: f64, took_ns: f64) {
        let mut sums = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let sum = sums.entry((model, batch)).or_default();
        sum.chunks += 1;
        sum.expected_ns += expected_ns;
        sum.took_ns += took_ns;
    }

    pub fn take(&self) -> Vec<RunsTook> {
        let sums = std::mem::take(&mut *self.0.lock().unwrap_or_else(|e| e.into_inner()));
        let runs = sums.into_iter().map(|((model, batch), sum)| RunsTook {
            model,
            batch,
            chunks: sum.chunks,
            expected_ms: sum.expected_ns / 1e6,
            took_ms: sum.took_ns / 1e6,
        });
        runs.collect()
    }
}

/// What one partition did since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct PartitionCounts {
    computed_ns: AtomicU64,
    queued: AtomicUsize,
    batches: AtomicU64,
    requests: AtomicU64,
}

impl PartitionCounts {
    pub fn computed(&self, took: Nanos) {
        self.computed_ns.fetch_add(took.0, Ordering::Relaxed);
    }

    pub fn queued(&self, requests: usize) {
        self.queued.store(requests, Ordering::Relaxed);
    }

    pub fn batch(&self, requests: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(requests as u64, Ordering::Relaxed);
    }

    pub fn take(&self, id: &str, since: Duration) -> PartitionReport {
        let computed = Duration::from_nanos(self.computed_ns.swap(0, Ordering::Relaxed));
        PartitionReport {
            id: id.to_owned(),
            busy: (computed.as_secs_f64() / since.as_secs_f64().max(1e-3)).min(1.0),
            queued: self.queued.load(Ordering::Relaxed) as u64,
            batches: self.batches.swap(0, Ordering::Relaxed),
            requests: self.requests.swap(0, Ordering::Relaxed),
        }
    }
}
