//! The router and the planner: joining, reporting the mix, switching routes.
//!
//! What survives a restart: nothing. The planner sends the routes again when the router joins. While the
//! planner is away, the router goes on with the routes that it has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use graft_plan::Epoch;
use graft_router_core::{MixWindow, REPORT_EVERY, RouteTable, URGENT_EVERY};
use graft_service::resolve;
use graft_telemetry::health::Readiness;
use graft_telemetry::metrics as names;
use graft_transport::{Connection, Endpoint};
use graft_wire::{ControlReply, ControlRequest, Join, Limits, MixReport, RoutesUpdate};

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

/// The planner says which routes to use.
#[derive(Message)]
#[rtype(result = "Result<(), String>")]
struct Switch(RoutesUpdate);

/// Report now: a request came that no route serves.
#[derive(Message)]
#[rtype(result = "()")]
struct ReportNow;

/// Owns the routes and the observation.
pub(crate) struct Membership {
    pub name: String,
    pub front: Arc<Front>,
    pub window: MixWindow,
    pub planner: Option<Connection>,
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
        } else if routing.backends.values().any(|b| b.is_connected()) {
            self.readiness.ready();
        } else {
            self.readiness.not_ready("no worker of the plan is connected");
        }
    }

    fn report(&mut self, context: &mut Context<Self>, urgent: bool) {
        let now = self.front.clock.now();
        let keys: Vec<_> = self.front.counts.iter().map(|e| *e.key()).collect();
        for key in keys {
            if let Some((key, count)) = self.front.counts.remove(&key) {
                self.window.add(now, key, count);
            }
        }
        let (window_s, entries) = self.window.rates(now);
        let Some(planner) = self.planner.clone().filter(|p| !p.is_closed()) else {
            return;
        };
        let report = MixReport {
            window_s,
            entries,
            urgent,
            outcomes: self.front.take_outcomes(),
        };
        let json = match serde_json::to_vec(&report) {
            Ok(json) => Bytes::from(json),
            Err(error) => return tracing::error!(%error, "a report can't be written"),
        };
        let front = Arc::clone(&self.front);
        let sending = async move {
            let sent = planner
                .call::<_, ControlReply>(&ControlRequest::Mix, json, Limits::default(), PATIENCE)
                .await;
            let failed = match sent {
                Ok((ControlReply::Done, _)) => return,
                Ok((ControlReply::Failed(reason), _)) => reason,
                Err(error) => error.to_string(),
            };
            tracing::debug!(failed, "a report did not reach the planner");
            front.put_back(report.outcomes);
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

impl Handler<Connected> for Membership {
    type Result = ();

    fn handle(&mut self, Connected(connection): Connected, context: &mut Self::Context) {
        self.planner = Some(connection.clone());
        let join = Join::Router {
            name: self.name.clone(),
            epoch: self.front.routing.load().table.epoch(),
        };
        let me = context.address();
        tokio::spawn(attend(connection, join, me));
    }
}

async fn attend(connection: Connection, join: Join, me: Addr<Membership>) {
    let serving = connection.clone();
    tokio::spawn(async move {
        serving
            .serve(
                Limits::default(),
                PATIENCE,
                move |_, request: ControlRequest, payload: Bytes| {
                    let me = me.clone();
                    async move { (obey(request, &payload, &me).await, Bytes::new()) }
                },
            )
            .await
    });
    let json = match serde_json::to_vec(&join) {
        Ok(json) => Bytes::from(json),
        Err(error) => return tracing::error!(%error, "can't say who I am"),
    };
    let joined = connection
        .call::<_, ControlReply>(&ControlRequest::Join, json, Limits::default(), PATIENCE)
        .await;
    match joined {
        Ok((ControlReply::Done, _)) => tracing::info!("joined the planner"),
        Ok((ControlReply::Failed(reason), _)) => {
            tracing::error!(reason, "the planner does not take this router");
            connection.close("refused");
        }
        Err(error) => {
            tracing::warn!(%error, "joining the planner failed; trying again");
            connection.close("joining failed");
        }
    }
}

async fn obey(request: ControlRequest, payload: &[u8], me: &Addr<Membership>) -> ControlReply {
    if request != ControlRequest::Switch {
        return ControlReply::Failed("a router does not do that".to_owned());
    }
    match serde_json::from_slice::<RoutesUpdate>(payload) {
        Err(error) => ControlReply::Failed(format!("the routes can't be read: {error}")),
        Ok(update) => match me.send(Switch(update)).await {
            Ok(Ok(())) => ControlReply::Done,
            Ok(Err(reason)) => ControlReply::Failed(reason),
            Err(error) => ControlReply::Failed(error.to_string()),
        },
    }
}

impl Handler<Switch> for Membership {
    type Result = ResponseActFuture<Self, Result<(), String>>;

    fn handle(&mut self, Switch(update): Switch, _: &mut Self::Context) -> Self::Result {
        let current: Epoch = self.front.routing.load().table.epoch();
        if update.epoch < current {
            let what = format!(
                "routes of plan {} are older than those of plan {current}",
                update.epoch
            );
            return Box::pin(actix::fut::ready(Err(what)));
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
                None => match resolve("address", &place.address) {
                    Ok(address) => Arc::new(Remote::open(self.endpoint.clone(), address)) as Arc<dyn Backend>,
                    Err(error) => return Box::pin(actix::fut::ready(Err(format!("worker {name}: {error}")))),
                },
            };
            remote.insert(key, Arc::clone(&backend));
            backends.insert(name.clone(), backend);
        }
        let waiting: Vec<_> = backends.values().cloned().collect();
        let connected = async move {
            let all = async {
                while !waiting.iter().all(|b| b.is_connected()) {
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
            let table = RouteTable::new(update);
            let (epoch, routes) = (table.epoch(), table.len());
            if epoch < this.front.routing.load().table.epoch() {
                return Err(format!("plan {epoch} was overtaken"));
            }
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
