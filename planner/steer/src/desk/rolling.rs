//! Carries out what the roll-outs' state machine directs: what to tell workers and routers.

use std::collections::{BTreeMap, BTreeSet};

use graft_plan::{Epoch, Hardware, Nanos, Plan, Workload};
use graft_planner_search::Carried;
use graft_wire::{Correction, RoutesUpdate, StageTimes, WorkerEndpoint, WorkerPlan};
use graft_worker_core::{AloneTimes, RouteError};

use crate::decisions::Outcome;
use crate::doing::{Do, Kept, Note, Undone};
use crate::members::Members;
use crate::rollout::{Directive, Notice};
use crate::routes::{longest_chunks, routes};

use super::{Alarm, Desk, InUse};

/// Time for which plans are made without a worker that could not prepare one, or has a partition that is silent.
const LEFT_OUT: Nanos = Nanos::from_millis(5_000);
/// Plans at most that are remembered while they roll out, or while others that overtook them do.
const MOST_ROLLING: usize = 8;

/// A plan that rolls out.
#[derive(Debug)]
pub(super) struct Rolling {
    plan: Plan,
    workload: Workload,
    /// Ids of fragments that are served in any case.
    standing: BTreeSet<String>,
    hardware: Hardware,
    /// Of the profiles, for workers.
    corrections: Vec<Correction>,
    /// What its stages take, for workers.
    times: StageTimes,
    /// The workers of its devices, by the devices' ids.
    hosts: BTreeMap<String, WorkerEndpoint>,
    update: RoutesUpdate,
    /// Routers are only told that nothing is served.
    serves_nothing: bool,
}

impl Rolling {
    pub fn of_plan(
        carried: Carried,
        limited: bool,
        standing: BTreeSet<String>,
        hardware: Hardware,
        corrections: Vec<Correction>,
        members: &Members,
    ) -> Result<Self, RouteError> {
        let Carried { plan, workload, .. } = carried;
        let (fleet, mut hosts) = (hardware.fleet(), members.hosts());
        hosts.retain(|device, _| plan.partitions.iter().any(|p| p.device == *device));
        let chunks = longest_chunks(&plan, &fleet, &hosts);
        for host in hosts.values_mut() {
            host.chunk = chunks.get(&host.name).copied().unwrap_or_default();
        }
        let update = routes(&plan, limited, &workload, &fleet, &hosts)?;
        let times = AloneTimes::of_plan(&plan, &fleet).tell();
        Ok(Rolling {
            update: RoutesUpdate {
                emulated: members.any_emulated(),
                ..update
            },
            plan,
            workload,
            standing,
            hardware,
            corrections,
            times,
            hosts,
            serves_nothing: false,
        })
    }
}

impl Desk {
    /// Begins to roll a plan out.
    pub(super) fn roll_out(&mut self, now: Nanos, epoch: Epoch, rolling: Rolling) {
        let partitions = rolling.plan.partitions.iter().filter(|_| !rolling.serves_nothing);
        // A device whose worker is gone has nobody to prepare it: its own id stands for a worker that is not there.
        let host = |device: &String| {
            rolling
                .hosts
                .get(device)
                .map_or(device, |host| &host.name)
                .clone()
        };
        let workers = partitions.map(|p| host(&p.device)).collect();
        self.rolling.insert(epoch, rolling);
        while self.rolling.len() > MOST_ROLLING {
            self.rolling.pop_first();
        }
        self.notice(now, Notice::Begins(epoch, workers));
    }

    /// No worker is left: routers are told so.
    pub(super) fn serve_nothing(&mut self, now: Nanos, epoch: Epoch) {
        let Some(current) = self.current.clone().filter(|_| self.members.workers.is_empty()) else {
            return;
        };
        let update = RoutesUpdate {
            epoch,
            limited: false,
            workers: BTreeMap::new(),
            routes: vec![],
            price: BTreeMap::new(),
            left_out: vec![],
            ..current.update
        };
        let rolling = Rolling {
            plan: current.plan,
            workload: current.workload,
            standing: BTreeSet::new(),
            hardware: current.hardware,
            corrections: vec![],
            times: StageTimes::default(),
            hosts: BTreeMap::new(),
            update,
            serves_nothing: true,
        };
        self.roll_out(now, epoch, rolling);
    }

    /// Something happened that a roll-out may wait for.
    pub(super) fn notice(&mut self, now: Nanos, notice: Notice) {
        let mut directives = vec![];
        self.rollouts.notice(notice, &mut directives);
        for directive in directives {
            self.carry_out(now, directive);
        }
    }

