//! What happens when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use graft_plan::{Epoch, Nanos};
use graft_planner_core::Observation;

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
    /// A phone knows its link: the probe of this size took so long.
    Probed { phone: u32, empty_ms: f64, full_ms: f64 },
    /// A phone has run the first layers.
    HeadDone(Ticket),
    /// A phone has run all layers.
    LocalDone(Ticket),
    /// A router has the request's last byte.
    AtRouter(Ticket),
    /// A router waits no longer for a plan that serves the request.
    NoRoute(Ticket),
    /// The request enters its stage's queue.
    AtStage(Ticket),
    /// A partition has run a chunk; `life` tells it from one before it died.
    ChunkDone { epoch: Epoch, partition: u32, life: u32 },
    /// The phone has the answer.
    Answered(Ticket),
    /// The client has a refusal.
    Refused(Ticket),
    /// The phone waits no longer.
    GivenUp(Ticket),
    /// A router reports what it observed.
    Reports { router: u32, urgent: bool },
    /// The planner has the report.
    Reported {
        router: u32,
        urgent: bool,
        seen: Vec<Observation>,
    },
    /// The planner looks whether to make another plan.
    Looks { again: bool },
    /// A plan is made; `life`: of the planner that began to.
    Made { life: u32 },
    /// A worker is told to prepare.
    Prepares { worker: u32, epoch: Epoch },
    /// The planner knows that a worker has prepared, or can't.
    Prepared { worker: u32, epoch: Epoch, done: bool },
    /// A router is told to switch.
    Switches { router: u32, epoch: Epoch },
    /// The planner knows that a router has switched, or can't.
    Switched { router: u32, epoch: Epoch, done: bool },
    /// The time that plans before this one go on is over.
    RetireDue(Epoch),
    /// Plans before this one are retired.
    Retires(Epoch),
    /// Planner and routers notice that a worker is gone.
    Noticed { worker: u32 },
    /// What the planner remembered over its restart is forgotten.
    Forgets,
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
