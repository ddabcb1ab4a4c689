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
    Carried, Cause, Corrections, DecisionLog, GraftOptions, LOOK_EVERY, Lacks, Notice, ObservedMix, Outcome,
    Predicted, Problem, Recent, Replanner, Rollouts, SETTLE, plan_what_fits, routes,
};
use graft_service::Clock;
use graft_telemetry::health::Readiness;
use graft_telemetry::metrics as names;
use graft_transport::Connection;
use graft_wire::{Correction, Join, RoutesUpdate, WorkerEndpoint, WorkerInfo, WorkerReport};

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

pub(crate) struct WorkerMember {
    pub info: WorkerInfo,
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

pub(crate) struct RouterMember {
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
    pub(crate) workers: BTreeMap<String, WorkerMember>,
    pub(crate) routers: BTreeMap<String, RouterMember>,
    pub(crate) mix: ObservedMix,
    pub(crate) replanner: Replanner,
    pub(crate) corrections: Corrections,
    pub(crate) decisions: DecisionLog,
    pub(crate) recent: Recent,
    /// Workers' latest reports.
    pub(crate) worked: BTreeMap<String, WorkerReport>,
    /// What is in use: the plan with what it was made for, its costs, its routes.
    pub(crate) current: Option<(Kept, Profile, RoutesUpdate)>,
    /// Highest epoch that any member has reported.
    seen: Epoch,
    /// A plan is being made.
    planning: bool,
    pub(crate) rollouts: Rollouts,
    /// What rolls out, by number: the plan that is on its way, and those that it overtook.
    pub(crate) ways: BTreeMap<Epoch, OnItsWay>,
    pub(crate) rolled_out: u64,
}

/// A plan that was made, and for what.
struct Made {
    carried: Carried,
    problem: Problem,
    /// Of the problem's profile.
    corrections: Vec<Correction>,
    planning_ms: f64,
}

impl Made {
    /// What is expected of it. `before`: the running plan's share.
    fn predicted(&self, before: Option<u64>) -> Predicted {
        let (plan, fragments) = (&self.carried.plan, &self.carried.workload.fragments);
        Predicted {
            share: plan.total_share,
            share_before: before,
            fragments: plan.routes.len(),
            rate_rps: fragments
                .iter()
                .filter(|f| !plan.infeasible.contains(&f.id))
                .map(|f| f.rate_rps)
                .sum(),
            part: self.carried.part,
            infeasible: plan.infeasible.len(),
            attainment: None,
            planning_ms: self.planning_ms,
        }
    }
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
            corrections: Corrections::default(),
            decisions: DecisionLog::default(),
            recent: Recent::default(),
            worked: BTreeMap::new(),
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
        let profile = self.corrections.apply(&profile);
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
        let corrections = self.corrections.of_profile(&problem.profile);
        let planning = tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let made = planned(&problem, epoch, running.as_ref());
            let planning_ms = start.elapsed().as_secs_f64() * 1e3;
            let made = Made {
                carried: made,
                problem,
                corrections,
                planning_ms,
            };
            (made, cause)
        });
        context.spawn(planning.into_actor(self).map(move |done, this, context| {
            this.planning = false;
            match done {
                Ok((made, cause)) => this.made(made, cause, context),
                Err(error) => {
                    tracing::error!(%error, "planning failed");
                    this.replanner.members_changed();
                    metrics::counter!(names::PLANNER_PLANS, "outcome" => "failed").increment(1);
                }
            }
        }));
    }

    /// A plan is made: it is rolled out, if it is valid and worth it.
    fn made(&mut self, made: Made, cause: Cause, context: &mut Context<Self>) {
        let (plan, problem) = (&made.carried.plan, &made.problem);
        let (epoch, share) = (plan.epoch, plan.total_share);
        let running = self.current.as_ref().map(|(kept, _, _)| kept.plan.total_share);
        let predicted = made.predicted(running);
        let broken = plan.check(&made.carried.workload, &problem.profile, &problem.devices);
        if let Some(first) = broken.first() {
            tracing::error!(%first, count = broken.len(), "the plan is not valid, and is not rolled out");
            if cause == Cause::Members {
                self.replanner.members_changed();
            }
            metrics::counter!(names::PLANNER_PLANS, "outcome" => "failed").increment(1);
            let why = format!("the plan breaks a rule: {first}");
            self.decided(epoch, cause.to_string(), predicted, Outcome::Failed { why });
            return;
        }
        let begun = self.rollouts.on_its_way().max(self.rollouts.current());
        if begun.is_some_and(|begun| epoch <= begun) {
            // Routers were told of a later one while this was made.
            self.replanner.members_changed();
            return;
        }
        let now = self.clock.now();
        if let Some(running) = running
            && !Replanner::is_worth(&cause, share, running, self.replanner.is_limited())
        {
            tracing::info!(%cause, share, running, "another plan would save too little");
            metrics::counter!(names::PLANNER_PLANS, "outcome" => "not_worth").increment(1);
            self.replanner.kept(now);
            self.decided(epoch, cause.to_string(), predicted, Outcome::NotWorth);
            return;
        }
        let limited = plan.capacity_exhausted || made.carried.part < 1.0;
        self.replanner.planned(now, &problem.workload, &cause, limited);
        self.replanner.left_out(&problem.workload, &plan.infeasible);
        tracing::info!(
            %epoch, %cause, fragments = problem.workload.fragments.len(), share,
            infeasible = plan.infeasible.len(), exhausted = plan.capacity_exhausted, "rolling out a plan"
        );
        if made.carried.part < 1.0 {
            tracing::warn!(
                part = made.carried.part,
                "there is more load than devices: planned for this part of it"
            );
        }
        self.decided(epoch, cause.to_string(), predicted, Outcome::RollingOut);
        self.roll_out(made, cause, limited, context);
    }

    fn roll_out(&mut self, made: Made, cause: Cause, limited: bool, context: &mut Context<Self>) {
        let Carried { plan, workload, .. } = made.carried;
        let profile = made.problem.profile;
        let emulated = self.workers.values().any(|w| w.info.emulated);
        let update = routes(&plan, limited, &workload, &profile, &self.endpoints());
        let way = OnItsWay {
            update: RoutesUpdate { emulated, ..update },
            kept: Kept { plan, workload },
            profile,
            corrections: made.corrections,
            keep: true,
            cause: cause.to_string(),
        };
        self.begin(way, context);
    }

    /// All routers use a plan.
    pub(crate) fn rolled(&mut self, way: OnItsWay, context: &mut Context<Self>) {
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
            self.decision_in_use(&way, context);
        } else {
            self.no_decision_in_use();
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
    pub(crate) fn endpoints(&self) -> BTreeMap<String, WorkerEndpoint> {
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

    /// Who is at the other end of a connection.
    pub(crate) fn router_of(&self, number: u64) -> Option<String> {
        let mut routers = self.routers.iter();
        routers.find(|(_, r)| r.number == number).map(|(n, _)| n.clone())
    }

    pub(crate) fn worker_of(&self, number: u64) -> Option<String> {
        let mut workers = self.workers.iter();
        workers.find(|(_, w)| w.number == number).map(|(n, _)| n.clone())
    }

    /// Names of models, by identity.
    pub(crate) fn model_names(&self) -> BTreeMap<String, String> {
        let models = self.workers.values().flat_map(|w| &w.info.models);
        models.map(|m| (m.id.to_string(), m.name.clone())).collect()
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
        match self.store.decisions() {
            Ok(kept) => self.decisions = DecisionLog::go_on_from(kept),
            Err(error) => tracing::error!(%error, "the decisions that were kept can't be read"),
        }
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
            self.worked.remove(name);
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
            routers: routes.routers,
            workers: BTreeMap::new(),
            routes: vec![],
            server_ms: routes.server_ms,
            price: BTreeMap::new(),
            left_out: vec![],
        };
        let way = OnItsWay {
            kept,
            profile,
            update,
            corrections: vec![],
            keep: false,
            cause: "no worker is left".to_owned(),
        };
        self.begin(way, context);
    }
}
