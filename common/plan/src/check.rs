//! The five rules of a valid plan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use graft_model::{CutPoint, StageRange};
use serde::Serialize;

use crate::fleet::Fleet;
use crate::plan::{Order, Partition, Plan, Stage};
use crate::profile::Profile;
use crate::units::{Nanos, Share, nanos_to_ms};
use crate::workload::{Fragment, Workload};

/// Relative tolerance of all comparisons but rates.
const TOLERANCE: f64 = 1e-6;
/// Relative tolerance of rates.
const RATE_TOLERANCE: f64 = 1e-3;

/// One of the five rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Rule(pub u8);

/// A rule that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The rule.
    pub rule: Rule,
    /// Place in the plan where it is broken, and how.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}: {}", self.rule.0, self.what)
    }
}

struct Check<'a> {
    plan: &'a Plan,
    workload: &'a Workload,
    fleet: &'a Fleet<'a>,
    stages: HashMap<&'a str, &'a Stage>,
    fragments: HashMap<&'a str, &'a Fragment>,
    /// Partitions of each stage, in the plan's order.
    hosts: HashMap<&'a str, Vec<&'a Partition>>,
    broken: Vec<Broken>,
}

impl Plan {
    /// The rules that this plan breaks; empty for a valid plan.
    ///
    /// 1. Every fragment is routed once or infeasible, and infeasible only where it can't be served alone.
    /// 2. Stages are ranges of known models; a route's stages follow on one another to the end.
    /// 3. Stages serve somebody at the sum of their rates; no partition is overloaded.
    /// 4. Local deadlines fit budgets and stages.
    /// 5. Shares are listed and add up; no device is over its share or memory.
    pub fn check(&self, workload: &Workload, fleet: &Fleet<'_>) -> Vec<Broken> {
        let mut hosts: HashMap<&str, Vec<&Partition>> = HashMap::new();
        for partition in &self.partitions {
            for stage in &partition.stages {
                hosts.entry(stage).or_default().push(partition);
            }
        }
        let mut check = Check {
            plan: self,
            workload,
            fleet,
            stages: self.stages_by_id(),
            fragments: workload.fragments.iter().map(|f| (f.id.as_str(), f)).collect(),
            hosts,
            broken: vec![],
        };
        check.fragments();
        check.ranges();
        check.loads();
        check.deadlines();
        check.shares();
        check.broken
    }
}

