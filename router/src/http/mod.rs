//! HTTP: a minimal Open Inference Protocol v2 beside health and metrics, so that curl and standard clients work.
//!
//! After: the Open Inference Protocol specification, REST, with the binary tensor data extension
//! (`Inference-Header-Content-Length`). Parameters of Graft's own in a request: `budget_ms`, the deadline, and
//! `partition_point`, the cut point at which the tensor was cut (0: the model's input).
//!
//! A W3C `traceparent` is accepted, passed on to workers and given back; its trace is the request's id, by which
//! `/v1/requests/ID` tells the request's life (as `graft explain` shows it).

mod answer;
mod body;
mod infer;
mod sockets;
mod tensors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, web};
use graft_files::CatalogEntry;
use graft_model::{Cut, ModelInfo, TensorSpec};
use graft_telemetry::admin::Admin;
use graft_telemetry::health::{self, HttpError, Readiness};
use graft_transport::Account;
use graft_wire::{Refused, Status, TraceContext};
use serde_json::json;
use tokio::sync::Semaphore;

pub(crate) use self::body::is_call;
use self::sockets::Sockets;
use crate::front::Front;

/// Connections that are taken; beyond [`sockets::MOST_SOCKETS`] each makes another end, so that there are never as many.
const MAX_CONNECTIONS: usize = 4096;
/// Time for the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Long bodies whose JSON is read at a time.
const READING: usize = 2;

/// What handlers share.
pub(crate) struct Shared {
    pub front: Arc<Front>,
    pub readiness: Readiness,
    pub default_budget: Duration,
    /// What bodies hold while they are read and answered, with the requests that come over QUIC.
    pub account: Arc<Account>,
    /// Permits for [`READING`].
    pub reading: Arc<Semaphore>,
}

/// Servers of clients and of administration.
pub(crate) struct Served {
    /// Where clients are answered.
    pub address: SocketAddr,
    clients: ServerHandle,
    administration: Option<ServerHandle>,
}

impl Served {
    /// Ends both; clients get the answers that are on their way.
    pub async fn stop(self) {
        self.clients.stop(true).await;
        if let Some(server) = self.administration {
            server.stop(false).await;
        }
    }
}

pub(crate) fn serve(
    address: SocketAddr,
    admin: &Admin,
    front: Arc<Front>,
    readiness: &Readiness,
    default_budget: Duration,
    account: Arc<Account>,
) -> Result<Served, HttpError> {
    let error = |cause| HttpError { address, cause };
    let shared = web::Data::new(Shared {
        front,
        readiness: readiness.clone(),
        default_budget,
        account,
        reading: Arc::new(Semaphore::new(READING)),
    });
    let (guard, told) = (admin.clone(), shared.clone());
    let explained = move |config: &mut web::ServiceConfig| {
        config.app_data(told.clone());
        let latest = web::resource("/v1/requests").route(web::get().to(requests));
        let one = web::resource("/v1/requests/{id}").route(web::get().to(request_life));
        guard.serve(config, latest);
        guard.serve(config, one);
    };
    let administration = health::serve_apart(admin, readiness, explained.clone())?;
    let here = admin.apart.is_none().then(|| admin.clone());
    let sockets: Arc<Sockets> = Arc::default();
    let readiness = readiness.clone();
    let server = HttpServer::new(move || {
        let mut app = App::new()
            .app_data(shared.clone())
            .configure(health::routes(readiness.clone()));
        if let Some(admin) = &here {
            app = app
                .configure(health::metrics_route(admin))
                .configure(explained.clone());
        }
        app.route("/v2", web::get().to(server_metadata))
            .route("/v2/health/live", web::get().to(live))
            .route("/v2/health/ready", web::get().to(ready))
            .service(model_scope("/v2/models/{model}/versions/{version}"))
            .service(model_scope("/v2/models/{model}"))
            .default_service(web::to(nothing_here))
    })
    .workers(1)
    .max_connections(MAX_CONNECTIONS)
    .on_connect(move |io, kept| sockets.connected(io, kept))
    .client_request_timeout(HEAD_WITHIN)
    // Who closes his end waits no longer: what he asked for is taken back.
    .h1_allow_half_closed(false)
    .shutdown_timeout(2)
    .disable_signals()
    .bind(address)
    .map_err(error)?;
    let bound = server.addrs().first().copied().unwrap_or(address);
    let server = server.run();
    let clients = server.handle();
    actix_web::rt::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok(Served {
        address: bound,
        clients,
        administration,
    })
}

fn model_scope(path: &str) -> actix_web::Scope {
    web::scope(path)
        .route("", web::get().to(model_metadata))
        .route("/ready", web::get().to(model_ready))
        .route("/infer", web::post().to(infer::infer))
}

#[derive(serde::Deserialize)]
struct Which {
    /// Those that were late or refused; else those that were in time.
    #[serde(default = "yes")]
    missed: bool,
    #[serde(default = "twenty")]
    limit: usize,
}

fn yes() -> bool {
    true
}

fn twenty() -> usize {
    20
}

/// The latest requests, the newest first.
async fn requests(which: web::Query<Which>, shared: web::Data<Shared>) -> HttpResponse {
    let lives = shared.front.counts.lives();
    let latest = lives.latest(which.missed, which.limit.min(1000));
    drop(lives);
    let lives: Vec<&graft_router_core::Life> = latest.iter().map(|l| &**l).collect();
    HttpResponse::Ok().json(lives)
}

