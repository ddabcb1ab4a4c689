//! One phone: what it knows, and what it is.

use std::sync::Arc;

use graft_client_core::{Layers, Pilot};
use graft_model::{CutPoint, ModelId};
use graft_plan::{Nanos, ms_to_nanos};

use crate::arrivals::Process;
use crate::requests::Ticket;
use crate::trace::Trace;

/// The link to the router, as it is.
#[derive(Debug, Clone)]
pub(crate) struct PhoneLink {
    pub trace: Arc<Trace>,
    /// The phone's second 0 is this second of the trace.
    pub offset_s: f64,
    /// Where the trace does not know it.
    pub rtt_ms: f64,
}

impl PhoneLink {
    pub fn rtt_ms(&self, now: Nanos) -> f64 {
        self.trace
            .rtt_ms(self.offset_s + now.as_secs())
            .unwrap_or(self.rtt_ms)
    }

    /// What bytes take from a time on, without the round trip.
    pub fn sending(&self, now: Nanos, bytes: u64) -> Nanos {
        let seconds = self.trace.seconds(self.offset_s + now.as_secs(), bytes);
        ms_to_nanos(seconds * 1e3)
    }

    pub fn half_trip(&self, now: Nanos) -> Nanos {
        ms_to_nanos(self.rtt_ms(now) / 2.0)
    }
}

/// A phone.
#[derive(Debug)]
pub(crate) struct Phone {
    pub model: ModelId,
    pub router: u32,
    /// What its model's layers are on it.
    pub layers: Layers,
    pub slo: Nanos,
    pub process: Process,
    pub link: PhoneLink,
    pub stay: Option<Nanos>,
    pub away: Option<Nanos>,
    // What follows changes.
    pub here: bool,
    /// Its next request is among the events.
    pub due: bool,
    pub pilot: Pilot,
    /// Inferences that wait for the router.
    pub waiting: Vec<Ticket>,
    /// Heads that run or wait.
    pub heads: u32,
    /// When its device, and its uplink, are done with what they have.
    pub device_free: Nanos,
    pub link_free: Nanos,
}

impl Phone {
    pub fn last(&self) -> CutPoint {
        self.layers.last()
    }

    pub fn bytes(&self, point: CutPoint) -> u64 {
        self.layers.bytes[point.index()]
    }

    /// Its device runs layers `[from, to)` after what it has; when it is done.
    pub fn run(&mut self, now: Nanos, from: CutPoint, to: CutPoint) -> Nanos {
        self.device_free = self.device_free.max(now) + ms_to_nanos(self.layers.ms(from, to));
        self.device_free
    }

    /// Its device runs the head up to a cut point, and codes what is sent, after what it has; when it is done.
    pub fn run_head(&mut self, now: Nanos, point: CutPoint) -> Nanos {
        let ms = self.layers.head(point).unwrap_or(0.0);
        self.device_free = self.device_free.max(now) + ms_to_nanos(ms);
        self.device_free
    }

    /// Its uplink sends bytes after what it has: from when to when, and when they are there.
    pub fn send(&mut self, now: Nanos, bytes: u64) -> ((Nanos, Nanos), Nanos) {
        let start = self.link_free.max(now);
        self.link_free = start + self.link.sending(start, bytes);
        let there = self.link_free + self.link.half_trip(start);
        ((start, self.link_free), there)
    }
}
