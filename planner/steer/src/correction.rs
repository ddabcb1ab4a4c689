//! Corrects profiles by what runs took.
//!
//! For each model and batch: the time that chunks took over the time that the profile gives them, over the latest
//! runs. A correction is changed only where it is off by enough, and known well enough: plans should not follow noise.

use std::collections::BTreeMap;

use graft_model::ModelId;
use graft_plan::Profile;
use graft_wire::{Correction, RunsTook};

/// Time for which runs count, about, in milliseconds of the device's time by the profile.
const MEMORY_MS: f64 = 4_000.0;
/// Time and chunks that must have been seen before a correction is made; the time in milliseconds.
const ENOUGH_MS: f64 = 500.0;
const ENOUGH_CHUNKS: f64 = 50.0;
/// Parts by which runs must take longer for a correction to be raised, and less for it to be lowered.
const SLOWER: f64 = 0.1;
const FASTER: f64 = 0.2;
/// Least and largest correction, as multiples of what was measured: beyond, something else is wrong.
const LEAST: f64 = 0.25;
const MOST: f64 = 8.0;

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    chunks: f64,
    expected_ms: f64,
    took_ms: f64,
}

/// What runs take, as multiples of what profiles say.
#[derive(Debug, Default)]
pub struct Corrections {
    seen: BTreeMap<(ModelId, u32), Seen>,
    times: BTreeMap<(ModelId, u32), f64>,
}

/// A model's runs take so many times what was planned for: from, to; the largest of its corrections that moved.
pub type Moved = (ModelId, f64, f64);

impl Corrections {
    /// A worker's report. What moved, if anything did.
    pub fn report(&mut self, runs: &[RunsTook]) -> Vec<Moved> {
        let mut moved: BTreeMap<ModelId, (f64, f64)> = BTreeMap::new();
        for run in runs {
            let sound = |v: f64| v.is_finite() && v > 0.0;
            if !sound(run.expected_ms) || !sound(run.took_ms) {
                continue;
            }
            let key = (run.model, run.batch);
            let seen = self.seen.entry(key).or_default();
            let stays = (-run.expected_ms / MEMORY_MS).exp();
            seen.chunks = seen.chunks * stays + run.chunks as f64;
            seen.expected_ms = seen.expected_ms * stays + run.expected_ms;
            seen.took_ms = seen.took_ms * stays + run.took_ms;
            if seen.expected_ms < ENOUGH_MS || seen.chunks < ENOUGH_CHUNKS {
                continue;
            }
            let now = (seen.took_ms / seen.expected_ms).clamp(LEAST, MOST);
            let before = self.times.get(&key).copied().unwrap_or(1.0);
            if now > before * (1.0 + SLOWER) || now < before * (1.0 - FASTER) {
                self.times.insert(key, now);
                let of_model = moved.entry(run.model).or_insert((before, now));
                if (now / before).ln().abs() > (of_model.1 / of_model.0).ln().abs() {
                    *of_model = (before, now);
                }
            }
        }
        moved
            .into_iter()
            .map(|(model, (from, to))| (model, from, to))
            .collect()
    }

    /// All of them.
    pub fn list(&self) -> Vec<Correction> {
        let each = self.times.iter();
        each.map(|(&(model, batch), &times)| Correction { model, batch, times })
            .collect()
    }

    /// A profile whose models are called by their identity, corrected. Batches that were not seen take as many times as
    /// long as the next smaller one that was, else as the next larger one.
    pub fn apply(&self, profile: &Profile) -> Profile {
        if self.times.is_empty() {
            return profile.clone();
        }
        profile.times(|model, batch| model.parse().map_or(1.0, |model| self.times(model, batch)))
    }

    fn times(&self, model: ModelId, batch: u32) -> f64 {
        let below = self.times.range((model, 0)..=(model, batch)).next_back();
        let above = || self.times.range((model, batch)..=(model, u32::MAX)).next();
        below.or_else(above).map_or(1.0, |(_, times)| *times)
    }

    /// What workers are to take for their runs, for all batches of a profile.
    pub fn of_profile(&self, profile: &Profile) -> Vec<Correction> {
        let models = profile
            .models
            .keys()
            .filter_map(|name| name.parse::<ModelId>().ok());
        let each = models.flat_map(|model| profile.batches.iter().map(move |&batch| (model, batch)));
        each.map(|(model, batch)| Correction {
            model,
            batch,
            times: self.times(model, batch),
        })
        .filter(|c| c.times != 1.0)
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ModelId = ModelId([3; 32]);

    fn runs(batch: u32, times: f64) -> RunsTook {
        RunsTook {
            model: MODEL,
            batch,
            chunks: 40,
            expected_ms: 300.0,
            took_ms: 300.0 * times,
        }
    }

    #[test]
    fn what_takes_longer_is_corrected_when_it_is_certain() {
        let mut corrections = Corrections::default();
        assert!(corrections.report(&[runs(2, 1.5)]).is_empty());
        let moved = corrections.report(&[runs(2, 1.5)]);
        assert_eq!(moved.len(), 1);
        assert!((moved[0].2 - 1.5).abs() < 1e-9);
        // Others of the model as well, as long as they are not known themselves.
        assert!((corrections.times(MODEL, 1) - 1.5).abs() < 1e-9);
        assert!((corrections.times(MODEL, 8) - 1.5).abs() < 1e-9);
        assert_eq!(corrections.times(ModelId([4; 32]), 2), 1.0);
        // A little more is nothing.
        assert!((0..50).all(|_| corrections.report(&[runs(2, 1.55)]).is_empty()));
    }

    #[test]
    fn noise_moves_nothing_and_a_change_is_followed() {
        let mut corrections = Corrections::default();
        let noisy = |i: u32| if i.is_multiple_of(2) { 0.9 } else { 1.1 };
        assert!((0..100).all(|i| corrections.report(&[runs(1, noisy(i))]).is_empty()));
        let moved: Vec<Moved> = (0..60)
            .flat_map(|_| corrections.report(&[runs(1, 2.0)]))
            .collect();
        assert!((2..=8).contains(&moved.len()), "{moved:?}");
        assert!((corrections.times(MODEL, 1) - 2.0).abs() < 0.2);
        // It comes down again, too.
        (0..100).for_each(|_| drop(corrections.report(&[runs(1, 1.0)])));
        assert!(corrections.times(MODEL, 1) < 1.25);
        assert!(
            corrections
                .report(&[RunsTook {
                    took_ms: f64::NAN,
                    ..runs(1, 1.0)
                }])
                .is_empty()
        );
    }
}
