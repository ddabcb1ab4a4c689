//! The router and the planner: joining, reporting the mix, switching routes.
//!
//! What survives a restart: nothing. The planner sends the routes again when the router joins. While the
//! planner is away, the router goes on with the routes that it has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use graft_plan::Epoch;
use graft_router_core::{MixWindow, REPORT_EVERY, URGENT_EVERY};
use graft_telemetry::health::Readiness;
use graft_telemetry::metrics as names;
use graft_transport::{Connection, Endpoint, Telling};
use graft_wire::{Join, MixReport, RoutesUpdate, ToPlanner, ToRouter};

use crate::backend::{Backend, Remote};
use crate::front::{Front, Routing};

/// Time for control messages to be answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for connections to new workers before routes that lead to them are used.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// A connection to the planner was made.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Connected(pub Connection);

/// Why a router does not use the routes that the planner says: it is told in these words.
#[derive(Debug, thiserror::Error)]
enum NotSwitched {
    /// Routes come in the order of their plans.
    #[error("routes of plan {epoch} are older than those of plan {current}")]
    Old {
        /// The plan of these routes.
        epoch: Epoch,
        /// The plan whose routes are used.
        current: Epoch,
    },
    /// Others came while workers were connected.
    #[error("plan {0} was overtaken")]
    Overtaken(Epoch),
    /// The router is shutting down, or has more to do than it can.
    #[error(transparent)]
    Busy(#[from] MailboxError),
}

/// The planner says which routes to use.
#[derive(Message)]
#[rtype(result = "Result<(), NotSwitched>")]
struct Switch(Box<RoutesUpdate>);

/// Report now: a request came that no route serves.
#[derive(Message)]
#[rtype(result = "()")]
struct ReportNow;

/// A worker gives no sign of life.
#[derive(Message)]
#[rtype(result = "()")]
struct FellSilent(String);

/// Owns the routes and the observation.
pub(crate) struct Membership {
    pub name: String,
    pub front: Arc<Front>,
    pub window: MixWindow,
    pub planner: Option<Connection>,
    /// Of joining it.
    telling: Arc<Telling>,
    /// For connections to workers.
    pub endpoint: Endpoint,
    /// Workers in this process, by name.
    pub local: HashMap<String, Arc<dyn Backend>>,
    /// Workers elsewhere, by name and address.
    pub remote: HashMap<(String, String), Arc<dyn Backend>>,
    pub readiness: Readiness,
}

impl Membership {
    pub fn new(
        name: String,
        front: Arc<Front>,
        endpoint: Endpoint,
        local: Vec<(String, Arc<dyn Backend>)>,
        readiness: Readiness,
    ) -> Self {
        Membership {
            name,
            window: MixWindow::of_router(front.clock.now()),
            front,
            planner: None,
            telling: Arc::default(),
            endpoint,
            local: local.into_iter().collect(),
            remote: HashMap::new(),
            readiness,
        }
    }

    /// Ready: there are routes, and some worker that they lead to is connected.
    fn tell_readiness(&self) {
        let routing = self.front.routing.load();
        if routing.table.epoch() == Epoch(0) {
            return;
        }
        if routing.table.is_empty() {
            self.readiness
                .not_ready("the plan serves nothing: no worker has room or models");
        } else if routing.backends.values().any(|b| b.is_alive()) {
            self.readiness.ready();
        } else {
            self.readiness.not_ready("no worker of the plan is connected");
        }
    }

    fn report(&mut self, context: &mut Context<Self>, urgent: bool) {
        let now = self.front.clock.now();
        self.front.counts.take_arrived(now, &mut self.window);
        let (window_s, entries) = self.window.rates(now);
        let Some(planner) = self.planner.clone().filter(|p| !p.is_closed()) else {
            return;
        };
        let report = MixReport {
            window_s,
            entries,
            urgent,
            outcomes: self.front.counts.take_outcomes(),
        };
        let front = Arc::clone(&self.front);
        let outcomes = report.outcomes.clone();
        let sending = async move {
            if let Err(error) = planner.tell(&ToPlanner::Mix(report), PATIENCE).await {
                tracing::debug!(%error, "a report did not reach the planner");
                front.counts.put_back(outcomes);
            }
        };
        context.spawn(sending.into_actor(self));
    }
}

impl Actor for Membership {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(REPORT_EVERY.duration(), |this, context| {
            this.report(context, false);
            this.tell_readiness();
        });
        let (front, me) = (Arc::clone(&self.front), context.address());
        tokio::spawn(async move {
            loop {
                front.unserved.notified().await;
                if me.try_send(ReportNow).is_err() && !me.connected() {
                    return;
                }
                tokio::time::sleep(URGENT_EVERY.duration()).await;
            }
        });
    }
}

impl Handler<ReportNow> for Membership {
    type Result = ();

