//! What a run showed.

use std::collections::BTreeMap;

use graft_plan::{Nanos, Profiles, Scenario, Source, ms_to_nanos};
use graft_planner_steer::Decision as Decided;
use graft_wire::Status;
use graft_worker_core::Closed;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cast::Cast;
use crate::requests::Request;

/// What a run showed. Requests that began in the warm-up are not counted, but for the seconds' figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// What planned.
    pub algorithm: String,
    /// Seed of all that is drawn.
    pub seed: u64,
    /// Kinds of devices.
    pub device_kind: String,
    /// A profile is modelled, so all of this is.
    pub modelled: bool,
    /// Phones and other clients.
    pub clients: u64,
    /// Time for which requests began, in seconds.
    pub duration_s: f64,
    /// Time at the start whose requests are not counted, in seconds.
    pub warmup_s: f64,
    /// Inferences that began.
    pub inferences: u64,
    /// Of those, that ended in the time asked for.
    pub in_time: u64,
    /// Part of them.
    pub attainment: f64,
    /// Inferences that a phone left out, since the one before still ran.
    pub skipped: u64,
    /// How they ended.
    pub ends: BTreeMap<&'static str, Ended>,
    /// What the server did.
    pub server: ServerReport,
    /// What it took.
    pub share: ShareReport,
    /// How batches formed.
    pub batches: BatchReport,
    /// Plans that were made, in order.
    pub decisions: Vec<Decision>,
    /// Clients at fixed points: id, requests, in time.
    pub fragments: Vec<(String, u64, u64)>,
    /// Second by second.
    pub seconds: Vec<Second>,
    /// Notes on what was assumed.
    pub notes: Vec<String>,
}

impl Report {
    /// Of a run that has not begun.
    pub(crate) fn of(scenario: &Scenario, profiles: &Profiles, cast: &Cast, seed: u64) -> Self {
        let kinds: Vec<&str> = profiles.kinds().iter().map(|p| p.device_kind.as_str()).collect();
        Report {
            scenario: scenario.name.clone(),
            seed,
            device_kind: kinds.join(", "),
            modelled: profiles.kinds().iter().any(|p| p.source == Source::Modelled),
            ..Self::of_cast(cast, scenario.duration_s, scenario.warmup_s)
        }
    }

    /// Of clients alone.
    pub(crate) fn of_cast(cast: &Cast, duration_s: f64, warmup_s: f64) -> Self {
        Report {
            scenario: String::new(),
            algorithm: String::new(),
            seed: 0,
            device_kind: String::new(),
            modelled: true,
            clients: (cast.phones.len() + cast.streams.len()) as u64,
            duration_s,
            warmup_s,
            inferences: 0,
            in_time: 0,
            attainment: 1.0,
            skipped: 0,
            ends: BTreeMap::new(),
            server: ServerReport::default(),
            share: ShareReport::default(),
            batches: BatchReport::default(),
            decisions: vec![],
            fragments: vec![],
            seconds: vec![],
            notes: cast.notes.clone(),
        }
    }
}

/// Inferences that ended in one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// How many.
    pub count: u64,
    /// In the time asked for.
    pub in_time: u64,
}

/// What the server did with what was handed over.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ServerReport {
    /// Requests that phones began to send.
    pub handed_over: u64,
    /// Of those, that a router received whole.
    pub arrived: u64,
    /// Answered within the time that it was given.
    pub in_time: u64,
    /// Part of those that arrived.
    pub attainment: f64,
    /// Answered later.
    pub late: u64,
    /// Given up by the phone before the answer, but after they had arrived.
    pub given_up: u64,
    /// Refused, by reason; `late` here: dropped from a queue or at the door, since it would have been.
    pub refused: BTreeMap<&'static str, u64>,
    /// Neither answered nor refused.
    pub lost: u64,
    /// Answers by the number of the plan.
    pub epochs: BTreeMap<u64, u64>,
    /// Bytes that phones sent.
    pub bytes: u64,
    /// From a router's having a request to its having the answer, in milliseconds.
    pub ms: Percentiles,
}

/// Percentiles, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
}

/// What the plans took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ShareReport {
    /// Mean share of the plans in use, over the counted time.
    pub mean: f64,
    /// Largest share of a plan in use.
    pub peak: u64,
    /// Largest share held: plans that are prepared or drain included.
    pub peak_held: u64,
    /// Part of the planned share's time in which something ran.
    pub busy: f64,
}

