//! Rolling a plan out: prepare on workers, then switch routers.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use graft_model::{CutPoint, ModelId, StageRange};
use graft_plan::{Epoch, Plan, Profile, Workload, nanos_to_ms};
use graft_transport::Connection;
use graft_wire::{
    ControlReply, ControlRequest, Limits, RouteTarget, RoutesUpdate, WorkerEndpoint, WorkerPlan,
};
use serde::Serialize;

/// Time for a worker to prepare, or a router to switch.
const PATIENCE: Duration = Duration::from_secs(5);

/// A worker as a roll-out sees it.
#[derive(Clone)]
pub(crate) struct WorkerSeat {
    pub name: String,
    pub address: String,
    pub connection: Connection,
}

/// All that a roll-out needs.
pub(crate) struct Rollout {
    pub plan: Plan,
    pub routes: RoutesUpdate,
    pub workers: Vec<WorkerSeat>,
    pub routers: Vec<(String, Connection)>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Every worker of the plan is ready; the routers that did not switch are listed with the reason.
    Done { failed_routers: Vec<(String, String)> },
    /// A worker can't do its part; no router was switched.
    Failed { worker: String, reason: String },
}

/// One control message and its reply.
pub(crate) async fn tell<T: Serialize>(
    connection: &Connection,
    request: ControlRequest,
    body: Option<&T>,
) -> Result<(), String> {
    let payload = match body {
        None => Bytes::new(),
        Some(body) => Bytes::from(serde_json::to_vec(body).map_err(|e| e.to_string())?),
    };
    match connection
        .call::<_, ControlReply>(&request, payload, Limits::default(), PATIENCE)
        .await
    {
        Ok((ControlReply::Done, _)) => Ok(()),
        Ok((ControlReply::Failed(reason), _)) => Err(reason),
        Err(error) => Err(error.to_string()),
    }
}

impl Rollout {
    /// Prepares all workers of the plan, then switches all routers.
    pub async fn run(self) -> Outcome {
        let body = WorkerPlan { plan: self.plan };
        let devices: Vec<&str> = body.plan.partitions.iter().map(|p| p.device.as_str()).collect();
        let seats = self.workers.iter().filter(|w| devices.contains(&w.name.as_str()));
        let preparing = seats.map(|seat| async {
            let done = tell(&seat.connection, ControlRequest::Prepare, Some(&body)).await;
            done.map_err(|reason| (seat.name.clone(), reason))
        });
        for prepared in join_all(preparing).await {
            if let Err((worker, reason)) = prepared {
                return Outcome::Failed { worker, reason };
            }
        }
        let switching = self.routers.iter().map(|(name, connection)| async {
            let done = tell(connection, ControlRequest::Switch, Some(&self.routes)).await;
            done.map_err(|reason| (name.clone(), reason))
        });
        let failed_routers = join_all(switching)
            .await
            .into_iter()
            .filter_map(Result::err)
            .collect();
        Outcome::Done { failed_routers }
    }
}

/// The routes of a plan, for routers.
pub(crate) fn routes(
    plan: &Plan,
    limited: bool,
    workload: &Workload,
    profile: &Profile,
    seats: &[WorkerSeat],
) -> RoutesUpdate {
    let stages = plan.stages_by_id();
    let mut targets = vec![];
    for (index, route) in plan.routes.iter().enumerate() {
        let Some(fragment) = workload.fragments.iter().find(|f| f.id == route.fragment) else {
            continue;
        };
        let Ok(model) = fragment.model.parse::<ModelId>() else {
            continue;
        };
        let least_ms: f64 = route
            .stages
            .iter()
            .filter_map(|id| {
                let stage = stages.get(id.as_str())?;
                let share = plan.partitions.iter().find(|p| p.stages.contains(id))?.share;
                profile.latency(&stage.model, stage.range()?, 1, share, 0.0).ok()
            })
            .map(nanos_to_ms)
            .sum();
        for seat in seats {
            // Once for each of the worker's partitions that runs the whole route: they share the load evenly.
            let own = plan.partitions.iter().filter(|p| p.device == seat.name);
            let hosting = own
                .filter(|p| !route.stages.is_empty() && route.stages.iter().all(|id| p.stages.contains(id)));
            for _ in hosting {
                targets.push(RouteTarget {
                    route: u32::try_from(index).unwrap_or(u32::MAX),
                    model,
                    partition_point: fragment.partition_point,
                    budget_ms: fragment.budget_ms,
                    rate_rps: fragment.rate_rps,
                    least_ms,
                    worker: seat.name.clone(),
                });
            }
        }
    }
    let used = |name: &str| targets.iter().any(|t| t.worker == name);
    RoutesUpdate {
        epoch: plan.epoch,
        limited,
        workers: seats
            .iter()
            .filter(|s| used(&s.name))
            .map(|s| {
                (
                    s.name.clone(),
                    WorkerEndpoint {
                        address: s.address.clone(),
                    },
                )
            })
            .collect(),
        server_ms: server_ms(profile),
        routes: targets,
    }
}

/// Milliseconds that the server needs from each cut point on: the layers alone on the smallest share, and two hops.
fn server_ms(profile: &Profile) -> BTreeMap<ModelId, Vec<f64>> {
    let Some(&share) = profile.shares.first() else {
        return BTreeMap::new();
    };
    profile
        .models
        .iter()
        .filter_map(|(name, model)| {
            let last = CutPoint(u16::try_from(model.segments.len()).ok()?);
            let times = (0..=last.0)
                .map(|k| {
                    let range = StageRange::new(CutPoint(k), last);
                    let run = range.and_then(|r| profile.latency(name, r, 1, share, 0.0).ok());
                    run.map_or(0.0, |t| nanos_to_ms(t) + 2.0 * profile.hop_ms)
                })
                .collect();
            Some((name.parse().ok()?, times))
        })
        .collect()
}

/// Workers drop all plans before an epoch.
pub(crate) async fn retire(workers: Vec<WorkerSeat>, before: Epoch) {
    let request = ControlRequest::Retire { before: before.0 };
    join_all(workers.iter().map(|seat| async move {
        if let Err(reason) = tell::<()>(&seat.connection, request, None).await {
            tracing::debug!(worker = %seat.name, reason, "did not retire old plans");
        }
    }))
    .await;
}
