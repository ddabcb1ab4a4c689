//! The planner's actor: members, the observed mix, the plan.
//!
//! What survives a restart: the last plan, what it was made for, and the highest epoch. Members join again
//! by themselves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix::prelude::*;
use graft_model::{CutPoint, ModelId};
use graft_plan::{Device, Devices, Epoch, Fragment, ModelProfile, Nanos, Plan, Profile, Share, Workload};
use graft_planner_core::{
    Carried, Cause, GraftOptions, LOOK_EVERY, Lacks, Notice, Observation, ObservedMix, Problem, Replanner,
    Rollouts, SETTLE, plan_what_fits, routes, share_alone,
};
use graft_service::Clock;
use graft_telemetry::health::Readiness;
use graft_telemetry::metrics as names;
use graft_transport::Connection;
use graft_wire::{Join, MixReport, RoutesUpdate, WorkerEndpoint, WorkerInfo};

use crate::rollout::OnItsWay;
use crate::store::{Kept, Store};
use crate::threads::Threads;

/// What was observed before a restart counts for so long.
const REMEMBERED: Duration = Duration::from_secs(10);
/// A worker that could not prepare is left out for so long.
const SULK: Nanos = Nanos::from_millis(5_000);
/// Members at most, of each role; one more is refused.
const MAX_MEMBERS: usize = 1024;

/// Somebody joins over a connection.
#[derive(Message)]
#[rtype(result = "Result<(), String>")]
pub(crate) struct Joined {
    pub join: Join,
    pub connection: Connection,
    pub number: u64,
}

/// The connection of that number is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Left {
    pub number: u64,
}

/// A router's report.
#[derive(Message)]
#[rtype(result = "Result<(), String>")]
pub(crate) struct Report {
    pub number: u64,
    pub report: MixReport,
}

/// What does the planner see?
#[derive(Message)]
#[rtype(result = "Snapshot")]
pub struct View;

/// What the planner sees and has decided.
#[derive(Debug, Clone, MessageResponse)]
pub struct Snapshot {
    /// The plan that was rolled out last.
    pub plan: Option<Plan>,
    /// What it was made for.
    pub workload: Workload,
    /// Its costs.
    pub profile: Option<Profile>,
    /// The share that the same fragments would take alone.
    pub share_alone: u64,
    /// Plans that were rolled out since the start.
    pub rolled_out: u64,
    /// Names of models, by identity.
    pub models: BTreeMap<String, String>,
    /// Workers and routers.
    pub members: (usize, usize),
}

struct WorkerMember {
    info: WorkerInfo,
    connection: Connection,
    number: u64,
    /// Left out of plans until then.
    sulks_until: Nanos,
}

/// A model's figures at the first shares alone.
fn narrowed(model: &ModelProfile, shares: usize) -> ModelProfile {
    let mut model = model.clone();
    for row in model.segments.iter_mut().flat_map(|s| &mut s.ms) {
        row.truncate(shares);
    }
    model
}

struct RouterMember {
    connection: Connection,
    number: u64,
}

/// The planner.
pub(crate) struct PlannerActor {
    pub store: Store,
    pub clock: Clock,
    pub headroom: f64,
    pub standing: Option<(f64, f64)>,
    pub retire_after: Duration,
    pub readiness: Readiness,
    workers: BTreeMap<String, WorkerMember>,
    routers: BTreeMap<String, RouterMember>,
    mix: ObservedMix,
    replanner: Replanner,
    /// What is in use: the plan with what it was made for, its costs, its routes.
    pub(crate) current: Option<(Kept, Profile, RoutesUpdate)>,
    /// Highest epoch that any member has reported.
    seen: Epoch,
    /// A plan is being made.
    planning: bool,
    pub(crate) rollouts: Rollouts,
    /// What rolls out, by number: the plan that is on its way, and those that it overtook.
    pub(crate) ways: BTreeMap<Epoch, OnItsWay>,
    rolled_out: u64,
}

/// The longest search for cheaper plans.
const EFFORT: Duration = Duration::from_millis(100);

/// A plan for the observed mix, from the running one.
fn planned(problem: &Problem, epoch: Epoch, running: Option<&Plan>) -> Carried {
    let start = Instant::now();
    let crew = Threads::of_machine();
    let go_on = &mut |_| start.elapsed() < EFFORT;
    let made = plan_what_fits(problem, epoch, running, GraftOptions::default(), &crew, go_on);
    metrics::histogram!(names::PLANNER_SECONDS).record(start.elapsed().as_secs_f64());
    made
}

