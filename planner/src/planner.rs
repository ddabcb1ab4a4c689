//! The planner: wires members, actor and health.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use graft_telemetry::health::Readiness;
use graft_transport::{ClientAuth, Connection, Endpoint, EndpointOptions, Protocol, Role};
use graft_wire::{ControlReply, ControlRequest, Join, Limits};

use crate::actor::{Joined, Left, PlannerActor, Snapshot, View};
use crate::config::Settings;
use crate::http;
use crate::observe::{Report, Worked};
use crate::store::Store;

/// Time for a message to come in whole.
const PATIENCE: Duration = Duration::from_secs(5);

/// A worker or router that is silent for so long is gone.
const MEMBER_IDLE: Duration = Duration::from_millis(1500);

/// A running planner.
pub struct Planner {
    actor: Addr<PlannerActor>,
    endpoint: Endpoint,
    readiness: Readiness,
    address: SocketAddr,
    http: Option<(SocketAddr, actix_web::dev::ServerHandle)>,
}

impl Planner {
    /// Opens the store and listens for workers and routers. Must be called on an actix system.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let readiness = Readiness::not_yet("no worker has joined");
        let store = Store::open(&settings.state.join("plan.redb"))?;
        let options = EndpointOptions {
            idle: MEMBER_IDLE,
            keep_alive: MEMBER_IDLE / 4,
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
        let actor = PlannerActor::new(
            store,
            settings.headroom,
            settings.standing,
            settings.retire_after,
            readiness.clone(),
        )
        .start();
        let http = settings
            .http
            .map(|address| http::serve(address, readiness.clone(), actor.clone()))
            .transpose()?;
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
        })
    }

    /// Where it listens for workers and routers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it sees and has decided.
    pub async fn view(&self) -> anyhow::Result<Snapshot> {
        Ok(self.actor.send(View).await?)
    }

    /// Not ready at once; the others go on with the last plan.
    pub async fn stop(mut self) {
        self.readiness.end("shutting down");
        self.endpoint.close("the planner shuts down").await;
        if let Some((_, server)) = self.http.take() {
            server.stop(false).await;
        }
    }
}

/// Serves a member until it is gone.
async fn attend(connection: Connection, number: u64, actor: Addr<PlannerActor>) {
    let serving = connection.clone();
    let handling = actor.clone();
    let reason = connection
        .serve(
            Limits::default(),
            PATIENCE,
            move |_, request: ControlRequest, payload: Bytes| {
                let (actor, connection) = (handling.clone(), serving.clone());
                async move {
                    (
                        obey(request, &payload, connection, number, &actor).await,
                        Bytes::new(),
                    )
                }
            },
        )
        .await;
    tracing::debug!(reason, "a member's connection ended");
    actor.do_send(Left { number });
}

async fn obey(
    request: ControlRequest,
    payload: &[u8],
    connection: Connection,
    number: u64,
    actor: &Addr<PlannerActor>,
) -> ControlReply {
    let unreadable = |e: serde_json::Error| format!("the message can't be read: {e}");
    let outcome = match request {
        ControlRequest::Join => match serde_json::from_slice::<Join>(payload) {
            Err(e) => Err(unreadable(e)),
            Ok(join) => {
                let role = match &join {
                    Join::Worker(_) => Role::Worker,
                    Join::Router { .. } => Role::Router,
                };
                if connection.is_from(role) {
                    flat(
                        actor
                            .send(Joined {
                                join,
                                connection,
                                number,
                            })
                            .await,
                    )
                } else {
                    Err(format!("your certificate is not a {role}'s"))
                }
            }
        },
        ControlRequest::Mix => match serde_json::from_slice(payload) {
            Err(e) => Err(unreadable(e)),
            Ok(report) => flat(actor.send(Report { number, report }).await),
        },
        ControlRequest::Work => match serde_json::from_slice(payload) {
            Err(e) => Err(unreadable(e)),
            Ok(report) => flat(actor.send(Worked { number, report }).await),
        },
        ControlRequest::Prepare
        | ControlRequest::Retire { .. }
        | ControlRequest::Abandon { .. }
        | ControlRequest::Switch => Err("a planner does not do that".to_owned()),
    };
    match outcome {
        Ok(()) => ControlReply::Done,
        Err(reason) => ControlReply::Failed(reason),
    }
}

fn flat(sent: Result<Result<(), String>, MailboxError>) -> Result<(), String> {
    sent.unwrap_or_else(|e| Err(e.to_string()))
}
