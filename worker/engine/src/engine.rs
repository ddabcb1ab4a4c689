//! The engine interface: what an engine must do.

use std::sync::Arc;

use graft_model::{Batch, Model, ModelId, ModelInfo, Precision, StageRange};

use crate::error::{EngineError, PartitionId};
use crate::held::Held;
use crate::shape::PartitionShape;

/// Memory use of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Number of models that are loaded.
    pub models: usize,
    /// Bytes of their weights, one copy each.
    pub weights_bytes: u64,
}

/// A run that was put into a device's queue.
pub struct Submitted {
    /// What it leaves. It is there when the run is done; further runs on the same partition may be given it before.
    pub rows: Held,
    /// Its end.
    pub end: Box<dyn RunEnd>,
}

/// The end of a run that was submitted. Dropping it waits, too: the device may be using memory that the run holds.
pub trait RunEnd: Send {
    /// Blocks until the run is done. `Err`: it failed, and so will runs that were given what it leaves.
    fn wait(self: Box<Self>) -> Result<(), EngineError>;
}

/// The end of a run that is done.
struct Over;

impl RunEnd for Over {
    fn wait(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Loads models and runs ranges of their layers on partitions of a device.
///
/// All methods may be called from any thread; two partitions run at the same time without disturbing one
/// another. [`conformance::check`](crate::conformance::check) holds an implementation to this contract.
pub trait Engine: Send + Sync {
    /// Name for people and metrics.
    fn name(&self) -> &'static str;

    /// Whether it computes the model's 64-bit integers in fewer bits, and refuses values that don't fit when they come.
    fn narrows(&self, _info: &ModelInfo) -> bool {
        false
    }

    /// Whether answers are computed at all; an engine that only takes a device's time says no, and whoever shows its answers
    /// says so too.
    fn computes(&self) -> bool {
        true
    }

    /// Whether what its runs take is modelled, not what a device takes: profiles of it say so.
    fn is_modelled(&self) -> bool {
        false
    }

    /// Precisions in which it computes, the one that [`Engine::load`] takes first; at least one.
    fn precisions(&self) -> &[Precision] {
        &[Precision::F32]
    }

    /// Loads a model, with one copy of its weights for all ranges and partitions, to be computed in the first of the
    /// engine's precisions. Loading it again changes nothing.
    fn load(&self, model: &Model) -> Result<(), EngineError>;

    /// Loads a model, to be computed in a precision. `Err`: the engine does not have it.
    fn load_in(&self, model: &Model, precision: Precision) -> Result<(), EngineError> {
        if self.precisions().first() == Some(&precision) {
            return self.load(model);
        }
        Err(EngineError::Precision {
            engine: self.name(),
            wanted: precision,
            has: self.precisions().to_vec(),
        })
    }

    /// The precision in which a loaded model is computed.
    fn precision(&self, model: ModelId) -> Result<Precision, EngineError> {
        self.info(model)?;
        Ok(self.precisions().first().copied().unwrap_or_default())
    }

    /// Frees a model. Runs that are under way finish.
    fn unload(&self, model: ModelId) -> Result<(), EngineError>;

    /// What is known of a loaded model.
    fn info(&self, model: ModelId) -> Result<Arc<ModelInfo>, EngineError>;

    /// Fences off a partition, of a shape that its device has. For a CPU: a set of cores, of which a run never takes more
    /// threads than there are. Partitions may overlap: those of two plans do while one takes over from the other.
    fn open_partition(&self, shape: &PartitionShape) -> Result<PartitionId, EngineError>;

    /// Gives a partition back.
    fn close_partition(&self, partition: PartitionId) -> Result<(), EngineError>;

    /// Makes ready what runs of these ranges need on a partition, so that the first of them takes no longer than
    /// others. Blocks. What is not made ready is made when it is run.
    fn prepare(
        &self,
        _partition: PartitionId,
        _model: ModelId,
        _ranges: &[StageRange],
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// Runs layers on a batch, blocking. The input is what crosses at `range.from()`, the result what crosses at
    /// `range.to()`; a tensor that crosses at both passes unchanged.
    /// Running a range in several pieces gives the same as running it in one.
    fn run(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Batch,
    ) -> Result<Batch, EngineError>;

    /// As [`Engine::run`], on a batch that may be where this engine left it, and leaves the result where it is best for the
    /// next range. An engine that computes in the host's memory has nothing to add.
    fn run_held(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Held,
    ) -> Result<Held, EngineError> {
        self.run(partition, model, range, batch.into_host()?)
            .map(Held::Host)
    }

    /// Whether [`Engine::submit`] comes back before the run is done, so that a partition can be given a run while one is under way.
    fn queues(&self) -> bool {
        false
    }

    /// As [`Engine::run_held`], without waiting for the end where the engine queues runs. Runs of one partition are done in the order in which
    /// they were submitted.
    fn submit(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Held,
    ) -> Result<Submitted, EngineError> {
        let rows = self.run_held(partition, model, range, batch)?;
        Ok(Submitted {
            rows,
            end: Box::new(Over),
        })
    }

    /// The requests of several batches as one, in their order, for a range of a model to be run on it on a partition.
    fn join(
        &self,
        _partition: PartitionId,
        _model: ModelId,
        range: StageRange,
        parts: Vec<Held>,
    ) -> Result<Held, EngineError> {
        Held::join_on_host(parts, range).map(Held::Host)
    }

    /// Memory that it holds.
    fn memory(&self) -> MemoryUse;

    /// Number of threads that compute for a partition.
    fn threads(&self, partition: PartitionId) -> Result<usize, EngineError>;
}
