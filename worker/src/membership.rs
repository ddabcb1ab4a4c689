//! The worker and the planner: joining, and doing what it says.

use std::time::Duration;

use actix::prelude::*;
use graft_plan::{Epoch, FormatFile};
use graft_telemetry::health::Readiness;
use graft_transport::{Connection, Telling};
use graft_wire::{Join, ToPlanner, ToWorker, WorkerInfo, WorkerPlan};

use crate::keeper::{Abandon, PlanKeeper, Prepare, Retire};
use crate::plan_refused::PlanRefused;
use crate::reporter::Reporter;

/// Time for a control message to come in whole, and to be answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time between two looks whether a device was lost.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Joins the planner on a new connection and does what it says. When a device is lost, the worker leaves, and joins again without it.
pub(crate) async fn attend(
    connection: Connection,
    mut info: WorkerInfo,
    keeper: Addr<PlanKeeper>,
    reporter: Reporter,
    readiness: Readiness,
    telling: &Telling,
) {
    let lost = reporter.lost();
    let mut kept = lost.iter().map(|lost| !lost);
    info.devices.retain(|_| kept.next().unwrap_or(true));
    if info.devices.is_empty() {
        readiness.not_ready("all devices are lost");
        tracing::error!("all devices are lost: the worker does not join the planner");
        return watch(&connection, &reporter, &lost).await;
    }
    let (watched, watching) = (connection.clone(), reporter.clone());
    tokio::spawn(async move { watch(&watched, &watching, &lost).await });
    let serving = connection.clone();
    let server = tokio::spawn(async move {
        let handler = move |message: ToWorker| {
            let keeper = keeper.clone();
            async move { obey(message, &keeper).await }
        };
        serving.obey(PATIENCE, handler).await
    });
    let join = ToPlanner::Join(Join::Worker(Box::new(info)));
    let joined = connection.tell(&join, PATIENCE).await;
    match &joined {
        Ok(()) => {
            telling.is_over();
            tracing::info!("joined the planner");
            // Also where the plan has nothing for it to do: it would do what the next one says.
            readiness.ready();
        }
        Err(error) => {
            if telling.is_due(&error.to_string()) {
                tracing::error!(%error, "joining the planner failed; trying again");
            }
            if reporter.epoch() == Epoch(0) {
                readiness.not_ready(format!("joining the planner failed: {error}"));
            }
            connection.close("joining failed");
        }
    }
    if let Ok(reason) = server.await {
        tracing::debug!(reason, "left the planner");
    }
    if joined.is_ok() && reporter.epoch() == Epoch(0) {
        readiness.not_ready("the planner is away, and had no plan for this worker");
    }
}

/// Tells of a worker whose devices are all lost, with the planner or without it.
pub(crate) async fn watch_devices(reporter: Reporter, readiness: Readiness) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if reporter.lost().iter().all(|lost| *lost) {
            readiness.not_ready("all devices are lost");
        }
    }
}

/// Leaves when a device is lost that was there before.
async fn watch(connection: &Connection, reporter: &Reporter, before: &[bool]) {
    while !connection.is_closed() {
        tokio::time::sleep(LOOK_EVERY).await;
        if reporter.lost() != before {
            connection.close("a device is lost");
        }
    }
}

async fn obey(message: ToWorker, keeper: &Addr<PlanKeeper>) -> Result<(), PlanRefused> {
    match message {
        ToWorker::Prepare(work) => {
            let plan = work.plan.verified()?;
            let prepared = keeper.send(Prepare(WorkerPlan { plan, ..*work })).await;
            prepared?
        }
        ToWorker::Retire(before) => Ok(keeper.send(Retire { before }).await?),
        ToWorker::Abandon(epoch) => Ok(keeper.send(Abandon(epoch)).await?),
        ToWorker::Alive => Ok(()),
    }
}
