//! One phone over one trace of bandwidth, beside an oracle that knows the future.
//!
//! The phone decides as in a simulation or an app. The server has time for everybody: what is looked at is the choice.

use std::collections::BTreeMap;
use std::sync::Arc;

use graft_certify::Generator;
use graft_client_core::{Layers, Pilot, PilotOptions, Prefer};
use graft_model::{CutPoint, ModelId};
use graft_plan::{Arrivals, Epoch, Nanos, ms_to_nanos, nanos_to_ms};
use graft_worker_core::RequestId;

use crate::arrivals::{Process, load_steps};
use crate::cast::Cast;
use crate::crowd::{Crowd, Doing};
use crate::phone::{Phone, PhoneLink};
use crate::trace::Trace;

/// A phone before a server.
#[derive(Debug, Clone)]
pub struct Walk {
    /// The bandwidth, up and down.
    pub trace: Arc<Trace>,
    /// The round trip where the trace does not know it, in milliseconds.
    pub rtt_ms: f64,
    /// What layers are on the phone.
    pub layers: Layers,
    /// What the server takes from each cut point on, in milliseconds.
    pub server_ms: Vec<f64>,
    /// From the input to the answer.
    pub slo: Nanos,
    /// From one inference to the next, about.
    pub every: Nanos,
    /// How long.
    pub duration: Nanos,
    /// Seed of what is drawn.
    pub seed: u64,
}

/// What came of a phone's inferences, and what could have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Walked {
    /// Inferences that began after the start.
    pub inferences: u64,
    /// Of those, that ended in time.
    pub in_time: u64,
    /// Inferences that the phone left out, since those before still ran.
    pub skipped: u64,
    /// The sum of what they took, in milliseconds.
    pub sum_ms: f64,
    /// The same for an oracle that knows each link's future, and takes the point that is fastest.
    pub oracle_in_time: u64,
    /// The sum of what they would have taken, in milliseconds.
    pub oracle_sum_ms: f64,
    /// How the phone's ended, and how many.
    pub ends: BTreeMap<&'static str, u64>,
}

/// Time at the start that is not counted: the phone gets to know the link.
const START: Nanos = Nanos::from_millis(3_000);
/// Part of the time between two inferences by which it is longer or shorter.
const JITTER: f64 = 0.2;

impl Walked {
    /// With another's.
    pub fn with(&self, other: &Walked) -> Walked {
        let mut sum = self.clone();
        sum.inferences += other.inferences;
        sum.in_time += other.in_time;
        sum.skipped += other.skipped;
        sum.sum_ms += other.sum_ms;
        sum.oracle_in_time += other.oracle_in_time;
        sum.oracle_sum_ms += other.oracle_sum_ms;
        for (end, count) in &other.ends {
            *sum.ends.entry(end).or_default() += count;
        }
        sum
    }

    /// Inferences in time, as a part of the oracle's; 1 where it has none.
    pub fn in_time_of_oracle(&self) -> f64 {
        match self.oracle_in_time {
            0 => 1.0,
            of => self.in_time as f64 / of as f64,
        }
    }

    /// Mean latency, as a multiple of the oracle's.
    pub fn latency_of_oracle(&self) -> f64 {
        self.sum_ms / self.oracle_sum_ms.max(f64::MIN_POSITIVE)
    }
}

impl Walk {
    fn link(&self) -> PhoneLink {
        PhoneLink {
            trace: Arc::clone(&self.trace),
            offset_s: 0.0,
            rtt_ms: self.rtt_ms,
        }
    }

    /// What an inference takes that begins then and is handed over there.
    fn takes(&self, link: &PhoneLink, began: Nanos, point: CutPoint) -> Option<Nanos> {
        let head = began + ms_to_nanos(self.layers.head(point)?);
        if point == self.layers.last() {
            return Some(head - began);
        }
        let bytes = *self.layers.bytes.get(point.index())?;
        let there = head + link.sending(head, bytes) + link.half_trip(head);
        let served = there + ms_to_nanos(*self.server_ms.get(point.index())?);
        let back = served + link.half_trip(served) + link.sending(served, self.layers.answer_bytes);
        Some(back - began)
    }

    /// What the fastest point takes for an inference that begins then.
    fn oracle(&self, link: &PhoneLink, began: Nanos) -> Nanos {
        let points = (0..=self.layers.last().0).map(CutPoint);
        let all = points.filter_map(|point| self.takes(link, began, point));
        all.min().unwrap_or(Nanos::MAX)
    }

    /// Plays it.
    pub fn play(&self) -> Walked {
        let model = ModelId([1; 32]);
        let rate = 1e9 / self.every.0.max(1) as f64;
        let dice = Generator::new(self.seed, &self.trace.name);
        let arrivals = Arrivals::Periodic { jitter: JITTER };
        let phone = Phone {
            model,
            router: 0,
            layers: self.layers.clone(),
            slo: self.slo,
            process: Process::new(arrivals, rate, load_steps(&[]), dice),
            link: self.link(),
            stay: None,
            away: None,
            here: false,
            due: false,
            pilot: Pilot::new(PilotOptions {
                slo: self.slo,
                prefer: Prefer::Speed,
                partition_point: None,
            }),
            waiting: vec![],
            heads: 0,
            device_free: Nanos::ZERO,
            link_free: Nanos::ZERO,
        };
        let cast = Cast {
            phones: vec![phone],
            joins: vec![Nanos::ZERO],
            ..Cast::default()
        };
        let mut crowd = Crowd::of(cast, START, self.duration);
        crowd.hears_of(model, self.server_ms.clone(), vec![]);
        crowd.keep_endings();
        let mut served: BTreeMap<(Nanos, u64), ()> = BTreeMap::new();
        let mut doings = vec![];
        loop {
            let back = served.first_key_value().map(|(at, ())| *at);
            let next = crowd.next_at();
            match (next, back) {
                (None, None) => break,
                (next, Some((at, id))) if next.is_none_or(|next| at <= next) => {
                    served.remove(&(at, id));
                    crowd.comes_back(at, RequestId(id), Ok(Epoch(1)));
                }
                (Some(now), _) => {
                    if crowd.is_over(now) {
                        break;
                    }
                    crowd.advance(now, &mut doings);
                    for doing in doings.drain(..) {
                        if let Doing::Send(sending) = doing {
                            let ms = self.server_ms.get(sending.point.index()).copied();
                            let at = now + ms_to_nanos(ms.unwrap_or(0.0));
                            served.insert((at, sending.id.0), ());
                        }
                    }
                }
                (None, Some(_)) => unreachable!("what comes back comes first"),
            }
        }
        let link = self.link();
        let mut walked = Walked {
            skipped: crowd.skipped(),
            ..Walked::default()
        };
        for ending in crowd.endings() {
            let best = self.oracle(&link, ending.began);
            walked.inferences += 1;
            walked.in_time += u64::from(ending.in_time);
            walked.sum_ms += nanos_to_ms(ending.ended - ending.began);
            walked.oracle_in_time += u64::from(best <= self.slo);
            walked.oracle_sum_ms += nanos_to_ms(best);
            *walked.ends.entry(ending.how).or_default() += 1;
        }
        walked
    }
}
