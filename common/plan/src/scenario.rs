//! `scenario.json`: clients, their links, and faults. `docs/scenarios.md` describes it.

use graft_model::CutPoint;
use serde::{Deserialize, Serialize};

use crate::file::{Checked, Wrong, not_negative, positive, version, wrong};

/// A scenario: clients, their links, and faults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Version of the format: 1.
    pub version: u32,
    /// Name for people.
    #[serde(default)]
    pub name: String,
    /// Profile to run on, as a path from the scenario's folder; an option can name another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profiles: Option<String>,
    /// Devices to run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<DeviceSource>,
    /// Time for which new requests begin, in seconds.
    pub duration_s: f64,
    /// Time before which requests that begin are not counted, in seconds.
    #[serde(default)]
    pub warmup_s: f64,
    /// Headroom: part of the observed rates by which capacity exceeds them.
    #[serde(default = "default_headroom")]
    pub headroom: f64,
    /// Number of routers; clients are spread over them.
    #[serde(default = "one")]
    pub routers: u32,
    /// Phones, by kind.
    #[serde(default)]
    pub phones: Vec<PhoneGroup>,
    /// Clients that always hand over at the same point with the same budget, over no link.
    #[serde(default)]
    pub fragments: Vec<FragmentClient>,
    /// Faults: what goes wrong.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Times that the planner's work takes.
    #[serde(default)]
    pub control: ControlTimes,
}

/// Source of the devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DeviceSource {
    /// Number of whole devices of the profile's kind.
    Count(u32),
    /// A devices.json, as a path from the scenario's folder.
    File(String),
}

/// A number, or a range from which numbers are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Range {
    /// One number, always.
    One(f64),
    /// Numbers from the first to the second.
    Between([f64; 2]),
}

impl Range {
    /// The lower and the upper end; both are the number if it is one.
    pub fn ends(self) -> (f64, f64) {
        match self {
            Range::One(v) => (v, v),
            Range::Between([low, high]) => (low, high),
        }
    }

    /// The number at `part` (0 to 1) of the way between the ends.
    pub fn at(self, part: f64) -> f64 {
        let (low, high) = self.ends();
        low + part * (high - low)
    }

    /// The number whose logarithm is at `part` (0 to 1) of the way between those of the ends.
    pub fn at_logarithm(self, part: f64) -> f64 {
        let (low, high) = self.ends();
        if low > 0.0 {
            low * (high / low).powf(part)
        } else {
            self.at(part)
        }
    }

    fn verify(self, place: String, unit: &str, least: f64) -> Result<(), Wrong> {
        let (low, high) = self.ends();
        let sound = low.is_finite() && high.is_finite() && low >= least && low <= high;
        if sound && (least > 0.0 || high > 0.0 || low == 0.0) {
            return Ok(());
        }
        wrong(
            place,
            format!("is {low} to {high}; expected {unit} from low to high, {least} or more"),
        )
    }
}

/// Phones of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhoneGroup {
    /// Number of phones.
    pub count: u32,
    /// The profile's name of the model; a list: each phone has one of them.
    pub model: OneOrMore,
    /// Speed at which they run layers.
    pub device: Speed,
    /// Time that they ask for, from input to answer.
    pub slo: Slo,
    /// Inferences per second of each phone.
    pub rate_rps: Range,
    /// Process by which inferences begin.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// Factors on the rate over time: pairs of a second and the factor from then on; empty: always 1.
    #[serde(default)]
    pub load: Vec<(f64, f64)>,
    /// The way to the router.
    pub link: Link,
    /// Bytes of an element on the way: 4 (fp32), 2 (fp16), 1 (int8).
    #[serde(default = "two")]
    pub element_bytes: u32,
    /// Second in which they join.
    #[serde(default = "zero")]
    pub join_s: Range,
    /// Time for which they stay, in seconds; none: to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stay_s: Option<Range>,
    /// Time after which they come back, in seconds; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_s: Option<Range>,
    /// Whether they take partition points that are cheaper for the server where they have time to spare.
    #[serde(default = "yes")]
    pub hints: bool,
    /// Partition point at which they always hand over; none: they choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_point: Option<CutPoint>,
}

