//! Why a worker does not prepare a plan: the planner is told in these words.

use graft_engine::EngineError;
use graft_model::{CutPoint, NotAModelId};
use graft_plan::{Epoch, FormatError};
use graft_worker_core::SpecError;

/// Why a worker does not prepare a plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanRefused {
    /// It was abandoned, or a later one is prepared meanwhile.
    #[error("plan {0} is not wanted any more")]
    NotWanted(Epoch),
    /// Plans come in order.
    #[error("plan {epoch} is older than plan {prepared}, which is prepared")]
    Old {
        /// The plan.
        epoch: Epoch,
        /// The latest that is prepared.
        prepared: Epoch,
    },
    /// It breaks a rule of its format.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The profile here can't tell what a partition's runs take.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A partition or a route names a stage that is not there.
    #[error("the plan has no stage {0}")]
    NoStage(String),
    /// A stage's model is no identity.
    #[error("stage {stage} is of model {model:?}: {error}")]
    NoModel {
        /// The stage.
        stage: String,
        /// What it calls its model.
        model: String,
        /// Why that is no identity.
        error: NotAModelId,
    },
    /// The engine does not have the stage's model.
    #[error("stage {stage}: {error}")]
    NotLoaded {
        /// The stage.
        stage: String,
        /// What the engine says.
        error: Box<EngineError>,
    },
    /// A stage ends behind its model.
    #[error("stage {stage} goes beyond the last cut point {last}")]
    BeyondLastCut {
        /// The stage.
        stage: String,
        /// The model's last cut point.
        last: CutPoint,
    },
    /// The plan's partitions take more of a device than there is.
    #[error("the plan takes more of device {device} than its share of {have}")]
    Share {
        /// The device.
        device: String,
        /// Its share.
        have: u32,
    },
    /// The engine can't fence off a partition.
    #[error(transparent)]
    Partition(Box<EngineError>),
    /// The weights have no room.
    #[error("the plan's weights take {bytes} bytes of device {device}, there are {have} for them")]
    Memory {
        /// The device.
        device: String,
        /// Bytes of all segments' weights.
        bytes: u64,
        /// Bytes that the device has for them.
        have: u64,
    },
    /// Routes go on to a device whose worker has no address.
    #[error("the plan does not say where device {0} is")]
    NoAddress(String),
    /// What makes layers ready panicked.
    #[error(transparent)]
    Broken(#[from] tokio::task::JoinError),
    /// The worker is shutting down, or has more to do than it can.
    #[error(transparent)]
    Busy(#[from] actix::MailboxError),
}
