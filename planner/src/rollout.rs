//! Carries out what the roll-outs' state machine orders: messages to workers and routers, and their replies.

use std::collections::BTreeSet;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use graft_plan::Profile;
use graft_planner_core::{Notice, Order, Outcome};
use graft_transport::Connection;
use graft_wire::{ControlReply, ControlRequest, Correction, Limits, RoutesUpdate, WorkerPlan};
use serde::Serialize;

use crate::actor::PlannerActor;
use crate::store::Kept;

/// Time for a router to switch, and for a worker to take note.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for a worker to prepare a plan: engines may have to load what it runs.
const PREPARING: Duration = Duration::from_secs(30);
/// Plans that are remembered while they roll out, or while others that overtook them do.
const MOST_WAYS: usize = 8;

/// A plan that rolls out.
#[derive(Clone)]
pub(crate) struct OnItsWay {
    pub kept: Kept,
    pub profile: Profile,
    /// Of the profile, for workers.
    pub corrections: Vec<Correction>,
    /// Its number is the roll-out's.
    pub update: RoutesUpdate,
    /// It is one to go on from; else routers are only told that nothing is served.
    pub keep: bool,
    /// Why it was made.
    pub cause: String,
}

/// One control message and its reply.
async fn tell<T: Serialize>(
    connection: Option<Connection>,
    request: ControlRequest,
    body: Option<&T>,
    patience: Duration,
) -> Result<(), String> {
    let connection = connection.ok_or("it is not there")?;
    let payload = match body {
        None => Bytes::new(),
        Some(body) => Bytes::from(serde_json::to_vec(body).map_err(|e| e.to_string())?),
    };
    match connection
        .call::<_, ControlReply>(&request, payload, Limits::default(), patience)
        .await
    {
        Ok((ControlReply::Done, _)) => Ok(()),
        Ok((ControlReply::Failed(reason), _)) => Err(reason),
        Err(error) => Err(error.to_string()),
    }
}

impl PlannerActor {
    /// Begins to roll a plan out.
    pub(crate) fn begin(&mut self, way: OnItsWay, context: &mut Context<Self>) {
        let epoch = way.update.epoch;
        let workers: BTreeSet<String> = if way.keep {
            way.kept
                .plan
                .partitions
                .iter()
                .map(|p| p.device.clone())
                .collect()
        } else {
            BTreeSet::new()
        };
        self.ways.insert(epoch, way);
        while self.ways.len() > MOST_WAYS {
            self.ways.pop_first();
        }
        self.notice(Notice::Begins(epoch, workers), context);
    }

    /// Something happened that a roll-out may wait for.
    pub(crate) fn notice(&mut self, notice: Notice, context: &mut Context<Self>) {
        let mut orders = vec![];
        self.rollouts.notice(notice, &mut orders);
        for order in orders {
            self.carry_out(order, context);
        }
    }

    fn carry_out(&mut self, order: Order, context: &mut Context<Self>) {
        match order {
            Order::Prepare(worker, epoch) => {
                let workers = self.endpoints();
                let work = self.ways.get(&epoch).map(|w| WorkerPlan {
                    plan: w.kept.plan.clone(),
                    workers,
                    corrections: w.corrections.clone(),
                });
                let connection = self.worker(&worker);
                let preparing = async move {
                    let work = work.ok_or("the plan is forgotten")?;
                    tell(connection, ControlRequest::Prepare, Some(&work), PREPARING).await
                };
                self.then(preparing, context, move |done| match done {
                    Ok(()) => Notice::Prepared(worker, epoch),
                    Err(reason) => Notice::Refused(worker, epoch, reason),
                });
            }
            Order::Switch(router, epoch) => {
                let known = self.ways.get(&epoch).map(|w| w.update.clone());
                let current = self.current.as_ref().map(|(_, _, update)| update.clone());
                let update = known.or(current.filter(|u| u.epoch == epoch));
                let (connection, number) = self.router(&router).unzip();
                let routers = u32::try_from(self.routers.len()).unwrap_or(u32::MAX);
                let switching = async move {
                    let mut update = update.ok_or("the routes are forgotten")?;
                    update.routers = routers;
                    tell(connection, ControlRequest::Switch, Some(&update), PATIENCE).await
                };
                let switching = switching.into_actor(self);
                context.spawn(switching.map(move |done, this, context| {
                    // One that joined again meanwhile was told again: this is the end of its old connection.
                    if this.router(&router).unzip().1 != number {
                        return;
                    }
                    let notice = match done {
                        Ok(()) => Notice::Switched(router, epoch),
                        Err(reason) => {
                            tracing::warn!(router, reason, "a router did not switch");
                            Notice::NotSwitched(router, epoch)
                        }
                    };
                    this.notice(notice, context);
                }));
            }
            Order::Abandon(worker, epoch) => {
                self.send(&worker, ControlRequest::Abandon { epoch: epoch.0 }, context);
            }
            Order::Retire(worker, epoch) => {
                self.send(&worker, ControlRequest::Retire { before: epoch.0 }, context);
            }
            Order::RetireLater(epoch) => {
                context.run_later(self.retire_after, move |this, context| {
                    this.notice(Notice::RetireDue(epoch), context);
                });
            }
            Order::Done(epoch) => {
                if let Some(way) = self.ways.remove(&epoch) {
                    tracing::info!(%epoch, cause = %way.cause, "all routers use the plan");
                    self.rolled(way, context);
                }
                self.ways = self.ways.split_off(&epoch);
                self.consider(context);
            }
            Order::Failed(epoch, worker, reason) => {
                let way = self.ways.remove(&epoch);
                let cause = way.map(|w| w.cause).unwrap_or_default();
                tracing::warn!(%epoch, worker, reason, cause, "a worker can't prepare; planning without it");
                let why = format!("worker {worker} can't prepare: {reason}");
                self.decision_ended(epoch, Outcome::Failed { why });
                self.left_out(&worker, context);
            }
            Order::Overtaken(epoch) => {
                tracing::info!(%epoch, "a newer plan overtakes this one");
                self.decision_ended(epoch, Outcome::Overtaken);
            }
            Order::LetGo(router) => {
                if let Some((connection, _)) = self.router(&router) {
                    connection.close("you did not switch: join again");
                }
            }
        }
    }

    /// Does something beside, and notices how it ended.
    fn then(
        &self,
        doing: impl Future<Output = Result<(), String>> + 'static,
        context: &mut Context<Self>,
        notice: impl FnOnce(Result<(), String>) -> Notice + 'static,
    ) {
        let done = doing.into_actor(self);
        context.spawn(done.map(move |done, this, context| this.notice(notice(done), context)));
    }

    /// Tells a worker something that needs no answer: what does not come through is made good by the next plan.
    fn send(&self, worker: &str, request: ControlRequest, context: &mut Context<Self>) {
        let (connection, worker) = (self.worker(worker), worker.to_owned());
        let telling = async move {
            if let Err(reason) = tell::<()>(connection, request, None, PATIENCE).await {
                tracing::debug!(worker, reason, ?request, "a worker was not told");
            }
        };
        context.spawn(telling.into_actor(self));
    }
}
