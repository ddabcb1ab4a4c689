//! Workers and routers that have joined, and what there is to plan on.

use std::collections::{BTreeMap, BTreeSet};

use graft_model::ModelId;
use graft_plan::{
    Device, Devices, Epoch, FormatFile, Hardware, ModelProfile, Nanos, PRICES, Profile, Profiles, Share,
};
use graft_planner_search::Lacks;
use graft_wire::{DeviceInfo, RunsTook, WorkerEndpoint, WorkerInfo, WorkerReport};

/// Members of each role at most; one more is refused.
const MOST_MEMBERS: usize = 1024;
/// Kinds of devices that are planned for, at most: those with the most devices.
const MOST_KINDS: usize = 16;
/// Devices of a worker at most.
const MOST_DEVICES: usize = 64;
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
    /// A member says that it has a plan which no planner can have made.
    #[error("{member} reports plan {epoch}, which no planner can have made: the latest is {highest}")]
    Epoch {
        /// The member.
        member: String,
        /// What it reports.
        epoch: Epoch,
        /// The highest number that is known.
        highest: Epoch,
    },
    /// A router's report is larger than routers make them, or tells what can't be.
    #[error("the report of router {router} is not believed: {why}")]
    Report {
        /// The router.
        router: String,
        /// What is wrong with it.
        why: String,
    },
    /// The worker's profile breaks a rule.
    #[error("the worker's profile is not sound: {0}")]
    Profile(String),
    /// A worker calls models by their identity.
    #[error("the profile names a model {0:?}: expected its identity, 64 hexadecimal digits")]
    NoIdentity(String),
    /// A device's id is not the worker's to give.
    #[error(
        "worker {worker} has a device {device:?}: expected the worker's name, or that, a slash and a name of its own that no other device has"
    )]
    Device {
        /// The worker.
        worker: String,
        /// The device's id.
        device: String,
    },
    /// Another worker is reached where it says that it is.
    #[error("worker {worker} says that it is reached at address {address}, where worker {other} is")]
    Address {
        /// The worker.
        worker: String,
        /// What it says.
        address: String,
        /// Who is there.
        other: String,
    },
    /// Nobody can be reached where a worker says that it is.
    #[error("worker {worker} says that it is reached at {address:?}; expected HOST:PORT")]
    Nowhere {
        /// The worker.
        worker: String,
        /// What it says.
        address: String,
    },
    /// The worker has no device, or more than are allowed.
    #[error("worker {worker} has {count} devices; expected 1 to {MOST_DEVICES}")]
    Devices {
        /// The worker.
        worker: String,
        /// Their number.
        count: usize,
    },
    /// A device is of another kind than its profile.
    #[error("device {device} is a {kind:?}, and its profile is of {profile:?}")]
    Kind {
        /// The device.
        device: String,
        /// Its kind.
        kind: String,
        /// The profile's.
        profile: String,
    },
    /// A device has no share.
    #[error("device {0} has a share of 0; expected 1 or more")]
    Share(String),
    /// A price makes no sense.
    #[error("device {device} has a price of {price}; expected {} to {}", PRICES.start(), PRICES.end())]
    Price {
        /// The device.
        device: String,
        /// Its price, in words: errors are compared.
        price: String,
    },
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
    /// Devices, and what stages cost there, as workers measured it.
    pub hardware: Hardware,
    pub lacks: Lacks,
    /// There are devices that are left out.
    pub others: bool,
}

/// Characters of a worker's address at most: of a name in the domain name system, and a port.
const LONGEST_ADDRESS: usize = 260;

/// Workers and routers that have joined.
#[derive(Debug, Default)]
pub(crate) struct Members {
    pub workers: BTreeMap<String, WorkerMember>,
    pub routers: BTreeSet<String>,
}

/// A model's figures at some of a profile's shares.
fn narrowed(model: &ModelProfile, profile: &Profile, shares: &[Share]) -> ModelProfile {
    let mut model = model.clone();
    for row in model.segments.iter_mut().flat_map(|s| &mut s.ms) {
        let figures = profile.shares.iter().zip(&*row);
        let kept = figures.filter(|(share, _)| shares.contains(share));
        *row = kept.map(|(_, ms)| *ms).collect();
    }
    model
}

