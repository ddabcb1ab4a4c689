//! What Graft's parts say to each other: frames, messages and typed refusals.
//!
//! A frame is a fixed prefix ([`Prefix`]), a bincode header that is one of the message enums, and raw
//! payload bytes: a tensor, or a JSON document. Sizes are checked against [`Limits`] before anything is
//! allocated. Every decoder takes arbitrary bytes and answers with an error.
//!
//! This crate encodes and decodes. It opens no connection and knows no clock.

#![deny(clippy::disallowed_methods)]

mod control;
mod frame;
mod messages;
mod outcomes;
mod status;
#[cfg(test)]
mod tests;
mod trace;

pub use control::{
    Control, ControlMessage, ControlReply, Correction, DeviceInfo, Join, LeftOut, MixEntry, MixReport,
    OutcomeEntry, PartitionReport, RouteTarget, RoutesUpdate, RunsTook, StageTimes, ToPlanner, ToRouter,
    ToWorker, WorkerEndpoint, WorkerInfo, WorkerModel, WorkerPlan, WorkerReport,
};
pub use frame::{FrameError, Limits, PREFIX_BYTES, Prefix, VERSION, decode_header, encode_frame};
pub use messages::{
    AnswerHeader, BatchClosed, ChunkRun, ClientReply, ClientRequest, Description, GRACE, InferHeader,
    MAX_PROBE_BYTES, RunHeader, Timing, Visit, WireType, WorkReply, WorkRequest,
};
pub use outcomes::{Latencies, Outcomes};
pub use status::{Refused, Status};
pub use trace::TraceContext;
