//! Counts of requests, and of those in time.

use serde::Serialize;

/// Requests of one fragment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// That arrived.
    pub requests: u64,
    /// That were answered within their budget.
    pub in_time: u64,
}

impl Tally {
    /// Part that was answered in time; 1 where nothing arrived.
    pub fn attainment(self) -> f64 {
        if self.requests == 0 {
            1.0
        } else {
            self.in_time as f64 / self.requests as f64
        }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.requests += other.requests;
        self.in_time += other.in_time;
    }
}

impl PartialOrd for Tally {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Tally {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.requests, self.in_time).cmp(&(other.requests, other.in_time))
    }
}