/// A name, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Several.
    More(Vec<String>),
}

impl OneOrMore {
    /// The names as a list.
    pub fn list(&self) -> &[String] {
        match self {
            OneOrMore::One(one) => std::slice::from_ref(one),
            OneOrMore::More(list) => list,
        }
    }
}

/// Speed at which phones run layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speed {
    /// Billions of floating-point operations a second; the profile must have `flops`.
    Gflops(Range),
    /// Factor on what the profile's smallest share takes for one request.
    Slowdown(Range),
}

/// Time that phones ask for, from input to answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slo {
    /// Milliseconds from input to answer.
    Ms(Range),
    /// Part of the time that all layers take on the phone.
    OfLocal(Range),
}

/// The way to the router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Bandwidths over time: names of traces, `*` at the end for all that begin so; each phone has one of them, from a
    /// second of its own on. Where there are no such traces, they are made up: `5g…`, `lte…`, `wifi…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<OneOrMore>,
    /// Constant bandwidth, in megabits a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mbps: Option<Range>,
    /// Round trip of an empty message, in milliseconds.
    pub rtt_ms: Range,
}

/// When requests begin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrivals {
    /// A Poisson process.
    #[default]
    Poisson,
    /// One request a period, early or late by up to half of `jitter` periods.
    Periodic {
        /// Part of a period over which a request's time is spread.
        #[serde(default)]
        jitter: f64,
    },
    /// Bursts in a Poisson process, each of geometrically many requests.
    Bursty {
        /// Mean number of requests of a burst.
        size: f64,
        /// Time from one request of a burst to the next, in milliseconds.
        #[serde(default)]
        gap_ms: f64,
    },
    /// Recorded arrivals, played round and round from each client's own place on, and stretched to the client's rate.
    Trace {
        /// CSV with a header, as a path from the scenario's folder; its first column is the time in seconds, ascending.
        file: String,
        /// Gaps from each request to the next, as multiples of the mean: read from the file, and put here by the
        /// reader.
        #[serde(skip)]
        gaps: std::sync::Arc<[f64]>,
    },
}

impl Arrivals {
    /// Gaps of a trace of arrivals, as [`Arrivals::Trace`] has them.
    pub fn gaps(csv: &str) -> Result<std::sync::Arc<[f64]>, TraceError> {
        let mut times = vec![];
        for (number, line) in csv
            .lines()
            .enumerate()
            .skip(1)
            .filter(|(_, l)| !l.trim().is_empty())
        {
            let first = line.split(',').next().unwrap_or_default().trim();
            let time: f64 = first
                .parse()
                .map_err(|_| TraceError::NoTime(number + 1, first.to_owned()))?;
            if !time.is_finite() || times.last().is_some_and(|last| time < *last) {
                return Err(TraceError::Descends(number + 1, time));
            }
            times.push(time);
            if times.len() > MOST_ARRIVALS {
                return Err(TraceError::TooMany);
            }
        }
        let [first, .., last] = times.as_slice() else {
            return Err(TraceError::TooFew);
        };
        let mean = (last - first) / (times.len() - 1) as f64;
        if mean <= 0.0 {
            return Err(TraceError::AtOnce);
        }
        // After the last one it begins anew, a mean gap later.
        let gaps = times.windows(2).map(|w| (w[1] - w[0]) / mean);
        Ok(gaps.chain([1.0]).collect())
    }
}

/// What is wrong with a trace of arrivals.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TraceError {
    /// A line, counted from 1, begins with something else than a time.
    #[error("line {0}: {1:?} is no time in seconds")]
    NoTime(usize, String),
    /// A line's time, in seconds, comes before that of the line before.
    #[error("line {0}: {1} s; expected ascending times")]
    Descends(usize, f64),
    /// It is too long.
    #[error("it has more than {MOST_ARRIVALS} requests")]
    TooMany,
    /// It has no gap.
    #[error("it has fewer than two requests")]
    TooFew,
    /// It has no mean gap.
    #[error("all its requests begin at the same time")]
    AtOnce,
}

