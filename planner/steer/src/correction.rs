//! Corrects profiles by what runs took.
//!
//! For each kind of device, model and batch: the time that chunks took over the time that the profile gives them, over the latest
//! runs. A correction is changed only where it is off by enough, and known well enough: plans should not follow noise.

use std::collections::BTreeMap;

use graft_model::ModelId;
use graft_plan::{Profile, Profiles};
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
    seen: BTreeMap<(String, ModelId, u32), Seen>,
    times: BTreeMap<(String, ModelId, u32), f64>,
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
            let key = (run.kind.clone(), run.model, run.batch);
            let seen = self.seen.entry(key.clone()).or_default();
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
        each.map(|((kind, model, batch), &times)| Correction {
            kind: kind.clone(),
            model: *model,
            batch: *batch,
            times,
        })
        .collect()
    }

    /// A profile whose models are called by their identity, corrected. Batches that were not seen take as many times as
    /// long as the next smaller one that was, else as the next larger one.
    pub fn apply(&self, profile: &Profile) -> Profile {
        if self.times.is_empty() {
            return profile.clone();
        }
        let kind = &profile.device_kind;
        profile.times(|model, batch| model.parse().map_or(1.0, |model| self.times(kind, model, batch)))
    }

    fn times(&self, kind: &str, model: ModelId, batch: u32) -> f64 {
        let at = |batch: u32| (kind.to_owned(), model, batch);
        let below = self.times.range(at(0)..=at(batch)).next_back();
        let above = || self.times.range(at(batch)..=at(u32::MAX)).next();
        below.or_else(above).map_or(1.0, |(_, times)| *times)
    }

    /// What workers are to take for their runs, for all batches of all profiles.
    pub fn of_profiles(&self, profiles: &Profiles) -> Vec<Correction> {
        let kinds = profiles.kinds().iter();
        kinds.flat_map(|profile| self.of_profile(profile)).collect()
    }

    fn of_profile(&self, profile: &Profile) -> Vec<Correction> {
        let kind = &profile.device_kind;
        let models = profile
            .models
            .keys()
            .filter_map(|name| name.parse::<ModelId>().ok());
        let each = models.flat_map(|model| profile.batches.iter().map(move |&batch| (model, batch)));
        each.map(|(model, batch)| Correction {
            kind: kind.clone(),
            model,
            batch,
            times: self.times(kind, model, batch),
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
            kind: "cpu".to_owned(),
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
        assert!((corrections.times("cpu", MODEL, 1) - 1.5).abs() < 1e-9);
        assert!((corrections.times("cpu", MODEL, 8) - 1.5).abs() < 1e-9);
        assert_eq!(corrections.times("cpu", ModelId([4; 32]), 2), 1.0);
        assert_eq!(corrections.times("gpu", MODEL, 2), 1.0);
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
        assert!((corrections.times("cpu", MODEL, 1) - 2.0).abs() < 0.2);
        // It comes down again, too.
        (0..100).for_each(|_| drop(corrections.report(&[runs(1, 1.0)])));
        assert!(corrections.times("cpu", MODEL, 1) < 1.25);
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