impl PlannerActor {
    pub fn new(
        store: Store,
        headroom: f64,
        standing: Option<(f64, f64)>,
        retire_after: Duration,
        readiness: Readiness,
    ) -> Self {
        PlannerActor {
            store,
            clock: Clock::start(),
            headroom,
            standing,
            retire_after,
            readiness,
            workers: BTreeMap::new(),
            routers: BTreeMap::new(),
            mix: ObservedMix::default(),
            replanner: Replanner::default(),
            current: None,
            seen: Epoch(0),
            planning: false,
            rollouts: Rollouts::default(),
            ways: BTreeMap::new(),
            rolled_out: 0,
        }
    }

    /// What there is to plan on: the kind of device that most workers have, what it costs, and who lacks which
    /// model. Workers of other kinds, or that measured other batches, are left out.
    fn ground(&self, now: Nanos) -> Option<(Profile, Devices, Lacks)> {
        let willing = self.workers.values().filter(|w| w.sulks_until <= now);
        let mut makes: BTreeMap<(&str, &[u32]), Vec<&WorkerMember>> = BTreeMap::new();
        for worker in willing {
            let make = (
                worker.info.device_kind.as_str(),
                worker.info.profile.batches.as_slice(),
            );
            makes.entry(make).or_default().push(worker);
        }
        if makes.len() > 1 {
            tracing::warn!(
                "workers have different devices or `batches`: planning for the largest group alone"
            );
        }
        let ((kind, _), group) = makes.into_iter().max_by_key(|(_, members)| members.len())?;
        // Shares that all have measured; models that any has.
        let smallest = group.iter().min_by_key(|w| w.info.profile.shares.len())?;
        let mut profile = smallest.info.profile.clone();
        for other in group.iter().map(|w| &w.info.profile) {
            for (id, model) in &other.models {
                if !profile.models.contains_key(id) {
                    profile
                        .models
                        .insert(id.clone(), narrowed(model, profile.shares.len()));
                }
            }
            profile.stage_overhead_ms = profile.stage_overhead_ms.max(other.stage_overhead_ms);
        }
        let mut devices = vec![];
        let mut lacks = Lacks::new();
        for worker in &group {
            let info = &worker.info;
            devices.push(Device {
                id: info.name.clone(),
                kind: kind.to_owned(),
                share_total: Share(info.share_total),
                memory_bytes: info.memory_bytes,
            });
            let missing = profile
                .models
                .keys()
                .filter(|id| !info.profile.models.contains_key(*id));
            lacks.extend(missing.map(|id| (info.name.clone(), id.clone())));
        }
        Some((profile, Devices { version: 1, devices }, lacks))
    }

    fn workload(&self, profile: &Profile) -> Workload {
        let standing: Vec<Fragment> = self
            .standing
            .iter()
            .flat_map(|&(budget_ms, rate_rps)| {
                profile.models.keys().map(move |model| Fragment {
                    id: format!("{}/0/standing", model.get(..12).unwrap_or(model)),
                    model: model.clone(),
                    partition_point: CutPoint(0),
                    budget_ms,
                    rate_rps,
                    burstiness: 1.0,
                })
            })
            .collect();
        let mut workload = self.mix.workload(self.headroom, &standing);
        // What no worker has can't be planned for; its requests are refused as not ready.
        workload.fragments.retain(|f| {
            profile
                .models
                .get(&f.model)
                .is_some_and(|m| f.partition_point.index() < m.segments.len())
        });
        workload
    }

