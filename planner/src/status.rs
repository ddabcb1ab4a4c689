//! What the planner sees and has decided, for people.

use std::collections::BTreeMap;

use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Hardware, Nanos, Partition, Plan, Workload};
use graft_planner_search::cost_alone;
use graft_planner_steer::{Decision, Desk, Recent, Wanted, WorkerMember};
use graft_wire::{Outcomes, PartitionReport};
use serde::{Deserialize, Serialize};

/// Decisions that a status tells of.
const LATEST: usize = 8;

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
    /// Kind of device, model, batch, and what its runs take as a multiple of what was measured at first.
    pub corrections: Vec<(String, String, u32, f64)>,
    /// Why plans are kept in memory alone; not given: they are on the disk, too.
    #[serde(default)]
    pub store_trouble: Option<String>,
    /// The latest decisions, the oldest first.
    pub decisions: Vec<Decision>,
}

/// A worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Unique name.
    pub name: String,
    /// Its devices.
    pub devices: Vec<DeviceStatus>,
    /// The latest plan that it has prepared.
    pub epoch: Epoch,
    /// Its partitions.
    pub partitions: Vec<PartitionStatus>,
}

/// A device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Id in plans.
    pub id: String,
    /// Kind of device.
    pub kind: String,
    /// It only takes the time that a device would.
    pub emulated: bool,
    /// Share of the whole device.
    pub share_total: u32,
}

/// A partition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its device.
    pub device: String,
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

/// The latest decisions, the oldest first.
pub(crate) fn latest_decisions(desk: &Desk, most: usize) -> Vec<Decision> {
    let mut latest: Vec<Decision> = desk.decisions().rev().take(most).cloned().collect();
    latest.reverse();
    latest
}

impl Status {
    /// What a desk sees and has decided.
    pub(crate) fn of(desk: &Desk, now: Nanos) -> Self {
        let plan = desk.current().map(|current| &current.plan);
        let mut total = Outcomes::default();
        desk.recent(now).values().for_each(|outcomes| total += outcomes);
        let corrections = desk.corrections();
        Status {
            epoch: desk.current().map_or(Epoch(0), |current| current.update.epoch),
            rolling_out: desk.on_its_way(),
            share: plan.map_or(0, |p| p.total_share),
            share_total: desk
                .workers()
                .flat_map(|w| &w.info.devices)
                .map(|d| u64::from(d.share_total))
                .sum(),
            infeasible: plan.map_or(0, |p| p.infeasible.len()),
            headroom: desk.options().headroom,
            workers: desk
                .workers()
                .map(|worker| WorkerStatus::of(worker, plan))
                .collect(),
            routers: desk.routers().map(str::to_owned).collect(),
            points: points(desk, now),
            total: Served::of(&total, Recent::SECONDS),
            corrections: corrections
                .iter()
                .map(|c| (c.kind.clone(), desk.name_of(c.model), c.batch, c.times))
                .collect(),
            store_trouble: None,
            decisions: latest_decisions(desk, LATEST),
        }
    }
}

impl WorkerStatus {
    fn of(worker: &WorkerMember, plan: Option<&Plan>) -> Self {
        let planned: BTreeMap<&str, &Partition> = plan
            .iter()
            .flat_map(|p| &p.partitions)
            .map(|p| (p.id.as_str(), p))
            .collect();
        let (info, report) = (&worker.info, worker.report.as_ref());
        let partitions = report.iter().flat_map(|r| &r.partitions);
        WorkerStatus {
            name: info.name.clone(),
            devices: info
                .devices
                .iter()
                .map(|d| DeviceStatus {
                    id: d.id.clone(),
                    kind: d.kind.clone(),
                    emulated: d.emulated,
                    share_total: d.share_total,
                })
                .collect(),
            epoch: report.map_or(info.epoch, |r| r.epoch),
            partitions: partitions
                .map(|report| {
                    let planned = planned.get(report.id.as_str());
                    PartitionStatus {
                        device: planned.map(|p| p.device.clone()).unwrap_or_default(),
                        share: planned.map_or(0, |p| p.share.0),
                        report: report.clone(),
                    }
                })
                .collect(),
        }
    }
}

/// What is asked for, planned for and served, by model and partition point.
fn points(desk: &Desk, now: Nanos) -> Vec<PointStatus> {
    let mut points: BTreeMap<(ModelId, CutPoint), PointStatus> = BTreeMap::new();
    let mut at = |model: ModelId, point: CutPoint, note: &dyn Fn(&mut PointStatus)| {
        note(points.entry((model, point)).or_insert_with(|| PointStatus {
            model: desk.name_of(model),
            partition_point: point.0,
            rate_rps: 0.0,
            planned_rps: 0.0,
            tightest_ms: f64::INFINITY,
            burstiness: 1.0,
            served: Served::default(),
        }));
    };
    for w in desk.observed_mix() {
        at(w.model, w.point, &|point| {
            point.rate_rps += w.rate_rps;
            point.tightest_ms = point.tightest_ms.min(w.budget_ms);
            point.burstiness = point.burstiness.max(w.burstiness);
        });
    }
    let planned = desk.current().map(|current| current.workload.fragments.iter());
    for w in planned.into_iter().flatten().filter_map(Wanted::of_fragment) {
        at(w.model, w.point, &|point| {
            point.planned_rps += w.rate_rps;
            point.tightest_ms = point.tightest_ms.min(w.budget_ms);
        });
    }
    for ((model, point), outcomes) in desk.recent(now) {
        at(model, point, &|point| {
            point.served = Served::of(&outcomes, Recent::SECONDS)
        });
    }
    for point in points.values_mut().filter(|p| p.tightest_ms.is_infinite()) {
        point.tightest_ms = 0.0;
    }
    points.into_values().collect()
}

/// What the planner sees and has decided, for whoever runs it in the same process.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The plan that was rolled out last.
    pub plan: Option<Plan>,
    /// What it was made for.
    pub workload: Workload,
    /// What it runs on, and costs there.
    pub hardware: Option<Hardware>,
    /// What the same fragments would cost alone: share, or price.
    pub cost_alone: f64,
    /// Plans that were rolled out since the start.
    pub rolled_out: u64,
    /// Names of models, by identity.
    pub models: BTreeMap<String, String>,
    /// Workers and routers.
    pub members: (usize, usize),
}

impl Snapshot {
    pub(crate) fn of(desk: &Desk, _: Nanos) -> Self {
        let none = || Workload {
            version: 1,
            headroom: desk.options().headroom,
            fragments: vec![],
        };
        let current = desk.current();
        let workload = current.map_or_else(none, |current| current.workload.clone());
        let models = desk.workers().flat_map(|w| &w.info.models);
        Snapshot {
            cost_alone: current.map_or(0.0, |current| cost_alone(&workload, &current.hardware)),
            plan: current.map(|current| current.plan.clone()),
            hardware: current.map(|current| current.hardware.clone()),
            workload,
            rolled_out: desk.rolled_out(),
            models: models.map(|m| (m.id.to_string(), m.name.clone())).collect(),
            members: (desk.workers().len(), desk.routers().len()),
        }
    }
}
