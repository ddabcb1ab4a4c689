//! What Graft's parts say to each other: frames, messages and typed refusals.
//!
//! A frame is a fixed prefix ([`Prefix`]), a bincode header that is one of the message enums, and raw
//! payload bytes: a tensor, or a JSON document. Sizes are checked against [`Limits`] before anything is
//! allocated. Every decoder takes arbitrary bytes and answers with an error.
//!
//! This crate encodes and decodes. It opens no connection and knows no clock.

mod frame;
mod messages;
mod status;
#[cfg(test)]
mod tests;

pub use frame::{FrameError, Limits, PREFIX_BYTES, Prefix, VERSION, decode_header, encode_frame};
pub use messages::{
    AnswerHeader, ClientReply, ClientRequest, ControlReply, ControlRequest, Description, InferHeader, Join,
    MixEntry, MixReport, RouteTarget, RoutesUpdate, RunHeader, Timing, WireType, WorkReply, WorkRequest,
    WorkerEndpoint, WorkerInfo, WorkerModel, WorkerPlan,
};
pub use status::{Refused, Status};