    fn handle(&mut self, _: ReportNow, context: &mut Self::Context) {
        self.report(context, true);
    }
}

impl Handler<FellSilent> for Membership {
    type Result = ();

    fn handle(&mut self, FellSilent(worker): FellSilent, context: &mut Self::Context) {
        tracing::warn!(
            worker,
            "a worker gives no sign of life; what it had goes to others"
        );
        metrics::counter!(names::ROUTER_SILENT, "worker" => worker.clone()).increment(1);
        let Some(planner) = self.planner.clone().filter(|p| !p.is_closed()) else {
            return;
        };
        let telling = async move {
            if let Err(error) = planner.tell(&ToPlanner::Silent(worker), PATIENCE).await {
                tracing::debug!(%error, "the planner was not told of a silent worker");
            }
        };
        context.spawn(telling.into_actor(self));
    }
}

impl Handler<Connected> for Membership {
    type Result = ();

    fn handle(&mut self, Connected(connection): Connected, context: &mut Self::Context) {
        self.planner = Some(connection.clone());
        let join = Join::Router {
            name: self.name.clone(),
            epoch: self.front.routing.load().table.epoch(),
        };
        let me = context.address();
        tokio::spawn(attend(connection, join, me, Arc::clone(&self.telling)));
    }
}

async fn attend(connection: Connection, join: Join, me: Addr<Membership>, telling: Arc<Telling>) {
    let serving = connection.clone();
    tokio::spawn(async move {
        let handler = move |message: ToRouter| {
            let me = me.clone();
            async move {
                let ToRouter::Switch(update) = message else {
                    return Ok(());
                };
                let switched = me.send(Switch(update)).await;
                switched.unwrap_or_else(|busy| Err(busy.into()))
            }
        };
        serving.obey(PATIENCE, handler).await
    });
    match connection.tell(&ToPlanner::Join(join), PATIENCE).await {
        Ok(()) => {
            telling.is_over();
            tracing::info!("joined the planner");
        }
        Err(error) => {
            if telling.is_due(&error.to_string()) {
                tracing::error!(%error, "joining the planner failed; trying again");
            }
            connection.close("joining failed");
        }
    }
}

impl Handler<Switch> for Membership {
    type Result = ResponseActFuture<Self, Result<(), NotSwitched>>;

    fn handle(&mut self, Switch(update): Switch, context: &mut Self::Context) -> Self::Result {
        let current: Epoch = self.front.routing.load().table.epoch();
        if update.epoch < current {
            let epoch = update.epoch;
            return Box::pin(actix::fut::ready(Err(NotSwitched::Old { epoch, current })));
        }
        let mut backends: HashMap<String, Arc<dyn Backend>> = HashMap::new();
        let mut remote = HashMap::new();
        for (name, place) in &update.workers {
            if let Some(local) = self.local.get(name) {
                backends.insert(name.clone(), Arc::clone(local));
                continue;
            }
            let key = (name.clone(), place.address.clone());
            let backend = match self.remote.get(&key) {
                Some(known) => Arc::clone(known),
                None => {
                    let (me, worker) = (context.address(), name.clone());
                    let front = Arc::clone(&self.front);
                    let changed = move |silent: bool| {
                        if !silent {
                            // Requests may wait for it.
                            front.switched.notify_waiters();
                        } else if me.try_send(FellSilent(worker.clone())).is_err() {
                            tracing::debug!("the membership actor has too much to do");
                        }
                    };
                    // One that can't be found is not alive; the others are.
                    let remote = Remote::open(self.endpoint.clone(), &place.address, name, changed);
                    Arc::new(remote) as Arc<dyn Backend>
                }
            };
            backend.expect_chunks(place.chunk.duration());
            remote.insert(key, Arc::clone(&backend));
            backends.insert(name.clone(), backend);
        }
        let waiting: Vec<_> = backends.values().cloned().collect();
        let connected = async move {
            let all = async {
                while !waiting.iter().all(|b| b.is_alive()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            if tokio::time::timeout(CONNECT_WITHIN, all).await.is_err() {
                tracing::warn!(
                    "switching to routes of which some lead to workers that are not connected yet"
                );
            }
        };
        Box::pin(connected.into_actor(self).map(move |(), this, _| {
            let now = this.front.clock.now();
            let before = this.front.routing.load();
            if update.epoch < before.table.epoch() {
                return Err(NotSwitched::Overtaken(update.epoch));
            }
            let table = this.front.entrance.switch(now, &before.table, *update);
            let (epoch, routes) = (table.epoch(), table.len());
            this.remote = remote;
            this.front.routing.store(Arc::new(Routing { table, backends }));
            this.front.switched.notify_waiters();
            metrics::gauge!(names::EPOCH).set(epoch.0 as f64);
            tracing::info!(%epoch, routes, "switched to a plan");
            this.tell_readiness();
            Ok(())
        }))
    }
}
