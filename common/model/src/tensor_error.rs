//! What can be wrong with a tensor.

use crate::dim::DType;

/// Error: a tensor is not what it is said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Shape and number of bytes disagree.
    #[error("{got} bytes for {requests} request(s) of shape {shape:?} in {dtype}: expected {want}")]
    Size {
        /// Bytes given.
        got: usize,
        /// Bytes wanted.
        want: usize,
        /// Requests in the batch.
        requests: usize,
        /// Shape of one request.
        shape: Vec<usize>,
        /// Type of the elements as sent.
        dtype: DType,
    },
    /// Another number of tensors than cross at the cut point.
    #[error("{got} tensor(s) where there should be: {want}")]
    Count {
        /// Tensors given.
        got: usize,
        /// Tensors that cross.
        want: String,
    },
    /// One request's tensors have another number of bytes.
    #[error("{got} bytes for one request of {cut}: expected {want}")]
    Bytes {
        /// Bytes given.
        got: usize,
        /// Bytes wanted.
        want: usize,
        /// Tensors that cross.
        cut: String,
    },
    /// The model has no features for a cut point.
    #[error("the model's features don't say how tensors are coded at cut point {point}")]
    NoCoding {
        /// The cut point.
        point: u16,
    },
    /// One request's coded tensors have more or fewer bytes than they can.
    #[error("{got} bytes for one request of {cut}, coded: expected {least} to {most}")]
    CodedBytes {
        /// Bytes given.
        got: usize,
        /// Bytes at least.
        least: usize,
        /// Bytes at most.
        most: usize,
        /// Tensors that cross.
        cut: String,
    },
    /// One request's coded tensors can't be decoded.
    #[error("{0}")]
    Damaged(String),
    /// Tensors of one batch hold different numbers of requests, or there is none.
    #[error("tensors for {0:?} requests are no batch")]
    Requests(Vec<usize>),
    /// No way to turn one element type into the other.
    #[error("elements sent as {sent} can't be used as {wanted}")]
    Type {
        /// Type as sent.
        sent: DType,
        /// Type as wanted.
        wanted: DType,
    },
}
