//! What the planner tells over HTTP, beside health and metrics: `/v1/status`, `/v1/plan`, `/v1/decisions`. A POST to
//! `/v1/plan` asks for another plan.

use std::net::SocketAddr;

use actix::Addr;
use actix_web::{HttpResponse, web};
use graft_planner_steer::MOST_DECISIONS;
use graft_telemetry::admin::Admin;
use graft_telemetry::health::{self, HttpError, Readiness, Served};
use serde::Deserialize;
use serde_json::json;

use crate::actor::{PlanNow, PlannerActor, See, StoreTrouble};
use crate::status::{Snapshot, Status, latest_decisions};

pub(crate) fn serve(
    (address, admin): (SocketAddr, Admin),
    readiness: &Readiness,
    actor: Addr<PlannerActor>,
) -> Result<Served, HttpError> {
    let administration = admin.clone();
    health::serve(address, &admin, readiness, move |config| {
        config.app_data(web::Data::new(actor.clone()));
        let plans = web::resource("/v1/plan")
            .route(web::get().to(plan))
            .route(web::post().to(plan_now));
        for resource in [
            web::resource("/v1/status").route(web::get().to(status)),
            web::resource("/v1/decisions").route(web::get().to(decisions)),
            plans,
        ] {
            administration.serve(config, resource);
        }
    })
}

fn gone(error: impl ToString) -> HttpResponse {
    HttpResponse::ServiceUnavailable().json(json!({ "error": error.to_string() }))
}

async fn status(actor: web::Data<Addr<PlannerActor>>) -> HttpResponse {
    match (actor.send(See(Status::of)).await, actor.send(StoreTrouble).await) {
        (Ok(status), Ok(store_trouble)) => HttpResponse::Ok().json(Status {
            store_trouble,
            ..status
        }),
        (Err(error), _) | (_, Err(error)) => gone(error),
    }
}

/// The plan in use (plan.json), what it was made for (workload.json), what it runs on (devices.json), and the costs there
/// (profiles.json, one for each kind of device).
async fn plan(actor: web::Data<Addr<PlannerActor>>) -> HttpResponse {
    match actor.send(See(Snapshot::of)).await {
        Ok(view) => HttpResponse::Ok().json(json!({
            "plan": view.plan, "workload": view.workload, "models": view.models, "rolled_out": view.rolled_out,
            "devices": view.hardware.as_ref().map(|h| &h.devices),
            "profiles": view.hardware.as_ref().map_or(&[][..], |h| h.profiles.kinds()),
        })),
        Err(error) => gone(error),
    }
}

/// Makes another plan soon, whatever the reasons are; answered at once.
async fn plan_now(actor: web::Data<Addr<PlannerActor>>) -> HttpResponse {
    match actor.send(PlanNow).await {
        Ok(()) => HttpResponse::Accepted().json(json!({ "planning": true })),
        Err(error) => gone(error),
    }
}

#[derive(Deserialize)]
struct Which {
    limit: Option<usize>,
}

async fn decisions(which: web::Query<Which>, actor: web::Data<Addr<PlannerActor>>) -> HttpResponse {
    match actor
        .send(See(|desk, _| latest_decisions(desk, MOST_DECISIONS)))
        .await
    {
        Ok(decisions) => {
            let most = which.limit.unwrap_or(MOST_DECISIONS).min(decisions.len());
            HttpResponse::Ok().json(&decisions[decisions.len() - most..])
        }
        Err(error) => gone(error),
    }
}
