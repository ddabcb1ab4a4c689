//! Rolling a plan out: prepare on workers, then switch routers.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use graft_plan::{Epoch, Plan};
use graft_transport::Connection;
use graft_wire::{ControlReply, ControlRequest, Limits, RoutesUpdate, WorkerEndpoint, WorkerPlan};
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

impl WorkerSeat {
    /// As routers are told it.
    pub fn endpoint(&self) -> (String, WorkerEndpoint) {
        let address = self.address.clone();
        (self.name.clone(), WorkerEndpoint { address })
    }
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
