//! The planner: wires members, actor and health.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::prelude::*;
use graft_plan::Nanos;
use graft_planner_steer::{DeskOptions, Standing};
use graft_service::Renewal;
use graft_telemetry::health::{Readiness, Served};
use graft_transport::{ClientAuth, Connection, Endpoint, EndpointOptions, Protocol, Role};
use graft_wire::{Join, ToPlanner};

use crate::actor::{PlannerActor, See};
use crate::config::Settings;
use crate::hearing::{Joined, Left, Mixed, NotHeard, Silent, Worked};
use crate::http;
use crate::status::Snapshot;
use crate::store::Store;

/// Time for a message to come in whole.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time after which a worker or router that is silent is gone.
const MEMBER_IDLE: Duration = Duration::from_millis(1500);

/// A running planner.
pub struct Planner {
    actor: Addr<PlannerActor>,
    endpoint: Endpoint,
    readiness: Readiness,
    address: SocketAddr,
    http: Option<Served>,
    _renewal: Renewal,
}

impl Planner {
    /// Opens the store and listens for workers and routers. Must be called on an actix system.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let readiness = Readiness::not_yet("no worker has joined");
        let store = Store::open(&settings.state.join("plan.redb"));
        let options = EndpointOptions {
            idle: MEMBER_IDLE,
            keep_alive: Some(MEMBER_IDLE / 4),
            ..EndpointOptions::default()
        };
        let endpoint = Endpoint::server(
            settings.listen,
            &settings.identity,
            Protocol::Control,
            ClientAuth::Required,
            options,
        )?;
        let address = endpoint.local_addr()?;
        let standing = settings
            .standing
            .map(|(budget_ms, rate_rps)| Standing { budget_ms, rate_rps });
        let options = DeskOptions {
            headroom: settings.headroom,
            standing,
            retire_after: Nanos::from(settings.retire_after),
            began_unix_ms: unix_ms(),
        };
        let actor = PlannerActor::new(store, options, readiness.clone()).start();
        let http = settings
            .http
            .map(|http| http::serve(http, &readiness, actor.clone()))
            .transpose()?;
        let renewed = endpoint.clone();
        let renewal = Renewal::of(settings.identity, move |identity| {
            if let Err(error) = renewed.renew(identity) {
                tracing::warn!(%error, "the renewed certificate can't be used");
            }
        });
        let listening = endpoint.clone();
        let members = actor.clone();
        let numbers = Arc::new(AtomicU64::new(0));
        tokio::spawn(async move {
            listening
                .listen(&[Role::Worker, Role::Router], move |connection| {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(attend(connection, number, members.clone()));
                })
                .await;
        });
        tracing::info!(%address, "serving");
        Ok(Planner {
            actor,
            endpoint,
            readiness,
            address,
            http,
            _renewal: renewal,
        })
    }

    /// Where it listens for workers and routers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it sees and has decided.
    pub async fn view(&self) -> anyhow::Result<Snapshot> {
        Ok(self.actor.send(See(Snapshot::of)).await?)
    }

    /// Not ready at once; the others go on with the last plan.
    pub async fn stop(mut self) {
        self.readiness.end("shutting down");
        self.endpoint.close("the planner shuts down").await;
        if let Some(http) = self.http.take() {
            http.stop().await;
        }
    }
}

/// Milliseconds since 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as u64)
}

/// Serves a member until it is gone.
async fn attend(connection: Connection, number: u64, actor: Addr<PlannerActor>) {
    let serving = connection.clone();
    let handling = actor.clone();
    let handler = move |message: ToPlanner| {
        let (actor, connection) = (handling.clone(), serving.clone());
        async move { hear(message, connection, number, &actor).await }
    };
    let reason = connection.obey(PATIENCE, handler).await;
    tracing::debug!(reason, "a member's connection ended");
    actor.do_send(Left { number });
}

async fn hear(
    message: ToPlanner,
    connection: Connection,
    number: u64,
    actor: &Addr<PlannerActor>,
) -> Result<(), NotHeard> {
    let sent = match message {
        ToPlanner::Join(join) => {
            let role = match &join {
                Join::Worker(_) => Role::Worker,
                Join::Router { .. } => Role::Router,
            };
            if !connection.is_from(role) {
                return Err(NotHeard::Certificate(role));
            }
            let name = match &join {
                Join::Worker(info) => &info.name,
                Join::Router { name, .. } => name,
            };
            if !connection.may_be_called(role, name) {
                return Err(NotHeard::Name(name.clone()));
            }
            let joined = Joined {
                join,
                connection,
                number,
            };
            actor.send(joined).await
        }
        ToPlanner::Mix(report) => actor.send(Mixed { number, report }).await,
        ToPlanner::Work(report) => actor.send(Worked { number, report }).await,
        ToPlanner::Silent(worker) => actor.send(Silent { number, worker }).await,
    };
    sent.unwrap_or_else(|e| Err(e.into()))
}