    /// Makes and rolls out another plan, if there is a reason to.
    pub(crate) fn consider(&mut self, context: &mut Context<Self>) {
        if self.planning {
            return;
        }
        let now = self.clock.now();
        let Some((profile, devices, lacks)) = self.ground(now) else {
            self.readiness.not_ready("no worker has joined");
            return;
        };
        let workload = self.workload(&profile);
        let Some(cause) = self.replanner.decide(now, &workload) else {
            return;
        };
        let epoch = match self.store.next_epoch(self.seen) {
            Ok(epoch) => epoch,
            Err(error) => {
                tracing::error!(%error, "no plan without an epoch that is kept");
                self.readiness.not_ready(error.to_string());
                return;
            }
        };
        self.replanner.tried(now);
        self.planning = true;
        let problem = Problem {
            workload,
            profile,
            devices,
            lacks,
        };
        let running = self.current.as_ref().map(|(kept, _, _)| kept.plan.clone());
        let planning = tokio::task::spawn_blocking(move || {
            let made = planned(&problem, epoch, running.as_ref());
            (problem, made)
        });
        context.spawn(planning.into_actor(self).map(move |done, this, context| {
            this.planning = false;
            match done {
                Ok((problem, made)) => this.made(made, problem, cause, context),
                Err(error) => {
                    tracing::error!(%error, "planning failed");
                    this.replanner.members_changed();
                    metrics::counter!(names::PLANNER_PLANS, "outcome" => "failed").increment(1);
                }
            }
        }));
    }

    /// A plan is made: it is rolled out, if it is valid.
    fn made(&mut self, made: Carried, problem: Problem, cause: Cause, context: &mut Context<Self>) {
        let Carried {
            plan: made,
            workload,
            part,
        } = made;
        let broken = made.check(&workload, &problem.profile, &problem.devices);
        if let Some(first) = broken.first() {
            tracing::error!(%first, count = broken.len(), "the plan is not valid, and is not rolled out");
            if cause == Cause::Members {
                self.replanner.members_changed();
            }
            metrics::counter!(names::PLANNER_PLANS, "outcome" => "failed").increment(1);
            return;
        }
        let begun = self.rollouts.on_its_way().max(self.rollouts.current());
        if begun.is_some_and(|begun| made.epoch <= begun) {
            // Routers were told of a later one while this was made.
            self.replanner.members_changed();
            return;
        }
        let now = self.clock.now();
        let running = self.current.as_ref().map(|(kept, _, _)| kept.plan.total_share);
        if let Some(running) = running
            && !Replanner::is_worth(&cause, made.total_share, running)
        {
            tracing::info!(%cause, share = made.total_share, running, "another plan would save too little");
            metrics::counter!(names::PLANNER_PLANS, "outcome" => "not_worth").increment(1);
            self.replanner.kept(now);
            return;
        }
        self.replanner.planned(now, &problem.workload, &cause);
        tracing::info!(
            epoch = %made.epoch, %cause, fragments = problem.workload.fragments.len(), share = made.total_share,
            infeasible = made.infeasible.len(), exhausted = made.capacity_exhausted, "rolling out a plan"
        );
        if part < 1.0 {
            tracing::warn!(
                part,
                "there is more load than devices: planned for this part of it"
            );
        }
        let problem = Problem { workload, ..problem };
        self.roll_out(made, problem, part < 1.0, cause, context);
    }

    fn roll_out(
        &mut self,
        made: Plan,
        problem: Problem,
        limited: bool,
        cause: Cause,
        context: &mut Context<Self>,
    ) {
        let emulated = self.workers.values().any(|w| w.info.emulated);
        let limited = made.capacity_exhausted || limited;
        let update = routes(
            &made,
            limited,
            &problem.workload,
            &problem.profile,
            &self.endpoints(),
        );
        let way = OnItsWay {
            update: RoutesUpdate { emulated, ..update },
            kept: Kept {
                plan: made,
                workload: problem.workload,
            },
            profile: problem.profile,
            keep: true,
            cause: cause.to_string(),
        };
        self.begin(way, context);
    }

    /// All routers use a plan.
    pub(crate) fn rolled(&mut self, way: OnItsWay) {
        let epoch = way.update.epoch;
        metrics::gauge!(names::EPOCH).set(epoch.0 as f64);
        if way.keep {
            self.rolled_out += 1;
            metrics::counter!(names::PLANNER_PLANS, "outcome" => "rolled_out").increment(1);
            metrics::gauge!(names::PLANNER_SHARE).set(way.kept.plan.total_share as f64);
            if let Err(error) = self.store.keep(&way.kept) {
                tracing::error!(%error, "the plan is in use, but not kept");
            }
            self.readiness.ready();
        }
        self.current = Some((way.kept, way.profile, way.update));
    }

