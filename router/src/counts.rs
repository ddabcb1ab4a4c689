//! What a router counts until its next report, and the lives that it remembers.

use std::sync::{Mutex, MutexGuard};

use dashmap::DashMap;
use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Nanos};
use graft_router_core::{Arrived, ClassKey, Life, Lives, MixWindow};
use graft_wire::{OutcomeEntry, Outcomes, Status};

/// Classes that are counted between two reports at most; of further ones nothing is counted.
const MOST_COUNTED: usize = 4096;

/// A plan, and where requests were handed over.
type OutcomeKey = (Epoch, ModelId, CutPoint);

/// What was counted since the last report, and the lives of the latest requests.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    arrived: DashMap<ClassKey, Arrived>,
    outcomes: DashMap<OutcomeKey, Outcomes>,
    lives: Mutex<Lives>,
}

impl Counts {
    /// A request of a class came in.
    pub fn came(&self, now: Nanos, class: ClassKey) {
        if let Some(mut count) = self.arrived.get_mut(&class) {
            count.add(now);
        } else if self.arrived.len() < MOST_COUNTED {
            self.arrived.entry(class).or_default().add(now);
        }
    }

    /// What came in since this was last asked, into a window.
    pub fn take_arrived(&self, now: Nanos, window: &mut MixWindow) {
        let keys: Vec<ClassKey> = self.arrived.iter().map(|e| *e.key()).collect();
        for key in keys {
            if let Some((key, arrived)) = self.arrived.remove(&key) {
                window.add(now, key, arrived);
            }
        }
    }

    /// What became of a request, under the plan that served it, or that was in use.
    pub fn ended(&self, epoch: Epoch, life: &Life) {
        // What was no request of the model says nothing of how it is served.
        let refused = life.refused.as_ref().map(|r| r.status);
        if refused == Some(Status::BadRequest) {
            return;
        }
        let key = (epoch, life.model, life.partition_point);
        if self.outcomes.len() >= MOST_COUNTED && !self.outcomes.contains_key(&key) {
            return;
        }
        let mut outcomes = self.outcomes.entry(key).or_default();
        match refused {
            None => outcomes.answered(life.took_ms, life.in_time),
            // It was given up after its deadline.
            Some(Status::Cancelled) => outcomes.refused(Status::Late),
            Some(status) => outcomes.refused(status),
        }
    }

    /// What became of requests since this was last asked.
    pub fn take_outcomes(&self) -> Vec<OutcomeEntry> {
        let keys: Vec<OutcomeKey> = self.outcomes.iter().map(|e| *e.key()).collect();
        let entries = keys.iter().filter_map(|key| self.outcomes.remove(key));
        let entry = |((epoch, model, partition_point), outcomes)| OutcomeEntry {
            epoch,
            model,
            partition_point,
            outcomes,
        };
        entries.map(entry).collect()
    }

    /// What could not be told is told the next time.
    pub fn put_back(&self, entries: Vec<OutcomeEntry>) {
        for entry in entries {
            let key = (entry.epoch, entry.model, entry.partition_point);
            if self.outcomes.len() < MOST_COUNTED || self.outcomes.contains_key(&key) {
                *self.outcomes.entry(key).or_default() += &entry.outcomes;
            }
        }
    }

    /// A request ended: its life is remembered.
    pub fn remember(&self, life: Life) {
        self.lives().add(life);
    }

    /// Lives of the latest requests.
    pub fn lives(&self) -> MutexGuard<'_, Lives> {
        self.lives.lock().unwrap_or_else(|e| e.into_inner())
    }
}
