//! The account of bytes that requests hold in a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use graft_telemetry::metrics as names;

/// Bytes that requests hold, with a bound.
#[derive(Debug, Clone)]
pub(crate) struct HeldBytes {
    used: Arc<AtomicU64>,
    limit: u64,
}

impl HeldBytes {
    pub fn new(limit: u64) -> Self {
        HeldBytes {
            used: Arc::default(),
            limit,
        }
    }

    /// `None`: the bound is reached.
    pub fn take(&self, bytes: u64) -> Option<Held> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let held = Held {
            used: Arc::clone(&self.used),
            bytes,
        };
        metrics::gauge!(names::WORKER_HELD_BYTES).set((before + bytes) as f64);
        (before + bytes <= self.limit).then_some(held)
    }
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.used.fetch_sub(self.bytes, Ordering::Relaxed);
        metrics::gauge!(names::WORKER_HELD_BYTES).set((before - self.bytes) as f64);
    }
}

impl HeldBytes {
    /// Somebody holds a part of it.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed) > 0
    }
}
