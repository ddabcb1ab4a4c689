//! A run: events one by one, in virtual time.

use std::sync::Arc;

use graft_plan::{Epoch, Fault, Fragment, Hardware, Nanos, Plan, Scenario, Workload, ms_to_nanos};
use graft_planner_steer::routes;
use graft_wire::{WorkerEndpoint, WorkerPlan};
use graft_worker_core::{AloneTimes, RouteError};

use crate::cast::{Cast, CastError};
use crate::context::Context;
use crate::control::{Control, Planning};
use crate::events::Event;
use crate::fleet::Fleet;
use crate::names::{identity, plan_by_identity};
use crate::report::Report;
use crate::routers::Routers;
use crate::trace::Trace;
use crate::workers::{PlanError, Workers};

/// Who plans.
pub enum Planner<'a> {
    /// A plan for what is observed, again and again.
    Living {
        /// Its name, for the report.
        name: String,
        /// The algorithm.
        planning: &'a mut dyn Planning,
    },
    /// This plan, from the start to the end.
    Fixed(&'a Plan),
}

/// A scenario that can't be run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// It does not fit the profile.
    #[error(transparent)]
    Cast(#[from] CastError),
    /// The plan can't be run on the profile.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Routers can't be told of the plan.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// The plan breaks a rule, for the scenario's fragments on these devices.
    #[error(
        "the plan does not fit the scenario's fragments, or the devices: {0}; `graft plan check` says more"
    )]
    Broken(String),
    /// There is no device of a profile's kind.
    #[error("there is no device of kind {0}, which the profile is of")]
    NoDevice(String),
}

/// Time after the last request has begun for which what is under way is waited for.
const PATIENCE: Nanos = Nanos::from_millis(60_000);

struct World<'s, 'p> {
    scenario: &'s Scenario,
    cx: Context,
    fleet: Fleet,
    routers: Routers,
    workers: Workers,
    control: Control<'p>,
    end: Nanos,
    /// Workers that faults have hit.
    hit: Vec<Option<u32>>,
}

