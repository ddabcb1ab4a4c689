//! The planner: observes, decides by `graft-planner-core` when to plan, and rolls out: prepare, switch, retire.

use std::collections::{BTreeMap, BTreeSet};

use graft_plan::{ControlTimes, Devices, Epoch, Nanos, Plan, Profile, Workload, ms_to_nanos};
use graft_planner_core::{
    Carried, Cause, LOOK_EVERY, Lacks, Notice, Observation, ObservedMix, Order, Problem, Replanner, Rollouts,
    SETTLE, changes,
};
use graft_router_core::REPORT_EVERY;

use crate::context::Context;
use crate::events::Event;
use crate::names::{by_identity, identity};
use crate::report::Decision;
use crate::site::Site;

/// Makes plans. Whoever drives the simulation brings the algorithm.
pub trait Planning {
    /// A plan for the problem, from the running one.
    fn plan(&mut self, problem: &Problem, epoch: Epoch, running: Option<&Plan>) -> Carried;
}

/// A plan that rolls out, and its decision's place in the report.
struct Way {
    carried: Carried,
    decision: usize,
}

/// The planner.
pub(crate) struct Control<'a> {
    planning: Option<&'a mut dyn Planning>,
    times: ControlTimes,
    headroom: f64,
    /// With models by identity.
    profile: Profile,
    /// Names of models, by identity.
    names: Vec<(String, String)>,
    devices: Devices,
    mix: ObservedMix,
    replanner: Replanner,
    /// Workers that have joined.
    members: BTreeSet<u32>,
    current: Option<(Plan, Workload)>,
    made: Option<(Carried, usize)>,
    /// A plan is being made.
    planning_now: bool,
    rollouts: Rollouts,
    ways: BTreeMap<Epoch, Way>,
    epoch: u64,
    pub away: bool,
    /// Tells what this planner does from what one before it did.
    life: u32,
}

/// A roll-out waits no longer for a worker or a router.
const PATIENCE: Nanos = Nanos::from_millis(5_000);
/// What a planner remembered over its restart counts for so long.
const REMEMBERED: Nanos = Nanos::from_millis(10_000);

impl<'a> Control<'a> {
    pub fn new(
        planning: Option<&'a mut dyn Planning>,
        times: ControlTimes,
        headroom: f64,
        profile: &Profile,
        devices: Devices,
        cx: &mut Context,
    ) -> Self {
        let members = (0..devices.devices.len() as u32).collect();
        if planning.is_some() {
            cx.events.at(Nanos::ZERO, Event::Looks { again: true });
        }
        Control {
            planning,
            times,
            headroom,
            profile: by_identity(profile),
            names: profile
                .models
                .keys()
                .map(|name| (identity(name).to_string(), name.clone()))
                .collect(),
            devices,
            mix: ObservedMix::default(),
            replanner: Replanner::default(),
            members,
            current: None,
            made: None,
            planning_now: false,
            rollouts: Rollouts::default(),
            ways: BTreeMap::new(),
            epoch: 0,
            away: false,
            life: 0,
        }
    }

    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// A plan is in use from the start.
    pub fn begin_with(&mut self, plan: Plan, workload: Workload) {
        self.epoch = self.epoch.max(plan.epoch.0);
        self.current = Some((plan, workload));
    }

    /// There is one plan from the start to the end.
    pub fn is_fixed(&self) -> bool {
        self.planning.is_none()
    }

    /// The plan in use.
    pub fn current(&self) -> Option<&Plan> {
        self.current.as_ref().map(|(plan, _)| plan)
    }

    fn message(&self, site: &Site) -> Nanos {
        ms_to_nanos(self.times.message_ms) + site.late
    }

    // Observation.

