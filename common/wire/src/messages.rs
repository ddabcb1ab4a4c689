//! The messages.
//!
//! | from | to | request | reply | payload of the request | of the reply |
//! |---|---|---|---|---|---|
//! | client | router | [`ClientRequest`] | [`ClientReply`] | a tensor, or none | a tensor, or JSON [`Description`] |
//! | router | worker | [`WorkRequest`] | [`WorkReply`] | a tensor | a tensor |
//! | worker | worker | [`WorkRequest`] | [`WorkReply`] | a tensor | a tensor |
//! | worker, router | planner | [`ControlRequest`] | [`ControlReply`] | JSON [`Join`], [`MixReport`], [`WorkerReport`] | none |
//! | planner | worker, router | [`ControlRequest`] | [`ControlReply`] | JSON [`WorkerPlan`], [`RoutesUpdate`] | none |

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use graft_model::{CutPoint, DType, ModelId};
use graft_plan::{Epoch, Plan, Profile};
use serde::{Deserialize, Serialize};

use crate::outcomes::Outcomes;
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
        /// The model's identity.
        model: [u8; 32],
    },
    /// Run the rest. The payload is one request's tensor at the partition point.
    Infer(InferHeader),
    /// How fast is this connection? The payload is dropped.
    Probe,
}

/// Of an inference.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct InferHeader {
    /// The model's identity.
    pub model: [u8; 32],
    /// Where the client hands over.
    pub partition_point: u16,
    /// How the tensor's elements travel.
    pub dtype: WireType,
    /// What the server has, from the request's last byte coming in to the answer's first byte going out.
    pub time_left_ns: u64,
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
    pub epoch: u64,
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
    pub from: u16,
    /// to this one.
    pub to: u16,
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
    pub to: u16,
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
    pub epoch: u64,
    /// The route's place in the plan.
    pub route: u32,
    /// The stage of the route at which the tensor goes in: 0 from a router.
    pub stage: u16,
    /// How the tensor's elements travel.
    pub dtype: WireType,
    /// What is left of the deadline.
    pub time_left_ns: u64,
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

/// Between planner, workers and routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum ControlRequest {
    /// To the planner: here I am. Payload: [`Join`].
    Join,
    /// To the planner: what I observed. Payload: [`MixReport`].
    Mix,
    /// To the planner: what my partitions do. Payload: [`WorkerReport`].
    Work,
    /// To a worker: make ready for this plan. Payload: [`WorkerPlan`].
    Prepare,
    /// To a worker: drain and drop all plans before this epoch.
    Retire {
        /// The oldest plan that stays.
        before: u64,
    },
    /// To a router: from now on these routes. Payload: [`RoutesUpdate`].
    Switch,
    /// To a worker: free this plan, which no router will use.
    Abandon {
        /// The plan.
        epoch: u64,
    },
}

/// The answer to a [`ControlRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ControlReply {
    /// Done.
    Done,
    /// Not done, and why.
    Failed(String),
}

/// Who joins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Join {
    /// A worker.
    Worker(Box<WorkerInfo>),
    /// A router.
    Router {
        /// Unique name.
        name: String,
        /// The plan it routes by.
        epoch: Epoch,
    },
}

/// What a worker has to offer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Unique name.
    pub name: String,
    /// Where routers reach it: `host:port`.
    pub address: String,
    /// Kind of its device.
    pub device_kind: String,
    /// The device's share.
    pub share_total: u32,
    /// For weights.
    pub memory_bytes: u64,
    /// What it costs to run its models; the profile's models are called by their identity.
    pub profile: Profile,
    /// Models that it has.
    pub models: Vec<WorkerModel>,
    /// Latest plan that it has prepared.
    pub epoch: Epoch,
    /// Its device is emulated.
    #[serde(default)]
    pub emulated: bool,
}

/// A model that a worker has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerModel {
    /// Its identity.
    pub id: ModelId,
    /// Its name there, for people.
    pub name: String,
}

/// What a router observed since its last report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixReport {
    /// Length of the window, in seconds.
    pub window_s: f64,
    /// One entry for each (model, partition point, budget class).
    pub entries: Vec<MixEntry>,
    /// A request came that no route serves: plan at once.
    pub urgent: bool,
    /// What became of requests since the last report.
    #[serde(default)]
    pub outcomes: Vec<OutcomeEntry>,
}

