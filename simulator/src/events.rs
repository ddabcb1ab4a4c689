//! What happens when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use graft_client_core::Errand;
use graft_plan::{Epoch, Nanos};
use graft_wire::{RoutesUpdate, WorkerPlan};

use crate::requests::Ticket;

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client's next request begins.
    Due(u32),
    /// A phone comes.
    Joins(u32),
    /// A phone goes.
    Leaves(u32),
    /// A phone has run an errand; `took`: what its messages took, in milliseconds, if it was a probe.
    Ran {
        phone: u32,
        errand: Errand,
        took: Option<(f64, f64)>,
    },
    /// An inference waits no longer for the router to be there.
    StartsAnyway(Ticket),
    /// A phone has run the first layers.
    HeadDone(Ticket),
    /// A phone has run all layers.
    LocalDone(Ticket),
    /// A router has the request's last byte.
    AtRouter(Ticket),
    /// The request has waited long enough for a plan that serves it.
    WaitedEnough(Ticket),
    /// The worker of an attempt has not replied in time.
    TimedOut { ticket: Ticket, attempt: u32 },
    /// The request enters its stage's queue.
    AtStage(Ticket),
    /// A partition has run a chunk; `life` tells it from one before it died.
    ChunkDone { epoch: Epoch, partition: u32, life: u32 },
    /// The phone has the answer.
    Answered(Ticket),
    /// The client has a refusal.
    Refused(Ticket),
    /// There is no answer yet: the phone runs the rest, too.
    RunsAlone(Ticket),
    /// The phone has run the rest, and waits no longer.
    GivenUp(Ticket),
    /// A router reports what it observed.
    Reports { router: u32, urgent: bool },
    /// A worker reports what runs took.
    Works { worker: u32 },
    /// Something for the planner of that life is there.
    ToPlanner {
        life: u32,
        heard: Box<graft_planner_steer::Event>,
    },
    /// The planner looks whether something is due.
    Wakes,
    /// A worker is told to prepare, by the planner of that life.
    Prepares {
        life: u32,
        worker: u32,
        work: Box<WorkerPlan>,
    },
    /// A router is told to switch, by the planner of that life.
    Switches {
        life: u32,
        router: u32,
        update: Box<RoutesUpdate>,
    },
    /// A plan that no router will use is freed.
    Abandons(Epoch),
    /// Plans before this one are retired.
    Retires(Epoch),
    /// Planner and routers notice that a worker is gone.
    Noticed { worker: u32 },
    /// A fault begins or ends.
    Fault { number: u32, begins: bool },
    /// A second is over.
    Second,
}

struct Entry {
    at: Nanos,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest; at one instant, what was planned first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// What is to happen, in the order of time.
#[derive(Default)]
pub(crate) struct Events {
    heap: BinaryHeap<Entry>,
    order: u64,
}

impl Events {
    pub fn at(&mut self, at: Nanos, event: Event) {
        let order = self.order;
        self.order += 1;
        self.heap.push(Entry { at, order, event });
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Nanos> {
        self.heap.peek().map(|e| e.at)
    }

    /// The next thing that happens no later than `now`.
    pub fn pop(&mut self, now: Nanos) -> Option<Event> {
        if self.next_at()? > now {
            return None;
        }
        self.heap.pop().map(|e| e.event)
    }
}
