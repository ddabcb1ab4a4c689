//! The queue of one stage: requests by key, then by arrival.

use std::collections::BTreeMap;

use graft_plan::Nanos;

/// A request's number, unique among those that a scheduler holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A request at one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its number.
    pub id: RequestId,
    /// Local deadline: arrival + budget − what later stages need. Earliest first.
    pub key: Nanos,
    /// Last instant at which it can start here and still be answered in time, if everything after goes
    /// unqueued: final deadline − this stage's time alone − later stages and hops.
    pub latest_start: Nanos,
}

/// Place in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub key: Nanos,
    /// Order of arrival.
    pub seq: u64,
}

/// Requests of one stage.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<Place, Request>,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn push(&mut self, place: Place, request: Request) {
        self.waiting.insert(place, request);
    }

    pub fn front(&self) -> Option<&Request> {
        self.waiting.first_key_value().map(|(_, r)| r)
    }

    pub fn pop(&mut self) -> Option<Request> {
        self.waiting.pop_first().map(|(_, r)| r)
    }

    pub fn remove(&mut self, place: Place) -> Option<Request> {
        self.waiting.remove(&place)
    }
}
