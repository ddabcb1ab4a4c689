//! Batches where an engine keeps them: in the host's memory, or in its device's.

use std::any::Any;

use graft_model::{Batch, StageRange};

use crate::error::{Cause, EngineError};

/// A batch of requests at a cut point, where its engine keeps it.
pub enum Held {
    /// In the host's memory.
    Host(Batch),
    /// In a device's memory, for the engine that made it. It is freed when it is dropped.
    Device(Box<dyn DeviceBatch>),
}

/// A batch in a device's memory.
pub trait DeviceBatch: Send {
    /// Number of its requests.
    fn requests(&self) -> usize;

    /// One of its requests, which stays where it is. `None`: there is no such request.
    fn row(&self, row: usize) -> Option<Box<dyn DeviceBatch>>;

    /// The same numbers in the host's memory. Blocks until they are there.
    fn to_host(&self) -> Result<Batch, EngineError>;

    /// For the engine, to know its own.
    fn as_any(&self) -> &dyn Any;
}

impl Held {
    /// Number of its requests.
    pub fn requests(&self) -> usize {
        match self {
            Held::Host(batch) => batch.requests(),
            Held::Device(batch) => batch.requests(),
        }
    }

    /// One of its requests, which stays where it is. `None`: there is no such request.
    pub fn row(&self, row: usize) -> Option<Held> {
        match self {
            Held::Host(batch) => batch.row(row).map(Held::Host),
            Held::Device(batch) => batch.row(row).map(Held::Device),
        }
    }

    /// In the host's memory. Blocks until it is there.
    pub fn into_host(self) -> Result<Batch, EngineError> {
        match self {
            Held::Host(batch) => Ok(batch),
            Held::Device(batch) => batch.to_host(),
        }
    }

    /// The requests of several batches as one in the host's memory, in their order. `range`: for the error, what is to be
    /// run on it.
    pub fn join_on_host(parts: Vec<Held>, range: StageRange) -> Result<Batch, EngineError> {
        let parts: Vec<Batch> = parts.into_iter().map(Held::into_host).collect::<Result<_, _>>()?;
        Batch::join(&parts).ok_or(EngineError::Run {
            range,
            cause: Cause::Shapes,
        })
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Held::Host(batch) => write!(f, "{batch} on the host"),
            Held::Device(batch) => write!(f, "{} request(s) on a device", batch.requests()),
        }
    }
}
