//! `plan.json`: stages, partitions and routes.

use std::collections::HashMap;

use graft_model::{CutPoint, StageRange};
use serde::{Deserialize, Serialize};

use crate::file::{Checked, Wrong, not_negative, positive, version, wrong};
use crate::units::{Epoch, Share};

/// All stages, partitions and routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the format: 1.
    pub version: u32,
    /// Name of the algorithm that made it.
    pub algorithm: String,
    /// Number of the plan.
    pub epoch: Epoch,
    /// Sum of the partitions' shares: its cost.
    pub total_share: u64,
    /// Fragments that can't be served in time.
    pub infeasible: Vec<String>,
    /// Whether there were not enough devices; `infeasible` then also lists what was left out for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub capacity_exhausted: bool,
    /// Ranges of layers that run as one batch.
    pub stages: Vec<Stage>,
    /// Shares of devices and what runs in them.
    pub partitions: Vec<Partition>,
    /// The stages of each fragment.
    pub routes: Vec<Route>,
}

/// A range of a model's layers that runs as one batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Id, unique in the plan.
    pub id: String,
    /// The profile's name of the model.
    pub model: String,
    /// Cut point at which it begins.
    pub from: CutPoint,
    /// Cut point at which it ends.
    pub to: CutPoint,
    /// Largest batch, in requests.
    pub batch: u32,
    /// Requests per second of all its instances.
    pub rate_rps: f64,
    /// Local deadline: time from entering its queue to leaving the stage, in milliseconds.
    pub deadline_ms: f64,
}

impl Stage {
    /// Range of its layers. `None`: it is empty, which no valid plan has.
    pub fn range(&self) -> Option<StageRange> {
        StageRange::new(self.from, self.to)
    }
}

/// A share of one device, and the stages that it runs in turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// Id, unique in the plan.
    pub id: String,
    /// The device.
    pub device: String,
    /// Share of the device.
    pub share: Share,
    /// Order in which it runs what waits.
    #[serde(default)]
    pub order: Order,
    /// Longest chunk in milliseconds; 0: runs are not cut.
    #[serde(default)]
    pub quantum_ms: f64,
    /// Stages by id.
    pub stages: Vec<String>,
}

/// How a partition chooses what to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Earliest deadline first.
    #[default]
    Edf,
    /// Stages take turns, round and round.
    Cycle,
}

/// The stages of one fragment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The fragment.
    pub fragment: String,
    /// Stages by id, in order.
    pub stages: Vec<String>,
}

impl Plan {
    /// A plan that serves nothing.
    pub fn empty(algorithm: &str, epoch: Epoch) -> Self {
        Plan {
            version: 1,
            algorithm: algorithm.to_owned(),
            epoch,
            total_share: 0,
            infeasible: vec![],
            capacity_exhausted: false,
            stages: vec![],
            partitions: vec![],
            routes: vec![],
        }
    }

    /// Stages by id.
    pub fn stages_by_id(&self) -> HashMap<&str, &Stage> {
        self.stages.iter().map(|s| (s.id.as_str(), s)).collect()
    }

    /// Number of partitions that run a stage.
    pub fn instances(&self, stage: &str) -> usize {
        self.partitions
            .iter()
            .filter(|p| p.stages.iter().any(|s| s == stage))
            .count()
    }
}

impl Checked for Plan {
    /// Checks what can be checked without workload, profile and devices; [`Plan::check`] does the rest.
    fn verify(&self) -> Result<(), Wrong> {
        version(self.version)?;
        for (i, s) in self.stages.iter().enumerate() {
            positive(
                || format!("stages[{i}].deadline_ms"),
                s.deadline_ms,
                "milliseconds",
            )?;
            positive(
                || format!("stages[{i}].rate_rps"),
                s.rate_rps,
                "requests per second",
            )?;
            if s.batch == 0 {
                return wrong(format!("stages[{i}].batch"), "is 0; expected 1 or more");
            }
            if s.from >= s.to {
                return wrong(
                    format!("stages[{i}]"),
                    format!("runs from {} to {}; expected from < to", s.from, s.to),
                );
            }
        }
        for (i, p) in self.partitions.iter().enumerate() {
            not_negative(
                || format!("partitions[{i}].quantum_ms"),
                p.quantum_ms,
                "milliseconds",
            )?;
        }
        Ok(())
    }
}
