//! The planner's actor: drives the desk, and carries out what it says.
//!
//! What survives a restart: the last plan, what it was made for, the decisions, and the highest epoch. Members join again by
//! themselves.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use actix::prelude::*;
use graft_plan::{Epoch, Nanos, Plan};
use graft_planner_search::{Carried, GraftOptions, Problem, plan_what_fits};
use graft_planner_steer::{
    Desk, DeskOptions, Do, Event, Made, Member, Note, PREPARE_WITHIN, SWITCH_WITHIN, Undone, Unheard, predict,
};
use graft_service::Clock;
use graft_telemetry::health::Readiness;
use graft_telemetry::metrics as names;
use graft_transport::{Connection, Role};
use graft_wire::{Join, ToRouter, ToWorker};

use crate::connections::Connections;
use crate::store::Store;
use crate::threads::Threads;

/// Longest search for cheaper plans.
const EFFORT: Duration = Duration::from_millis(100);

/// Longest wait for a member's sign of life.
const ALIVE_WITHIN: Duration = Duration::from_millis(200);

/// Another plan is asked for.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct PlanNow;

/// What is there to see? Answered by a function of the desk.
#[derive(Message)]
#[rtype(result = "T")]
pub(crate) struct See<T: 'static>(pub fn(&Desk, Nanos) -> T);

/// Why are plans kept in memory alone? `None`: they are on the disk, too.
#[derive(Message)]
#[rtype(result = "Option<String>")]
pub(crate) struct StoreTrouble;

/// The planner.
pub(crate) struct PlannerActor {
    desk: Desk,
    clock: Clock,
    store: Store,
    readiness: Readiness,
    connections: Connections,
    /// Workers that are asked for a sign of life.
    looked_after: BTreeSet<String>,
    /// When the desk is to be looked at again.
    waking: Option<(Nanos, SpawnHandle)>,
}

impl PlannerActor {
    pub fn new(store: Store, options: DeskOptions, readiness: Readiness) -> Self {
        let clock = Clock::start();
        let memory = store.memory();
        PlannerActor {
            desk: Desk::new(clock.now(), options, memory),
            clock,
            store,
            readiness,
            connections: Connections::default(),
            looked_after: BTreeSet::new(),
            waking: None,
        }
    }

    /// The desk hears something, and what it wants is done.
    pub fn hear(&mut self, event: Event, context: &mut Context<Self>) -> Result<(), Unheard> {
        let heard = self.desk.heard(self.clock.now(), event);
        self.drive(context);
        heard
    }

    /// Somebody joined, over this connection; one of the same name that was there before is gone.
    pub fn joined(
        &mut self,
        join: Join,
        member: Member,
        connection: Connection,
        number: u64,
        context: &mut Context<Self>,
    ) -> Result<(), Unheard> {
        self.desk.heard(self.clock.now(), Event::Joined(join))?;
        self.connections.add(member, connection, number);
        self.drive(context);
        Ok(())
    }

    /// Where the member of a role and a name is, if it is there over another connection than this, and gives a sign of life.
    pub fn alive(
        &self,
        role: Role,
        name: &str,
        number: u64,
    ) -> impl Future<Output = Option<SocketAddr>> + use<> {
        let other = self.connections.other(role, name, number);
        async move {
            let other = other?;
            let told = match role {
                Role::Worker => other.tell(&ToWorker::Alive, ALIVE_WITHIN).await,
                _ => other.tell(&ToRouter::Alive, ALIVE_WITHIN).await,
            };
            told.ok().map(|()| other.peer())
        }
    }

    /// A worker gives somebody no sign of life: where it gives none here either, it is gone.
    pub fn look_after(&mut self, worker: String, by: &Member, context: &mut Context<Self>) {
        if !self.looked_after.insert(worker.clone()) {
            return;
        }
        tracing::warn!(
            worker,
            ?by,
            "a worker is said to be silent; it is asked for a sign of life"
        );
        let number = self.connections.worker(&worker);
        let asked = self
            .connections
            .tell_worker(&worker, ToWorker::Alive, ALIVE_WITHIN);
        let heard = asked.into_actor(self).map(move |sign, this, _| {
            this.looked_after.remove(&worker);
            if let Err(Undone::Unanswered(_)) = sign {
                // Its end is heard of as any connection's. One that joined again meanwhile stays.
                let why = "you gave no sign of life: join again";
                this.connections.let_go_worker(&worker, number, why);
            }
        });
        context.spawn(heard);
    }

    /// Who joined over the connection of this number.
    pub fn member(&self, number: u64) -> Option<Member> {
        self.connections.member(number)
    }

    /// The connection of this number is gone.
    pub fn left(&mut self, number: u64, context: &mut Context<Self>) {
        if let Some(member) = self.connections.remove(number) {
            tracing::warn!(?member, "a member left");
            self.came_out(Event::Left(member), context);
        }
    }

    /// The outcome of something that the desk wanted done: it is always heard.
    fn came_out(&mut self, event: Event, context: &mut Context<Self>) {
        if let Err(unheard) = self.hear(event, context) {
            tracing::error!(%unheard, "the planner does not hear of what it did");
        }
    }

    fn drive(&mut self, context: &mut Context<Self>) {
        self.store.tend();
        let now = self.clock.now();
        while let Some(what) = self.desk.poll(now) {
            self.carry_out(what, context);
        }
        match self.desk.readiness(now) {
            Ok(()) => self.readiness.ready(),
            Err(why) => self.readiness.not_ready(why.to_string()),
        }
        let next = self.desk.next_at();
        if self.waking.is_none_or(|(at, _)| at != next) {
            if let Some((_, waking)) = self.waking.take() {
                context.cancel_future(waking);
            }
            let waking = context.run_later((next - now).duration(), |this, context| {
                this.waking = None;
                this.drive(context);
            });
            self.waking = Some((next, waking));
        }
    }

