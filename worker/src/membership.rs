//! The worker and the planner: joining, and doing what it says.

use std::time::Duration;

use actix::prelude::*;
use graft_plan::FormatFile;
use graft_transport::Connection;
use graft_wire::{Join, ToPlanner, ToWorker, WorkerInfo, WorkerPlan};

use crate::keeper::{Abandon, PlanKeeper, Prepare, Retire};
use crate::plan_refused::PlanRefused;

/// Time for a control message to come in whole, and to be answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// Joins the planner on a new connection and does what it says.
pub(crate) async fn attend(connection: Connection, info: WorkerInfo, keeper: Addr<PlanKeeper>) {
    let serving = connection.clone();
    let server = tokio::spawn(async move {
        let handler = move |message: ToWorker| {
            let keeper = keeper.clone();
            async move { obey(message, &keeper).await }
        };
        serving.obey(PATIENCE, handler).await
    });
    let join = ToPlanner::Join(Join::Worker(Box::new(info)));
    match connection.tell(&join, PATIENCE).await {
        Ok(()) => tracing::info!("joined the planner"),
        Err(error) => {
            tracing::error!(%error, "joining the planner failed; trying again");
            connection.close("joining failed");
        }
    }
    if let Ok(reason) = server.await {
        tracing::debug!(reason, "left the planner");
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
    }
}