    /// A worker can't prepare: it is left out for a while.
    pub(crate) fn left_out(&mut self, worker: &str, context: &mut Context<Self>) {
        metrics::counter!(names::PLANNER_PLANS, "outcome" => "failed").increment(1);
        let until = self.clock.now() + SULK;
        self.replanner.members_changed();
        if let Some(member) = self.workers.get_mut(worker) {
            member.sulks_until = until;
            context.run_later(SULK.duration(), |this, context| {
                this.replanner.members_changed();
                this.consider(context);
            });
        }
        self.consider(context);
    }

    /// Workers as routers are told them.
    fn endpoints(&self) -> BTreeMap<String, WorkerEndpoint> {
        let endpoint = |w: &WorkerMember| {
            let address = w.info.address.clone();
            (w.info.name.clone(), WorkerEndpoint { address })
        };
        self.workers.values().map(endpoint).collect()
    }

    pub(crate) fn worker(&self, name: &str) -> Option<Connection> {
        self.workers.get(name).map(|w| w.connection.clone())
    }

    /// A router's connection, and its number.
    pub(crate) fn router(&self, name: &str) -> Option<(Connection, u64)> {
        self.routers.get(name).map(|r| (r.connection.clone(), r.number))
    }

    fn count_members(&self) {
        metrics::gauge!(names::PLANNER_MEMBERS, "role" => "worker").set(self.workers.len() as f64);
        metrics::gauge!(names::PLANNER_MEMBERS, "role" => "router").set(self.routers.len() as f64);
    }

    fn admit_worker(
        &mut self,
        info: WorkerInfo,
        connection: Connection,
        number: u64,
        context: &mut Context<Self>,
    ) -> Result<(), String> {
        use graft_plan::FormatFile;
        if self.workers.len() >= MAX_MEMBERS && !self.workers.contains_key(&info.name) {
            return Err(format!("there are {MAX_MEMBERS} workers, as many as are allowed"));
        }
        let profile = info.profile.clone().verified().map_err(|e| e.to_string())?;
        if let Some(stray) = profile.models.keys().find(|m| m.parse::<ModelId>().is_err()) {
            return Err(format!(
                "the profile names a model {stray:?}: expected its identity"
            ));
        }
        tracing::info!(worker = %info.name, address = %info.address, kind = %info.device_kind, models = info.models.len(), "a worker joined");
        self.seen = self.seen.max(info.epoch);
        if let Some(before) = self.workers.get(&info.name) {
            // A restart that was quicker than the loss was noticed; or two workers of one name.
            tracing::warn!(worker = %info.name, "another worker of this name joined; the one before is let go");
            before.connection.close("another worker of your name joined");
            self.notice(Notice::WorkerLeft(info.name.clone()), context);
        }
        let name = info.name.clone();
        self.workers.insert(
            name.clone(),
            WorkerMember {
                info,
                connection,
                number,
                sulks_until: Nanos::ZERO,
            },
        );
        self.notice(Notice::WorkerJoined(name), context);
        self.replanner.members_changed();
        Ok(())
    }
}

impl Actor for PlannerActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        match self.store.last() {
            Ok(Some(kept)) => {
                tracing::info!(epoch = %kept.plan.epoch, "going on from the plan that was kept");
                let mut kept = kept.workload;
                kept.fragments.retain(|f| !f.id.ends_with("/standing"));
                self.mix.remember(self.clock.now(), &kept);
                context.run_later(REMEMBERED, |this, _| this.mix.forget_restart());
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the plan that was kept can't be read"),
        }
        context.run_interval(LOOK_EVERY.duration(), |this, context| this.consider(context));
    }
}

impl Handler<Joined> for PlannerActor {
    type Result = Result<(), String>;

    fn handle(
        &mut self,
        Joined {
            join,
            connection,
            number,
        }: Joined,
        context: &mut Self::Context,
    ) -> Self::Result {
        if connection.is_closed() {
            return Err("your connection is gone".to_owned());
        }
        match join {
            Join::Worker(info) => {
                self.admit_worker(*info, connection, number, context)?;
                context.run_later(SETTLE.duration(), |this, context| this.consider(context));
            }
            Join::Router { name, epoch } => {
                if self.routers.len() >= MAX_MEMBERS && !self.routers.contains_key(&name) {
                    return Err(format!("there are {MAX_MEMBERS} routers, as many as are allowed"));
                }
                tracing::info!(router = %name, %epoch, "a router joined");
                self.seen = self.seen.max(epoch);
                let member = RouterMember { connection, number };
                if let Some(before) = self.routers.insert(name.clone(), member) {
                    before.connection.close("another router of your name joined");
                }
                let current = self.rollouts.on_its_way().or(self.rollouts.current());
                if current.is_some_and(|current| current < epoch) {
                    // It has routes of a plan that this planner does not know: it needs later ones.
                    self.replanner.members_changed();
                    context.run_later(SETTLE.duration(), |this, context| this.consider(context));
                }
                self.notice(Notice::RouterJoined(name, epoch), context);
            }
        }
        self.count_members();
        Ok(())
    }
}

