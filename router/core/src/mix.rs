//! What comes in, as rates over a sliding window.

use std::collections::{BTreeMap, VecDeque};

use graft_model::{CutPoint, ModelId};
use graft_plan::{Nanos, nanos_to_ms};
use graft_wire::MixEntry;

/// Time between two reports of a router.
pub const REPORT_EVERY: Nanos = Nanos::from_millis(500);
/// Least time between two urgent reports.
pub const URGENT_EVERY: Nanos = Nanos::from_millis(100);
/// The window over which a router observes rates: slots and their length.
const WINDOW: (usize, Nanos) = (10, Nanos::from_millis(1000));

/// Classes that are told apart at most; requests of further ones are not counted.
const MAX_CLASSES: usize = 4096;
/// Budgets of one class differ by at most this factor.
const CLASS_WIDTH: f64 = 1.25;

/// A class of budgets: from `1.25^k` milliseconds up to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BudgetClass(pub i16);

impl BudgetClass {
    /// The class of a budget.
    pub fn of(budget: Nanos) -> Self {
        let ms = nanos_to_ms(budget).max(1e-3);
        // The small addend keeps a class's own lower bound in the class.
        BudgetClass((ms.ln() / CLASS_WIDTH.ln() + 1e-9).floor() as i16)
    }

    /// The least budget of the class, in milliseconds: what is planned for.
    pub fn least_ms(self) -> f64 {
        CLASS_WIDTH.powi(i32::from(self.0))
    }
}

/// Requests that are planned for together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassKey {
    /// The model.
    pub model: ModelId,
    /// Where the clients hand over.
    pub partition_point: CutPoint,
    /// Their budgets.
    pub budget: BudgetClass,
}

/// Counts of the last seconds.
#[derive(Debug)]
pub struct MixWindow {
    slot: Nanos,
    slots: usize,
    /// Oldest first: when it began, and what came in.
    history: VecDeque<(Nanos, BTreeMap<ClassKey, u64>)>,
    started: Nanos,
}

impl MixWindow {
    /// A router's window: the last ten seconds.
    pub fn of_router(now: Nanos) -> Self {
        Self::new(now, WINDOW.1, WINDOW.0)
    }

    /// A window of `slots` slots of a length each.
    pub fn new(now: Nanos, slot: Nanos, slots: usize) -> Self {
        MixWindow {
            slot,
            slots: slots.max(1),
            history: VecDeque::new(),
            started: now,
        }
    }

    /// `count` requests of a class came in at about `now`.
    pub fn add(&mut self, now: Nanos, key: ClassKey, count: u64) {
        self.advance(now);
        let known = self.history.iter().map(|(_, m)| m.len()).max().unwrap_or(0);
        if let Some((_, newest)) = self.history.back_mut()
            && (known < MAX_CLASSES || newest.contains_key(&key))
        {
            *newest.entry(key).or_default() += count;
        }
    }

    fn advance(&mut self, now: Nanos) {
        let oldest_kept = now - Nanos(self.slot.0.saturating_mul(self.slots as u64));
        while self
            .history
            .front()
            .is_some_and(|(at, _)| *at + self.slot < oldest_kept)
        {
            self.history.pop_front();
        }
        match self.history.back() {
            Some((at, _)) if now < *at + self.slot => {}
            _ => self.history.push_back((now, BTreeMap::new())),
        }
        while self.history.len() > self.slots {
            self.history.pop_front();
        }
    }

    /// The rates over the window, and its length in seconds.
    pub fn rates(&mut self, now: Nanos) -> (f64, Vec<MixEntry>) {
        self.advance(now);
        let begin = self.history.front().map_or(now, |(at, _)| *at).max(self.started);
        // A window that has just begun would make a rate of a single request.
        let seconds = (now - begin).as_secs().max(self.slot.as_secs());
        let mut sums: BTreeMap<ClassKey, u64> = BTreeMap::new();
        for (key, count) in self.history.iter().flat_map(|(_, m)| m) {
            *sums.entry(*key).or_default() += count;
        }
        let entries = sums
            .into_iter()
            .map(|(key, count)| MixEntry {
                model: key.model,
                partition_point: key.partition_point,
                budget_ms: key.budget.least_ms(),
                rate_rps: count as f64 / seconds,
            })
            .collect();
        (seconds, entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(point: u16) -> ClassKey {
        ClassKey {
            model: ModelId([0; 32]),
            partition_point: CutPoint(point),
            budget: BudgetClass::of(Nanos::from_millis(50)),
        }
    }

    #[test]
    fn a_steady_stream_has_its_rate() {
        let mut window = MixWindow::new(Nanos::ZERO, Nanos::from_millis(1000), 10);
        for i in 0..2000u64 {
            window.add(Nanos::from_millis(i * 10), key(3), 1);
        }
        let (_, entries) = window.rates(Nanos::from_millis(20_000));
        assert_eq!(entries.len(), 1);
        assert!((entries[0].rate_rps - 100.0).abs() < 6.0, "{entries:?}");
    }

    #[test]
    fn what_has_stopped_is_forgotten() {
        let mut window = MixWindow::new(Nanos::ZERO, Nanos::from_millis(1000), 10);
        window.add(Nanos::from_millis(500), key(3), 100);
        assert!(window.rates(Nanos::from_millis(12_500)).1.is_empty());
    }

    #[test]
    fn the_number_of_classes_is_bounded() {
        let mut window = MixWindow::new(Nanos::ZERO, Nanos::from_millis(1000), 10);
        for point in 0..u16::MAX {
            window.add(Nanos::ZERO, key(point), 1);
        }
        assert_eq!(window.rates(Nanos::ZERO).1.len(), MAX_CLASSES);
    }

    proptest! {
        #[test]
        fn a_class_never_promises_more_than_its_budgets(us in 1u64..100_000_000) {
            let budget = Nanos(us * 1000);
            let least = BudgetClass::of(budget).least_ms();
            prop_assert!(least <= nanos_to_ms(budget) * (1.0 + 1e-6));
            prop_assert!(least * CLASS_WIDTH * (1.0 + 1e-6) >= nanos_to_ms(budget));
        }
    }
}
