//! Lives of the latest requests, to be explained.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use graft_model::{CutPoint, ModelId};
use graft_plan::Epoch;
use graft_wire::{Refused, Visit};
use serde::{Deserialize, Serialize};

/// A request's life, as a router saw it. Times are in milliseconds from the router's having it whole, unless another
/// begin is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// The request's id: its trace, in 32 hexadecimal digits.
    pub request_id: String,
    /// Its model's identity.
    pub model: ModelId,
    /// And name.
    pub model_name: String,
    /// Where it was handed over.
    pub partition_point: CutPoint,
    /// What the server had.
    pub budget_ms: f64,
    /// The router had it whole then: milliseconds since 1970.
    pub at_unix_ms: u64,
    /// From its first byte to its last.
    pub upload_ms: f64,
    /// Bytes that came in.
    pub bytes: u64,
    /// From the router's having it to the router's having an answer, or refusing it.
    pub took_ms: f64,
    /// It was answered within its budget.
    pub in_time: bool,
    /// Elements of its answer that are NaN or infinite.
    #[serde(default)]
    pub not_finite: u64,
    /// Why there was no answer.
    pub refused: Option<Refused>,
    /// Where it was sent; the last one answered, if any did.
    pub attempts: Vec<Attempt>,
}

/// A request was sent to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The worker.
    pub worker: String,
    /// The plan.
    pub epoch: Epoch,
    /// The route's place in it.
    pub route: u32,
    /// When it was sent: later than at once if it had to wait for a plan.
    pub sent_ms: f64,
    /// Until the worker's reply was there.
    pub took_ms: f64,
    /// Why it failed.
    pub failed: Option<Refused>,
    /// Where it was: times in nanoseconds from the worker's having it.
    pub visits: Vec<Visit>,
}

/// Lives that are remembered, and those of them that were late or refused, which are remembered for longer.
const MOST: usize = 4096;
const MOST_MISSED: usize = 2048;

/// Lives of the latest requests.
#[derive(Debug, Default)]
pub struct Lives {
    by_id: HashMap<String, Arc<Life>>,
    latest: VecDeque<Arc<Life>>,
    missed: VecDeque<Arc<Life>>,
}

impl Lives {
    /// One more; the oldest is forgotten. A request's id may come again: the latest counts, but for one in time after one that was missed.
    pub fn add(&mut self, life: Life) {
        let life = Arc::new(life);
        // Of the rows of one call, one that was missed is what there is to explain.
        let known = self.by_id.get(&life.request_id);
        if !(life.in_time && known.is_some_and(|k| !k.in_time)) {
            self.by_id.insert(life.request_id.clone(), Arc::clone(&life));
        }
        let (queue, most) = if life.in_time {
            (&mut self.latest, MOST)
        } else {
            (&mut self.missed, MOST_MISSED)
        };
        queue.push_back(life);
        if queue.len() > most
            && let Some(oldest) = queue.pop_front()
            && let Some(known) = self.by_id.get(&oldest.request_id)
            && Arc::ptr_eq(known, &oldest)
        {
            self.by_id.remove(&oldest.request_id);
        }
    }

    /// A request's life.
    pub fn get(&self, request_id: &str) -> Option<Arc<Life>> {
        self.by_id.get(request_id).cloned()
    }

    /// The latest that were late or refused, or all but these; the newest first.
    pub fn latest(&self, missed: bool, most: usize) -> Vec<Arc<Life>> {
        let queue = if missed { &self.missed } else { &self.latest };
        queue.iter().rev().take(most).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(id: usize, in_time: bool) -> Life {
        Life {
            request_id: format!("{id:032x}"),
            model: ModelId([0; 32]),
            model_name: String::new(),
            partition_point: CutPoint(0),
            budget_ms: 50.0,
            at_unix_ms: 0,
            upload_ms: 0.0,
            bytes: 0,
            took_ms: 1.0,
            in_time,
            not_finite: 0,
            refused: None,
            attempts: vec![],
        }
    }

    #[test]
    fn what_was_missed_is_remembered_for_longer_and_all_is_bounded() {
        let mut lives = Lives::default();
        lives.add(life(0, false));
        (1..=10 * MOST).for_each(|id| lives.add(life(id, true)));
        assert!(lives.get(&format!("{:032x}", 0)).is_some());
        assert!(lives.get(&format!("{:032x}", 1)).is_none());
        assert_eq!(lives.by_id.len(), MOST + 1);
        assert_eq!(lives.latest(true, 5).len(), 1);
        assert_eq!(
            lives.latest(false, 5)[0].request_id,
            format!("{:032x}", 10 * MOST)
        );
    }

    #[test]
    fn an_id_that_comes_again_stands_for_the_latest() {
        let mut lives = Lives::default();
        lives.add(life(7, true));
        lives.add(life(7, false));
        (100..100 + MOST).for_each(|id| lives.add(life(id, true)));
        assert!(lives.get(&format!("{:032x}", 7)).is_some_and(|l| !l.in_time));
    }
}
