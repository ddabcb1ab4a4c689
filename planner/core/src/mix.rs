//! What has been asked for lately, over all routers.

use std::collections::BTreeMap;

use graft_model::CutPoint;
use graft_plan::{Fragment, Nanos, Workload};

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
}

/// Classes that are remembered at most; the longest unseen goes first.
const MAX_CLASSES: usize = 16_384;
/// A class that is not seen any more keeps its route for so long, at the least rate.
const REMEMBER: Nanos = Nanos::from_millis(30_000);
/// The least rate that is planned for, in requests per second.
const LEAST_RATE: f64 = 0.1;

type Key = (String, CutPoint, u64);

#[derive(Debug, Clone)]
struct Seen {
    budget_ms: f64,
    last: Nanos,
    /// By router: its latest rate.
    rates: BTreeMap<String, f64>,
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
            let sound = |v: f64| v.is_finite() && v > 0.0;
            if !sound(entry.budget_ms) || !sound(entry.rate_rps) {
                continue;
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
            });
            seen.last = now;
            *seen.rates.entry(router.to_owned()).or_default() += entry.rate_rps;
        }
        self.forget(now);
    }

    /// A router is gone; what it reported is remembered for a while.
    pub fn router_left(&mut self, router: &str) {
        for seen in self.classes.values_mut() {
            seen.rates.remove(router);
        }
    }

    fn forget(&mut self, now: Nanos) {
        self.classes
            .retain(|_, seen| !seen.rates.is_empty() || now < seen.last + REMEMBER);
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
    pub fn workload(&self, headroom: f64, standing: &[Fragment]) -> Workload {
        let mut fragments: Vec<Fragment> = self
            .classes
            .iter()
            .map(|((model, point, _), seen)| Fragment {
                id: format!(
                    "{}/{point}/{:.3}ms",
                    model.get(..12).unwrap_or(model),
                    seen.budget_ms
                ),
                model: model.clone(),
                partition_point: *point,
                budget_ms: seen.budget_ms,
                rate_rps: seen.rates.values().sum::<f64>().max(LEAST_RATE),
            })
            .collect();
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
