//! What comes in, as rates over a sliding window.

use std::collections::{BTreeMap, VecDeque};

use graft_model::{CutPoint, ModelId};
use graft_plan::{BURST_WINDOW, Nanos, nanos_to_ms};
use graft_wire::MixEntry;

/// Time between two reports of a router.
pub const REPORT_EVERY: Nanos = Nanos::from_millis(500);
/// Least time between two urgent reports.
pub const URGENT_EVERY: Nanos = Nanos::from_millis(100);
/// Window over which a router observes rates: number of slots, and their length.
const WINDOW: (usize, Nanos) = (10, Nanos::from_millis(1000));

/// Classes that are told apart at most; requests of further ones are not counted.
const MAX_CLASSES: usize = 4096;
/// Factor by which budgets of one class differ at most.
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

/// Requests of a class that came in since they were last taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arrived {
    count: u64,
    /// Sum of the squares of the counts in windows of [`BURST_WINDOW`].
    squares: u64,
    /// The present window, and its count.
    window: u64,
    in_window: u64,
}

impl Arrived {
    /// One more.
    pub fn add(&mut self, now: Nanos) {
        let window = now.0 / BURST_WINDOW.0;
        if window != self.window {
            self.close();
            self.window = window;
        }
        self.in_window += 1;
        self.count += 1;
    }

    fn close(&mut self) {
        self.squares += self.in_window * self.in_window;
        self.in_window = 0;
    }

    /// All of them.
    fn closed(mut self) -> Counted {
        self.close();
        Counted {
            count: self.count,
            squares: self.squares,
        }
    }
}

/// Requests of a class within a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    count: u64,
    squares: u64,
}

impl Counted {
    /// Variance over mean of the counts in `windows` windows.
    fn dispersion(self, windows: f64) -> f64 {
        let (sum, squares) = (self.count as f64, self.squares as f64);
        (squares / sum - sum / windows) * windows / (windows - 1.0)
    }
}

/// A part of the window.
#[derive(Debug)]
struct Slot {
    began: Nanos,
    /// The time in which its requests came in.
    covers: Nanos,
    classes: BTreeMap<ClassKey, Counted>,
}

/// Number of latest slots that say what a rate is lately.
const LATELY: usize = 3;
/// Standard deviations by which the rate lately must differ from that of the whole window to count instead of it.
const DEVIATIONS: f64 = 3.0;

/// A class's requests over the window.
#[derive(Debug, Default)]
struct Sum {
    count: u64,
    /// Those of the latest slots.
    lately: u64,
    /// Indices of dispersion, weighted by requests.
    dispersion: f64,
}

impl Sum {
    /// Over the whole window; over its last part where that is certainly another one: a rate that has moved.
    fn rate(&self, seconds: f64, lately_s: f64) -> f64 {
        let (all, lately) = (self.count as f64 / seconds, self.lately as f64 / lately_s);
        let spread = (self.dispersion / self.count.max(1) as f64).max(1.0);
        let deviation = (all.max(lately) * spread / lately_s).sqrt();
        if (lately - all).abs() > DEVIATIONS * deviation {
            lately
        } else {
            all
        }
    }
}

fn covered<'s>(slots: impl Iterator<Item = &'s Slot>) -> f64 {
    slots.map(|s| s.covers.as_secs()).sum()
}

