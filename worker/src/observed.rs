//! What partitions do, for the planner.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use graft_model::ModelId;
use graft_plan::Nanos;
use graft_wire::{PartitionReport, RunsTook};
use graft_worker_core::{CostCorrections, RunTimes};

/// What runs took on all partitions of a device since the planner was last told.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// Kind of device.
    kind: String,
    times: Mutex<RunTimes>,
    lost: AtomicBool,
    /// Partitions, of whatever plan, whose engine has not answered for too long.
    silent: AtomicUsize,
}

impl Observed {
    pub fn of_kind(kind: &str) -> Self {
        Observed {
            kind: kind.to_owned(),
            times: Mutex::default(),
            lost: AtomicBool::new(false),
            silent: AtomicUsize::new(0),
        }
    }

    /// A partition's engine has not answered for too long, or answers again.
    pub fn partition_is_silent(&self, silent: bool) {
        if silent {
            self.silent.fetch_add(1, Ordering::Relaxed);
        } else {
            self.silent.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether a partition's engine has not answered for too long.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed) > 0
    }

    /// The device is lost: nothing runs on it any more.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether it is lost.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// A chunk of a run was expected to take so long, by corrected costs, and took so long.
    pub fn ran(
        &self,
        model: ModelId,
        batch: u32,
        expected: Nanos,
        took: Nanos,
        corrections: &CostCorrections,
    ) {
        let mut times = self.times.lock().unwrap_or_else(|e| e.into_inner());
        times.ran(model, batch, expected, took, corrections);
    }

    /// For the planner.
    pub fn take(&self) -> Vec<RunsTook> {
        let mut times = self.times.lock().unwrap_or_else(|e| e.into_inner());
        times.take(&self.kind)
    }
}

/// What one partition did since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct PartitionCounts {
    computed_ns: AtomicU64,
    queued: AtomicUsize,
    batches: AtomicU64,
    requests: AtomicU64,
    silent: AtomicBool,
}

impl PartitionCounts {
    /// Its engine has not answered for too long, or answers again. True: that is another thing than before.
    pub fn becomes_silent(&self, silent: bool) -> bool {
        self.silent.swap(silent, Ordering::Relaxed) != silent
    }

    /// Whether its engine has not answered for too long.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

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
            silent: self.silent.load(Ordering::Relaxed),
        }
    }
}