/// How batches formed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BatchReport {
    /// Batches that began.
    pub count: u64,
    /// Requests of one, in the mean.
    pub mean: f64,
    /// Number of batches by their requests.
    pub sizes: BTreeMap<u32, u64>,
    /// Batches that were no larger since nothing else waited.
    pub closed_none_waiting: u64,
    /// Batches that were as large as allowed.
    pub closed_full: u64,
    /// Batches that were no larger since their first request would have been late.
    pub closed_deadline: u64,
    /// Chunks that ran.
    pub chunks: u64,
    /// Times that a batch gave way to a more urgent one.
    pub gave_way: u64,
}

/// A plan that was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// When it was decided, in seconds.
    pub at_s: f64,
    /// Its number.
    pub epoch: u64,
    /// Why.
    pub cause: String,
    /// Classes of clients that it is for.
    pub fragments: usize,
    /// Their requests per second.
    pub rate_rps: f64,
    /// What it costs.
    pub share: u64,
    /// Fragments that are not served.
    pub infeasible: usize,
    /// Part of the rates that the devices carry.
    pub part: f64,
    /// Partitions that go on as they are.
    pub kept: usize,
    /// Partitions that go on as they are on another device.
    pub moved: usize,
    /// Partitions that there were not before.
    pub new: usize,
    /// Partitions that are not needed any more.
    pub gone: usize,
    /// When all routers had switched, in seconds; none: never.
    pub switched_s: Option<f64>,
    /// Why it is not used, if so.
    pub failed: Option<String>,
}

impl Decision {
    pub(crate) fn of(decided: &Decided) -> Self {
        let (predicted, changed) = (&decided.predicted, &decided.predicted.changed);
        Decision {
            at_s: decided.at_unix_ms as f64 / 1e3,
            epoch: decided.epoch.0,
            cause: decided.cause.clone(),
            fragments: predicted.fragments,
            rate_rps: predicted.rate_rps + 0.0,
            share: predicted.share,
            infeasible: predicted.infeasible,
            part: predicted.part,
            kept: changed.kept,
            moved: changed.moved,
            new: changed.new,
            gone: changed.gone,
            switched_s: None,
            failed: None,
        }
    }
}

/// One second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Second {
    /// Inferences that began.
    pub inferences: u64,
    /// Of those, that ended in time.
    pub in_time: u64,
    /// Received whole by a router (by when they began).
    pub arrived: u64,
    /// Answered by the server within its time (by when they began).
    pub server_in_time: u64,
    /// Refused by the server (by when they began).
    pub refused: u64,
    /// Run on the phone, by choice or not.
    pub local: u64,
    /// Left out by phones.
    pub skipped: u64,
    /// Batches that began, and their requests.
    pub batches: u64,
    /// Requests of those.
    pub batched: u64,
    /// Phones that were there.
    pub phones: u64,
    /// Partition points in use (of all models).
    pub points: u64,
    /// Share of the plan in use.
    pub share: u64,
    /// Share held: plans that are prepared or drain included.
    pub held: u64,
    /// Share-seconds in which something ran.
    pub busy: f64,
}

/// Counts while a run goes on.
pub(crate) struct Ledger {
    pub report: Report,
    server_time: Histogram<u64>,
    warm_up: Nanos,
    /// Each inference that is counted, where that is asked for.
    pub endings: Option<Vec<Ending>>,
}

/// An inference that is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    pub began: Nanos,
    pub ended: Nanos,
    pub how: &'static str,
    pub in_time: bool,
}

/// Longest server time that is told apart, in microseconds.
const LONGEST_US: u64 = 600_000_000;

impl Ledger {
    pub fn new(report: Report) -> Self {
        Ledger {
            warm_up: ms_to_nanos(report.warmup_s * 1e3),
            endings: None,
            report,
            // Three digits from a microsecond on: these bounds are sound.
            server_time: Histogram::new_with_bounds(1, LONGEST_US, 3).expect("sound bounds"),
        }
    }

    /// The second in which something began.
    pub fn second(&mut self, at: Nanos) -> &mut Second {
        let index = (at.0 / 1_000_000_000) as usize;
        let seconds = &mut self.report.seconds;
        if index >= seconds.len() {
            seconds.resize(index + 1, Second::default());
        }
        &mut seconds[index]
    }

    pub fn began(&mut self, request: &Request) {
        self.second(request.started).inferences += 1;
        self.report.inferences += u64::from(request.counted);
    }

