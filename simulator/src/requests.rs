//! Requests under way.

use graft_model::CutPoint;
use graft_plan::{Epoch, Nanos};
use graft_router_core::Passage;
use graft_worker_core::{Due, RequestId};

/// A request under way; it outlives the request, so that late events find nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    slot: u32,
    life: u32,
}

impl Ticket {
    /// As schedulers know it.
    pub fn id(self) -> RequestId {
        RequestId(u64::from(self.life) << 32 | u64::from(self.slot))
    }

    pub fn of(id: RequestId) -> Self {
        Ticket {
            slot: id.0 as u32,
            life: (id.0 >> 32) as u32,
        }
    }
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the phone, or on its way there or to the router.
    Outside,
    /// On its way to a stage.
    Hop,
    /// In a partition of its plan.
    Partition(u32),
    /// It was in a worker that died.
    Lost,
    /// At its router.
    AtRouter,
}

impl Place {
    /// It is with a worker, or on its way to it.
    pub fn is_at_worker(self) -> bool {
        matches!(self, Place::Hop | Place::Partition(_) | Place::Lost)
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Request {
    pub client: u32,
    /// When it began.
    pub started: Nanos,
    /// Its first layers run, or did.
    pub is_started: bool,
    /// When the client wants the answer.
    pub deadline: Nanos,
    /// It counts in the report.
    pub counted: bool,
    /// Where it is handed over.
    pub point: CutPoint,
    /// When handing over began.
    pub sent: Nanos,
    /// When the uplink begins to send it, and when it has.
    pub sending: (Nanos, Nanos),
    /// What the server has.
    pub budget: Nanos,
    /// When the router had it.
    pub at_router: Nanos,
    /// When the server must have answered.
    pub server_deadline: Nanos,
    /// When partitions are to be done with it.
    pub due: Due,
    /// When the server had answered.
    pub answered: Nanos,
    pub epoch: Epoch,
    pub route: u32,
    pub worker: u32,
    pub step: u32,
    pub place: Place,
    /// Its router.
    pub router: u32,
    /// Its way through the router.
    pub passage: Option<Passage>,
    /// The phone runs the rest, too.
    pub runs_alone: bool,
    /// Why its rest runs on the phone.
    pub why: &'static str,
}

#[derive(Debug, Default)]
struct Slot {
    life: u32,
    request: Option<Request>,
}

/// All requests under way.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Requests {
    pub fn add(&mut self, request: Request) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let at = &mut self.slots[slot as usize];
        at.request = Some(request);
        Ticket { slot, life: at.life }
    }

    /// `None`: it is over.
    pub fn get(&mut self, ticket: Ticket) -> Option<&mut Request> {
        let slot = self.slots.get_mut(ticket.slot as usize)?;
        slot.request.as_mut().filter(|_| slot.life == ticket.life)
    }

    /// The request is over.
    pub fn remove(&mut self, ticket: Ticket) -> Option<Request> {
        let slot = self.slots.get_mut(ticket.slot as usize)?;
        if slot.life != ticket.life {
            return None;
        }
        let request = slot.request.take()?;
        slot.life = slot.life.wrapping_add(1);
        self.free.push(ticket.slot);
        Some(request)
    }

    /// Requests that a worker has, or that are on their way to it.
    pub fn of_worker(&self, worker: u32) -> Vec<Ticket> {
        let slots = self.slots.iter().zip(0..);
        let with = |(slot, number): (&Slot, u32)| {
            let request = slot.request.as_ref()?;
            let there = request.place.is_at_worker() && request.worker == worker;
            there.then_some(Ticket {
                slot: number,
                life: slot.life,
            })
        };
        slots.filter_map(with).collect()
    }

    pub fn all(&self) -> impl Iterator<Item = &Request> {
        self.slots.iter().filter_map(|s| s.request.as_ref())
    }

    pub fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
