//! A request on its way through a route's stages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::dev::SendError;
use actix::prelude::*;
use bytes::Bytes;
use graft_engine::{EngineError, Held};
use graft_model::{Cut, DType, ModelInfo, StageRange};
use graft_plan::{Epoch, Nanos};
use graft_wire::{Refused, Status, TraceContext, Visit, WireType};
use graft_worker_core::{Due, Next, RequestId, RouteStep, StageIndex, fewest, next};
use tokio::sync::oneshot;

use crate::held::Held as HeldBytes;
use crate::peers::Peer;

/// A request enters the queue of one of a partition's stages.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub stage: StageIndex,
    pub job: Job,
}

/// A request is not wanted any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Cancel(pub RequestId);

/// One place where a stage runs.
#[derive(Clone)]
pub(crate) struct Instance {
    /// The partition, for requests that come.
    pub entrance: Recipient<Submit>,
    /// The partition, for requests that are taken back.
    pub cancelling: Recipient<Cancel>,
    pub stage: StageIndex,
    /// The place of the partition's device in the worker.
    pub device: usize,
    /// Requests of the stage that wait, run or are set aside there; the actor keeps it.
    pub present: Arc<AtomicUsize>,
}

/// One stage of a route.
#[derive(Clone)]
pub(crate) struct Hop {
    /// The model.
    pub model: Arc<ModelInfo>,
    /// Its layers.
    pub range: StageRange,
    /// The tensors that go in.
    pub input: Cut,
    /// Where it runs here, in the plan's order.
    pub instances: Vec<Instance>,
    /// Other workers that run it, where none here does.
    pub peers: Vec<Peer>,
    /// What it leaves a request.
    pub step: RouteStep,
}

impl Hop {
    fn here(&self) -> impl Iterator<Item = (usize, &Instance)> {
        let places = self.instances.iter();
        places.map(|i| (i.present.load(Ordering::Relaxed), i))
    }

    /// The place here that takes a request.
    pub fn choose_here(&self) -> Option<&Instance> {
        fewest(self.here())
    }

    /// Where a request goes: workers that can't be reached are asked only where there are no others.
    pub fn choose(&self) -> Option<Next<&Instance, &Peer>> {
        let usable = self.peers.iter().filter(|p| p.is_alive());
        let there = next(self.here(), usable.map(|p| (p.pressure(), p)));
        there.or(self.peers.first().map(Next::There))
    }
}

impl Instance {
    /// Puts a job into the stage's queue; it counts as present at once. A mailbox that is full or closed refuses it.
    pub fn submit(&self, job: Job) {
        self.present.fetch_add(1, Ordering::Relaxed);
        let stage = self.stage;
        let (job, refused) = match self.entrance.try_send(Submit { stage, job }) {
            Ok(()) => return,
            Err(SendError::Full(m)) => {
                let what = "the partition's mailbox is full";
                (m.job, Refused::new(Status::Overloaded, what))
            }
            Err(SendError::Closed(m)) => {
                let what = "the partition is gone with its plan";
                (m.job, Refused::new(Status::NotReady, what))
            }
        };
        self.present.fetch_sub(1, Ordering::Relaxed);
        job.end(Err(refused));
    }
}

/// What a plan does with one fragment.
pub(crate) struct RoutePlan {
    /// The plan.
    pub epoch: Epoch,
    /// Its place in the plan.
    pub number: u32,
    /// The tensors that go out.
    pub output: Cut,
    /// Requests of the whole plan that are under way.
    pub under_way: Arc<AtomicUsize>,
    pub hops: Vec<Hop>,
}

/// A request's tensors.
pub(crate) enum Activation {
    /// As they were sent.
    Bytes(Vec<WireType>, Bytes),
    /// As a stage left them, where its device's engine keeps them: a batch of one, and the device's place in the worker.
    Held(usize, Held),
}

impl Activation {
    /// Nothing, in the place of what was taken out.
    pub fn taken() -> Self {
        Activation::Bytes(vec![], Bytes::new())
    }

    /// For the engine of a device: what another device's engine keeps is brought to the host. Blocks until it is there.
    pub fn for_device(self, device: usize) -> Result<Self, EngineError> {
        match self {
            Activation::Held(of, held) if of != device => {
                Ok(Activation::Held(device, Held::Host(held.into_host()?)))
            }
            other => Ok(other),
        }
    }

    /// As bytes that travel: floats as they are held, others as what crosses at `cut` has them.
    pub fn into_bytes(self, cut: &Cut) -> Result<(Vec<WireType>, Bytes), Refused> {
        match self {
            Activation::Bytes(types, bytes) => Ok((types, bytes)),
            Activation::Held(_, held) => {
                let failed = |error: EngineError| Refused::new(Status::Internal, error.to_string());
                let batch = held.into_host().map_err(failed)?;
                let types = cut.types_sent(DType::F32);
                let wire = WireType::of_all(&types);
                let bytes = wire.and_then(|wire| Some((wire, batch.to_bytes(&types).ok()?)));
                let sent = bytes.map(|(wire, bytes)| (wire, Bytes::from(bytes)));
                sent.ok_or_else(|| Refused::new(Status::Internal, format!("{batch} can't be sent as {cut}")))
            }
        }
    }
}

/// How a request ended here.
pub(crate) struct Ended {
    pub outcome: Result<Activation, Refused>,
    pub spent: Spent,
    pub visits: Vec<Visit>,
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
    pub activation: Activation,
    /// The worker had it then.
    pub began: Nanos,
    pub final_deadline: Nanos,
    /// When partitions here are to be done with it.
    pub due: Due,
    pub trace: TraceContext,
    /// When it entered the present queue.
    pub entered: Nanos,
    pub spent: Spent,
    /// Where it was; the last is where it is.
    pub visits: Vec<Visit>,
    pub reply: oneshot::Sender<Ended>,
    /// Gives back the memory that it holds when it goes.
    pub _held: HeldBytes,
    /// Counts as under way until it goes.
    pub _under_way: UnderWay,
}

impl Job {
    /// Whoever waits for it is told.
    pub fn end(self, outcome: Result<Activation, Refused>) {
        let Job {
            reply, spent, visits, ..
        } = self;
        let ended = Ended {
            outcome,
            spent,
            visits,
        };
        if reply.send(ended).is_err() {
            tracing::trace!("nobody waits for this answer any more");
        }
    }
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