/// Runs a scenario on devices. `traces`: the bandwidths that there are; missing ones are made up.
/// `progress` is told each second of virtual time.
///
/// The same scenario, hardware, traces, seed and plans give the same report.
pub fn run(
    scenario: &Scenario,
    hardware: &Hardware,
    traces: &[Arc<Trace>],
    planner: Planner<'_>,
    seed: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, RunError> {
    let profiles = &hardware.profiles;
    let cast = Cast::new(scenario, profiles, traces, seed)?;
    let mut hardware = hardware.clone();
    let devices = &mut hardware.devices.devices;
    devices.retain(|d| profiles.of_kind(&d.kind).is_some());
    devices.sort_by(|a, b| a.id.cmp(&b.id));
    if devices.is_empty() {
        let kinds: Vec<&str> = profiles.kinds().iter().map(|p| p.device_kind.as_str()).collect();
        return Err(RunError::NoDevice(kinds.join(", ")));
    }
    let (algorithm, planning, fixed) = match planner {
        Planner::Living { name, planning } => (name, Some(planning), None),
        Planner::Fixed(plan) => (plan.algorithm.clone(), None, Some(plan)),
    };
    let mut cx = Context::new(Report {
        algorithm,
        ..Report::of(scenario, profiles, &cast, seed)
    });
    let end = ms_to_nanos(scenario.duration_s * 1e3);
    let fleet = Fleet::new(cast, ms_to_nanos(scenario.warmup_s * 1e3), end, &mut cx);
    let mut routers = Routers::new(scenario.routers);
    let mut workers = Workers::new(&hardware.devices, profiles.hop_ms());
    let mut control = Control::new(planning, scenario.control, scenario.headroom, &hardware);
    if let Some(plan) = fixed {
        install(plan, scenario, &mut workers, &mut routers, &mut control, &mut cx)?;
    } else {
        control.all_join(Nanos::ZERO, &workers, &routers, &mut cx);
        for router in routers.all() {
            let urgent = false;
            cx.events.at(Nanos::ZERO, Event::Reports { router, urgent });
        }
        for worker in workers.alive() {
            cx.events
                .at(graft_worker_core::REPORT_EVERY, Event::Works { worker });
        }
    }
    for (fault, number) in scenario.faults.iter().zip(0..) {
        let (from, to) = fault.time();
        let mut at = |s: f64, begins| {
            cx.events
                .at(ms_to_nanos(s * 1e3), Event::Fault { number, begins })
        };
        at(from, true);
        if let Some(to) = to {
            at(to, false);
        }
    }
    cx.events.at(Nanos::from_millis(1000), Event::Second);
    let mut world = World {
        scenario,
        cx,
        fleet,
        routers,
        workers,
        control,
        end,
        hit: vec![None; scenario.faults.len()],
    };
    world.play(progress);
    world.cx.ledger.report.fragments = world.fleet.streams();
    Ok(world.cx.ledger.finish())
}

/// A plan is there from the start, on all workers and routers.
fn install(
    plan: &Plan,
    scenario: &Scenario,
    workers: &mut Workers,
    routers: &mut Routers,
    control: &mut Control<'_>,
    cx: &mut Context,
) -> Result<(), RunError> {
    let plan = Plan {
        epoch: Epoch(plan.epoch.0.max(1)),
        ..plan_by_identity(plan)
    };
    let workload = Workload {
        version: 1,
        headroom: scenario.headroom,
        fragments: scenario
            .fragments
            .iter()
            .map(|f| Fragment {
                id: f.id.clone(),
                model: identity(&f.model).to_string(),
                partition_point: f.partition_point,
                budget_ms: f.budget_ms,
                rate_rps: f.rate_rps,
                burstiness: 1.0,
            })
            .collect(),
    };
    let asks =
        |r: &graft_plan::Route| r.stages.is_empty() || scenario.fragments.iter().any(|f| f.id == r.fragment);
    if let Some(stray) = plan.routes.iter().find(|r| !asks(r)) {
        let what = format!("it has a route for {}, which is not there", stray.fragment);
        return Err(RunError::Broken(what));
    }
    let device = |p: &&graft_plan::Partition| workers.number(&p.device).is_none();
    if let Some(stray) = plan.partitions.iter().find(device) {
        let what = format!(
            "partition {} is on device {}, which is not there",
            stray.id, stray.device
        );
        return Err(RunError::Broken(what));
    }
    let devices = plan.partitions.iter().map(|p| p.device.clone());
    let hosts = devices.map(|name| {
        let (address, chunk) = (String::new(), Nanos::ZERO);
        (name.clone(), WorkerEndpoint { name, address, chunk })
    });
    let fleet = control.hardware().fleet();
    let mut update = routes(&plan, false, &workload, &fleet, &hosts.collect())?;
    update.routers = routers.all().end;
    let work = fixed_work(&plan, control.hardware());
    for worker in workers.alive() {
        workers.prepare(worker, &work, &control.hardware().profiles)?;
    }
    for router in routers.all() {
        routers.switch(Nanos::ZERO, router, update.clone(), workers, cx);
    }
    control.begin_with(plan);
    Ok(())
}

/// A plan that is there from the start, as workers would be told it.
fn fixed_work(plan: &Plan, hardware: &Hardware) -> WorkerPlan {
    WorkerPlan {
        plan: plan.clone(),
        hosts: std::collections::BTreeMap::new(),
        corrections: vec![],
        times: AloneTimes::of_plan(plan, &hardware.fleet()).tell(),
    }
}

impl World<'_, '_> {
    fn play(&mut self, progress: &mut dyn FnMut(u64)) {
        while let Some(now) = self.cx.events.next_at() {
            // The last second's own event is among those at the end.
            let over = now > self.end && self.cx.requests.under_way() == 0;
            if over || now > self.end + PATIENCE {
                break;
            }
            // All events of an instant, those that they cause at the same instant included.
            loop {
                while let Some(event) = self.cx.events.pop(now) {
                    if matches!(event, Event::Second) {
                        progress(now.0 / 1_000_000_000);
                    }
                    self.happens(now, event);
                    self.give_back(now);
                }
                self.workers.choose(now, &mut self.cx);
                self.give_back(now);
                if self.cx.events.next_at() != Some(now) {
                    break;
                }
            }
        }
    }

    /// What workers reply goes to routers, and what these are done with to clients.
    fn give_back(&mut self, now: Nanos) {
        loop {
            if let Some((ticket, how)) = self.workers.replies.pop() {
                self.routers
                    .replied(now, ticket, how, &mut self.workers, &mut self.cx);
            } else if let Some((ticket, outcome)) = self.routers.done.pop() {
                self.fleet.comes_back(now, ticket, outcome, &mut self.cx);
            } else {
                return;
            }
        }
    }

    fn happens(&mut self, now: Nanos, event: Event) {
        let World {
            cx,
            fleet,
            routers,
            workers,
            control,
            ..
        } = self;
        match event {
            Event::Due(client) => fleet.due(now, client, cx),
            Event::Joins(phone) => fleet.joins(now, phone, cx),
            Event::Leaves(phone) => fleet.leaves(now, phone, cx),
            Event::Ran { phone, errand, took } => fleet.ran(now, phone, (errand, took), routers, cx),
            Event::StartsAnyway(ticket) => fleet.start(now, ticket, cx),
            Event::HeadDone(ticket) => fleet.head_done(now, ticket, cx),
            Event::LocalDone(ticket) => fleet.local_done(now, ticket, cx),
            Event::Answered(ticket) => fleet.answered(now, ticket, cx),
            Event::Refused(ticket) => fleet.refused(now, ticket, cx),
            Event::RunsAlone(ticket) => fleet.runs_alone(now, ticket, cx),
            Event::GivenUp(ticket) => {
                workers.cancel(ticket, cx);
                fleet.given_up(now, ticket, cx);
            }
            Event::AtRouter(ticket) => {
                let client = cx.requests.get(ticket).map(|r| r.client);
                if let Some(asker) = client.map(|c| fleet.asker(c)) {
                    routers.at_router(now, ticket, &asker, workers, cx);
                }
            }
            Event::WaitedEnough(ticket) => routers.go(now, ticket, workers, cx),
            Event::TimedOut { ticket, attempt } => routers.timed_out(now, ticket, attempt, workers, cx),
            Event::AtStage(ticket) => workers.at_stage(now, ticket, cx),
            Event::ChunkDone {
                epoch,
                partition,
                life,
            } => workers.chunk_done(now, epoch, partition, life, cx),
            Event::Reports { router, urgent } => control.reports(now, router, urgent, routers, cx),
            Event::Works { worker } => control.works(now, worker, workers, routers, cx),
            Event::ToPlanner { life, heard } => control.heard(now, life, *heard, routers, cx),
            Event::Wakes => control.drive(now, routers, cx),
            Event::Prepares { life, worker, work } => {
                control.prepares(now, (life, worker), &work, workers, routers, cx);
            }
            Event::Switches { life, router, update } => {
                control.switches(now, (life, router), *update, workers, routers, cx)
            }
            Event::Abandons(epoch) => workers.abandon(epoch),
            Event::Retires(epoch) => workers.retire(epoch),
            Event::Noticed { worker } => {
                workers.noticed(worker, cx);
                // One that is back already was told to the planner as it came.
                if !workers.is_alive(worker) {
                    control.member(now, worker, false, routers, cx);
                }
            }
            Event::Fault { number, begins } => self.fault(now, number as usize, begins),
            Event::Second => self.second(now),
        }
    }

    fn second(&mut self, now: Nanos) {
        let (phones, points) = self.fleet.second_over();
        let share = self.control.current().map_or(0, |p| p.total_share);
        let held = self.workers.held();
        let second = self.cx.ledger.second(now - Nanos(1));
        (second.phones, second.points, second.share, second.held) = (phones, points, share, held);
        if now < self.end {
            self.cx.events.at(now + Nanos::from_millis(1000), Event::Second);
        }
    }

    fn fault(&mut self, now: Nanos, number: usize, begins: bool) {
        let World {
            cx,
            routers,
            workers,
            control,
            ..
        } = self;
        let fault = &self.scenario.faults[number];
        if let Fault::WorkerLost { worker, .. } | Fault::WorkerSlow { worker, .. } = *fault
            && begins
        {
            let epoch = control.current().map_or(Epoch(0), |p| p.epoch);
            self.hit[number] = workers.nth_in_use(epoch, worker);
            if self.hit[number].is_none() {
                let note = format!("at {:.1} s no plan runs on a worker {worker}", now.as_secs());
                cx.ledger.report.notes.push(note);
            }
        }
        match (fault, self.hit[number]) {
            (Fault::WorkerLost { .. }, Some(worker)) if begins => {
                workers.kill(worker, cx);
                let notice = ms_to_nanos(self.scenario.control.notice_ms);
                cx.events.at(now + notice, Event::Noticed { worker });
            }
            (Fault::WorkerLost { .. }, Some(worker)) => {
                workers.revive(worker);
                if let Some(work) = control.fixed().map(|plan| fixed_work(plan, control.hardware()))
                    && let Err(error) = workers.prepare(worker, &work, &control.hardware().profiles)
                {
                    cx.ledger.report.notes.push(error.to_string());
                }
                control.member(now, worker, true, routers, cx);
            }
            (Fault::WorkerSlow { times, .. }, Some(worker)) => {
                workers.slow(worker, if begins { *times } else { 1.0 });
            }
            (Fault::PlannerAway { .. }, _) if begins => control.dies(),
            (Fault::PlannerAway { .. }, _) => control.starts(now, workers, routers, cx),
            (Fault::MessagesLate { by_ms, .. }, _) => {
                routers.late = if begins { ms_to_nanos(*by_ms) } else { Nanos::ZERO };
            }
            (Fault::WorkerLost { .. } | Fault::WorkerSlow { .. }, None) => {}
        }
    }
}
