//! What has been asked for lately, over all routers.

use std::collections::BTreeMap;

use graft_model::CutPoint;
use graft_plan::{Fragment, MOST_BURSTY, Nanos, Workload};

/// A class of clients as a router observed it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The model's name in the profile.
    pub model: String,
    /// Where its clients hand over.
    pub partition_point: CutPoint,
    /// The least budget of the class, in milliseconds.
    pub budget_ms: f64,
    /// Requests per second.
    pub rate_rps: f64,
    /// Index of dispersion of its arrivals.
    pub burstiness: f64,
}

/// Classes that are remembered at most; the longest unseen goes first.
const MAX_CLASSES: usize = 16_384;
/// A class that is not seen any more keeps its route for so long, at the least rate.
const REMEMBER: Nanos = Nanos::from_millis(30_000);
/// The least rate that is planned for, in requests per second.
const LEAST_RATE: f64 = 0.1;

/// An index of dispersion below may be chance: its standard deviation over ten seconds is a tenth to a half.
const BURSTY: f64 = 1.75;

/// Part of a partition point's requests that may be tighter than what is planned for.
const STRAYS: f64 = 0.005;

type Key = (String, CutPoint, u64);

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
    fn of(entry: &Observation) -> Self {
        let sound = if entry.burstiness.is_finite() {
            entry.burstiness
        } else {
            1.0
        };
        Flow {
            rate: entry.rate_rps,
            variance: entry.rate_rps * sound.clamp(1.0, MOST_BURSTY),
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
    pub fn report(&mut self, now: Nanos, router: &str, entries: &[Observation]) {
        for seen in self.classes.values_mut() {
            seen.rates.remove(router);
        }
        for entry in entries {
            if let Some(seen) = self.class(now, entry) {
                *seen.rates.entry(router.to_owned()).or_default() += Flow::of(entry);
            }
        }
        self.forget(now);
    }

    /// The class of what was observed; `None`: its figures make no sense.
    fn class(&mut self, now: Nanos, entry: &Observation) -> Option<&mut Seen> {
        let sound = |v: f64| v.is_finite() && v > 0.0;
        if !sound(entry.budget_ms) || !sound(entry.rate_rps) {
            return None;
        }
        // Budgets are class bounds: equal ones have equal bits.
        let key = (
            entry.model.clone(),
            entry.partition_point,
            entry.budget_ms.to_bits(),
        );
        let seen = self.classes.entry(key).or_insert_with(|| Seen {
            budget_ms: entry.budget_ms,
            last: now,
            rates: BTreeMap::new(),
            remembered: Flow::default(),
        });
        seen.last = now;
        Some(seen)
    }

    /// What was observed before a restart; it counts until [`forget_restart`](Self::forget_restart), as far as
    /// routers don't report as much.
    pub fn remember(&mut self, now: Nanos, workload: &Workload) {
        for fragment in &workload.fragments {
            let entry = Observation {
                model: fragment.model.clone(),
                partition_point: fragment.partition_point,
                budget_ms: fragment.budget_ms,
                rate_rps: fragment.rate_rps,
                burstiness: fragment.burstiness,
            };
            if let Some(seen) = self.class(now, &entry) {
                seen.remembered += Flow::of(&entry);
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
            let oldest = self
                .classes
                .iter()
                .min_by_key(|(_, s)| s.last)
                .map(|(k, _)| k.clone());
            let Some(oldest) = oldest else { break };
            self.classes.remove(&oldest);
        }
    }

    /// What must be served, with `standing` fragments that are served in any case.
    ///
    /// Of the classes at one partition point the tightest that make up less than [`STRAYS`] of its requests are
    /// counted with the next looser one: single requests that started late must not make everybody's stages
    /// dear. A class that is not seen any more counts only where its partition point has no other.
    pub fn workload(&self, headroom: f64, standing: &[Fragment]) -> Workload {
        let mut points: BTreeMap<(&str, CutPoint), Vec<(f64, Flow)>> = BTreeMap::new();
        for ((model, point, _), seen) in &self.classes {
            let flow = seen.flow();
            points
                .entry((model, *point))
                .or_default()
                .push((seen.budget_ms, flow));
        }
        let mut fragments = vec![];
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
            fragments.extend(classes.into_iter().map(|(budget_ms, flow)| Fragment {
                id: format!("{}/{point}/{budget_ms:.3}ms", model.get(..12).unwrap_or(model)),
                model: model.to_owned(),
                partition_point: point,
                budget_ms,
                rate_rps: flow.rate.max(LEAST_RATE),
                burstiness: flow.burstiness(),
            }));
        }
        for fragment in standing {
            if !fragments.iter().any(|f| f.id == fragment.id) {
                fragments.push(fragment.clone());
            }
        }
        fragments.sort_by(|a, b| a.id.cmp(&b.id));
        fragments.dedup_by(|a, b| a.id == b.id);
        Workload {
            version: 1,
            headroom,
            fragments,
        }
    }
}