/// The profile of devices of one kind: the shares that all have measured, the models that any has. `None`: they have no
/// share in common.
fn joint(group: &[&DeviceInfo]) -> Option<Profile> {
    let smallest = group.iter().min_by_key(|d| d.profile.shares.len())?;
    let mut shares = smallest.profile.shares.clone();
    shares.retain(|share| group.iter().all(|d| d.profile.share_index(*share).is_some()));
    if shares.is_empty() {
        return None;
    }
    let mut profile = Profile {
        shares,
        models: BTreeMap::new(),
        ..smallest.profile.clone()
    };
    for other in [*smallest]
        .into_iter()
        .chain(group.iter().copied())
        .map(|d| &d.profile)
    {
        for (id, model) in &other.models {
            if !profile.models.contains_key(id) {
                let model = narrowed(model, other, &profile.shares);
                profile.models.insert(id.clone(), model);
            }
        }
        profile.stage_overhead_ms = profile.stage_overhead_ms.max(other.stage_overhead_ms);
    }
    Some(profile)
}

/// Whether a text can be an address: `HOST:PORT`.
fn is_place(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    let is_host = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic());
    address.len() <= LONGEST_ADDRESS
        && parts.is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

impl Members {
    /// A worker joins. Whether one of its name was there before.
    pub fn add_worker(&mut self, info: WorkerInfo) -> Result<bool, Unheard> {
        let known = self.workers.contains_key(&info.name);
        if self.workers.len() >= MOST_MEMBERS && !known {
            return Err(Unheard::TooMany { role: "worker" });
        }
        if !(1..=MOST_DEVICES).contains(&info.devices.len()) {
            return Err(Unheard::Devices {
                worker: info.name.clone(),
                count: info.devices.len(),
            });
        }
        if !is_place(&info.address) {
            return Err(Unheard::Nowhere {
                worker: info.name.clone(),
                address: info.address.chars().take(LONGEST_ADDRESS).collect(),
            });
        }
        let mut others = self
            .workers
            .values()
            .map(|w| &w.info)
            .filter(|i| i.name != info.name);
        if let Some(other) = others.find(|other| other.address == info.address) {
            return Err(Unheard::Address {
                worker: info.name.clone(),
                address: info.address.clone(),
                other: other.name.clone(),
            });
        }
        for (place, device) in info.devices.iter().enumerate() {
            self.sound(&info, place, device)?;
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

    /// Whether a worker's device can be planned for.
    fn sound(&self, info: &WorkerInfo, place: usize, device: &DeviceInfo) -> Result<(), Unheard> {
        let own = device.id.strip_prefix(&info.name);
        let named = own.is_some_and(|rest| rest.is_empty() || (rest.starts_with('/') && rest.len() > 1));
        let others = self.workers.values().filter(|w| w.info.name != info.name);
        let mut known = others.flat_map(|w| &w.info.devices).chain(&info.devices[..place]);
        if !named || known.any(|d| d.id == device.id) {
            return Err(Unheard::Device {
                worker: info.name.clone(),
                device: device.id.clone(),
            });
        }
        if device.share_total == 0 {
            return Err(Unheard::Share(device.id.clone()));
        }
        if let Some(price) = device.price.filter(|p| !PRICES.contains(p)) {
            return Err(Unheard::Price {
                device: device.id.clone(),
                price: price.to_string(),
            });
        }
        let profile = device.profile.clone().verified();
        let profile = profile.map_err(|e| Unheard::Profile(e.to_string()))?;
        if profile.device_kind != device.kind {
            return Err(Unheard::Kind {
                device: device.id.clone(),
                kind: device.kind.clone(),
                profile: profile.device_kind,
            });
        }
        match profile.models.keys().find(|m| m.parse::<ModelId>().is_err()) {
            Some(stray) => Err(Unheard::NoIdentity(stray.clone())),
            None => Ok(()),
        }
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
        let devices = &member.info.devices;
        let known = |r: &RunsTook| {
            let mut of_kind = devices.iter().filter(|d| d.kind == r.kind).map(|d| &d.profile);
            of_kind.any(|p| p.batches.contains(&r.batch) && p.models.contains_key(&r.model.to_string()))
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

    /// What there is to plan on: devices, what each kind costs, and who lacks which model. Of one kind, devices that
    /// measured other batches than most are left out; so are kinds whose profiles contradict those of more devices.
    pub fn premises(&self, now: Nanos) -> Option<Premises> {
        let mut makes: BTreeMap<(&str, &[u32]), Vec<&DeviceInfo>> = BTreeMap::new();
        for device in self.willing(now).flat_map(|w| &w.info.devices) {
            let make = (device.kind.as_str(), device.profile.batches.as_slice());
            makes.entry(make).or_default().push(device);
        }
        let all: usize = makes.values().map(Vec::len).sum();
        let mut kinds: BTreeMap<&str, Vec<&DeviceInfo>> = BTreeMap::new();
        for ((kind, _), group) in makes {
            let largest = kinds.entry(kind).or_default();
            if group.len() >= largest.len() {
                *largest = group;
            }
        }
        let mut groups: Vec<Vec<&DeviceInfo>> = kinds.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
        // Prices are of use only where all devices have one.
        let priced = groups.iter().flatten().all(|d| d.price.is_some());
        let mut profiles: Option<Profiles> = None;
        let mut devices = vec![];
        let mut lacks = Lacks::new();
        for group in groups.into_iter().take(MOST_KINDS) {
            let Some(profile) = joint(&group) else { continue };
            let known = profiles.iter().flat_map(|p| p.kinds().iter().cloned());
            let Ok(more) = Profiles::new(known.chain([profile.clone()]).collect()) else {
                continue;
            };
            profiles = Some(more);
            // Where devices of one kind have different prices the dearest counts.
            let units = group
                .iter()
                .filter_map(|d| Some(d.price? / f64::from(d.share_total)));
            let unit = units.reduce(f64::max);
            for device in group {
                devices.push(Device {
                    id: device.id.clone(),
                    kind: device.kind.clone(),
                    share_total: Share(device.share_total),
                    memory_bytes: device.memory_bytes,
                    price: unit
                        .filter(|_| priced)
                        .map(|unit| unit * f64::from(device.share_total)),
                });
                let models = profile.models.keys();
                let missing = models.filter(|id| !device.profile.models.contains_key(*id));
                lacks.extend(missing.map(|id| (device.id.clone(), id.clone())));
            }
        }
        devices.sort_by(|a, b| a.id.cmp(&b.id));
        Some(Premises {
            others: devices.len() < all,
            hardware: Hardware {
                profiles: profiles?,
                devices: Devices { version: 1, devices },
            },
            lacks,
        })
    }

    /// The workers of devices, by the devices' ids, as routers and other workers are told them.
    pub fn hosts(&self) -> BTreeMap<String, WorkerEndpoint> {
        let hosts = self.workers.values().flat_map(|w| {
            let endpoint = WorkerEndpoint {
                name: w.info.name.clone(),
                address: w.info.address.clone(),
                // The plan's, which is not known here.
                chunk: Nanos::ZERO,
            };
            w.info
                .devices
                .iter()
                .map(move |d| (d.id.clone(), endpoint.clone()))
        });
        hosts.collect()
    }

    /// What people call a model.
    pub fn name_of(&self, model: ModelId) -> String {
        let mut models = self.workers.values().flat_map(|w| &w.info.models);
        let known = models.find(|m| m.id == model);
        known.map_or_else(|| model.to_string(), |m| m.name.clone())
    }

    /// The device of some worker is emulated.
    pub fn any_emulated(&self) -> bool {
        let mut devices = self.workers.values().flat_map(|w| &w.info.devices);
        devices.any(|d| d.emulated)
    }
}