/// Most requests that a trace of arrivals may have.
const MOST_ARRIVALS: usize = 10_000_000;

/// A client that always hands over at the same point with the same budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FragmentClient {
    /// Unique in the scenario.
    pub id: String,
    /// The profile's name of the model.
    pub model: String,
    /// Cut point at which it hands over.
    pub partition_point: CutPoint,
    /// Time budget of the server, in milliseconds.
    pub budget_ms: f64,
    /// Requests per second.
    pub rate_rps: f64,
    /// Process by which requests begin.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// Factors on the rate over time, as for phones.
    #[serde(default)]
    pub load: Vec<(f64, f64)>,
}

/// Faults: what goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// A worker dies with all that it has, and starts anew.
    WorkerLost {
        /// Number of the worker among those that the plan in use runs on, in the order of their names: 0 is the first.
        worker: u32,
        /// Second at which it begins.
        at_s: f64,
        /// Time after which it is back, in seconds; none: never.
        #[serde(default)]
        for_s: Option<f64>,
    },
    /// A worker takes longer.
    WorkerSlow {
        /// Number of the worker, as in `WorkerLost`.
        worker: u32,
        /// Second at which it begins.
        at_s: f64,
        /// Time that it lasts, in seconds.
        for_s: f64,
        /// Factor on the time that it takes otherwise.
        times: f64,
    },
    /// The planner dies, and starts anew.
    PlannerAway {
        /// Second at which it begins.
        at_s: f64,
        /// Time after which it is back, in seconds.
        for_s: f64,
    },
    /// Messages between router, planner and workers are late.
    MessagesLate {
        /// Second at which it begins.
        at_s: f64,
        /// Time that it lasts, in seconds.
        for_s: f64,
        /// Time by which they are late, in milliseconds.
        by_ms: f64,
    },
}

/// Times that the planner's work takes, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlTimes {
    /// Time to make a plan.
    pub planning_ms: f64,
    /// Time for a worker to prepare its part of a plan.
    pub prepare_ms: f64,
    /// Time of a message between planner and others, one way.
    pub message_ms: f64,
    /// Time from a switch until the plan before is retired.
    pub retire_after_ms: f64,
    /// Time until routers and planner notice that a worker is gone.
    pub notice_ms: f64,
}

impl Default for ControlTimes {
    fn default() -> Self {
        ControlTimes {
            planning_ms: 150.0,
            prepare_ms: 50.0,
            message_ms: 1.0,
            retire_after_ms: 3000.0,
            notice_ms: 500.0,
        }
    }
}

fn default_headroom() -> f64 {
    0.1
}
fn one() -> u32 {
    1
}
fn yes() -> bool {
    true
}
fn two() -> u32 {
    2
}
fn zero() -> Range {
    Range::One(0.0)
}

/// Most phones and clients that a scenario may have.
const MAX_CLIENTS: u64 = 1_000_000;
/// Most requests per second of one client.
const MOST_RATE: f64 = 100_000.0;
/// Largest factor on a client's rate.
const MOST_LOAD: f64 = 1_000.0;
/// Most requests that a scenario may have, counted at its highest rates.
const MOST_REQUESTS: f64 = 2e9;
/// Most routers that a scenario may have.
const MAX_ROUTERS: u32 = 1024;
/// Longest scenario, in seconds: a day.
const LONGEST_S: f64 = 86_400.0;

fn load(list: &[(f64, f64)], place: &str) -> Result<(), Wrong> {
    for (i, (at, times)) in list.iter().enumerate() {
        not_negative(|| format!("{place}.load[{i}][0]"), *at, "seconds")?;
        not_negative(|| format!("{place}.load[{i}][1]"), *times, "times the rate")?;
        most(format!("{place}.load[{i}][1]"), *times, MOST_LOAD)?;
        if i > 0 && list[i - 1].0 >= *at {
            return wrong(
                format!("{place}.load[{i}][0]"),
                format!("is {at}; expected a later second than the one before"),
            );
        }
    }
    Ok(())
}

fn most(place: String, value: f64, most: f64) -> Result<(), Wrong> {
    if value <= most {
        return Ok(());
    }
    wrong(place, format!("is {value}; expected at most {most}"))
}