impl Check<'_> {
    fn broken(&mut self, rule: u8, what: String) {
        self.broken.push(Broken {
            rule: Rule(rule),
            what,
        });
    }

    fn last_cut(&self, model: &str) -> Option<CutPoint> {
        self.fleet.profiles().last_cut(model)
    }

    fn fragments(&mut self) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let routed = self.plan.routes.iter().map(|r| r.fragment.as_str());
        for id in routed.chain(self.plan.infeasible.iter().map(String::as_str)) {
            *seen.entry(id).or_default() += 1;
            if !self.fragments.contains_key(id) {
                self.broken(1, format!("fragment {id} is not in the workload"));
            }
        }
        for fragment in &self.workload.fragments {
            match seen.get(fragment.id.as_str()) {
                Some(1) => {}
                None => self.broken(
                    1,
                    format!("fragment {} is neither routed nor infeasible", fragment.id),
                ),
                Some(n) => self.broken(1, format!("fragment {} is listed {n} times", fragment.id)),
            }
        }
        for id in &self.plan.infeasible {
            let owes_nothing = |f: &&&Fragment| self.last_cut(&f.model) == Some(f.partition_point);
            if self.fragments.get(id.as_str()).filter(owes_nothing).is_some() {
                self.broken(
                    1,
                    format!("fragment {id} is at the last cut point, where nothing is left to run"),
                );
            } else if self.plan.capacity_exhausted {
                continue;
            }
            if let Some(fragment) = self.fragments.get(id.as_str())
                && let Some(share) = self.feasible_share(fragment)
            {
                self.broken(
                    1,
                    format!("fragment {id} is called infeasible, but share {share} serves it in time"),
                );
            }
        }
    }

    /// The first share on which a fragment alone, in a batch of 1 and uncut, keeps its budget, in words. `None`: none
    /// is.
    fn feasible_share(&self, fragment: &Fragment) -> Option<String> {
        let last = self.last_cut(&fragment.model)?;
        let range = StageRange::new(fragment.partition_point, last)?;
        let profiles = self.fleet.profiles();
        let budget = fragment.budget_ms * (1.0 - TOLERANCE) - profiles.hop_ms();
        let all = profiles
            .kinds()
            .iter()
            .flat_map(|p| p.shares.iter().map(move |&share| (p, share)));
        let in_time = |(profile, share): &(&Profile, Share)| {
            let alone = profile.latency(&fragment.model, range, 1, *share, 0.0);
            alone.is_ok_and(|time| nanos_to_ms(time) <= budget)
        };
        all.into_iter()
            .find(in_time)
            .map(|(profile, share)| format!("{share} of a {}", profile.device_kind))
    }

    fn ranges(&mut self) {
        if self.stages.len() != self.plan.stages.len() {
            self.broken(2, "two stages have the same id".to_owned());
        }
        for stage in &self.plan.stages {
            match self.last_cut(&stage.model) {
                None => self.broken(
                    2,
                    format!("stage {}: the profile has no model {}", stage.id, stage.model),
                ),
                Some(last) if stage.from >= stage.to || stage.to > last => self.broken(
                    2,
                    format!(
                        "stage {} is [{}, {}) of a model whose last cut point is {last}",
                        stage.id, stage.from, stage.to
                    ),
                ),
                Some(_) => {}
            }
        }
        for route in &self.plan.routes {
            let Some(&fragment) = self.fragments.get(route.fragment.as_str()) else {
                continue;
            };
            let mut at = fragment.partition_point;
            for id in &route.stages {
                match self.stages.get(id.as_str()) {
                    None => self.broken(
                        2,
                        format!("route of {} names stage {id}, which there is not", route.fragment),
                    ),
                    Some(stage) if stage.model != fragment.model || stage.from != at => {
                        let what = format!(
                            "route of {} comes to stage {id} ({} from {}) at cut point {at} of {}",
                            route.fragment, stage.model, stage.from, fragment.model
                        );
                        self.broken(2, what);
                        break;
                    }
                    Some(stage) => at = stage.to,
                }
            }
            if self.last_cut(&fragment.model) != Some(at) {
                self.broken(
                    2,
                    format!(
                        "route of {} ends at cut point {at}, before the output",
                        route.fragment
                    ),
                );
            }
        }
    }

    fn loads(&mut self) {
        let rates: HashMap<&str, f64> = self
            .workload
            .fragments
            .iter()
            .map(|f| (f.id.as_str(), f.rate_rps))
            .collect();
        let mut owed: BTreeMap<&str, f64> = BTreeMap::new();
        for route in &self.plan.routes {
            for stage in &route.stages {
                *owed.entry(stage).or_default() += rates.get(route.fragment.as_str()).unwrap_or(&0.0);
            }
        }
        for stage in &self.plan.stages {
            match owed.get(stage.id.as_str()) {
                None => self.broken(3, format!("stage {} serves nobody", stage.id)),
                Some(rate) if (rate - stage.rate_rps).abs() > RATE_TOLERANCE * rate => self.broken(
                    3,
                    format!(
                        "stage {} says {} requests/s, its fragments send {rate}",
                        stage.id, stage.rate_rps
                    ),
                ),
                Some(_) => {}
            }
            let hosts = self.hosts.get(stage.id.as_str()).into_iter().flatten();
            let profiles = hosts.filter_map(|p| self.fleet.profile(&p.device));
            let mut unlisted = profiles.filter(|p| !p.batches.contains(&stage.batch));
            if let Some(profile) = unlisted.next() {
                let what = format!(
                    "stage {} has a batch of {}, which is not listed for a {}",
                    stage.id, stage.batch, profile.device_kind
                );
                self.broken(3, what);
            }
        }
        for partition in &self.plan.partitions {
            let mut load = 0.0;
            for id in &partition.stages {
                let Some(stage) = self.stages.get(id.as_str()) else {
                    continue;
                };
                let n = self.hosts[id.as_str()].len() as f64;
                let Some(time) = self.time(stage, stage.batch, partition) else {
                    continue;
                };
                load += stage.rate_rps / n * (1.0 + self.workload.headroom) * time.as_secs()
                    / f64::from(stage.batch);
            }
            if load > 1.0 + TOLERANCE {
                self.broken(3, format!("{} is loaded to {load:.4}", partition.id));
            }
        }
    }

    /// Time of a run of a stage. `None`: something about it is not known, which other rules say.
    fn time(&self, stage: &Stage, requests: u32, partition: &Partition) -> Option<Nanos> {
        let quantum = match partition.order {
            Order::Edf => partition.quantum_ms,
            Order::Cycle => 0.0,
        };
        self.fleet
            .profile(&partition.device)?
            .latency(&stage.model, stage.range()?, requests, partition.share, quantum)
            .ok()
    }

    fn deadlines(&mut self) {
        let budgets: HashMap<&str, f64> = self
            .workload
            .fragments
            .iter()
            .map(|f| (f.id.as_str(), f.budget_ms))
            .collect();
        let hop_ms = self.fleet.profiles().hop_ms();
        for route in &self.plan.routes {
            let Some(&budget) = budgets.get(route.fragment.as_str()) else {
                continue;
            };
            let sum: f64 = route
                .stages
                .iter()
                .filter_map(|id| self.stages.get(id.as_str()))
                .map(|s| s.deadline_ms + hop_ms)
                .sum();
            if sum > budget * (1.0 + TOLERANCE) {
                self.broken(
                    4,
                    format!(
                        "route of {} takes {sum:.6} ms of a budget of {budget} ms",
                        route.fragment
                    ),
                );
            }
        }
        for partition in &self.plan.partitions {
            for id in &partition.stages {
                let Some(&stage) = self.stages.get(id.as_str()) else {
                    continue;
                };
                if let Some(time) = self.time(stage, 1, partition)
                    && nanos_to_ms(time) > stage.deadline_ms * (1.0 + TOLERANCE)
                {
                    let what = format!(
                        "stage {id} takes {:.6} ms on {}, its deadline is {} ms",
                        nanos_to_ms(time),
                        partition.id,
                        stage.deadline_ms
                    );
                    self.broken(4, what);
                }
            }
        }
    }

    fn shares(&mut self) {
        let total: u64 = self.plan.partitions.iter().map(|p| u64::from(p.share.0)).sum();
        if total != self.plan.total_share {
            self.broken(
                5,
                format!(
                    "total_share is {}, the partitions' shares add up to {total}",
                    self.plan.total_share
                ),
            );
        }
        let mut used: BTreeMap<&str, u64> = BTreeMap::new();
        let mut memory: BTreeMap<&str, HashSet<(&str, usize)>> = BTreeMap::new();
        let mut ids = HashSet::new();
        for partition in &self.plan.partitions {
            if !ids.insert(partition.id.as_str()) {
                self.broken(5, format!("two partitions are called {}", partition.id));
            }
            let profile = self.fleet.profile(&partition.device);
            if profile.is_some_and(|p| p.share_index(partition.share).is_none()) {
                self.broken(
                    5,
                    format!(
                        "{} has share {}, which is not listed",
                        partition.id, partition.share
                    ),
                );
            }
            *used.entry(&partition.device).or_default() += u64::from(partition.share.0);
            let mut seen = HashSet::new();
            for id in &partition.stages {
                if !seen.insert(id) {
                    self.broken(5, format!("{} lists stage {id} twice", partition.id));
                }
                match self.stages.get(id.as_str()) {
                    None => self.broken(
                        5,
                        format!("{} lists stage {id}, which there is not", partition.id),
                    ),
                    Some(&stage) => {
                        let elsewhere = self.last_cut(&stage.model).is_some();
                        if elsewhere && profile.is_some_and(|p| !p.models.contains_key(&stage.model)) {
                            let what = format!(
                                "{} lists stage {id}, but the profile of {}'s kind has no model {}",
                                partition.id, partition.device, stage.model
                            );
                            self.broken(5, what);
                        }
                        let segments = stage.range().map(StageRange::segments).unwrap_or_default();
                        memory
                            .entry(&partition.device)
                            .or_default()
                            .extend(segments.map(|k| (stage.model.as_str(), k)));
                    }
                }
            }
        }
        for stage in &self.plan.stages {
            if !self.hosts.contains_key(stage.id.as_str()) {
                self.broken(5, format!("stage {} is in no partition", stage.id));
            }
        }
        for (id, share) in used {
            let Some(device) = self.fleet.device(id) else {
                self.broken(5, format!("there is no device {id}"));
                continue;
            };
            let Some(profile) = self.fleet.profiles().of_kind(&device.kind) else {
                let kinds: Vec<&str> = self
                    .fleet
                    .profiles()
                    .kinds()
                    .iter()
                    .map(|p| p.device_kind.as_str())
                    .collect();
                let what = format!(
                    "device {id} is a {}, the profile is of {}",
                    device.kind,
                    kinds.join(", ")
                );
                self.broken(5, what);
                continue;
            };
            if share > u64::from(device.share_total.0) {
                self.broken(5, format!("device {id} gives {share} of {}", device.share_total));
            }
            let bytes: u64 = memory
                .get(id)
                .into_iter()
                .flatten()
                .filter_map(|(model, k)| profile.models.get(*model)?.segments.get(*k))
                .fold(0, |sum: u64, s| sum.saturating_add(s.weights_bytes));
            if bytes > device.memory_bytes {
                self.broken(
                    5,
                    format!(
                        "device {id} holds {bytes} bytes of weights of {}",
                        device.memory_bytes
                    ),
                );
            }
        }
    }
}
