//! DNNs as Graft sees them: ONNX graphs turned into an ordered list of cut points.
//!
//! [`Model::parse`] reads an ONNX file's content, makes its batch dimension symbolic, infers every shape and finds
//! the [`Cut`] points: the places where one tensor, or a few, cross the graph. Phone and server number them the
//! same way, since the numbering belongs to the model's identity ([`ModelId`]).
//! A [`Manifest`] says how it is served.
//!
//! This crate describes models that others have read from a disk. It never runs one (that is an engine's work) and
//! knows nothing of plans, networks, files or clocks.

#![deny(clippy::disallowed_methods)]

mod analyze;
mod batch;
mod careful;
mod coded;
mod cut;
mod dataset;
mod dim;
mod error;
mod fact;
mod fold;
mod framing;
mod info;
mod manifest;
mod options;
mod padding;
mod parts;
mod precision;
mod read;
mod rules;
mod splitmix;
mod tensor;
mod tensor_error;
mod written;

pub mod edit;

#[cfg(any(test, feature = "samples"))]
pub mod samples;

#[cfg(test)]
mod tests;

pub use analyze::{Guard, Narrow};
pub use batch::{Batch, Discrepancy, Sent};
pub use cut::{Cut, CutPoint, ModelId, NUMBERING, NotAModelId, Segment, StageRange, TensorSpec};
pub use dataset::{DataSet, Numbers};
pub use dim::DType;
pub use error::{ModelError, ModelErrorKind, operator_of};
pub use framing::MessageError;
pub use info::{Listed, ModelInfo};
pub use manifest::{ImageInput, Manifest, Resample, Sample};
pub use options::{InputOptions, ReadOptions, ToldTensor};
pub use padding::padded;
pub use parts::{Part, Parts};
pub use precision::Precision;
pub use read::Model;
pub use splitmix::SplitMix;
pub use tensor::{Elements, LEAST_FLOAT, Tensor, largest_difference};
pub use tensor_error::TensorError;
