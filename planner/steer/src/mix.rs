//! What has been asked for lately, over all routers.

use std::collections::BTreeMap;

use graft_model::{CutPoint, ModelId};
use graft_plan::{MOST_BURSTY, Nanos};
use graft_wire::MixEntry;

use crate::wanted::Wanted;

/// Classes that are remembered at most; at the bound the longest unseen is forgotten.
const MAX_CLASSES: usize = 16_384;
/// Time that a class which is not seen any more keeps its route, at the least rate.
const REMEMBER: Nanos = Nanos::from_millis(30_000);
/// Rate that is planned for at least, in requests per second.
const LEAST_RATE: f64 = 0.1;

/// Index of dispersion below which bursts may be chance: its standard deviation over ten seconds is a tenth to a half.
const BURSTY: f64 = 1.75;

/// Part of a partition point's requests that may be tighter than what is planned for.
const STRAYS: f64 = 0.005;

/// Budgets are the bounds of classes: equal ones have equal bits.
type Key = (ModelId, CutPoint, u64);

#[derive(Debug, Clone)]
struct Seen {
    budget_ms: f64,
    last: Nanos,
    /// By router: its latest rate, and that times its index of dispersion.
    rates: BTreeMap<String, Flow>,
    /// From before a restart: counts as far as routers don't report as much.
    remembered: Flow,
}

/// A rate, and the rate times its index of dispersion: both add up over independent flows.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    rate: f64,
    variance: f64,
}

impl std::ops::AddAssign for Flow {
    fn add_assign(&mut self, other: Self) {
        self.rate += other.rate;
        self.variance += other.variance;
    }
}

impl Flow {
    fn of(rate: f64, burstiness: f64) -> Self {
        let sound = if burstiness.is_finite() { burstiness } else { 1.0 };
        Flow {
            rate,
            variance: rate * sound.clamp(1.0, MOST_BURSTY),
        }
    }

    /// The index of dispersion, in steps; what may be chance is none.
    fn burstiness(self) -> f64 {
        let index = if self.rate > 0.0 {
            self.variance / self.rate
        } else {
            1.0
        };
        if index < BURSTY {
            1.0
        } else {
            (index * 2.0).round() / 2.0
        }
    }
}

impl Seen {
    fn flow(&self) -> Flow {
        let mut sum = Flow::default();
        self.rates.values().for_each(|flow| sum += *flow);
        if sum.rate < self.remembered.rate {
            self.remembered
        } else {
            sum
        }
    }

    fn rate(&self) -> f64 {
        self.flow().rate
    }
}

/// What has been asked for lately.
#[derive(Debug, Default)]
pub struct ObservedMix {
    classes: BTreeMap<Key, Seen>,
}

impl ObservedMix {
    /// A router's report: all classes that it sees now.
    pub fn report(&mut self, now: Nanos, router: &str, entries: &[MixEntry]) {
        for seen in self.classes.values_mut() {
            seen.rates.remove(router);
        }
        for entry in entries {
            let (model, point) = (entry.model, entry.partition_point);
            if let Some(seen) = self.class(now, model, point, entry.budget_ms, entry.rate_rps) {
                *seen.rates.entry(router.to_owned()).or_default() +=
                    Flow::of(entry.rate_rps, entry.burstiness);
            }
        }
        self.forget(now);
    }

    /// The class of what was observed; `None`: its figures make no sense.
    fn class(
        &mut self,
        now: Nanos,
        model: ModelId,
        point: CutPoint,
        budget_ms: f64,
        rate_rps: f64,
    ) -> Option<&mut Seen> {
        let sound = |v: f64| v.is_finite() && v > 0.0;
        if !sound(budget_ms) || !sound(rate_rps) {
            return None;
        }
        let key = (model, point, budget_ms.to_bits());
        let seen = self.classes.entry(key).or_insert_with(|| Seen {
            budget_ms,
            last: now,
            rates: BTreeMap::new(),
            remembered: Flow::default(),
        });
        seen.last = now;
        Some(seen)
    }

