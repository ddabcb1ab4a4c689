//! What clients, routers and workers say to each other about requests.
//!
//! | from | to | request | reply | payload of the request | of the reply |
//! |---|---|---|---|---|---|
//! | client | router | [`ClientRequest`] | [`ClientReply`] | a tensor, or none | a tensor, or JSON [`Description`] |
//! | router | worker | [`WorkRequest`] | [`WorkReply`] | a tensor | a tensor |
//! | worker | worker | [`WorkRequest`] | [`WorkReply`] | a tensor | a tensor |

use bincode::{Decode, Encode};
use graft_model::{CutPoint, DType, ModelId};
use graft_plan::{Epoch, Nanos};
use serde::{Deserialize, Serialize};

use crate::status::Refused;
use crate::trace::TraceContext;

/// How a tensor's elements travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum WireType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// 8-bit unsigned integers.
    U8,
    /// 8-bit signed integers.
    I8,
    /// Truth values: a byte each, 0 or 1.
    Bool,
}

impl WireType {
    /// As a model's element type.
    pub fn dtype(self) -> DType {
        match self {
            WireType::F32 => DType::F32,
            WireType::F16 => DType::F16,
            WireType::I32 => DType::I32,
            WireType::I64 => DType::I64,
            WireType::U8 => DType::U8,
            WireType::I8 => DType::I8,
            WireType::Bool => DType::Bool,
        }
    }

    /// `None`: elements of this type don't travel.
    pub fn of(dtype: DType) -> Option<Self> {
        Some(match dtype {
            DType::F32 => WireType::F32,
            DType::F16 => WireType::F16,
            DType::I32 => WireType::I32,
            DType::I64 => WireType::I64,
            DType::U8 => WireType::U8,
            DType::I8 => WireType::I8,
            DType::Bool => WireType::Bool,
            DType::F64 => return None,
        })
    }
}

/// From a client.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ClientRequest {
    /// What is served of this model?
    Describe {
        /// The model.
        model: ModelId,
    },
    /// Run the rest. The payload is one request's tensor at the partition point.
    Infer(InferHeader),
    /// How fast is this connection? The payload is dropped.
    Probe,
}

/// Of an inference.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct InferHeader {
    /// The model.
    pub model: ModelId,
    /// Where the client hands over.
    pub partition_point: CutPoint,
    /// How the tensor's elements travel.
    pub dtype: WireType,
    /// What the server has, from the request's last byte coming in to the answer's first byte going out.
    pub time_left: Nanos,
    /// Its trace is the request's id.
    pub trace: TraceContext,
}

/// To a client.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ClientReply {
    /// The payload is a JSON [`Description`].
    Described,
    /// The payload is the model's output.
    Answer(AnswerHeader),
    /// There is no answer, and why.
    Refused(Refused),
    /// The probe came in whole.
    Probed,
}

/// Of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AnswerHeader {
    /// How the output's elements travel.
    pub dtype: WireType,
    /// The plan that it was served by.
    pub epoch: Epoch,
    /// Where the time went.
    pub timing: Timing,
}

/// Where a request's time went on the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Timing {
    /// From the router's having it to the router's having the answer.
    pub router_ns: u64,
    /// Waiting in the worker, set aside included.
    pub queue_ns: u64,
    /// Running.
    pub run_ns: u64,
    /// Largest batch that it was part of.
    pub batch: u32,
}

/// A request's stay in one partition; times are from the first worker's having it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Visit {
    /// The worker.
    pub worker: String,
    /// The partition, as the plan calls it.
    pub partition: String,
    /// The stage's layers: from this cut point
    pub from: CutPoint,
    /// to this one.
    pub to: CutPoint,
    /// It entered the stage's queue.
    pub entered_ns: u64,
    /// Its batch began to run; `None`: it did not come to that.
    pub started_ns: Option<u64>,
    /// Its batch was done.
    pub done_ns: Option<u64>,
    /// Requests in the batch.
    pub batch: u32,
    /// Why the batch was not larger.
    pub closed: Option<BatchClosed>,
    /// The chunks in which the batch ran, [`Visit::MOST_CHUNKS`] at most.
    pub chunks: Vec<ChunkRun>,
}

impl Visit {
    /// Chunks that are told of at most.
    pub const MOST_CHUNKS: usize = 64;
}

/// Why a batch had the requests that it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchClosed {
    /// Nothing else waited for the stage.
    NoneWaiting,
    /// It was as large as the stage's batches may be.
    Full,
    /// A larger one would have made its first request late.
    Deadline,
}

/// One chunk of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ChunkRun {
    /// When it began.
    pub started_ns: u64,
    /// What it took.
    pub took_ns: u64,
    /// The cut point at which it ended.
    pub to: CutPoint,
}

/// What a router serves of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Name for people.
    pub name: String,
    /// Milliseconds that the server needs from each cut point on, by its plan or profile; empty if it does not know yet.
    pub server_ms: Vec<f64>,
    /// What a request costs the server from each cut point on: milliseconds of one unit of share, batched as the plan
    /// has it. A client with time to spare may take a cheaper point. Empty if it is not known yet.
    #[serde(default)]
    pub price: Vec<f64>,
    /// Element types in which tensors may travel.
    pub wire: Vec<DType>,
    /// Devices are emulated: answers take the time of real ones, and mean nothing.
    #[serde(default)]
    pub emulated: bool,
}

/// From a router to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum WorkRequest {
    /// Run a route of a plan. The payload is one request's tensor.
    Run(RunHeader),
}

/// Of a run.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RunHeader {
    /// The plan.
    pub epoch: Epoch,
    /// The route's place in the plan.
    pub route: u32,
    /// The stage of the route at which the tensor goes in: 0 from a router.
    pub stage: u16,
    /// How the tensor's elements travel.
    pub dtype: WireType,
    /// What is left of the deadline.
    pub time_left: Nanos,
    /// Whose request it is.
    pub trace: TraceContext,
}

/// From a worker to a router, or to the worker that handed over.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum WorkReply {
    /// The payload is the model's output. Where the request was.
    Answer(AnswerHeader, Vec<Visit>),
    /// There is no answer, and why. Where the request was until then.
    Refused(Refused, Vec<Visit>),
}