    /// A router reports.
    pub fn reports(&mut self, now: Nanos, router: u32, urgent: bool, site: &mut Site, cx: &mut Context) {
        let entries = site.observed(now, router);
        let seen = entries.into_iter().map(|e| Observation {
            model: e.model.to_string(),
            partition_point: e.partition_point,
            budget_ms: e.budget_ms,
            rate_rps: e.rate_rps,
            burstiness: e.burstiness,
        });
        let seen = seen.collect();
        cx.events
            .at(now + self.message(site), Event::Reported { router, urgent, seen });
        if !urgent {
            cx.events.at(
                now + REPORT_EVERY,
                Event::Reports {
                    router,
                    urgent: false,
                },
            );
        }
    }

    pub fn reported(
        &mut self,
        now: Nanos,
        router: u32,
        urgent: bool,
        seen: &[Observation],
        cx: &mut Context,
    ) {
        if self.away {
            return;
        }
        self.mix.report(now, &format!("router {router}"), seen);
        if urgent {
            self.consider(now, cx);
        }
    }

    // Decision.

    pub fn looks(&mut self, now: Nanos, again: bool, cx: &mut Context) {
        if again {
            cx.events.at(now + LOOK_EVERY, Event::Looks { again: true });
        }
        self.consider(now, cx);
    }

    fn consider(&mut self, now: Nanos, cx: &mut Context) {
        if self.away || self.planning_now || self.members.is_empty() {
            return;
        }
        let Some(planning) = self.planning.as_mut() else {
            return;
        };
        let mut workload = self.mix.workload(self.headroom, &[]);
        workload.fragments.retain(|f| {
            let model = self.profile.models.get(&f.model);
            model.is_some_and(|m| f.partition_point.index() < m.segments.len())
        });
        let Some(cause) = self.replanner.decide(now, &workload) else {
            return;
        };
        self.replanner.tried(now);
        self.planning_now = true;
        self.epoch += 1;
        let epoch = Epoch(self.epoch);
        let devices = self.devices.devices.iter().zip(0..);
        let problem = Problem {
            workload,
            profile: self.profile.clone(),
            devices: Devices {
                version: 1,
                devices: devices
                    .filter(|(_, i)| self.members.contains(i))
                    .map(|(d, _)| d.clone())
                    .collect(),
            },
            lacks: Lacks::new(),
        };
        let running = self.current.as_ref().map(|(plan, _)| plan);
        let carried = planning.plan(&problem, epoch, running);
        let broken = carried
            .plan
            .check(&carried.workload, &problem.profile, &problem.devices);
        let mut decision = decided(now, self.named(&cause), running, &carried);
        decision.failed = broken.first().map(|b| format!("the plan breaks a rule: {b}"));
        let (share, before) = (carried.plan.total_share, running.map(|p| p.total_share));
        if before
            .is_some_and(|before| !Replanner::is_worth(&cause, share, before, self.replanner.is_limited()))
        {
            decision.failed = Some("it would save too little".to_owned());
            self.replanner.kept(now);
        } else if decision.failed.is_none() {
            let limited = carried.plan.capacity_exhausted || carried.part < 1.0;
            self.replanner.planned(now, &problem.workload, &cause, limited);
            self.replanner
                .left_out(&problem.workload, &carried.plan.infeasible);
        } else if cause == Cause::Members {
            self.replanner.members_changed();
        }
        let goes = decision.failed.is_none();
        cx.ledger.report.decisions.push(decision);
        self.made = goes.then_some((carried, cx.ledger.report.decisions.len() - 1));
        cx.events.at(
            now + ms_to_nanos(self.times.planning_ms),
            Event::Made { life: self.life },
        );
    }

    /// A cause in words, with models by their names.
    fn named(&self, cause: &Cause) -> String {
        let mut text = cause.to_string();
        for (identity, name) in &self.names {
            text = text.replace(identity, name);
            if let Some(short) = identity.get(..12).filter(|_| identity != name) {
                text = text.replace(short, name);
            }
        }
        text
    }

    // Roll-out.