    /// What was observed before a restart; it counts until [`forget_restart`](Self::forget_restart), as far as
    /// routers don't report as much.
    pub fn remember(&mut self, now: Nanos, before: &[Wanted]) {
        for w in before {
            if let Some(seen) = self.class(now, w.model, w.point, w.budget_ms, w.rate_rps) {
                seen.remembered += Flow::of(w.rate_rps, w.burstiness);
            }
        }
    }

    /// What was observed before a restart counts no longer.
    pub fn forget_restart(&mut self) {
        for seen in self.classes.values_mut() {
            seen.remembered = Flow::default();
        }
    }

    /// A router is gone; what it reported is remembered for a while.
    pub fn router_left(&mut self, router: &str) {
        for seen in self.classes.values_mut() {
            seen.rates.remove(router);
        }
    }

    fn forget(&mut self, now: Nanos) {
        self.classes
            .retain(|_, seen| seen.rate() > 0.0 || now < seen.last + REMEMBER);
        while self.classes.len() > MAX_CLASSES {
            let oldest = self.classes.iter().min_by_key(|(_, s)| s.last).map(|(k, _)| *k);
            let Some(oldest) = oldest else { break };
            self.classes.remove(&oldest);
        }
    }

    /// What must be served, by the ids of the fragments; `standing`: what is served in any case.
    ///
    /// Of the classes at one partition point the tightest that make up less than [`STRAYS`] of its requests are
    /// counted with the next looser one: single requests that started late must not make everybody's stages
    /// dear. A class that is not seen any more counts only where its partition point has no other.
    pub fn wanted(&self, standing: &[Wanted]) -> Vec<Wanted> {
        let mut points: BTreeMap<(ModelId, CutPoint), Vec<(f64, Flow)>> = BTreeMap::new();
        for ((model, point, _), seen) in &self.classes {
            let flow = seen.flow();
            points
                .entry((*model, *point))
                .or_default()
                .push((seen.budget_ms, flow));
        }
        let mut wanted = vec![];
        for ((model, point), mut classes) in points {
            let total: f64 = classes.iter().map(|c| c.1.rate).sum();
            classes.sort_by(|a, b| a.0.total_cmp(&b.0));
            if total > 0.0 {
                classes.retain(|c| c.1.rate > 0.0);
            }
            let mut stray = Flow::default();
            while let [tightest, _, ..] = classes.as_slice()
                && stray.rate + tightest.1.rate < STRAYS * total
            {
                stray += tightest.1;
                classes.remove(0);
            }
            if let Some(first) = classes.first_mut() {
                first.1 += stray;
            }
            wanted.extend(classes.into_iter().map(|(budget_ms, flow)| Wanted {
                model,
                point,
                budget_ms,
                rate_rps: flow.rate.max(LEAST_RATE),
                burstiness: flow.burstiness(),
                standing: false,
            }));
        }
        wanted.extend_from_slice(standing);
        wanted.sort_by_cached_key(Wanted::id);
        wanted.dedup_by_key(|w| w.id());
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_stops_is_remembered_for_a_while() {
        let mut mix = ObservedMix::default();
        let seen = MixEntry {
            model: ModelId([1; 32]),
            partition_point: CutPoint(3),
            budget_ms: 50.0,
            rate_rps: 7.0,
            burstiness: 1.0,
        };
        mix.report(Nanos::ZERO, "r", &[seen]);
        assert!((mix.wanted(&[])[0].rate_rps - 7.0).abs() < 1e-9);
        mix.report(Nanos::from_millis(1000), "r", &[]);
        assert_eq!(mix.wanted(&[]).len(), 1);
        mix.report(Nanos::from_millis(40_000), "r", &[]);
        assert!(mix.wanted(&[]).is_empty());
    }
}
