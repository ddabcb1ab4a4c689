//! What became of the requests of the last seconds.

use std::collections::{BTreeMap, VecDeque};

use graft_model::{CutPoint, ModelId};
use graft_plan::Nanos;
use graft_wire::Outcomes;

/// Slots of the window.
const SLOTS: u64 = 10;
/// Length of a slot.
const SLOT: Nanos = Nanos::from_millis(1000);
/// Length of the window.
const WINDOW: Nanos = Nanos(SLOT.0 * SLOTS);
/// Partition points that are told apart at most.
const MOST_POINTS: usize = 4096;

type Points = BTreeMap<(ModelId, CutPoint), Outcomes>;

/// What became of the requests of the last ten seconds, by model and partition point.
#[derive(Debug, Default)]
pub struct Recent {
    slots: VecDeque<(Nanos, Points)>,
}

impl Recent {
    /// The window's length in seconds.
    pub const SECONDS: f64 = SLOTS as f64;

    /// What became of requests lately.
    pub fn add(&mut self, now: Nanos, model: ModelId, point: CutPoint, outcomes: &Outcomes) {
        self.forget(now);
        if self.slots.back().is_none_or(|(at, _)| now >= *at + SLOT) {
            self.slots.push_back((now, Points::new()));
        }
        if let Some((_, points)) = self.slots.back_mut()
            && (points.len() < MOST_POINTS || points.contains_key(&(model, point)))
        {
            *points.entry((model, point)).or_default() += outcomes;
        }
    }

    fn forget(&mut self, now: Nanos) {
        while self.slots.front().is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.slots.pop_front();
        }
    }

    /// By model and partition point.
    pub fn points(&self, now: Nanos) -> Points {
        let mut sums = Points::new();
        let recent = self.slots.iter().filter(|(at, _)| *at + WINDOW > now);
        for (key, outcomes) in recent.flat_map(|(_, points)| points) {
            *sums.entry(*key).or_default() += outcomes;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_seconds_are_summed_up_and_forgotten() {
        let (mut recent, mut one) = (Recent::default(), Outcomes::default());
        one.answered(5.0, true);
        let model = ModelId([1; 32]);
        for half in 0..60u64 {
            recent.add(Nanos::from_millis(half * 500), model, CutPoint(3), &one);
        }
        let points = recent.points(Nanos::from_millis(29_900));
        let sum = points[&(model, CutPoint(3))].requests();
        assert!((18..=20).contains(&sum), "{sum}");
        assert!(recent.points(Nanos::from_millis(60_000)).is_empty());
    }
}
