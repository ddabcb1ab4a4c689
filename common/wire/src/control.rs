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
use graft_plan::{Epoch, Nanos, Plan, Profile};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::outcomes::Outcomes;

/// The header of a control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Control;

/// A message to one kind of part.
pub trait ControlMessage: Serialize + DeserializeOwned + Send + 'static {
    /// Name of the receiving part, for errors.
    const TO: &'static str;
}

/// A message to the planner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum ToPlanner {
    /// Join: the sender is there.
    Join(Join),
    /// What a router observed.
    Mix(MixReport),
    /// What a worker's partitions did.
    Work(WorkerReport),
    /// A worker gives a router no sign of life.
    Silent(String),
}

/// A message to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum ToWorker {
    /// Make ready for this plan.
    Prepare(Box<WorkerPlan>),
    /// Drain and drop all plans before this one.
    Retire(Epoch),
    /// Free this plan, which no router will use.
    Abandon(Epoch),
    /// Give a sign of life.
    Alive,
}

/// A message to a router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum ToRouter {
    /// Route by these routes from now on.
    Switch(Box<RoutesUpdate>),
    /// Give a sign of life.
    Alive,
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

/// A member that joins.
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
    /// Its devices, at least one.
    pub devices: Vec<DeviceInfo>,
    /// Models that it has.
    pub models: Vec<WorkerModel>,
    /// Latest plan that it has prepared.
    pub epoch: Epoch,
}

/// A worker's device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Id in plans: the worker's name, where it has one device; else that, a slash, and a name of its own.
    pub id: String,
    /// Kind of device, as its profile says.
    pub kind: String,
    /// The device's share.
    pub share_total: u32,
    /// Memory for weights, in bytes.
    pub memory_bytes: u64,
    /// Price of the whole device. `None`: it has none, and costs its share.
    #[serde(default)]
    pub price: Option<f64>,
    /// Costs of running models there; the profile names models by their identity.
    pub profile: Profile,
    /// Whether it is emulated.
    #[serde(default)]
    pub emulated: bool,
}

/// A model that a worker has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerModel {
    /// Its identity.
    pub id: ModelId,
    /// Name at the worker, for people.
    pub name: String,
}

/// What a router observed since its last report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixReport {
    /// Length of the window, in seconds.
    pub window_s: f64,
    /// One entry for each (model, partition point, budget class).
    pub entries: Vec<MixEntry>,
    /// Whether a request came that no route serves, so that the planner should plan at once.
    pub urgent: bool,
    /// Outcomes of requests since the last report.
    #[serde(default)]
    pub outcomes: Vec<OutcomeEntry>,
}

/// Outcomes of requests at one partition point under one plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutcomeEntry {
    /// The plan.
    pub epoch: Epoch,
    /// The model.
    pub model: ModelId,
    /// Where clients handed over.
    pub partition_point: CutPoint,
    /// Outcomes of their requests.
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
    /// Id of the partition in the plan.
    pub id: String,
    /// Part of the time in which it computed, 0 to 1.
    pub busy: f64,
    /// Requests that wait in its queues now.
    pub queued: u64,
    /// Number of batches that were done.
    pub batches: u64,
    /// Number of requests in these batches.
    pub requests: u64,
    /// Whether its engine has not answered for far longer than what it runs should take.
    #[serde(default)]
    pub silent: bool,
}

/// Time that runs of a model's chunks took, and should have taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunsTook {
    /// Kind of device.
    pub kind: String,
    /// The model.
    pub model: ModelId,
    /// The profile's batch.
    pub batch: u32,
    /// Number of chunks.
    pub chunks: u64,
    /// Time that they should take by the device's own measured profile, all together, in milliseconds.
    pub expected_ms: f64,
    /// Time that they took, all together, in milliseconds.
    pub took_ms: f64,
}

/// A class of clients as a router observed it.
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

/// A plan for a worker: it finds the partitions of its own devices in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerPlan {
    /// The plan.
    pub plan: Plan,
    /// The workers of devices, by the devices' ids.
    pub hosts: BTreeMap<String, WorkerEndpoint>,
    /// Corrections by kind of device, model and batch: what runs take, as a multiple of what was measured at first.
    #[serde(default)]
    pub corrections: Vec<Correction>,
    /// What the plan's stages take: a worker knows the times of its own devices only.
    pub times: StageTimes,
}

/// What stages of a plan take a request that is alone, and what a hop takes, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimes {
    /// Time alone, uncut, on a stage's first partition, by the stage's id.
    pub alone: BTreeMap<String, Nanos>,
    /// Time of a hop: from arrival to the first stage, and from a stage to the next.
    pub hop: Nanos,
}

/// A correction: what a model's runs take, as a multiple of what its profile says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// Kind of device.
    pub kind: String,
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
    /// Whether there is more load than the devices carry: then routes let through no more than their planned rates.
    #[serde(default)]
    pub limited: bool,
    /// Whether some worker's device is emulated.
    #[serde(default)]
    pub emulated: bool,
    /// Number of routers that clients are spread over: each lets its part of the rates through.
    #[serde(default)]
    pub routers: u32,
    /// Workers by name.
    pub workers: BTreeMap<String, WorkerEndpoint>,
    /// The routes.
    pub routes: Vec<RouteTarget>,
    /// Time that the server needs from each cut point on, by model, in milliseconds.
    pub server_ms: BTreeMap<ModelId, Vec<f64>>,
    /// Price of a request from each cut point on, by model: milliseconds of one unit of cost.
    #[serde(default)]
    pub price: BTreeMap<ModelId, Vec<f64>>,
    /// Clients that the plan does not serve, on purpose.
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
    /// Time budget up to which clients there are left out, in milliseconds.
    pub budget_ms: f64,
    /// Whether they would not be in time even alone; else there was no room for them.
    pub too_tight: bool,
}

/// Where a worker is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEndpoint {
    /// Its name.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Its longest chunk in the plan: how long it may have no time for anything else.
    #[serde(default)]
    pub chunk: Nanos,
}

/// One route, by way of one worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteTarget {
    /// Index of the route in the plan. A route that n partitions run is listed n times.
    pub route: u32,
    /// The model.
    pub model: ModelId,
    /// Where its clients hand over.
    pub partition_point: CutPoint,
    /// Time budget that it was planned for, in milliseconds.
    pub budget_ms: f64,
    /// Requests per second that it carries.
    pub rate_rps: f64,
    /// Least time from the worker's having the request to the answer, in milliseconds.
    pub least_ms: f64,
    /// The worker that runs its first stage.
    pub worker: String,
    /// Number of a pool of partitions: routes with the same number share partitions.
    #[serde(default)]
    pub pool: u32,
    /// Time that one request takes of the pool's partitions, batched as planned, in milliseconds.
    #[serde(default)]
    pub work_ms: f64,
}
