//! One phone: what it knows, and what it is.

use std::sync::Arc;

use graft_client_core::{Choice, Costs, Hints, LinkEstimate, choose};
use graft_model::{CutPoint, ModelId};
use graft_plan::{Nanos, ms_to_nanos, nanos_to_ms};

use crate::arrivals::Process;
use crate::trace::Trace;

/// The way to the router, as it is.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub trace: Arc<Trace>,
    /// The phone's second 0 is this second of the trace.
    pub offset_s: f64,
    /// Where the trace does not know it.
    pub rtt_ms: f64,
}

impl Way {
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
    /// Layers up to each cut point here, in milliseconds.
    pub head_ms: Arc<[f64]>,
    /// Bytes to send at each cut point.
    pub bytes: Arc<[u64]>,
    pub slo: Nanos,
    /// It always hands over there.
    pub fixed: Option<CutPoint>,
    pub process: Process,
    /// From one inference to the next, in the mean.
    pub cycle_ms: f64,
    pub way: Way,
    pub stay: Option<Nanos>,
    pub away: Option<Nanos>,
    // What follows changes.
    pub here: bool,
    /// Its next request is among the events.
    pub due: bool,
    pub estimate: LinkEstimate,
    /// When the link was last tried; `None`: it does not know the router yet.
    pub tried: Option<Nanos>,
    pub probing: bool,
    pub server_ms: Vec<f64>,
    /// It takes points that are cheaper for the server where it has time to spare.
    pub takes_hints: bool,
    /// And what a request costs it.
    pub price: Vec<f64>,
    pub described: Option<Nanos>,
    pub in_use: Option<CutPoint>,
    /// Heads that run or wait.
    pub heads: u32,
    /// When its device, and its uplink, are done with what they have.
    pub device_free: Nanos,
    pub link_free: Nanos,
}

impl Phone {
    pub fn last(&self) -> CutPoint {
        CutPoint(self.head_ms.len().saturating_sub(1) as u16)
    }

    pub fn answer_bytes(&self) -> u64 {
        self.bytes.last().copied().unwrap_or(0)
    }

    /// The partition point that it takes now.
    pub fn choice(&mut self) -> CutPoint {
        let point = match self.fixed {
            Some(point) => point.min(self.last()),
            None => self.chosen().map_or(self.last(), |c| c.point),
        };
        self.in_use = Some(point);
        point
    }

    fn chosen(&self) -> Option<Choice> {
        let costs = Costs {
            head_ms: &self.head_ms,
            bytes: &self.bytes,
            answer_bytes: self.answer_bytes(),
            hints: Hints {
                server_ms: &self.server_ms,
                price: if self.takes_hints { &self.price } else { &[] },
            },
            link: self.estimate,
            cycle_ms: self.cycle_ms,
        };
        choose(&costs, nanos_to_ms(self.slo), self.in_use)
    }

    /// Layers `[from, to)` here.
    pub fn layers(&self, from: CutPoint, to: CutPoint) -> Nanos {
        ms_to_nanos(self.head_ms[to.index()] - self.head_ms[from.index()])
    }

    /// Its device runs layers after what it has; when it is done.
    pub fn run(&mut self, now: Nanos, from: CutPoint, to: CutPoint) -> Nanos {
        self.device_free = self.device_free.max(now) + self.layers(from, to);
        self.device_free
    }

    /// Its uplink sends bytes after what it has: from when to when, and when they are there.
    pub fn send(&mut self, now: Nanos, bytes: u64) -> ((Nanos, Nanos), Nanos) {
        let start = self.link_free.max(now);
        self.link_free = start + self.way.sending(start, bytes);
        let there = self.link_free + self.way.half_trip(start);
        ((start, self.link_free), there)
    }
}
