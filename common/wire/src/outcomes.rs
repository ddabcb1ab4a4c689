//! Outcomes of requests, in numbers that add up.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// Outcomes of some requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Requests that were answered within their time budget.
    pub in_time: u64,
    /// Requests that were answered after it.
    pub late: u64,
    /// Requests that were refused, by status.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<Status, u64>,
    /// Latencies of answered requests, from a router's having the request to its having the answer.
    pub latencies: Latencies,
}

impl Outcomes {
    /// Counts one more answered request.
    pub fn answered(&mut self, took_ms: f64, in_time: bool) {
        if in_time {
            self.in_time += 1;
        } else {
            self.late += 1;
        }
        self.latencies.add(took_ms);
    }

    /// Counts one more refused request.
    pub fn refused(&mut self, status: Status) {
        *self.refused.entry(status).or_default() += 1;
    }

    /// Number of all requests.
    pub fn requests(&self) -> u64 {
        self.in_time + self.late + self.refused.values().sum::<u64>()
    }

    /// Part of the requests that was answered in time; `None`: there were none.
    pub fn attainment(&self) -> Option<f64> {
        let all = self.requests();
        (all > 0).then(|| self.in_time as f64 / all as f64)
    }
}

impl AddAssign<&Outcomes> for Outcomes {
    fn add_assign(&mut self, other: &Outcomes) {
        self.in_time += other.in_time;
        self.late += other.late;
        for (status, count) in &other.refused {
            *self.refused.entry(*status).or_default() += count;
        }
        self.latencies += &other.latencies;
    }
}

/// End of the first class of latencies, in milliseconds.
const FIRST_MS: f64 = 0.05;
/// Width of a class of latencies as a multiple of the one before.
const WIDTH: f64 = 1.1;
/// Most classes: the last one begins above two minutes and takes all longer latencies.
const MOST: usize = 160;

/// Latencies in classes that are 10% wide: quantiles are exact to that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    /// Counts one more latency, in milliseconds.
    pub fn add(&mut self, ms: f64) {
        let class = (ms / FIRST_MS).max(1.0).log(WIDTH).ceil() as usize;
        let class = class.min(MOST - 1);
        if self.0.len() <= class {
            self.0.resize(class + 1, 0);
        }
        self.0[class] += 1;
    }

    /// Quantile by the part below it: the upper end of its class, in milliseconds; `None`: there are no latencies.
    pub fn quantile_ms(&self, part: f64) -> Option<f64> {
        let all: u64 = self.0.iter().sum();
        let wanted = ((part * all as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let class = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(FIRST_MS * WIDTH.powi(class as i32))
    }
}

impl AddAssign<&Latencies> for Latencies {
    fn add_assign(&mut self, other: &Latencies) {
        let length = self.0.len().max(other.0.len().min(MOST));
        self.0.resize(length, 0);
        for (sum, count) in self.0.iter_mut().zip(&other.0) {
            *sum += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn outcomes_add_up() {
        let mut first = Outcomes::default();
        assert_eq!(first.attainment(), None);
        assert_eq!(first.latencies.quantile_ms(0.5), None);
        first.answered(10.0, true);
        first.refused(Status::Late);
        let mut all = first.clone();
        all.answered(80.0, false);
        all += &first;
        assert_eq!((all.in_time, all.late, all.refused[&Status::Late]), (2, 1, 2));
        assert_eq!(all.attainment(), Some(0.4));
        let p99 = all.latencies.quantile_ms(0.99).unwrap();
        assert!((80.0..88.1).contains(&p99), "{p99}");
    }

    proptest! {
        #[test]
        fn a_quantile_is_exact_to_a_class(mut ms in proptest::collection::vec(0.06f64..1e5, 1..60), part in 0.01f64..1.0) {
            let mut latencies = Latencies::default();
            ms.iter().for_each(|&ms| latencies.add(ms));
            ms.sort_by(f64::total_cmp);
            let exact = ms[((part * ms.len() as f64).ceil() as usize).max(1) - 1];
            let quantile = latencies.quantile_ms(part).unwrap();
            prop_assert!(quantile >= exact * 0.999_999 && quantile <= exact * WIDTH * 1.000_001);
        }
    }
}