    pub fn handed_over(&mut self, request: &Request, bytes: u64) {
        if request.counted {
            self.report.server.handed_over += 1;
            self.report.server.bytes += bytes;
        }
    }

    pub fn arrived(&mut self, request: &Request) {
        self.second(request.started).arrived += 1;
        self.report.server.arrived += u64::from(request.counted);
    }

    /// The server is done with a request, now.
    pub fn served(&mut self, request: &Request, outcome: Result<(), Status>) {
        let in_time = outcome.is_ok() && request.answered <= request.server_deadline;
        let second = self.second(request.started);
        second.server_in_time += u64::from(in_time);
        second.refused += u64::from(outcome.is_err());
        if !request.counted {
            return;
        }
        let server = &mut self.report.server;
        match outcome {
            Ok(()) if in_time => server.in_time += 1,
            Ok(()) => server.late += 1,
            Err(status) => *server.refused.entry(status.name()).or_default() += 1,
        }
        if outcome.is_ok() {
            let took = request.answered - request.at_router;
            self.server_time.saturating_record((took.0 / 1000).max(1));
        }
    }

    pub fn lost(&mut self, request: &Request) {
        self.report.server.lost += u64::from(request.counted);
    }

    pub fn answered_by(&mut self, request: &Request, epoch: u64) {
        if request.counted {
            *self.report.server.epochs.entry(epoch).or_default() += 1;
        }
    }

    pub fn given_up(&mut self, request: &Request) {
        self.report.server.given_up += u64::from(request.counted);
    }

    pub fn ended(&mut self, now: Nanos, request: &Request, how: &'static str, in_time: bool) {
        if let Some(endings) = self.endings.as_mut().filter(|_| request.counted) {
            endings.push(Ending {
                began: request.started,
                ended: now,
                how,
                in_time,
            });
        }
        let second = self.second(request.started);
        second.in_time += u64::from(in_time);
        second.local += u64::from(how.starts_with("local"));
        if request.counted {
            self.report.in_time += u64::from(in_time);
            let end = self.report.ends.entry(how).or_default();
            end.count += 1;
            end.in_time += u64::from(in_time);
        }
    }

    /// A chunk began.
    pub fn ran(&mut self, now: Nanos, time: Nanos, share: u32, gave_way: bool) {
        self.second(now).busy += time.as_secs() * f64::from(share);
        if now >= self.warm_up {
            self.report.batches.chunks += 1;
            self.report.batches.gave_way += u64::from(gave_way);
        }
    }

    /// A batch began.
    pub fn batch(&mut self, now: Nanos, requests: usize, closed: Closed) {
        let second = self.second(now);
        second.batches += 1;
        second.batched += requests as u64;
        if now < self.warm_up {
            return;
        }
        let batches = &mut self.report.batches;
        *batches.sizes.entry(requests as u32).or_default() += 1;
        *match closed {
            Closed::NoneWaiting => &mut batches.closed_none_waiting,
            Closed::Full => &mut batches.closed_full,
            Closed::Deadline => &mut batches.closed_deadline,
        } += 1;
    }

    /// The report, with what follows from its counts.
    pub fn finish(mut self) -> Report {
        let part = |a: u64, b: u64| if b == 0 { 1.0 } else { a as f64 / b as f64 };
        let r = &mut self.report;
        r.attainment = part(r.in_time, r.inferences);
        r.server.attainment = part(r.server.in_time, r.server.arrived);
        let at = |q: f64| self.server_time.value_at_quantile(q) as f64 / 1e3;
        r.server.ms = Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
        };
        let sizes = &r.batches.sizes;
        r.batches.count = sizes.values().sum();
        let requests: u64 = sizes.iter().map(|(size, n)| u64::from(*size) * n).sum();
        r.batches.mean = if r.batches.count == 0 {
            0.0
        } else {
            requests as f64 / r.batches.count as f64
        };
        r.seconds.truncate(r.duration_s.ceil() as usize);
        let counted = r.seconds.get(r.warmup_s.floor() as usize..).unwrap_or_default();
        let (share, busy): (f64, f64) = counted
            .iter()
            .fold((0.0, 0.0), |(s, b), at| (s + at.share as f64, b + at.busy));
        r.share = ShareReport {
            mean: share / counted.len().max(1) as f64,
            peak: counted.iter().map(|s| s.share).max().unwrap_or(0),
            peak_held: counted.iter().map(|s| s.held).max().unwrap_or(0),
            busy: if share > 0.0 { busy / share } else { 0.0 },
        };
        self.report
    }
}