/// The largest factor of a rate.
fn heaviest(load: &[(f64, f64)]) -> f64 {
    load.iter().fold(1.0, |most, step| step.1.max(most))
}

impl Arrivals {
    fn verify(&self, place: &str) -> Result<(), Wrong> {
        match *self {
            Arrivals::Poisson | Arrivals::Trace { .. } => Ok(()),
            Arrivals::Periodic { jitter } => {
                not_negative(|| format!("{place}.arrivals.jitter"), jitter, "parts of a period")?;
                if jitter > 1.0 {
                    return wrong(
                        format!("{place}.arrivals.jitter"),
                        format!("is {jitter}; expected 0 to 1"),
                    );
                }
                Ok(())
            }
            Arrivals::Bursty { size, gap_ms } => {
                not_negative(|| format!("{place}.arrivals.gap_ms"), gap_ms, "milliseconds")?;
                if !(size.is_finite() && (1.0..=1e6).contains(&size)) {
                    return wrong(
                        format!("{place}.arrivals.size"),
                        format!("is {size}; expected requests from 1 to 1000000"),
                    );
                }
                Ok(())
            }
        }
    }
}

impl PhoneGroup {
    fn verify(&self, place: &str) -> Result<(), Wrong> {
        let at = |rest: &str| format!("{place}.{rest}");
        if self.model.list().is_empty() {
            return wrong(at("model"), "is empty; expected one name or more");
        }
        let (speed, slo) = match (self.device, self.slo) {
            (Speed::Gflops(r) | Speed::Slowdown(r), Slo::Ms(s) | Slo::OfLocal(s)) => (r, s),
        };
        speed.verify(at("device"), "speeds", 1e-6)?;
        slo.verify(at("slo"), "times", 1e-6)?;
        self.rate_rps
            .verify(at("rate_rps"), "requests per second", 1e-6)?;
        most(at("rate_rps"), self.rate_rps.ends().1, MOST_RATE)?;
        self.link.rtt_ms.verify(at("link.rtt_ms"), "milliseconds", 0.0)?;
        match (&self.link.trace, self.link.mbps) {
            (Some(names), None) if !names.list().is_empty() => {}
            (None, Some(mbps)) => mbps.verify(at("link.mbps"), "megabits a second", 1e-6)?,
            _ => {
                return wrong(
                    at("link"),
                    "names no bandwidth, or two; expected either `trace` or `mbps`",
                );
            }
        }
        if ![1, 2, 4].contains(&self.element_bytes) {
            return wrong(
                at("element_bytes"),
                format!("is {}; expected 1, 2 or 4", self.element_bytes),
            );
        }
        self.join_s.verify(at("join_s"), "seconds", 0.0)?;
        for (name, range) in [("stay_s", self.stay_s), ("away_s", self.away_s)] {
            if let Some(range) = range {
                range.verify(at(name), "seconds", 1e-3)?;
            }
        }
        self.arrivals.verify(place)?;
        load(&self.load, place)
    }
}