impl Handler<Left> for PlannerActor {
    type Result = ();

    fn handle(&mut self, Left { number }: Left, context: &mut Self::Context) {
        let gone = |(name, of): (&String, u64)| (of == number).then(|| name.clone());
        let workers = self.workers.iter().map(|(n, w)| (n, w.number));
        let lost: Vec<String> = workers.filter_map(gone).collect();
        let routers = self.routers.iter().map(|(n, r)| (n, r.number));
        for name in routers.filter_map(gone).collect::<Vec<String>>() {
            tracing::warn!(router = %name, "a router left");
            self.routers.remove(&name);
            self.mix.router_left(&name);
            self.notice(Notice::RouterLeft(name), context);
        }
        if !lost.is_empty() {
            self.replanner.members_changed();
        }
        for name in &lost {
            tracing::warn!(worker = %name, "a worker left");
            self.workers.remove(name);
            self.notice(Notice::WorkerLeft(name.clone()), context);
        }
        self.count_members();
        if !lost.is_empty() {
            if self.workers.is_empty() {
                self.nobody_left(context);
            }
            self.consider(context);
        }
    }
}

impl PlannerActor {
    /// Routers learn that nothing is served, so that clients are told at once.
    fn nobody_left(&mut self, context: &mut Context<Self>) {
        let epoch = match self.store.next_epoch(self.seen) {
            Ok(epoch) => epoch,
            Err(error) => return tracing::error!(%error, "routers can't be told that no worker is left"),
        };
        let Some((kept, profile, routes)) = self.current.clone() else {
            return;
        };
        let update = RoutesUpdate {
            epoch,
            limited: false,
            emulated: routes.emulated,
            workers: BTreeMap::new(),
            routes: vec![],
            server_ms: routes.server_ms,
        };
        let way = OnItsWay {
            kept,
            profile,
            update,
            keep: false,
            cause: "no worker is left".to_owned(),
        };
        self.begin(way, context);
    }
}

impl Handler<Report> for PlannerActor {
    type Result = Result<(), String>;

    fn handle(&mut self, Report { number, report }: Report, context: &mut Self::Context) -> Self::Result {
        let name = self
            .routers
            .iter()
            .find(|(_, r)| r.number == number)
            .map(|(n, _)| n.clone())
            .ok_or("join first")?;
        let seen: Vec<Observation> = report
            .entries
            .into_iter()
            .map(|e| Observation {
                model: e.model.to_string(),
                partition_point: e.partition_point,
                budget_ms: e.budget_ms,
                rate_rps: e.rate_rps,
                burstiness: e.burstiness,
            })
            .collect();
        self.mix.report(self.clock.now(), &name, &seen);
        if report.urgent {
            self.consider(context);
        }
        Ok(())
    }
}

impl Handler<View> for PlannerActor {
    type Result = Snapshot;

    fn handle(&mut self, _: View, _: &mut Self::Context) -> Snapshot {
        let (kept, profile) = match &self.current {
            Some((kept, profile, _)) => (Some(kept.clone()), Some(profile.clone())),
            None => (None, None),
        };
        let workload = kept.as_ref().map_or_else(
            || Workload {
                version: 1,
                headroom: self.headroom,
                fragments: vec![],
            },
            |k| k.workload.clone(),
        );
        Snapshot {
            share_alone: profile.as_ref().map_or(0, |p| share_alone(&workload, p)),
            plan: kept.map(|k| k.plan),
            workload,
            profile,
            rolled_out: self.rolled_out,
            models: self
                .workers
                .values()
                .flat_map(|w| &w.info.models)
                .map(|m| (m.id.to_string(), m.name.clone()))
                .collect(),
            members: (self.workers.len(), self.routers.len()),
        }
    }
}
