//! Lets requests through at a rate.

use std::sync::atomic::{AtomicU64, Ordering};

use graft_plan::Nanos;

/// Requests that may come at once, beyond the rate, as seconds of it; at least [`LEAST_BURST`].
const BURST_SECONDS: f64 = 0.25;
/// The least number of requests that may come at once.
const LEAST_BURST: f64 = 2.0;

/// Lets requests through at a rate, with short bursts. Callers don't wait for one another.
///
/// The generic cell rate algorithm (ITU-T I.371): it keeps the time at which the next request is due.
#[derive(Debug)]
pub(crate) struct Gate {
    due: AtomicU64,
    interval: u64,
    tolerance: u64,
}

impl Gate {
    /// For a rate in requests per second.
    pub fn new(rate_rps: f64) -> Self {
        let interval = 1e9 / rate_rps.max(1e-3);
        let burst = (rate_rps * BURST_SECONDS).max(LEAST_BURST);
        Gate {
            due: AtomicU64::new(0),
            interval: interval as u64,
            tolerance: (interval * (burst - 1.0)) as u64,
        }
    }

    /// Whether nothing has passed for so long that it could lend to others: its own requests don't use it.
    pub fn lends(&self, now: Nanos, weight: f64) -> bool {
        let interval = (self.interval as f64 * weight) as u64;
        let next = |due: u64| (due <= now.0).then(|| now.0.saturating_add(interval));
        self.due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }

    /// Whether a request may pass now that counts as so many of this gate's.
    pub fn pass(&self, now: Nanos, weight: f64) -> bool {
        let interval = (self.interval as f64 * weight) as u64;
        let next = |due: u64| {
            let due = due.max(now.0);
            (due - now.0 <= self.tolerance).then(|| due.saturating_add(interval))
        };
        self.due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_pass_than_the_rate_allows() {
        let gate = Gate::new(50.0);
        let passed = (0..10_000u64)
            .filter(|ms| gate.pass(Nanos::from_millis(*ms), 1.0))
            .count();
        assert!((500..=515).contains(&passed), "{passed}");
    }

    #[test]
    fn a_rare_request_always_passes() {
        let gate = Gate::new(1.0);
        assert!((0..20).all(|s| gate.pass(Nanos::from_millis(s * 1000), 1.0)));
    }
}
