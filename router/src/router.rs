//! The router: wires clients, HTTP, workers and planner.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;
use graft_service::Renewal;
use graft_telemetry::health::Readiness;
use graft_transport::{ClientAuth, Endpoint, EndpointOptions, Link, Protocol, Role};

use crate::backend::Backend;
use crate::bearers::Bearers;
use crate::clients;
use crate::config::Settings;
use crate::front::Front;
use crate::http;
use crate::membership::{Connected, Membership};

/// Time that a client may be silent.
const CLIENT_IDLE: Duration = Duration::from_secs(30);

/// Time after which a worker, or the planner, that is silent is gone: what it had goes to others.
const MEMBER_IDLE: Duration = Duration::from_millis(1500);

/// Time without a request after which a router that shuts down takes it that its clients have gone to others.
const QUIET: Duration = Duration::from_millis(500);

/// A running router.
pub struct Router {
    front: Arc<Front>,
    clients: Endpoint,
    workers: Endpoint,
    link: Link,
    readiness: Readiness,
    address: SocketAddr,
    http: http::Served,
    drain: Duration,
    _renewal: Renewal,
}

impl Router {
    /// Listens and joins the planner. `local`: workers in this process by name. Must be called on an actix system.
    pub async fn start(settings: Settings, local: Vec<(String, Arc<dyn Backend>)>) -> anyhow::Result<Self> {
        let readiness = Readiness::not_yet("no plan yet: the planner has not sent routes");
        let bearers = Bearers::new(settings.clients, &settings.identity);
        let front = Arc::new(Front::new(settings.catalog, settings.max_in_flight, bearers));
        let options = EndpointOptions {
            idle: CLIENT_IDLE,
            keep_alive: None,
            open_requests: 128,
            ..EndpointOptions::for_strangers()
        };
        let clients = Endpoint::server(
            settings.listen,
            &settings.identity,
            Protocol::Client,
            ClientAuth::None,
            options,
        )?;
        let address = clients.local_addr()?;
        let http = http::serve(
            settings.http,
            &settings.admin,
            Arc::clone(&front),
            &readiness,
            settings.http_budget,
            Arc::clone(clients.account()),
        )?;
        let options = EndpointOptions {
            idle: MEMBER_IDLE,
            keep_alive: Some(MEMBER_IDLE / 4),
            ..EndpointOptions::default()
        };
        let workers = Endpoint::client(&settings.identity, options)?;
        let (renewed, renewing) = ([clients.clone(), workers.clone()], Arc::clone(&front));
        let renewal = Renewal::of(settings.identity, move |identity| {
            renewing.bearers.renew(identity);
            for endpoint in &renewed {
                if let Err(error) = endpoint.renew(identity) {
                    tracing::warn!(%error, "the renewed certificate can't be used");
                }
            }
        });
        let membership = Membership::new(
            settings.name.clone(),
            Arc::clone(&front),
            workers.clone(),
            local,
            readiness.clone(),
        )
        .start();
        tokio::spawn(clients::listen(clients.clone(), Arc::clone(&front)));
        let link = Link::open(
            workers.clone(),
            settings.planner,
            Role::Planner,
            Protocol::Control,
            move |c| {
                if membership.try_send(Connected(c)).is_err() {
                    tracing::error!("the membership actor is gone");
                }
            },
        );
        tracing::info!(name = %settings.name, %address, http = %http.address, "serving");
        Ok(Router {
            front,
            clients,
            workers,
            link,
            readiness,
            address,
            http,
            drain: settings.drain,
            _renewal: renewal,
        })
    }

    /// Where it listens for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves HTTP.
    pub fn http_address(&self) -> SocketAddr {
        self.http.address
    }

    /// Whether it has routes.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Not ready at once, and clients are told to ask others. What comes all the same is answered until nobody asks any more, or half
    /// of the drain time is over; then it is refused, and what is in flight has the rest of that time.
    pub async fn stop(self) {
        self.readiness.end("shutting down");
        self.clients.leave();
        let start = tokio::time::Instant::now();
        let (mut came, mut quiet) = (self.front.came(), start);
        while quiet.elapsed() < QUIET && start.elapsed() < self.drain / 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = self.front.came();
            if now != came || self.front.entrance.in_flight() > 0 {
                (came, quiet) = (now, tokio::time::Instant::now());
            }
        }
        self.front.draining.store(true, Ordering::Relaxed);
        while self.front.entrance.in_flight() > 0 && start.elapsed() < self.drain {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(self.link);
        self.http.stop().await;
        self.clients.close("the router shuts down").await;
        self.workers.close("the router shuts down").await;
    }
}