    fn carry_out(&mut self, what: Do, context: &mut Context<Self>) {
        match what {
            Do::KeepEpoch(epoch) => {
                let highest = self.store.keep_epoch(epoch);
                let outcome = match highest > epoch {
                    true => Err(Undone::GivenOut(highest)),
                    false => Ok(()),
                };
                self.came_out(Event::EpochKept(epoch, outcome), context);
            }
            Do::Plan {
                epoch,
                problem,
                running,
            } => {
                let planning = move || Ok(planned(&problem, epoch, running.as_ref()));
                self.beside(planning, move |made| Event::Made(epoch, made), context);
            }
            Do::Predict {
                epoch,
                plan,
                workload,
                hardware,
            } => {
                let predicting = move || {
                    let predicted = predict(&plan, &workload, &hardware);
                    predicted.map_err(|e| Undone::NotSimulated(e.to_string()))
                };
                self.beside(predicting, move |done| Event::Predicted(epoch, done), context);
            }
            Do::Prepare { worker, epoch, work } => {
                let told =
                    self.connections
                        .tell_worker(&worker, ToWorker::Prepare(work), PREPARE_WITHIN.duration());
                let heard = told.into_actor(self).map(move |done, this, context| {
                    this.came_out(Event::Prepared(worker, epoch, done), context);
                });
                context.spawn(heard);
            }
            Do::Switch {
                router,
                epoch,
                update,
            } => {
                let number = self.connections.router(&router);
                let told =
                    self.connections
                        .tell_router(&router, ToRouter::Switch(update), SWITCH_WITHIN.duration());
                let heard = told.into_actor(self).map(move |done, this, context| {
                    // One that joined again meanwhile was told again: this is the end of its old connection.
                    if this.connections.router(&router) == number {
                        this.came_out(Event::Switched(router, epoch, done), context);
                    }
                });
                context.spawn(heard);
            }
            Do::Abandon { worker, epoch } => self.tell(&worker, ToWorker::Abandon(epoch), context),
            Do::Retire { worker, before } => self.tell(&worker, ToWorker::Retire(before), context),
            Do::LetGo { router } => self.connections.let_go(&router, "you did not switch: join again"),
            Do::Keep(kept) => {
                metrics::gauge!(names::PLANNER_SHARE).set(kept.plan.total_share as f64);
                self.store.keep(&kept);
            }
            Do::KeepDecision(decision) => {
                self.store.keep_decision(&decision);
            }
            Do::ForgetDecision(epoch) => {
                self.store.forget_decision(epoch);
            }
            Do::Note(note) => tell_people(&note),
        }
    }

    /// Computes something on a thread of its own, and hears of it.
    fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Undone> + Send + 'static,
        event: impl FnOnce(Result<T, Undone>) -> Event + 'static,
        context: &mut Context<Self>,
    ) {
        let working = tokio::task::spawn_blocking(work).into_actor(self);
        context.spawn(working.map(move |done, this, context| {
            let done = done.unwrap_or_else(|panicked| Err(Undone::Broken(panicked.to_string())));
            this.came_out(event(done), context);
        }));
    }

    /// Tells a worker something that needs no answer: what does not come through is made good by the next plan.
    fn tell(&self, worker: &str, message: ToWorker, context: &mut Context<Self>) {
        let telling = self
            .connections
            .tell_worker(worker, message, SWITCH_WITHIN.duration());
        let worker = worker.to_owned();
        let told = async move {
            if let Err(reason) = telling.await {
                tracing::debug!(worker, %reason, "a worker was not told");
            }
        };
        context.spawn(told.into_actor(self));
    }
}

/// A plan for the observed mix, from the running one.
fn planned(problem: &Problem, epoch: Epoch, running: Option<&Plan>) -> Made {
    let start = Instant::now();
    let crew = Threads::of_machine();
    let go_on = &mut |_| start.elapsed() < EFFORT;
    let carried: Carried = plan_what_fits(problem, epoch, running, GraftOptions::default(), &crew, go_on);
    metrics::histogram!(names::PLANNER_SECONDS).record(start.elapsed().as_secs_f64());
    Made {
        carried,
        planning_ms: start.elapsed().as_secs_f64() * 1e3,
    }
}

fn tell_people(note: &Note) {
    let count = |outcome| metrics::counter!(names::PLANNER_PLANS, "outcome" => outcome).increment(1);
    match note {
        Note::InUse { epoch, .. } => {
            metrics::gauge!(names::EPOCH).set(epoch.0 as f64);
            count("rolled_out");
        }
        Note::NotWorth { .. } => count("not_worth"),
        Note::Failed { .. } => count("failed"),
        _ => {}
    }
    if note.is_warning() {
        tracing::warn!("{note}");
    } else {
        tracing::info!("{note}");
    }
}

impl Actor for PlannerActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.drive(context);
    }
}

impl Handler<StoreTrouble> for PlannerActor {
    type Result = Option<String>;

    fn handle(&mut self, _: StoreTrouble, _: &mut Context<Self>) -> Self::Result {
        self.store.trouble().map(str::to_owned)
    }
}

impl Handler<PlanNow> for PlannerActor {
    type Result = ();

    fn handle(&mut self, _: PlanNow, context: &mut Self::Context) {
        self.came_out(Event::Asked, context);
    }
}

impl<T: 'static> Handler<See<T>> for PlannerActor {
    type Result = MessageResult<See<T>>;

    fn handle(&mut self, See(look): See<T>, _: &mut Self::Context) -> Self::Result {
        MessageResult(look(&self.desk, self.clock.now()))
    }
}
