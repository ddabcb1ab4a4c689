//! Workers and routers that have joined, and what there is to plan on.

use std::collections::{BTreeMap, BTreeSet};

use graft_model::ModelId;
use graft_plan::{Device, Devices, FormatFile, ModelProfile, Nanos, Profile, Share};
use graft_planner_search::Lacks;
use graft_wire::{RunsTook, WorkerEndpoint, WorkerInfo, WorkerReport};

/// Members of each role at most; one more is refused.
const MOST_MEMBERS: usize = 1024;
/// Partitions and runs of a report that are looked at, at most.
const MOST_REPORTED: usize = 4096;

/// Why somebody is not heard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// There are as many as are allowed.
    #[error("there are {MOST_MEMBERS} {role}s, as many as are allowed")]
    TooMany {
        /// Worker or router.
        role: &'static str,
    },
    /// The worker's profile breaks a rule.
    #[error("the worker's profile is not sound: {0}")]
    Profile(String),
    /// A worker calls models by their identity.
    #[error("the profile names a model {0:?}: expected its identity, 64 hexadecimal digits")]
    NoIdentity(String),
    /// Who reports has not joined.
    #[error("{0} has not joined: join first")]
    NotJoined(String),
}

/// A worker that has joined.
#[derive(Debug, Clone)]
pub struct WorkerMember {
    /// What it has to offer.
    pub info: WorkerInfo,
    /// Its latest report.
    pub report: Option<WorkerReport>,
    /// Plans are made without it until then: it could not prepare one.
    left_out_until: Nanos,
}

/// What there is to plan on.
#[derive(Debug)]
pub(crate) struct Premises {
    /// What it costs, as workers measured it.
    pub profile: Profile,
    pub devices: Devices,
    pub lacks: Lacks,
    /// There are workers of other kinds, which are left out.
    pub others: bool,
}

/// Workers and routers that have joined.
#[derive(Debug, Default)]
pub(crate) struct Members {
    pub workers: BTreeMap<String, WorkerMember>,
    pub routers: BTreeSet<String>,
}

/// A model's figures at the first shares alone.
fn narrowed(model: &ModelProfile, shares: usize) -> ModelProfile {
    let mut model = model.clone();
    for row in model.segments.iter_mut().flat_map(|s| &mut s.ms) {
        row.truncate(shares);
    }
    model
}

impl Members {
    /// A worker joins. Whether one of its name was there before.
    pub fn add_worker(&mut self, info: WorkerInfo) -> Result<bool, Unheard> {
        let known = self.workers.contains_key(&info.name);
        if self.workers.len() >= MOST_MEMBERS && !known {
            return Err(Unheard::TooMany { role: "worker" });
        }
        let profile = info.profile.clone().verified();
        let profile = profile.map_err(|e| Unheard::Profile(e.to_string()))?;
        if let Some(stray) = profile.models.keys().find(|m| m.parse::<ModelId>().is_err()) {
            return Err(Unheard::NoIdentity(stray.clone()));
        }
        let name = info.name.clone();
        let member = WorkerMember {
            info,
            report: None,
            left_out_until: Nanos::ZERO,
        };
        self.workers.insert(name, member);
        Ok(known)
    }

    /// A router joins.
    pub fn add_router(&mut self, name: &str) -> Result<(), Unheard> {
        if self.routers.len() >= MOST_MEMBERS && !self.routers.contains(name) {
            return Err(Unheard::TooMany { role: "router" });
        }
        self.routers.insert(name.to_owned());
        Ok(())
    }

    /// A worker's report, as far as it is of models and batches that it has measured.
    pub fn reported(&mut self, worker: &str, mut report: WorkerReport) -> Result<&WorkerReport, Unheard> {
        let stranger = || Unheard::NotJoined(format!("worker {worker}"));
        let member = self.workers.get_mut(worker).ok_or_else(stranger)?;
        report.partitions.truncate(MOST_REPORTED);
        report.runs.truncate(MOST_REPORTED);
        let profile = &member.info.profile;
        let known = |r: &RunsTook| {
            profile.batches.contains(&r.batch) && profile.models.contains_key(&r.model.to_string())
        };
        report.runs.retain(known);
        Ok(member.report.insert(report))
    }

    /// Plans are made without a worker for a while.
    pub fn leave_out(&mut self, worker: &str, until: Nanos) {
        if let Some(member) = self.workers.get_mut(worker) {
            member.left_out_until = until;
        }
    }

    fn willing(&self, now: Nanos) -> impl Iterator<Item = &WorkerMember> {
        self.workers.values().filter(move |w| w.left_out_until <= now)
    }

    /// Plans are made for a worker.
    pub fn is_willing(&self, worker: &str, now: Nanos) -> bool {
        self.workers.get(worker).is_some_and(|w| w.left_out_until <= now)
    }

    /// There is a worker that plans can be made for.
    pub fn any_willing(&self, now: Nanos) -> bool {
        self.willing(now).next().is_some()
    }

    /// What there is to plan on: the kind of device that most workers have, what it costs, and who lacks which model.
    /// Workers of other kinds, or that measured other batches, are left out.
    pub fn premises(&self, now: Nanos) -> Option<Premises> {
        let mut makes: BTreeMap<(&str, &[u32]), Vec<&WorkerMember>> = BTreeMap::new();
        for worker in self.willing(now) {
            let info = &worker.info;
            let make = (info.device_kind.as_str(), info.profile.batches.as_slice());
            makes.entry(make).or_default().push(worker);
        }
        let others = makes.len() > 1;
        let ((kind, _), group) = makes.into_iter().max_by_key(|(_, members)| members.len())?;
        // Shares that all have measured; models that any has.
        let smallest = group.iter().min_by_key(|w| w.info.profile.shares.len())?;
        let mut profile = smallest.info.profile.clone();
        for other in group.iter().map(|w| &w.info.profile) {
            for (id, model) in &other.models {
                if !profile.models.contains_key(id) {
                    let model = narrowed(model, profile.shares.len());
                    profile.models.insert(id.clone(), model);
                }
            }
            profile.stage_overhead_ms = profile.stage_overhead_ms.max(other.stage_overhead_ms);
        }
        let mut devices = vec![];
        let mut lacks = Lacks::new();
        for info in group.iter().map(|w| &w.info) {
            devices.push(Device {
                id: info.name.clone(),
                kind: kind.to_owned(),
                share_total: Share(info.share_total),
                memory_bytes: info.memory_bytes,
            });
            let models = profile.models.keys();
            let missing = models.filter(|id| !info.profile.models.contains_key(*id));
            lacks.extend(missing.map(|id| (info.name.clone(), id.clone())));
        }
        Some(Premises {
            profile,
            devices: Devices { version: 1, devices },
            lacks,
            others,
        })
    }

    /// Workers as routers and other workers are told them.
    pub fn endpoints(&self) -> BTreeMap<String, WorkerEndpoint> {
        let endpoint = |w: &WorkerMember| {
            let address = w.info.address.clone();
            (w.info.name.clone(), WorkerEndpoint { address })
        };
        self.workers.values().map(endpoint).collect()
    }

    /// What people call a model.
    pub fn name_of(&self, model: ModelId) -> String {
        let mut models = self.workers.values().flat_map(|w| &w.info.models);
        let known = models.find(|m| m.id == model);
        known.map_or_else(|| model.to_string(), |m| m.name.clone())
    }

    /// The device of some worker is emulated.
    pub fn any_emulated(&self) -> bool {
        self.workers.values().any(|w| w.info.emulated)
    }
}
