//! What an engine can't do, and why.

use graft_model::{MessageError, ModelError, ModelId, Precision, StageRange, TensorError};
use graft_plan::CostError;

use crate::cores::CoresError;
use crate::shape::PartitionShape;

/// A partition's number in its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartitionId(pub u32);

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
    /// The device failed, whatever was run on it: another may serve the same request.
    #[error("the device {}: {cause}", if *lost { "is lost" } else { "failed" })]
    Device {
        /// Whether nothing runs on it any more.
        lost: bool,
        /// Why, in its driver's words.
        cause: String,
    },
    /// The layers failed.
    #[error("layers {range} failed: {cause}")]
    Run {
        /// The range.
        range: StageRange,
        /// Why.
        cause: Cause,
    },
}
