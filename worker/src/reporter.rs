//! What a worker tells the planner of its partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use graft_plan::Epoch;
use graft_transport::Connection;
use graft_wire::{PartitionReport, ToPlanner, WorkerReport};
use graft_worker_core::REPORT_EVERY;
use tokio::sync::broadcast;

use crate::epochs::Epochs;
use crate::observed::Observed;

/// Time for a report to be answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells the planner what the partitions do.
#[derive(Clone)]
pub(crate) struct Reporter {
    pub epochs: Arc<ArcSwap<Epochs>>,
    /// The latest plan that was heard of at all: a planner that lost its numbers goes on above it.
    pub seen: Arc<AtomicU64>,
    /// One for each device.
    pub observed: Vec<Arc<Observed>>,
    /// Other workers that gave no sign of life.
    pub suspects: broadcast::Sender<String>,
}

impl Reporter {
    /// The latest plan that is prepared.
    pub fn epoch(&self) -> Epoch {
        let epochs = self.epochs.load();
        epochs.last_key_value().map_or(Epoch(0), |(&epoch, _)| epoch)
    }

    /// The latest plan that was heard of.
    pub fn seen(&self) -> Epoch {
        self.epoch().max(Epoch(self.seen.load(Ordering::Relaxed)))
    }

    /// For each device, whether it is lost.
    pub fn lost(&self) -> Vec<bool> {
        self.observed.iter().map(|o| o.is_lost()).collect()
    }

    fn report(&self, since: Duration) -> WorkerReport {
        let epochs = self.epochs.load();
        let latest = epochs.last_key_value().map(|(_, plan)| &plan.counts);
        let partitions = latest.into_iter().flatten();
        let mut partitions: Vec<_> = partitions.map(|(id, counts)| counts.take(id, since)).collect();
        let is_silent = self.observed.iter().any(|o| o.is_silent() && !o.is_lost());
        if is_silent && !partitions.iter().any(|p| p.silent) {
            // One of an earlier plan still waits for its engine.
            partitions.push(PartitionReport {
                id: "of an earlier plan".to_owned(),
                busy: 0.0,
                queued: 0,
                batches: 0,
                requests: 0,
                silent: true,
            });
        }
        WorkerReport {
            epoch: self.epoch(),
            partitions,
            runs: self.observed.iter().flat_map(|o| o.take()).collect(),
        }
    }

    /// Tells of other workers that give no sign of life, until the connection is gone.
    pub async fn tell_suspects(self, connection: Connection) {
        let mut suspects = self.suspects.subscribe();
        loop {
            let suspect = tokio::select! {
                suspect = suspects.recv() => suspect,
                _ = connection.closed() => return,
            };
            let name = match suspect {
                Ok(name) => name,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if let Err(error) = connection.tell(&ToPlanner::Silent(name), PATIENCE).await {
                tracing::debug!(%error, "the planner was not told of a silent worker");
            }
        }
    }

    /// Reports until the connection is gone.
    pub async fn report_while_open(self, connection: Connection) {
        let mut last = tokio::time::Instant::now();
        // What happened while nobody listened is not this second's.
        self.report(Duration::ZERO);
        while !connection.is_closed() {
            tokio::time::sleep(REPORT_EVERY.duration()).await;
            let report = self.report(last.elapsed());
            last = tokio::time::Instant::now();
            let sent = connection.tell(&ToPlanner::Work(report), PATIENCE).await;
            if let Err(error) = sent {
                tracing::debug!(%error, "a report did not reach the planner");
            }
        }
    }
}
