//! What planner, workers and routers say to each other about plans.
//!
//! | to | message | from |
//! |---|---|---|
//! | planner | [`ToPlanner`] | workers, routers |
//! | worker | [`ToWorker`] | planner |
//! | router | [`ToRouter`] | planner |
//!
//! A frame holds [`Control`] as its header and the message as its payload, in JSON; the reply is a [`ControlReply`].

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Plan, Profile};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::outcomes::Outcomes;

/// The header of a control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Control;

/// A message to one kind of part.
pub trait ControlMessage: Serialize + DeserializeOwned + Send + 'static {
    /// Whose it is, for errors.
    const TO: &'static str;
}

/// To the planner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum ToPlanner {
    /// Here I am.
    Join(Join),
    /// From a router: what it observed.
    Mix(MixReport),
    /// From a worker: what its partitions did.
    Work(WorkerReport),
}

/// To a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum ToWorker {
    /// Make ready for this plan.
    Prepare(Box<WorkerPlan>),
    /// Drain and drop all plans before this one.
    Retire(Epoch),
    /// Free this plan, which no router will use.
    Abandon(Epoch),
}

/// To a router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum ToRouter {
    /// From now on these routes.
    Switch(Box<RoutesUpdate>),
}

impl ControlMessage for ToPlanner {
    const TO: &'static str = "planner";
}

impl ControlMessage for ToWorker {
    const TO: &'static str = "worker";
}

impl ControlMessage for ToRouter {
    const TO: &'static str = "router";
}

/// The answer to a control message.
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
    /// Its engine has not answered for longer than the costs of what it runs allow by far.
    #[serde(default)]
    pub silent: bool,
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