    /// A router is told again what it is to use.
    pub(super) fn tell_again(&mut self, now: Nanos, router: String, epoch: Epoch) {
        self.carry_out(now, Directive::Switch(router, epoch));
    }

    fn carry_out(&mut self, now: Nanos, directive: Directive) {
        match directive {
            Directive::Prepare(worker, epoch) => {
                let Some(rolling) = self.rolling.get(&epoch) else {
                    return self.notice(now, Notice::Refused(worker, epoch, Undone::Forgotten));
                };
                let work = WorkerPlan {
                    plan: rolling.plan.clone(),
                    hosts: rolling.hosts.clone(),
                    corrections: rolling.corrections.clone(),
                    times: rolling.times.clone(),
                };
                self.wants(Do::Prepare {
                    worker,
                    epoch,
                    work: Box::new(work),
                });
            }
            Directive::Switch(router, epoch) => {
                let known = self.rolling.get(&epoch).map(|r| &r.update);
                let current = self.current.as_ref().map(|current| &current.update);
                let Some(update) = known.or(current.filter(|u| u.epoch == epoch)) else {
                    return self.notice(now, Notice::NotSwitched(router, epoch));
                };
                let number = self.members.routers.len();
                self.told_number.insert(router.clone(), number);
                let routers = u32::try_from(number).unwrap_or(u32::MAX);
                let update = RoutesUpdate {
                    routers,
                    ..update.clone()
                };
                self.wants(Do::Switch {
                    router,
                    epoch,
                    update: Box::new(update),
                });
            }
            Directive::Abandon(worker, epoch) => self.wants(Do::Abandon { worker, epoch }),
            Directive::Retire(worker, before) => self.wants(Do::Retire { worker, before }),
            Directive::RetireLater(_) => {
                self.alarm_at(now + self.options.retire_after, Alarm::RetireDue);
            }
            Directive::Done(epoch) => {
                if let Some(rolling) = self.rolling.remove(&epoch) {
                    self.rolled(now, epoch, rolling);
                }
                self.rolling = self.rolling.split_off(&epoch);
                self.tell_number_of_routers(now, "");
                self.consider(now);
            }
            Directive::Failed(epoch, worker, undone) => {
                self.rolling.remove(&epoch);
                let why = format!("worker {worker} can't prepare: {undone}");
                self.note(Note::Failed {
                    epoch,
                    why: why.clone(),
                });
                let is_gone = matches!(undone, Undone::Left | Undone::Absent);
                self.decision_ended(epoch, Outcome::Failed { why });
                self.tell_number_of_routers(now, "");
                if is_gone {
                    // Whoever of its name is there now is another, and is asked as any.
                    self.replanner.members_changed();
                    self.consider(now);
                } else {
                    self.leave_out(now, &worker, true);
                }
            }
            Directive::Overtaken(epoch) => {
                self.note(Note::Overtaken(epoch));
                self.decision_ended(epoch, Outcome::Overtaken);
            }
            Directive::LetGo(router) => self.wants(Do::LetGo { router }),
        }
    }

    /// All routers use a plan.
    fn rolled(&mut self, now: Nanos, epoch: Epoch, rolling: Rolling) {
        let Rolling {
            plan,
            workload,
            standing,
            hardware,
            update,
            ..
        } = rolling;
        let unix_ms = self.unix_ms(now);
        if rolling.serves_nothing {
            if let Some(before) = self.decisions.none_in_use(unix_ms) {
                self.keep_decision(before);
            }
        } else {
            self.count_rolled_out();
            self.note(Note::InUse {
                epoch,
                share: plan.total_share,
            });
            self.wants(Do::Keep(Box::new(Kept {
                plan: plan.clone(),
                workload: workload.clone(),
                standing,
            })));
            if let Some(before) = self.decisions.in_use(epoch, unix_ms) {
                self.keep_decision(before);
            }
            self.keep_decision(epoch);
            self.wants(Do::Predict {
                epoch,
                plan: Box::new(plan.clone()),
                workload: Box::new(workload.clone()),
                hardware: Box::new(hardware.clone()),
            });
        }
        self.current = Some(InUse {
            plan,
            workload,
            hardware,
            update,
        });
    }

    /// A worker can't prepare, or does not compute: plans are made without it for a while; `at_once`: also the next one.
    pub(super) fn leave_out(&mut self, now: Nanos, worker: &str, at_once: bool) {
        let until = now + LEFT_OUT;
        self.members.leave_out(worker, until);
        self.alarm_at(until, Alarm::AskAgain(worker.to_owned()));
        if at_once {
            self.replanner.members_changed();
            self.consider(now);
        }
    }
}
