//! What the planner sees and has decided, for people.

use actix::Message;
use graft_plan::Epoch;
use graft_planner_core::Decision;
use graft_wire::{Outcomes, PartitionReport};
use serde::{Deserialize, Serialize};

/// What is there to see?
#[derive(Message)]
#[rtype(result = "Status")]
pub(crate) struct Look;

/// What the planner sees and has decided: `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The plan in use.
    pub epoch: Epoch,
    /// The plan that rolls out.
    pub rolling_out: Option<Epoch>,
    /// The plan's share, and that of all devices.
    pub share: u64,
    /// See `share`.
    pub share_total: u64,
    /// Fragments that the plan does not serve.
    pub infeasible: usize,
    /// Capacity exceeds the rates by this part.
    pub headroom: f64,
    /// Workers that have joined.
    pub workers: Vec<WorkerStatus>,
    /// Routers that have joined.
    pub routers: Vec<String>,
    /// By model and partition point.
    pub points: Vec<PointStatus>,
    /// All of them.
    pub total: Served,
    /// Model, batch, and what its runs take as a multiple of what was measured at first.
    pub corrections: Vec<(String, u32, f64)>,
    /// The latest decisions, the oldest first.
    pub decisions: Vec<Decision>,
}

/// A worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Unique name.
    pub name: String,
    /// Kind of its device.
    pub device_kind: String,
    /// It only takes the time that a device would.
    pub emulated: bool,
    /// The device's share.
    pub share_total: u32,
    /// The latest plan that it has prepared.
    pub epoch: Epoch,
    /// Its partitions.
    pub partitions: Vec<PartitionStatus>,
}

/// A partition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its share of the device.
    pub share: u32,
    /// What it did in the last second.
    #[serde(flatten)]
    pub report: PartitionReport,
}

/// What is asked for at a partition point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PointStatus {
    /// The model's name.
    pub model: String,
    /// Where clients hand over.
    pub partition_point: u16,
    /// Requests per second, as observed.
    pub rate_rps: f64,
    /// And as planned for.
    pub planned_rps: f64,
    /// The tightest budget, in milliseconds.
    pub tightest_ms: f64,
    /// Index of dispersion of the requests.
    pub burstiness: f64,
    /// What became of them in the last seconds.
    pub served: Served,
}

/// What became of the requests of the last ten seconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Served {
    /// Requests per second that ended.
    pub rate_rps: f64,
    /// In time, of all.
    pub attainment: Option<f64>,
    /// Answered in time, answered late, refused.
    pub in_time: u64,
    /// See `in_time`.
    pub late: u64,
    /// See `in_time`.
    pub refused: u64,
    /// Latencies at the server, in milliseconds.
    pub p50_ms: Option<f64>,
    /// Of a hundred requests one takes longer.
    pub p99_ms: Option<f64>,
}

impl Served {
    pub(crate) fn of(outcomes: &Outcomes, seconds: f64) -> Self {
        Served {
            rate_rps: outcomes.requests() as f64 / seconds,
            attainment: outcomes.attainment(),
            in_time: outcomes.in_time,
            late: outcomes.late,
            refused: outcomes.refused.values().sum(),
            p50_ms: outcomes.latencies.quantile_ms(0.5),
            p99_ms: outcomes.latencies.quantile_ms(0.99),
        }
    }
}