impl Checked for Scenario {
    fn verify(&self) -> Result<(), Wrong> {
        version(self.version)?;
        positive(|| "duration_s".to_owned(), self.duration_s, "seconds")?;
        not_negative(|| "warmup_s".to_owned(), self.warmup_s, "seconds")?;
        not_negative(|| "headroom".to_owned(), self.headroom, "parts of 1")?;
        if self.duration_s > LONGEST_S || self.warmup_s >= self.duration_s {
            return wrong(
                "duration_s",
                format!(
                    "is {}; expected more than warmup_s ({}) and at most {LONGEST_S}",
                    self.duration_s, self.warmup_s
                ),
            );
        }
        if !(1..=MAX_ROUTERS).contains(&self.routers) {
            return wrong(
                "routers",
                format!("is {}; expected 1 to {MAX_ROUTERS}", self.routers),
            );
        }
        let clients =
            self.phones.iter().map(|g| u64::from(g.count)).sum::<u64>() + self.fragments.len() as u64;
        if !(1..=MAX_CLIENTS).contains(&clients) {
            return wrong(
                "phones",
                format!("and fragments are {clients}; expected 1 to {MAX_CLIENTS} clients"),
            );
        }
        for (i, group) in self.phones.iter().enumerate() {
            group.verify(&format!("phones[{i}]"))?;
        }
        let mut seen = std::collections::HashSet::new();
        for (i, client) in self.fragments.iter().enumerate() {
            let place = format!("fragments[{i}]");
            if client.id.is_empty() || !seen.insert(client.id.as_str()) {
                return wrong(
                    format!("{place}.id"),
                    format!("is {:?}; expected an id that no other has", client.id),
                );
            }
            positive(|| format!("{place}.budget_ms"), client.budget_ms, "milliseconds")?;
            positive(
                || format!("{place}.rate_rps"),
                client.rate_rps,
                "requests per second",
            )?;
            most(format!("{place}.rate_rps"), client.rate_rps, MOST_RATE)?;
            client.arrivals.verify(&place)?;
            load(&client.load, &place)?;
        }
        let phones = self.phones.iter();
        let phones = phones.map(|g| f64::from(g.count) * g.rate_rps.ends().1 * heaviest(&g.load));
        let others = self.fragments.iter().map(|c| c.rate_rps * heaviest(&c.load));
        let requests = phones.chain(others).sum::<f64>() * self.duration_s;
        most("duration_s, times all rates,".to_owned(), requests, MOST_REQUESTS)?;
        for (i, fault) in self.faults.iter().enumerate() {
            fault.verify(&format!("faults[{i}]"))?;
            if let Some(other) = self.faults[..i].iter().position(|f| f.overlaps(fault)) {
                return wrong(
                    format!("faults[{i}]"),
                    format!("overlaps faults[{other}], which is of the same kind"),
                );
            }
        }
        let c = &self.control;
        for (name, ms) in [
            ("planning_ms", c.planning_ms),
            ("prepare_ms", c.prepare_ms),
            ("message_ms", c.message_ms),
            ("retire_after_ms", c.retire_after_ms),
            ("notice_ms", c.notice_ms),
        ] {
            not_negative(|| format!("control.{name}"), ms, "milliseconds")?;
        }
        Ok(())
    }
}

impl Fault {
    /// When it begins and ends, in seconds; it may never end.
    pub fn time(&self) -> (f64, Option<f64>) {
        let (at, length) = match *self {
            Fault::WorkerLost { at_s, for_s, .. } => (at_s, for_s),
            Fault::WorkerSlow { at_s, for_s, .. }
            | Fault::PlannerAway { at_s, for_s }
            | Fault::MessagesLate { at_s, for_s, .. } => (at_s, Some(for_s)),
        };
        (at, length.map(|l| at + l))
    }

    /// Whether both are of a kind, on the same worker, and at the same time.
    fn overlaps(&self, other: &Fault) -> bool {
        let worker = |f: &Fault| match f {
            Fault::WorkerLost { worker, .. } | Fault::WorkerSlow { worker, .. } => Some(*worker),
            Fault::PlannerAway { .. } | Fault::MessagesLate { .. } => None,
        };
        let alike =
            std::mem::discriminant(self) == std::mem::discriminant(other) && worker(self) == worker(other);
        let ((a, a_end), (b, b_end)) = (self.time(), other.time());
        alike && a_end.is_none_or(|end| b < end) && b_end.is_none_or(|end| a < end)
    }

    fn verify(&self, place: &str) -> Result<(), Wrong> {
        let (from, to) = self.time();
        not_negative(|| format!("{place}.at_s"), from, "seconds")?;
        if let Some(to) = to {
            positive(|| format!("{place}.for_s"), to - from, "seconds")?;
        }
        match *self {
            Fault::WorkerSlow { times, .. } => positive(|| format!("{place}.times"), times, "times"),
            Fault::MessagesLate { by_ms, .. } => positive(|| format!("{place}.by_ms"), by_ms, "milliseconds"),
            Fault::WorkerLost { .. } | Fault::PlannerAway { .. } => Ok(()),
        }
    }
}
