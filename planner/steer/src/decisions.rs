//! The decisions of a planner: why, what was expected of them, and what came of them.

use std::collections::VecDeque;

use graft_plan::Epoch;
use graft_planner_search::ChangeCounts;
use graft_wire::Outcomes;
use serde::{Deserialize, Serialize};

/// Decisions that are remembered at most; the oldest go first.
pub const MOST_DECISIONS: usize = 1000;

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The plan's number.
    pub epoch: Epoch,
    /// When it was made: milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Why another plan was made.
    pub cause: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What was expected of the plan.
    pub predicted: Predicted,
    /// What was measured while it was in use.
    pub measured: Option<Measured>,
}

/// What became of a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// Workers prepare, or routers switch.
    RollingOut,
    /// All routers use the plan.
    InUse,
    /// Another plan took its place.
    Replaced,
    /// It would have saved too little: the plan before stayed.
    NotWorth,
    /// A newer plan overtook it.
    Overtaken,
    /// It could not be used, and why.
    Failed {
        /// For people.
        why: String,
    },
}

/// What was expected of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Its share.
    pub share: u64,
    /// The share of the plan before.
    pub share_before: Option<u64>,
    /// Fragments that it serves.
    pub fragments: usize,
    /// Requests per second that it serves.
    pub rate_rps: f64,
    /// Part of the observed rates that it carries: below 1 devices ran out.
    pub part: f64,
    /// Fragments that it does not serve.
    pub infeasible: usize,
    /// Attainment in a simulation; `None`: it was not simulated yet.
    pub attainment: Option<f64>,
    /// What making it took, in milliseconds.
    pub planning_ms: f64,
    /// What becomes of the partitions of the plan before.
    #[serde(default)]
    pub changed: ChangeCounts,
}

/// What was measured while a plan was in use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// For so long, in seconds.
    pub seconds: f64,
    /// What became of its requests.
    pub outcomes: Outcomes,
    /// In time, of all; `None`: there were none.
    pub attainment: Option<f64>,
    /// Requests per second.
    pub rate_rps: f64,
    /// Latencies at the server, in milliseconds.
    pub p50_ms: Option<f64>,
    /// Of a hundred requests one takes longer.
    pub p99_ms: Option<f64>,
}

/// The latest decisions, by epoch.
#[derive(Debug, Default)]
pub struct DecisionLog {
    decisions: VecDeque<Decision>,
    in_use: Option<Epoch>,
    /// When the plan in use was switched to, in milliseconds since 1970.
    since_unix_ms: u64,
}

impl DecisionLog {
    /// Goes on from decisions that were kept, in the order of their epochs. None of them is in use any more.
    pub fn go_on_from(kept: Vec<Decision>) -> Self {
        let ended = |mut decision: Decision| {
            match decision.outcome {
                Outcome::InUse => decision.outcome = Outcome::Replaced,
                Outcome::RollingOut => {
                    let why = "the planner was restarted".to_owned();
                    decision.outcome = Outcome::Failed { why };
                }
                _ => {}
            }
            decision
        };
        DecisionLog {
            decisions: kept.into_iter().map(ended).collect(),
            ..DecisionLog::default()
        }
    }

    /// One more; the epoch of one that has to be forgotten for it.
    pub fn add(&mut self, decision: Decision) -> Option<Epoch> {
        self.decisions.push_back(decision);
        let over = self.decisions.len() > MOST_DECISIONS;
        over.then(|| self.decisions.pop_front().map(|d| d.epoch))?
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.decisions.iter()
    }

    /// One of them.
    pub fn get(&self, epoch: Epoch) -> Option<&Decision> {
        let at = self.decisions.binary_search_by_key(&epoch, |d| d.epoch).ok()?;
        self.decisions.get(at)
    }

    fn get_mut(&mut self, epoch: Epoch) -> Option<&mut Decision> {
        let at = self.decisions.binary_search_by_key(&epoch, |d| d.epoch).ok()?;
        self.decisions.get_mut(at)
    }

    /// All routers use a plan: the one before is replaced. Its epoch.
    pub fn in_use(&mut self, epoch: Epoch, at_unix_ms: u64) -> Option<Epoch> {
        let before = self.in_use.filter(|before| *before != epoch);
        if let Some(before) = before {
            self.lasted(at_unix_ms);
            if let Some(decision) = self.get_mut(before) {
                decision.outcome = Outcome::Replaced;
            }
        }
        self.in_use = Some(epoch);
        self.since_unix_ms = at_unix_ms;
        if let Some(decision) = self.get_mut(epoch) {
            decision.outcome = Outcome::InUse;
        }
        before
    }

