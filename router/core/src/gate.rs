//! Lets requests through at a rate.

use std::sync::atomic::{AtomicU64, Ordering};

use graft_plan::Nanos;

/// Burst that may come at once, as seconds of the rate; at least [`LEAST_BURST`] requests.
const BURST_SECONDS: f64 = 0.4;
/// Requests that may come at once at least.
const LEAST_BURST: f64 = 2.0;

/// Lets requests through at a rate, with short bursts. Callers don't wait for one another.
///
/// The generic cell rate algorithm (ITU-T I.371): it keeps the time at which the next request is due.
#[derive(Debug)]
pub(crate) struct Gate {
    due: AtomicU64,
    /// Of one unit.
    interval: f64,
    tolerance: f64,
}

impl Gate {
    /// For a rate in units per second, of requests that take so many units each.
    pub fn new(rate: f64, units: f64) -> Self {
        let interval = 1e9 / rate.max(1e-3);
        let burst = (rate * BURST_SECONDS).max(LEAST_BURST * units);
        Gate {
            due: AtomicU64::new(0),
            interval,
            tolerance: interval * (burst - units),
        }
    }

    /// The same at another rate from now on: so many units as are owed for stay owed.
    pub fn at_rate(&self, now: Nanos, rate: f64, units: f64) -> Self {
        let gate = Gate::new(rate, units);
        let owed = self.owed(now) * gate.interval;
        let due = now.0.saturating_add(owed as u64);
        gate.due.store(due, Ordering::Relaxed);
        gate
    }

    /// Time until nothing is owed any more for what passed, in nanoseconds.
    pub fn owed_ns(&self, now: Nanos) -> f64 {
        self.due.load(Ordering::Relaxed).saturating_sub(now.0) as f64
    }

    /// The same in units.
    pub fn owed(&self, now: Nanos) -> f64 {
        self.owed_ns(now) / self.interval
    }

    /// The same gate, where that is so much in nanoseconds; no more than a whole burst is owed.
    pub fn owing_ns(self, now: Nanos, owed_ns: f64) -> Self {
        let owed = owed_ns.min(self.tolerance + self.interval);
        self.due
            .store(now.0.saturating_add(owed as u64), Ordering::Relaxed);
        self
    }

    /// The same in units.
    pub fn owing(self, now: Nanos, owed: f64) -> Self {
        let owed_ns = owed * self.interval;
        self.owing_ns(now, owed_ns)
    }

    /// Whether so many units may pass now, where only a part of the burst is for them.
    pub fn pass(&self, now: Nanos, units: f64, part: f64) -> bool {
        let (interval, tolerance) = ((self.interval * units) as u64, (self.tolerance * part) as u64);
        let next = |due: u64| {
            let due = due.max(now.0);
            (due - now.0 <= tolerance).then(|| due.saturating_add(interval))
        };
        self.due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }

    /// Nothing is owed for what passed: a new gate would be the same.
    pub fn is_free(&self, now: Nanos) -> bool {
        self.due.load(Ordering::Relaxed) <= now.0
    }

    /// So many units pass now in any case; what is owed for them is bounded.
    pub fn passed(&self, now: Nanos, units: f64) {
        let interval = (self.interval * units) as u64;
        let most = now.0.saturating_add(2 * self.tolerance as u64);
        let next = |due: u64| Some(due.max(now.0).saturating_add(interval).min(most.max(due)));
        let _always = self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_pass_than_the_rate_allows() {
        let gate = Gate::new(50.0, 1.0);
        let passed = (0..10_000u64)
            .filter(|ms| gate.pass(Nanos::from_millis(*ms), 1.0, 1.0))
            .count();
        assert!((500..=521).contains(&passed), "{passed}");
    }

    #[test]
    fn a_rare_request_always_passes() {
        let gate = Gate::new(1.0, 1.0);
        assert!((0..20).all(|s| gate.pass(Nanos::from_millis(s * 1000), 1.0, 1.0)));
    }

    #[test]
    fn what_passes_in_any_case_leaves_the_others_less() {
        let gate = Gate::new(50.0, 1.0);
        let passed = (0..10_000u64)
            .filter(|ms| {
                let now = Nanos::from_millis(*ms);
                if ms % 40 == 0 {
                    gate.passed(now, 1.0);
                }
                gate.pass(now, 1.0, 1.0)
            })
            .count();
        assert!((245..=275).contains(&passed), "{passed}");
    }
}