    pub fn made(&mut self, now: Nanos, life: u32, site: &mut Site, cx: &mut Context) {
        if life != self.life {
            return;
        }
        self.planning_now = false;
        let Some((carried, decision)) = self.made.take() else {
            return;
        };
        let limited = carried.plan.capacity_exhausted || carried.part < 1.0;
        let epoch = carried.plan.epoch;
        let added = site.add_plan(carried.plan.clone(), limited, &carried.workload, &self.profile);
        if let Err(error) = added {
            cx.ledger.report.decisions[decision].failed = Some(error.to_string());
            return;
        }
        let workers = carried.plan.partitions.iter().map(|p| p.device.clone()).collect();
        self.ways.insert(epoch, Way { carried, decision });
        self.notice(now, Notice::Begins(epoch, workers), site, cx);
    }

    fn number(&self, worker: &str) -> u32 {
        let place = self.devices.devices.iter().position(|d| d.id == worker);
        place.unwrap_or(0) as u32
    }

    fn name(&self, worker: u32) -> String {
        self.devices.devices[worker as usize].id.clone()
    }

    /// Something happened that a roll-out may wait for.
    fn notice(&mut self, now: Nanos, notice: Notice, site: &mut Site, cx: &mut Context) {
        let mut orders = vec![];
        self.rollouts.notice(notice, &mut orders);
        let there = now + self.message(site);
        for order in orders {
            match order {
                Order::Prepare(worker, epoch) => {
                    let worker = self.number(&worker);
                    cx.events.at(there, Event::Prepares { worker, epoch });
                }
                Order::Switch(router, epoch) => {
                    let router = router.parse().unwrap_or(0);
                    cx.events.at(there, Event::Switches { router, epoch });
                }
                // What is abandoned is not in use: its share is free when the message is there.
                Order::Abandon(_, epoch) => site.drop_plan(epoch),
                Order::RetireLater(epoch) => {
                    let due = now + ms_to_nanos(self.times.retire_after_ms);
                    cx.events.at(due, Event::RetireDue(epoch));
                }
                Order::Retire(_, epoch) => cx.events.at(there, Event::Retires(epoch)),
                Order::Done(epoch) => {
                    if let Some(way) = self.ways.remove(&epoch) {
                        cx.ledger.report.decisions[way.decision].switched_s = Some(now.as_secs());
                        self.current = Some((way.carried.plan, way.carried.workload));
                    }
                    self.ways = self.ways.split_off(&epoch);
                    self.consider(now, cx);
                }
                Order::Failed(epoch, worker, why) => {
                    self.ended(epoch, format!("worker {worker} can't prepare: {why}"), cx);
                    self.replanner.members_changed();
                    self.consider(now, cx);
                }
                Order::Overtaken(epoch) => self.ended(epoch, "a newer plan overtook it".to_owned(), cx),
                // Routers of a simulation do as they are told.
                Order::LetGo(_) => {}
            }
        }
    }

    /// A plan is not rolled out.
    fn ended(&mut self, epoch: Epoch, why: String, cx: &mut Context) {
        if let Some(way) = self.ways.remove(&epoch) {
            cx.ledger.report.decisions[way.decision].failed = Some(why);
        }
    }

    pub fn prepares(&mut self, now: Nanos, worker: u32, epoch: Epoch, site: &mut Site, cx: &mut Context) {
        let done = site.prepare(worker, epoch);
        // Who is gone does not answer.
        let time = if done {
            ms_to_nanos(self.times.prepare_ms) + self.message(site)
        } else {
            PATIENCE
        };
        cx.events.at(now + time, Event::Prepared { worker, epoch, done });
    }

    pub fn prepared(
        &mut self,
        now: Nanos,
        worker: u32,
        epoch: Epoch,
        done: bool,
        site: &mut Site,
        cx: &mut Context,
    ) {
        if self.away {
            return;
        }
        let name = self.name(worker);
        let notice = if done {
            Notice::Prepared(name, epoch)
        } else {
            Notice::Refused(name, epoch, "no reply".to_owned())
        };
        self.notice(now, notice, site, cx);
    }