/// Counts of the last seconds.
#[derive(Debug)]
pub struct MixWindow {
    slot: Nanos,
    slots: usize,
    /// Oldest first.
    history: VecDeque<Slot>,
    /// Until then requests were counted.
    counted_to: Nanos,
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
            counted_to: now,
        }
    }

    /// Requests of a class came in until about `now`.
    pub fn add(&mut self, now: Nanos, key: ClassKey, arrived: Arrived) {
        self.advance(now);
        let known = self.history.iter().map(|s| s.classes.len()).max().unwrap_or(0);
        if let Some(newest) = self.history.back_mut()
            && (known < MAX_CLASSES || newest.classes.contains_key(&key))
        {
            let (sum, more) = (newest.classes.entry(key).or_default(), arrived.closed());
            sum.count += more.count;
            sum.squares += more.squares;
        }
    }

    fn advance(&mut self, now: Nanos) {
        let oldest_kept = now - Nanos(self.slot.0.saturating_mul(self.slots as u64));
        while self
            .history
            .front()
            .is_some_and(|s| s.began + self.slot < oldest_kept)
        {
            self.history.pop_front();
        }
        match self.history.back() {
            Some(newest) if now < newest.began + self.slot => {}
            _ => self.history.push_back(Slot {
                began: now,
                covers: Nanos::ZERO,
                classes: BTreeMap::new(),
            }),
        }
        while self.history.len() > self.slots {
            self.history.pop_front();
        }
        // What is counted now came in since it was counted last.
        let since = now - self.counted_to;
        self.counted_to = now;
        if let Some(newest) = self.history.back_mut() {
            newest.covers += since;
        }
    }

    /// The rates over the window, and its length in seconds.
    pub fn rates(&mut self, now: Nanos) -> (f64, Vec<MixEntry>) {
        self.advance(now);
        // A window that has just begun would make a rate of a single request.
        let seconds = covered(self.history.iter()).max(self.slot.as_secs());
        let lately = self.history.len().saturating_sub(LATELY);
        let lately_s = covered(self.history.iter().skip(lately)).max(self.slot.as_secs());
        let mut sums: BTreeMap<ClassKey, Sum> = BTreeMap::new();
        for (number, slot) in self.history.iter().enumerate() {
            let windows = (slot.covers.as_secs() / BURST_WINDOW.as_secs()).max(2.0);
            for (key, counted) in &slot.classes {
                let sum = sums.entry(*key).or_default();
                sum.count += counted.count;
                sum.lately += if number >= lately { counted.count } else { 0 };
                // Within each slot by itself: a rate that moves is not a burst.
                sum.dispersion += counted.count as f64 * counted.dispersion(windows);
            }
        }
        // What rises is seen sooner than what falls: together they are no more than what came in of their model.
        let mut models: BTreeMap<ModelId, (Sum, f64)> = BTreeMap::new();
        for (key, sum) in &sums {
            let (all, classes) = models.entry(key.model).or_default();
            all.count += sum.count;
            all.lately += sum.lately;
            all.dispersion += sum.dispersion;
            *classes += sum.rate(seconds, lately_s);
        }
        let scale = |model: &ModelId| {
            let scale = models
                .get(model)
                .map(|(all, classes)| all.rate(seconds, lately_s) / classes);
            scale.map_or(1.0, |scale| scale.min(1.0))
        };
        let entries = sums
            .into_iter()
            .map(|(key, sum)| MixEntry {
                model: key.model,
                partition_point: key.partition_point,
                budget_ms: key.budget.least_ms(),
                rate_rps: sum.rate(seconds, lately_s) * scale(&key.model),
                burstiness: (sum.dispersion / sum.count.max(1) as f64).max(0.0),
            })
            .collect();
        (seconds, entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use graft_model::SplitMix;
    use proptest::prelude::*;

    fn key(point: u16) -> ClassKey {
        ClassKey {
            model: ModelId([0; 32]),
            partition_point: CutPoint(point),
            budget: BudgetClass::of(Nanos::from_millis(50)),
        }
    }

    fn arrived(at_ms: &[u64]) -> Arrived {
        let mut arrived = Arrived::default();
        at_ms.iter().for_each(|&ms| arrived.add(Nanos::from_millis(ms)));
        arrived
    }

    #[test]
    fn bursts_are_told_from_single_requests_and_from_a_rate_that_moves() {
        let burstiness = |at_ms: &dyn Fn(u64) -> Vec<u64>| {
            let mut window = MixWindow::new(Nanos::ZERO, Nanos::from_millis(1000), 10);
            for half in 0..20u64 {
                let within: Vec<u64> = at_ms(half).iter().map(|ms| half * 500 + ms).collect();
                window.add(Nanos::from_millis(half * 500 + 499), key(3), arrived(&within));
            }
            window.rates(Nanos::from_millis(10_000)).1[0].burstiness
        };
        // Evenly: less than by chance.
        assert!(burstiness(&|_| (0..50).map(|i| i * 10).collect()) < 0.1);
        // Twice as many in every other second.
        let swings = |half: u64| {
            let count = 50 * (1 + half / 2 % 2);
            (0..count).map(|i| i * 500 / count).collect()
        };
        assert!(burstiness(&swings) < 1.2, "{}", burstiness(&swings));
        // Eight at once, now and then: an index of about eight.
        let bursts = burstiness(&|half| vec![half * 37 % 450; 8]);
        assert!((5.0..9.0).contains(&bursts), "{bursts}");
        // At random: about one.
        let mut numbers = SplitMix(7);
        let (mut halves, mut at) = (vec![vec![]; 20], 0.0f64);
        while at < 10_000.0 {
            halves[at as usize / 500].push(at as u64 % 500);
            at -= 10.0 * numbers.part().ln();
        }
        let random = burstiness(&|half| halves[half as usize].clone());
        assert!((0.7..1.3).contains(&random), "{random}");
    }

    #[test]
    fn a_steady_stream_has_its_rate() {
        let mut window = MixWindow::new(Nanos::ZERO, Nanos::from_millis(1000), 10);
        for i in 0..2000u64 {
            window.add(Nanos::from_millis(i * 10), key(3), arrived(&[i * 10]));
        }
        let (_, entries) = window.rates(Nanos::from_millis(20_000));
        assert_eq!(entries.len(), 1);
        assert!((entries[0].rate_rps - 100.0).abs() < 6.0, "{entries:?}");
    }

    #[test]
    fn a_rate_that_moves_is_followed_within_seconds() {
        let mut window = MixWindow::new(Nanos::ZERO, Nanos::from_millis(1000), 10);
        let mut rate_at = |second: u64, rate: u64| {
            let within: Vec<u64> = (0..rate).map(|i| second * 1000 + i * 1000 / rate).collect();
            window.add(Nanos::from_millis(second * 1000 + 999), key(3), arrived(&within));
            let (_, entries) = window.rates(Nanos::from_millis(second * 1000 + 1000));
            entries[0].rate_rps
        };
        (0..10).for_each(|s| assert!(rate_at(s, 50) > 0.0));
        let risen: Vec<f64> = (10..13).map(|s| rate_at(s, 200)).collect();
        assert!(risen[2] > 180.0, "{risen:?}");
        let fallen: Vec<f64> = (13..17).map(|s| rate_at(s, 20)).collect();
        assert!(fallen[3] < 25.0, "{fallen:?}");
    }

    #[test]
    fn what_has_stopped_is_forgotten() {
        let mut window = MixWindow::new(Nanos::ZERO, Nanos::from_millis(1000), 10);
        window.add(Nanos::from_millis(500), key(3), arrived(&[400; 100]));
        assert!(window.rates(Nanos::from_millis(12_500)).1.is_empty());
    }

    #[test]
    fn the_number_of_classes_is_bounded() {
        let mut window = MixWindow::new(Nanos::ZERO, Nanos::from_millis(1000), 10);
        for point in 0..u16::MAX {
            window.add(Nanos::ZERO, key(point), arrived(&[0]));
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
