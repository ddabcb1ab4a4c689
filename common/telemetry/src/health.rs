//! `/healthz` and `/readyz` over HTTP, for anybody; `/metrics`, and what else is for administrators.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};

use crate::admin::Admin;
use crate::metrics;

/// Readiness of a program: whether it is ready, and if not, why. Clones share the state.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    why_not: Option<String>,
    /// Whether the program shuts down: then it stays not ready, whatever is set later.
    ended: bool,
}

impl Readiness {
    /// A state of not ready, for a reason.
    pub fn not_yet(reason: impl Into<String>) -> Self {
        Readiness {
            state: Arc::new(Mutex::new(State {
                why_not: Some(reason.into()),
                ended: false,
            })),
        }
    }

    /// Makes it ready from now on.
    pub fn ready(&self) {
        self.set(None);
    }

    /// Makes it not ready from now on.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    /// Makes it not ready for good: the program shuts down.
    pub fn end(&self, reason: impl Into<String>) {
        let mut state = self.state();
        state.why_not = Some(reason.into());
        state.ended = true;
    }

    /// Reason why it is not ready; `None`: it is ready.
    pub fn why_not(&self) -> Option<String> {
        self.state().why_not.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn set(&self, value: Option<String>) {
        let mut state = self.state();
        if !state.ended {
            state.why_not = value;
        }
    }
}

/// An HTTP address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} (HTTP, `http` or `admin`): {cause}")]
pub struct HttpError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub cause: std::io::Error,
}

/// Adds the two paths that are for anybody to an application.
pub fn routes(readiness: Readiness) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        config
            .app_data(web::Data::new(readiness))
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz));
    }
}

/// Adds `/metrics` for administrators to an application.
pub fn metrics_route(admin: &Admin) -> impl FnOnce(&mut web::ServiceConfig) {
    let admin = admin.clone();
    move |config| {
        admin.serve(
            config,
            web::resource("/metrics").route(web::get().to(metrics_text)),
        )
    }
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("alive\n")
}

async fn readyz(readiness: web::Data<Readiness>) -> HttpResponse {
    match readiness.why_not() {
        None => HttpResponse::Ok().content_type("text/plain").body("ready\n"),
        Some(reason) => HttpResponse::ServiceUnavailable()
            .content_type("text/plain")
            .body(format!("not ready: {reason}\n")),
    }
}

async fn metrics_text() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(metrics::render())
}

/// Servers of a program's health and administration.
#[derive(Debug)]
pub struct Served {
    /// Where health is.
    pub address: SocketAddr,
    servers: Vec<ServerHandle>,
}

impl Served {
    /// Ends them.
    pub async fn stop(self) {
        for server in self.servers {
            server.stop(false).await;
        }
    }
}

/// Serves health at an address, and at that of administration this, metrics and `more`; both run until they are stopped.
pub fn serve(
    address: SocketAddr,
    admin: &Admin,
    readiness: &Readiness,
    more: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> Result<Served, HttpError> {
    let (bound, server) = match admin.apart {
        None => listen(address, readiness, administration(admin, more.clone()))?,
        Some(_) => listen(address, readiness, |_: &mut web::ServiceConfig| ())?,
    };
    let mut servers = vec![server];
    servers.extend(serve_apart(admin, readiness, more)?);
    Ok(Served {
        address: bound,
        servers,
    })
}

/// Serves health, metrics and `more` at an address that is for administration alone, if there is one.
pub fn serve_apart(
    admin: &Admin,
    readiness: &Readiness,
    more: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> Result<Option<ServerHandle>, HttpError> {
    let Some(address) = admin.apart else {
        return Ok(None);
    };
    let (bound, server) = listen(address, readiness, administration(admin, more))?;
    tracing::info!(address = %bound, "administration");
    Ok(Some(server))
}

fn administration(
    admin: &Admin,
    more: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static {
    let admin = admin.clone();
    move |config: &mut web::ServiceConfig| {
        config.configure(metrics_route(&admin)).configure(more.clone());
    }
}

fn listen(
    address: SocketAddr,
    readiness: &Readiness,
    more: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> Result<(SocketAddr, ServerHandle), HttpError> {
    let error = |cause| HttpError { address, cause };
    let readiness = readiness.clone();
    let app = move || {
        App::new()
            .configure(routes(readiness.clone()))
            .configure(more.clone())
    };
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(64)
        .client_request_timeout(Duration::from_secs(5))
        .disable_signals()
        .bind(address)
        .map_err(error)?;
    let bound = server.addrs().first().copied().unwrap_or(address);
    let server = server.run();
    let handle = server.handle();
    actix_web::rt::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the health server ended");
        }
    });
    Ok((bound, handle))
}
