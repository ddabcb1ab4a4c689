//! A request on its way through a route's stages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use actix::Addr;
use bytes::Bytes;
use graft_model::{Cut, Tensor};
use graft_plan::Nanos;
use graft_telemetry::metrics as names;
use graft_wire::{Refused, WireType};
use graft_worker_core::{RequestId, RouteStep, StageIndex};
use tokio::sync::oneshot;

use crate::partition::PartitionActor;

/// One place where a stage runs.
#[derive(Clone)]
pub(crate) struct Instance {
    pub partition: Addr<PartitionActor>,
    pub stage: StageIndex,
    /// Requests of the stage that wait, run or are set aside there; the actor keeps it.
    pub present: Arc<AtomicUsize>,
}

/// One stage of a route.
#[derive(Clone)]
pub(crate) struct Hop {
    /// Where it runs, in the plan's order.
    pub instances: Vec<Instance>,
    /// What it leaves a request.
    pub step: RouteStep,
}

impl Hop {
    /// The instance with the fewest requests; the first on a tie.
    pub fn choose(&self) -> Option<&Instance> {
        self.instances
            .iter()
            .min_by_key(|i| i.present.load(Ordering::Relaxed))
    }
}

impl Instance {
    /// Puts a job into the stage's queue; it counts as present at once.
    pub fn submit(&self, job: Job) {
        self.present.fetch_add(1, Ordering::Relaxed);
        crate::partition::submit(&self.partition, self.stage, job);
    }
}

/// What a plan does with one fragment.
pub(crate) struct RoutePlan {
    /// The tensor that comes in.
    pub input: Cut,
    /// The tensor that goes out.
    pub output: Cut,
    /// Requests of the whole plan that are under way.
    pub under_way: Arc<AtomicUsize>,
    pub hops: Vec<Hop>,
}

/// A request's tensor.
pub(crate) enum Input {
    /// As it was sent.
    Bytes(WireType, Bytes),
    /// As the stage before left it.
    Tensor(Tensor),
}

/// Where a request's time went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub queue: Nanos,
    pub run: Nanos,
    pub batch: u32,
}

/// A request on its way.
pub(crate) struct Job {
    pub id: RequestId,
    pub route: Arc<RoutePlan>,
    /// Which of the route's hops it is at.
    pub at: usize,
    pub input: Input,
    pub final_deadline: Nanos,
    /// When it entered the present queue.
    pub entered: Nanos,
    pub spent: Spent,
    pub reply: oneshot::Sender<Result<(Tensor, Spent), Refused>>,
    /// Gives back the memory that it holds when it goes.
    pub _held: Held,
    /// Counts as under way until it goes.
    pub _under_way: UnderWay,
}

/// Counts a request of a plan.
pub(crate) struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        UnderWay(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Bytes that requests hold, with a bound.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    used: Arc<AtomicU64>,
    limit: u64,
}

impl Budget {
    pub fn new(limit: u64) -> Self {
        Budget {
            used: Arc::default(),
            limit,
        }
    }

    /// `None`: the bound is reached.
    pub fn take(&self, bytes: u64) -> Option<Held> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let held = Held {
            used: Arc::clone(&self.used),
            bytes,
        };
        metrics::gauge!(names::WORKER_HELD_BYTES).set((before + bytes) as f64);
        (before + bytes <= self.limit).then_some(held)
    }
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.used.fetch_sub(self.bytes, Ordering::Relaxed);
        metrics::gauge!(names::WORKER_HELD_BYTES).set((before - self.bytes) as f64);
    }
}

impl Budget {
    /// Somebody holds a part of it.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed) > 0
    }
}