/// One request's life.
async fn request_life(id: web::Path<String>, shared: web::Data<Shared>) -> HttpResponse {
    // A whole traceparent does, too.
    let id = TraceContext::parse(&id).map_or_else(|| id.to_lowercase(), |t| t.request_id());
    let life = shared.front.counts.lives().get(&id);
    match life {
        Some(life) => HttpResponse::Ok().json(&*life),
        None => {
            let what = format!(
                "no request {id} is remembered here: it went through another router, or is long over"
            );
            HttpResponse::NotFound().json(json!({ "error": what }))
        }
    }
}

async fn nothing_here(request: actix_web::HttpRequest) -> HttpResponse {
    let what = format!("nothing is served at {} {}", request.method(), request.path());
    HttpResponse::NotFound().json(json!({ "error": what }))
}

/// The table of statuses, as a response.
pub(crate) fn refusal(refused: &Refused) -> HttpResponse {
    refusal_of(refused, None)
}

/// The same for a request that has a trace.
pub(crate) fn refusal_of(refused: &Refused, trace: Option<TraceContext>) -> HttpResponse {
    let code = StatusCode::from_u16(refused.status.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(code);
    if refused.status.is_transient() {
        response.insert_header(("Retry-After", "1"));
    }
    let mut body = json!({ "error": refused.reason, "status": refused.status.name() });
    if let Some(trace) = trace {
        response.insert_header(("traceparent", trace.to_string()));
        body["request_id"] = trace.request_id().into();
    }
    response.json(body)
}

async fn server_metadata() -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "name": "graft",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data"],
    }))
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "live": true }))
}

async fn ready(shared: web::Data<Shared>) -> HttpResponse {
    match shared.readiness.why_not() {
        None => HttpResponse::Ok().json(json!({ "ready": true })),
        Some(reason) => HttpResponse::ServiceUnavailable().json(json!({ "ready": false, "error": reason })),
    }
}

/// The model of a path: by name, or by identity.
pub(crate) fn find<'a>(shared: &'a Shared, name: &str) -> Result<&'a CatalogEntry, Refused> {
    shared.front.catalog.find(name).ok_or_else(|| {
        let names: Vec<&str> = shared
            .front
            .catalog
            .entries()
            .iter()
            .map(|e| e.manifest.name.as_str())
            .collect();
        Refused::new(
            Status::UnknownModel,
            format!("there is no model {name}; there are: {}", names.join(", ")),
        )
    })
}

fn model_of(request: &actix_web::HttpRequest) -> String {
    request.match_info().get("model").unwrap_or_default().to_owned()
}

/// The model of a path, for whoever may know of it.
fn seen<'a>(shared: &'a Shared, request: &actix_web::HttpRequest) -> Result<&'a CatalogEntry, Refused> {
    let bearers = &shared.front.bearers;
    let bearer = infer::bearer_of(request, &shared.front)?;
    bearers.may_look(bearer.as_deref())?;
    let entry = find(shared, &model_of(request))?;
    bearers.may_see(bearer.as_deref(), &entry.manifest)?;
    Ok(entry)
}

async fn model_metadata(request: actix_web::HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    let entry = match seen(&shared, &request) {
        Ok(entry) => entry,
        Err(refused) => return refusal(&refused),
    };
    let tensor = |spec: &TensorSpec| {
        let mut shape = vec![-1];
        shape.extend(spec.shape.iter().map(|&d| d as i64));
        json!({ "name": spec.name, "datatype": tensors::datatype(spec.dtype), "shape": shape })
    };
    let tensors = |specs: &[TensorSpec]| -> Vec<_> { specs.iter().map(tensor).collect() };
    let info = &entry.info;
    let name = model_of(&request);
    let sizes: Vec<&CatalogEntry> = shared.front.catalog.sizes(&name);
    // Dimensions in which sizes differ are open, as the batch is.
    let open = |of: fn(&ModelInfo) -> &Cut| -> Vec<serde_json::Value> {
        let mut all = tensors(&of(info).tensors);
        for (at, tensor) in all.iter_mut().enumerate() {
            for (d, &own) in of(info).tensors[at].shape.iter().enumerate() {
                let differs = |e: &&CatalogEntry| of(&e.info).tensors[at].shape.get(d) != Some(&own);
                if sizes.iter().any(differs) {
                    tensor["shape"][d + 1] = json!(-1);
                }
            }
        }
        all
    };
    HttpResponse::Ok().json(json!({
        "name": if sizes.is_empty() { &entry.manifest.name } else { &name },
        "versions": ["1"],
        "platform": "onnx",
        "inputs": open(ModelInfo::inputs),
        "outputs": open(ModelInfo::outputs),
        "parameters": {
            "sizes": sizes.iter().map(|e| &e.manifest.name).collect::<Vec<_>>(),
            "identity": info.id.to_string(),
            "cut_points": info.cuts.len(),
            "license": entry.manifest.license,
        },
    }))
}

async fn model_ready(request: actix_web::HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    match (seen(&shared, &request), shared.readiness.why_not()) {
        (Err(refused), _) => refusal(&refused),
        (Ok(_), Some(reason)) => refusal(&Refused::new(Status::NotReady, reason)),
        (Ok(entry), None) => HttpResponse::Ok().json(json!({ "name": entry.manifest.name, "ready": true })),
    }
}