    /// No plan is in use any more. The one that was.
    pub fn none_in_use(&mut self, at_unix_ms: u64) -> Option<Epoch> {
        self.lasted(at_unix_ms);
        let before = self.in_use.take()?;
        self.ended(before, Outcome::Replaced);
        Some(before)
    }

    /// A decision was not carried out.
    pub fn ended(&mut self, epoch: Epoch, outcome: Outcome) {
        if let Some(decision) = self.get_mut(epoch) {
            decision.outcome = outcome;
        }
    }

    /// A simulation of the plan gave this attainment.
    pub fn simulated(&mut self, epoch: Epoch, attainment: f64) {
        if let Some(decision) = self.get_mut(epoch) {
            decision.predicted.attainment = Some(attainment);
        }
    }

    /// What became of requests under a plan; those that end after it was replaced are its own, too.
    pub fn measured(&mut self, epoch: Epoch, outcomes: &Outcomes, at_unix_ms: u64) {
        if let Some(decision) = self.get_mut(epoch) {
            decision.measured.get_or_insert_default().outcomes += outcomes;
        }
        if self.in_use == Some(epoch) {
            self.lasted(at_unix_ms);
        } else if let Some(decision) = self.get_mut(epoch) {
            decision.measured.get_or_insert_default().sum_up();
        }
    }

    fn lasted(&mut self, at_unix_ms: u64) {
        let seconds = at_unix_ms.saturating_sub(self.since_unix_ms) as f64 / 1e3;
        if let Some(decision) = self.in_use.and_then(|epoch| self.get_mut(epoch)) {
            let measured = decision.measured.get_or_insert_default();
            measured.seconds = seconds;
            measured.sum_up();
        }
    }
}

impl Measured {
    fn sum_up(&mut self) {
        self.attainment = self.outcomes.attainment();
        // A plan that was overtaken while routers switched has no time of its own.
        self.rate_rps = if self.seconds > 0.0 {
            self.outcomes.requests() as f64 / self.seconds
        } else {
            0.0
        };
        self.p50_ms = self.outcomes.latencies.quantile_ms(0.5);
        self.p99_ms = self.outcomes.latencies.quantile_ms(0.99);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(epoch: u64) -> Decision {
        Decision {
            epoch: Epoch(epoch),
            at_unix_ms: epoch * 1000,
            cause: "workers came or went".to_owned(),
            outcome: Outcome::RollingOut,
            predicted: Predicted {
                share: 8,
                share_before: None,
                fragments: 1,
                rate_rps: 10.0,
                part: 1.0,
                infeasible: 0,
                attainment: None,
                planning_ms: 1.0,
                changed: ChangeCounts::default(),
            },
            measured: None,
        }
    }

    #[test]
    fn what_was_expected_stands_beside_what_came_of_it() {
        let mut log = DecisionLog::default();
        log.add(decision(1));
        assert_eq!(log.in_use(Epoch(1), 1000), None);
        log.simulated(Epoch(1), 0.999);
        let mut outcomes = Outcomes::default();
        (0..99).for_each(|_| outcomes.answered(10.0, true));
        outcomes.answered(90.0, false);
        log.measured(Epoch(1), &outcomes, 11_000);
        let measured = log.get(Epoch(1)).unwrap().measured.clone().unwrap();
        assert_eq!((measured.attainment, measured.rate_rps), (Some(0.99), 10.0));
        log.add(decision(3));
        assert_eq!(log.in_use(Epoch(3), 12_000), Some(Epoch(1)));
        // One that was still under way.
        log.measured(Epoch(1), &outcomes, 13_000);
        let first = log.get(Epoch(1)).unwrap();
        assert_eq!(first.outcome, Outcome::Replaced);
        assert_eq!(first.measured.as_ref().unwrap().seconds, 11.0);
        assert_eq!(first.measured.as_ref().unwrap().outcomes.requests(), 200);
        assert_eq!(log.get(Epoch(3)).unwrap().outcome, Outcome::InUse);
    }

    #[test]
    fn the_log_is_bounded_and_survives_a_restart() {
        let mut log = DecisionLog::default();
        for epoch in 1..=MOST_DECISIONS as u64 {
            assert_eq!(log.add(decision(epoch)), None);
        }
        assert_eq!(log.add(decision(5000)), Some(Epoch(1)));
        let kept: Vec<Decision> = log.all().cloned().collect();
        let log = DecisionLog::go_on_from(kept);
        assert!(matches!(
            log.get(Epoch(5000)).unwrap().outcome,
            Outcome::Failed { .. }
        ));
    }
}
