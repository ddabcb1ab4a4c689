//! What clients, routers and workers say to each other about requests.
//!
//! | from | to | request | reply | payload of the request | of the reply |
//! |---|---|---|---|---|---|
//! | client | router | [`ClientRequest`] | [`ClientReply`] | tensors, or none | tensors, or JSON [`Description`] |
//! | router | worker | [`WorkRequest`] | [`WorkReply`] | tensors | tensors |
//! | worker | worker | [`WorkRequest`] | [`WorkReply`] | tensors | tensors |
//!
//! Tensors are those of one request at a cut point, one after the other in the cut point's order.

use bincode::{Decode, Encode};
use graft_model::{CutPoint, DType, ModelId};
use graft_plan::{Epoch, Nanos};
use serde::{Deserialize, Serialize};

use crate::status::Refused;
use crate::trace::TraceContext;

/// Time beyond a request's deadline for which whoever asked waits for the reply: it may be on its way.
pub const GRACE: Nanos = Nanos::from_millis(20);

/// Type in which a tensor's elements travel.
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
    /// The element type of models that it stands for.
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

    /// The wire types for a request's tensors. `None`: elements of one of these types don't travel.
    pub fn of_all(types: &[DType]) -> Option<Vec<Self>> {
        types.iter().map(|&dtype| WireType::of(dtype)).collect()
    }

    /// The element types of models that a list stands for.
    pub fn dtypes(list: &[WireType]) -> Vec<DType> {
        list.iter().map(|wire| wire.dtype()).collect()
    }

    /// The wire type for an element type. `None`: elements of this type don't travel.
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

/// A probe's payload at most, in bytes, however small the tensors are that a router takes.
pub const MAX_PROBE_BYTES: u64 = 64 << 10;

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ClientRequest {
    /// Asks what is served of a model.
    Describe {
        /// The model.
        model: ModelId,
    },
    /// Asks to run the rest of the layers. The payload is one request's tensors at the partition point.
    Infer(InferHeader),
    /// Probes how fast the connection is. The payload, of [`MAX_PROBE_BYTES`] at most, is dropped.
    Probe,
    /// Shows a token (RFC 7519), which says who asks over this connection from now on.
    Present {
        /// The token.
        token: String,
    },
}

/// Header of an inference request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct InferHeader {
    /// The model.
    pub model: ModelId,
    /// Where the client hands over.
    pub partition_point: CutPoint,
    /// How the elements of each of its tensors travel, in the cut point's order.
    pub dtypes: Vec<WireType>,
    /// They are 32-bit floats that the model's features say how to code, and the payload is coded so.
    pub coded: bool,
    /// Time budget of the server, from the request's last byte coming in to the answer's first byte going out.
    pub time_left: Nanos,
    /// Trace context, whose trace is the request's id.
    pub trace: TraceContext,
}

/// The reply to a client.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ClientReply {
    /// The payload is a JSON [`Description`].
    Described,
    /// The payload is the model's outputs.
    Answer(AnswerHeader),
    /// There is no answer, and why.
    Refused(Refused),
    /// The probe came in whole.
    Probed,
    /// The token is taken.
    Welcome,
}

/// Header of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AnswerHeader {
    /// How the elements of each output travel, in the model's order.
    pub dtypes: Vec<WireType>,
    /// The plan that it was served by.
    pub epoch: Epoch,
    /// Times that the request took on the server.
    pub timing: Timing,
}

/// Times that a request took on the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Timing {
    /// Time from the router's having the request to its having the answer.
    pub router_ns: u64,
    /// Time that it waited in workers, times for which it was set aside included.
    pub queue_ns: u64,
    /// Time that it ran.
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
    /// Cut point at which the stage's layers begin.
    pub from: CutPoint,
    /// Cut point at which they end.
    pub to: CutPoint,
    /// Time at which it entered the stage's queue.
    pub entered_ns: u64,
    /// Time at which its batch began to run; `None`: it never did.
    pub started_ns: Option<u64>,
    /// Time at which its batch was done; `None`: it never was.
    pub done_ns: Option<u64>,
    /// Requests in the batch.
    pub batch: u32,
    /// Why the batch was not larger.
    pub closed: Option<BatchClosed>,
    /// The chunks in which the batch ran, [`Visit::MOST_CHUNKS`] at most.
    pub chunks: Vec<ChunkRun>,
}

impl Visit {
    /// Most chunks that a visit lists.
    pub const MOST_CHUNKS: usize = 64;
}

/// Reason why a batch was not larger.
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
    /// Time at which it began, as in [`Visit`].
    pub started_ns: u64,
    /// Time that it took.
    pub took_ns: u64,
    /// The cut point at which it ended.
    pub to: CutPoint,
}

/// What a router serves of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Name for people.
    pub name: String,
    /// Time that the server needs from each cut point on, by its plan or profile, in milliseconds; empty: not known
    /// yet.
    pub server_ms: Vec<f64>,
    /// Price of a request from each cut point on: milliseconds of one unit of share, batched as the plan has it. A
    /// client with time to spare may take a cheaper point. Empty: not known yet.
    #[serde(default)]
    pub price: Vec<f64>,
    /// Element types in which tensors may travel.
    pub wire: Vec<DType>,
    /// Whether devices are emulated: answers then take the time of real ones, and mean nothing.
    #[serde(default)]
    pub emulated: bool,
}

/// A request from a router, or a worker, to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum WorkRequest {
    /// Run a route of a plan. The payload is one request's tensors.
    Run(RunHeader),
    /// Give a sign of life.
    Alive,
}

/// Header of a request to run a route.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RunHeader {
    /// The plan.
    pub epoch: Epoch,
    /// Index of the route in the plan.
    pub route: u32,
    /// Index in the route of the stage at which the tensors go in: 0 from a router.
    pub stage: u16,
    /// How the elements of each of its tensors travel, in the cut point's order.
    pub dtypes: Vec<WireType>,
    /// The payload is coded as the model's features say; see [`InferHeader::coded`].
    pub coded: bool,
    /// Time that is left until the deadline.
    pub time_left: Nanos,
    /// Trace context, which says whose request it is.
    pub trace: TraceContext,
}

/// A worker's reply to a router, or to the worker that handed over.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum WorkReply {
    /// The payload is the model's outputs. The list says where the request was.
    Answer(AnswerHeader, Vec<Visit>),
    /// There is no answer, and why. The list says where the request was until then.
    Refused(Refused, Vec<Visit>),
    /// The sign of life that was asked for.
    Alive,
}
