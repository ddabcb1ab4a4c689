//! The engine interface: what an engine must do.

use std::sync::Arc;

use graft_model::{
    Batch, MessageError, Model, ModelError, ModelId, ModelInfo, Precision, StageRange, TensorError,
};
use graft_plan::CostError;

use crate::cores::CoresError;
use crate::held::Held;
use crate::shape::PartitionShape;

/// A partition's number in its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartitionId(pub u32);

/// Memory use of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Number of models that are loaded.
    pub models: usize,
    /// Bytes of their weights, one copy each.
    pub weights_bytes: u64,
}

/// Reason why an engine does not run a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}. {what_to_do}", node.as_ref().map(|n| format!("node {n}: ")).unwrap_or_default())]
pub struct Refusal {
    /// The node that it does not run, as messages call it; `None`: it is not known which.
    pub node: Option<String>,
    /// Operator set of the file.
    pub opset: i64,
    /// What it does not do.
    pub why: String,
    /// What the network's owner can do about it.
    pub what_to_do: String,
}

/// A panic that was caught, with its message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {0}")]
pub struct Panicked(pub(crate) String);

/// Why an engine could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The library that runs the layers says no; in its words.
    #[error("{0}")]
    Library(String),
    /// Something in the library panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The engine's devices are not divided so.
    #[error("this engine fences off {0}")]
    OtherShape(&'static str),
    /// The thread can't be confined to the partition's cores.
    #[error(transparent)]
    Cores(#[from] CoresError),
    /// A file can't be read or written.
    #[error("{what}: {error}")]
    File {
        /// What can't be done with which file.
        what: String,
        /// Why not.
        error: std::io::Error,
    },
    /// A part of the model can't be made.
    #[error(transparent)]
    Model(#[from] Box<ModelError>),
    /// What the library wrote is no model.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A tensor is not what it is said to be.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A tensor that the library gives is not what it should be.
    #[error("tensor {tensor}: {error}")]
    Output {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        error: Box<TensorError>,
    },
    /// The library lacks a tensor of the model.
    #[error("there is no tensor {0}")]
    NoTensor(String),
    /// A tensor's elements are of a type that the engine does not take or give.
    #[error("tensor {tensor} has elements of type {dtype}")]
    ElementType {
        /// The tensor.
        tensor: String,
        /// The type, as the library or the model calls it.
        dtype: String,
    },
    /// The range ends behind the model's last cut point.
    #[error("a range beyond the last cut point")]
    BeyondLastCut,
    /// Weights don't fit their shape.
    #[error("weights of shape {0:?} have another number of elements")]
    Weights(Vec<i64>),
    /// A 64-bit integer needs more bits than the engine computes in.
    #[error("{0} does not fit into the 32 bits in which rten computes 64-bit integers")]
    TooWide(i64),
    /// A tensor holds larger numbers than the engine computes right.
    #[error(
        "tensor {tensor} reaches {most:e}; beyond {limit:e} the 32 bits in which rten computes 64-bit integers don't do"
    )]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// Largest magnitude that it holds.
        most: f64,
        /// Largest magnitude that is computed right.
        limit: f64,
    },
    /// The profile that is emulated does not tell it.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// The profile that is emulated is of another network.
    #[error("the profile has {profile} segments of it, it has {model}")]
    OtherProfile {
        /// Number of segments in the profile.
        profile: usize,
        /// Number of segments of the model.
        model: usize,
    },
    /// A batch goes on that was not set aside, or was dropped meanwhile.
    #[error("the batch that was set aside is gone")]
    BatchGone,
    /// A batch has no rows.
    #[error("a batch without rows")]
    NoRows,
    /// Rows can't be joined.
    #[error("rows of different shapes can't be one batch")]
    Shapes,
    /// The thread that starts a partition's threads died.
    #[error("the thread that pins the pool died")]
    NoPool,
}

/// Error of an engine: what it can't do, and why.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model can't be loaded.
    #[error("the {engine} engine can't load {file}: {cause}")]
    Load {
        /// The engine.
        engine: &'static str,
        /// The model's file.
        file: String,
        /// Why.
        cause: Cause,
    },
    /// The engine does not run the network.
    #[error("the {engine} engine does not run {file}: {refusal}")]
    Refused {
        /// The engine.
        engine: &'static str,
        /// The model's file.
        file: String,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// The engine does not compute in the precision.
    #[error(
        "the {engine} engine does not compute in {wanted}, but in {}",
        has.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Precision {
        /// The engine.
        engine: &'static str,
        /// The precision asked for.
        wanted: Precision,
        /// Those that it has.
        has: Vec<Precision>,
    },
    /// The model is not loaded.
    #[error("model {0:?} is not loaded")]
    NotLoaded(ModelId),
    /// The partition is not open.
    #[error("partition {0:?} is not open")]
    NoPartition(PartitionId),
    /// The partition can't be fenced off.
    #[error("{shape} can't be fenced off: {cause}")]
    Partition {
        /// What was asked for.
        shape: PartitionShape,
        /// Why.
        cause: Cause,
    },
    /// The range goes beyond the model's last cut point.
    #[error("layers {range} go beyond the last cut point {last}")]
    BeyondLastCut {
        /// The range.
        range: StageRange,
        /// The last cut point's index.
        last: usize,
    },
    /// The input does not fit the cut point.
    #[error("input {got} at cut point {at}, expected {want}")]
    Input {
        /// The cut point.
        at: graft_model::CutPoint,
        /// Shapes and types of one request's tensors as given.
        got: String,
        /// The tensors that cross there.
        want: String,
    },
    /// A tensor is not what it is said to be.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The engine panicked outside of what it guards itself.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The layers failed.
    #[error("layers {range} failed: {cause}")]
    Run {
        /// The range.
        range: StageRange,
        /// Why.
        cause: Cause,
    },
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
