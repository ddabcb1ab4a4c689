//! The messages.
//!
//! | from | to | request | reply | payload of the request | of the reply |
//! |---|---|---|---|---|---|
//! | client | router | [`ClientRequest`] | [`ClientReply`] | a tensor, or none | a tensor, or JSON [`Description`] |
//! | router | worker | [`WorkRequest`] | [`WorkReply`] | a tensor | a tensor |
//! | worker, router | planner | [`ControlRequest`] | [`ControlReply`] | JSON [`Join`], [`MixReport`] | none |
//! | planner | worker, router | [`ControlRequest`] | [`ControlReply`] | JSON [`WorkerPlan`], [`RoutesUpdate`] | none |

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use graft_model::{CutPoint, DType, ModelId};
use graft_plan::{Epoch, Plan, Profile};
use serde::{Deserialize, Serialize};

use crate::status::Refused;

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
}

impl WireType {
    /// As a model's element type.
    pub fn dtype(self) -> DType {
        match self {
            WireType::F32 => DType::F32,
            WireType::F16 => DType::F16,
            WireType::I32 => DType::I32,
            WireType::I64 => DType::I64,
        }
    }

    /// `None`: elements of this type don't travel.
    pub fn of(dtype: DType) -> Option<Self> {
        Some(match dtype {
            DType::F32 => WireType::F32,
            DType::F16 => WireType::F16,
            DType::I32 => WireType::I32,
            DType::I64 => WireType::I64,
            DType::I8 | DType::U8 | DType::Bool | DType::F64 => return None,
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

/// What a router serves of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Name for people.
    pub name: String,
    /// Milliseconds that the server needs from each cut point on, by its plan or profile; empty if it does not know yet.
    pub server_ms: Vec<f64>,
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
    /// How the tensor's elements travel.
    pub dtype: WireType,
    /// What is left of the deadline.
    pub time_left_ns: u64,
}

/// From a worker to a router.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum WorkReply {
    /// The payload is the model's output.
    Answer(AnswerHeader),
    /// There is no answer, and why.
    Refused(Refused),
}

/// Between planner, workers and routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum ControlRequest {
    /// To the planner: here I am. Payload: [`Join`].
    Join,
    /// To the planner: what I observed. Payload: [`MixReport`].
    Mix,
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
    /// Workers by name.
    pub workers: BTreeMap<String, WorkerEndpoint>,
    /// The routes.
    pub routes: Vec<RouteTarget>,
    /// Milliseconds that the server needs from each cut point on, by model.
    pub server_ms: BTreeMap<ModelId, Vec<f64>>,
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
    /// Planned requests per second.
    pub rate_rps: f64,
    /// Least time from the worker's having the request to the answer, in milliseconds.
    pub least_ms: f64,
    /// The worker that runs its stages.
    pub worker: String,
}