/// What became of requests at a partition point under a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutcomeEntry {
    /// The plan.
    pub epoch: Epoch,
    /// The model.
    pub model: ModelId,
    /// Where clients handed over.
    pub partition_point: CutPoint,
    /// What became of them.
    pub outcomes: Outcomes,
}

/// What a worker's partitions did since its last report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// The latest plan that it has prepared.
    pub epoch: Epoch,
    /// Partitions of that plan.
    pub partitions: Vec<PartitionReport>,
    /// What runs took, by model and batch.
    pub runs: Vec<RunsTook>,
}

/// What one partition did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// As the plan calls it.
    pub id: String,
    /// Part of the time in which it computed.
    pub busy: f64,
    /// Requests that wait in its queues now.
    pub queued: u64,
    /// Batches and requests that were done.
    pub batches: u64,
    /// Requests of these.
    pub requests: u64,
}

/// What runs of a model's chunks took, and what they should have taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunsTook {
    /// The model.
    pub model: ModelId,
    /// The profile's batch.
    pub batch: u32,
    /// How many.
    pub chunks: u64,
    /// By the worker's own measured profile.
    pub expected_ms: f64,
    /// As it was.
    pub took_ms: f64,
}

/// A class of clients, as observed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixEntry {
    /// The model.
    pub model: ModelId,
    /// Where they hand over.
    pub partition_point: CutPoint,
    /// The least budget of the class, in milliseconds.
    pub budget_ms: f64,
    /// Requests per second.
    pub rate_rps: f64,
    /// Index of dispersion of the requests' counts in windows of [`graft_plan::BURST_WINDOW`].
    pub burstiness: f64,
}

/// A plan for a worker: it finds its own partitions in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerPlan {
    /// The plan; devices are workers' names.
    pub plan: Plan,
    /// Where other workers of the plan are reached.
    #[serde(default)]
    pub workers: BTreeMap<String, WorkerEndpoint>,
    /// What runs take, as a multiple of what workers measured at first: by model and batch.
    #[serde(default)]
    pub corrections: Vec<Correction>,
}

/// What runs of a model take, as a multiple of what its profile says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// The model.
    pub model: ModelId,
    /// The profile's batch.
    pub batch: u32,
    /// The multiple.
    pub times: f64,
}

/// The routes for a router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoutesUpdate {
    /// The plan they belong to.
    pub epoch: Epoch,
    /// There is more load than devices: routes carry no more than their planned rates.
    #[serde(default)]
    pub limited: bool,
    /// Some worker's device is emulated.
    #[serde(default)]
    pub emulated: bool,
    /// Routers that clients are spread over: each lets its part through.
    #[serde(default)]
    pub routers: u32,
    /// Workers by name.
    pub workers: BTreeMap<String, WorkerEndpoint>,
    /// The routes.
    pub routes: Vec<RouteTarget>,
    /// Milliseconds that the server needs from each cut point on, by model.
    pub server_ms: BTreeMap<ModelId, Vec<f64>>,
    /// What a request costs from each cut point on, by model: milliseconds of one unit of share.
    #[serde(default)]
    pub price: BTreeMap<ModelId, Vec<f64>>,
    /// What the plan does not serve, on purpose.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
}

/// Clients that a plan does not serve, on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The model.
    pub model: ModelId,
    /// Where they hand over.
    pub partition_point: CutPoint,
    /// Those with so much time, in milliseconds, or less.
    pub budget_ms: f64,
    /// Not even alone would they be in time; else there was no room for them.
    pub too_tight: bool,
}

/// Where a worker is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEndpoint {
    /// `host:port`.
    pub address: String,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteTarget {
    /// Its place in the plan. A route that n partitions run is listed n times.
    pub route: u32,
    /// The model.
    pub model: ModelId,
    /// Where its clients hand over.
    pub partition_point: CutPoint,
    /// The budget that it was planned for, in milliseconds.
    pub budget_ms: f64,
    /// Requests per second that it carries.
    pub rate_rps: f64,
    /// Least time from the worker's having the request to the answer, in milliseconds.
    pub least_ms: f64,
    /// The worker that runs its first stage.
    pub worker: String,
    /// Routes with the same number share partitions.
    #[serde(default)]
    pub pool: u32,
    /// What one request takes of them: milliseconds, batched as planned.
    #[serde(default)]
    pub work_ms: f64,
}
