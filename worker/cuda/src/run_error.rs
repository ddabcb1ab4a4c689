//! What a run fails of.

use graft_engine::{Cause, EngineError, Panicked};
use graft_model::StageRange;

use crate::driver::CudaFault;
use crate::graph::Unserved;

/// What a run fails of.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The driver refuses something.
    #[error(transparent)]
    Cuda(#[from] CudaFault),
    /// The network is not run here.
    #[error(transparent)]
    Unserved(#[from] Unserved),
    /// An index without a row.
    #[error("index {0} of a batch names no row")]
    NoRow(u32),
    /// The driver refuses a launch.
    #[error("node {node}: {fault}")]
    Launch {
        /// The node that it is for.
        node: String,
        /// Why.
        fault: CudaFault,
    },
    /// Something in lowering panicked: a model is somebody's file.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The batch was on the device before it was set up anew.
    #[error("the batch was on the device before it was set up anew, and is gone")]
    Gone,
    /// The partition is not open.
    #[error("the partition is not open")]
    NoPartition,
    /// A kernel that is not embedded.
    #[error("there is no kernel {0}")]
    NoKernel(&'static str),
}

impl RunError {
    /// What the driver refused, where it did.
    pub fn fault(&self) -> Option<&CudaFault> {
        match self {
            RunError::Cuda(fault) | RunError::Launch { fault, .. } => Some(fault),
            RunError::Unserved(_)
            | RunError::NoRow(_)
            | RunError::NoKernel(_)
            | RunError::NoPartition
            | RunError::Gone
            | RunError::Panicked(_) => None,
        }
    }

    pub fn into_engine(self, range: StageRange) -> EngineError {
        if let Some(fault) = self.fault() {
            return EngineError::Device {
                lost: fault.is_lost(),
                cause: self.to_string(),
            };
        }
        if matches!(self, RunError::Gone) {
            return EngineError::Device {
                lost: false,
                cause: self.to_string(),
            };
        }
        EngineError::Run {
            range,
            cause: Cause::Library(self.to_string()),
        }
    }
}