    pub fn switches(&mut self, now: Nanos, router: u32, epoch: Epoch, site: &mut Site, cx: &mut Context) {
        let done = site.switch(now, router, epoch, cx);
        cx.events
            .at(now + self.message(site), Event::Switched { router, epoch, done });
    }

    pub fn switched(
        &mut self,
        now: Nanos,
        router: u32,
        epoch: Epoch,
        done: bool,
        site: &mut Site,
        cx: &mut Context,
    ) {
        if self.away {
            return;
        }
        let name = router.to_string();
        let notice = if done {
            Notice::Switched(name, epoch)
        } else {
            Notice::NotSwitched(name, epoch)
        };
        self.notice(now, notice, site, cx);
    }

    pub fn retire_due(&mut self, now: Nanos, epoch: Epoch, site: &mut Site, cx: &mut Context) {
        if !self.away {
            self.notice(now, Notice::RetireDue(epoch), site, cx);
        }
    }

    // Members and faults.

    /// A worker is gone, or back.
    pub fn member(&mut self, now: Nanos, worker: u32, there: bool, site: &mut Site, cx: &mut Context) {
        if there {
            self.members.insert(worker);
        } else {
            self.members.remove(&worker);
        }
        if self.away {
            return;
        }
        self.replanner.members_changed();
        let name = self.name(worker);
        if there {
            // A restart that was quicker than the loss was noticed.
            self.notice(now, Notice::WorkerLeft(name.clone()), site, cx);
            self.notice(now, Notice::WorkerJoined(name), site, cx);
            cx.events.at(now + SETTLE, Event::Looks { again: false });
        } else {
            self.notice(now, Notice::WorkerLeft(name), site, cx);
            self.consider(now, cx);
        }
    }

    /// The planner dies: what it was doing is not gone on with. Routers and workers keep what they have.
    pub fn dies(&mut self) {
        self.away = true;
        self.life += 1;
        self.made = None;
        self.planning_now = false;
        self.rollouts = Rollouts::default();
        self.ways.clear();
    }

    /// It starts anew, from the plan and the mix that it kept.
    pub fn starts(&mut self, now: Nanos, site: &mut Site, cx: &mut Context) {
        self.away = false;
        self.all_join(now, site, cx);
        self.mix = ObservedMix::default();
        self.replanner = Replanner::default();
        if let Some((_, workload)) = &self.current {
            self.mix.remember(now, workload);
            cx.events.at(now + REMEMBERED, Event::Forgets);
        }
        cx.events.at(now + SETTLE, Event::Looks { again: false });
    }

    /// Workers and routers join.
    pub fn all_join(&mut self, now: Nanos, site: &mut Site, cx: &mut Context) {
        let members: Vec<String> = self.members.iter().map(|w| self.name(*w)).collect();
        for name in members {
            self.notice(now, Notice::WorkerJoined(name), site, cx);
        }
        for router in 0..site.routers() {
            let notice = Notice::RouterJoined(router.to_string(), site.epoch_of(router));
            self.notice(now, notice, site, cx);
        }
    }

    pub fn forgets(&mut self) {
        self.mix.forget_restart();
    }
}

fn decided(now: Nanos, cause: String, running: Option<&Plan>, carried: &Carried) -> Decision {
    let plan = &carried.plan;
    let none = Plan::empty("", Epoch(0));
    let changed = changes(running.unwrap_or(&none), plan);
    Decision {
        at_s: now.as_secs(),
        epoch: plan.epoch.0,
        cause,
        fragments: carried.workload.fragments.len(),
        rate_rps: carried.workload.fragments.iter().map(|f| f.rate_rps).sum::<f64>() + 0.0,
        share: plan.total_share,
        infeasible: plan.infeasible.len(),
        part: carried.part,
        kept: changed.kept.len(),
        moved: changed.moved.len(),
        new: changed.new.len(),
        gone: changed.gone.len(),
        switched_s: None,
        failed: None,
    }
}
