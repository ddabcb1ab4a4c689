//! Partitions and routes that have nothing to do with any others, in discrete events of integer nanoseconds.
//! After the rules of the reference simulation (docs/formats.md).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use graft_plan::Nanos;
use graft_worker_core::{Due, Finished, PartitionSpec, RequestId, RouteStep, Scheduler, fewest};

use crate::arrivals::{Arrivals, Merged};
use crate::tally::Tally;

/// One fragment on its way through its stages.
#[derive(Debug, Clone)]
pub struct Journey {
    /// The fragment's id, which seeds its arrivals.
    pub id: String,
    /// Requests per second.
    pub rate_rps: f64,
    /// Index of dispersion of its arrivals.
    pub burstiness: f64,
    /// Time from arrival to answer that a request has.
    pub budget: Nanos,
    /// Its stages, in order; instances name partitions by their places in the part.
    pub steps: Vec<RouteStep>,
}

/// Partitions and routes that have nothing to do with any others.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Partitions of the part.
    pub partitions: Vec<PartitionSpec>,
    /// Fragments that go through these partitions.
    pub journeys: Vec<Journey>,
}

/// Result of a run of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartOutcome {
    /// Requests and those in time, by journey.
    pub tallies: Vec<Tally>,
    /// Time that each partition computed.
    pub busy: Vec<Nanos>,
    /// Whether the run was ended early, since more requests were late than its limit allows.
    pub given_up: bool,
}

impl Part {
    /// Runs it: arrivals for `length`, then until all is done, or until more than `late_limit` requests were late.
    ///
    /// `hop` is the time that a request takes to each stage.
    pub fn run(&self, hop: Nanos, seed: u64, length: Nanos, late_limit: u64) -> PartOutcome {
        Run::new(self, hop, seed, length).finish(late_limit)
    }
}

/// A request under way; its number is its place in the list.
#[derive(Debug, Clone, Copy)]
struct Live {
    journey: u32,
    step: u32,
    /// Arrival + budget.
    deadline: Nanos,
}

struct Run<'a> {
    part: &'a Part,
    hop: Nanos,
    schedulers: Vec<Scheduler>,
    /// Partitions that compute, by the time at which they are done.
    busy: BinaryHeap<Reverse<(u64, u32)>>,
    is_busy: Vec<bool>,
    busy_time: Vec<Nanos>,
    arrivals: Merged,
    /// Requests between stages. All hops are equal, so they come in the order in which they went.
    hops: VecDeque<(u64, u32)>,
    live: Vec<Live>,
    free: Vec<u32>,
    /// Partitions that a request came to, or that got free, at this instant.
    touched: Vec<u32>,
    late: u64,
}

impl<'a> Run<'a> {
    fn new(part: &'a Part, hop: Nanos, seed: u64, length: Nanos) -> Self {
        let journeys = part
            .journeys
            .iter()
            .map(|j| Arrivals::new(seed, &j.id, j.rate_rps, j.burstiness));
        let rate = part.journeys.iter().map(|j| j.rate_rps).sum();
        Run {
            part,
            hop,
            schedulers: part.partitions.iter().cloned().map(Scheduler::new).collect(),
            busy: BinaryHeap::new(),
            is_busy: vec![false; part.partitions.len()],
            busy_time: vec![Nanos::ZERO; part.partitions.len()],
            arrivals: Merged::new(journeys.collect(), rate, length.0),
            hops: VecDeque::new(),
            live: vec![],
            free: vec![],
            touched: vec![],
            late: 0,
        }
    }

    fn finish(mut self, late_limit: u64) -> PartOutcome {
        let mut tallies = vec![Tally::default(); self.part.journeys.len()];
        let tallies = tallies.as_mut_slice();
        let mut dropped = vec![];
        while self.late <= late_limit {
            let arrival = self.arrivals.peek().map(|(at, _)| at);
            let hop = self.hops.front().map(|(at, _)| *at);
            let done = self.busy.peek().map(|Reverse((at, _))| *at);
            let Some(now) = [arrival, hop, done].into_iter().flatten().min() else {
                break;
            };
            // All events of an instant come first, including those that they cause at the same instant.
            while self.apply(now, tallies) {}
            self.choose(now, &mut dropped);
        }
        PartOutcome {
            tallies: tallies.to_vec(),
            busy: self.busy_time,
            given_up: self.late > late_limit,
        }
    }

    fn apply(&mut self, now: u64, tallies: &mut [Tally]) -> bool {
        let mut any = false;
        while let Some((at, journey)) = self.arrivals.peek()
            && at == now
        {
            any = true;
            self.arrivals.advance();
            let plan = &self.part.journeys[journey as usize];
            tallies[journey as usize].requests += 1;
            let request = Live {
                journey,
                step: 0,
                deadline: Nanos(now) + plan.budget,
            };
            let number = match self.free.pop() {
                Some(number) => {
                    self.live[number as usize] = request;
                    number
                }
                None => {
                    self.live.push(request);
                    (self.live.len() - 1) as u32
                }
            };
            self.hops.push_back((now + self.hop.0, number));
        }
        while let Some(&(at, number)) = self.hops.front()
            && at == now
        {
            any = true;
            self.hops.pop_front();
            self.enter(Nanos(now), number);
        }
        while let Some(&Reverse((at, partition))) = self.busy.peek()
            && at == now
        {
            any = true;
            self.busy.pop();
            self.is_busy[partition as usize] = false;
            self.touched.push(partition);
            if let Some(Finished::Done(done)) = self.schedulers[partition as usize].finished() {
                for id in done {
                    self.hand_on(now, id.0 as u32, tallies);
                }
            }
        }
        any
    }

    fn enter(&mut self, now: Nanos, number: u32) {
        let request = self.live[number as usize];
        let step = &self.part.journeys[request.journey as usize].steps[request.step as usize];
        let place = match step.instances.as_slice() {
            [only] => only,
            several => {
                let present = several
                    .iter()
                    .map(|i| (self.schedulers[i.partition].present(i.stage), i));
                let Some(place) = fewest(present) else { return };
                place
            }
        };
        let entered = step.request(RequestId(u64::from(number)), Due::at(request.deadline));
        let taken = self.schedulers[place.partition].submit(now, place.stage, entered);
        debug_assert!(taken.is_ok(), "admission is off");
        self.touched.push(place.partition as u32);
    }

    fn hand_on(&mut self, now: u64, number: u32, tallies: &mut [Tally]) {
        let request = &mut self.live[number as usize];
        let journey = &self.part.journeys[request.journey as usize];
        request.step += 1;
        if (request.step as usize) < journey.steps.len() {
            self.hops.push_back((now + self.hop.0, number));
            return;
        }
        let in_time = now <= request.deadline.0;
        tallies[request.journey as usize].in_time += u64::from(in_time);
        self.late += u64::from(!in_time);
        self.free.push(number);
    }

    /// Lets the free ones of the touched partitions choose what to run.
    fn choose(&mut self, now: u64, dropped: &mut Vec<RequestId>) {
        while let Some(partition) = self.touched.pop() {
            if self.is_busy[partition as usize] {
                continue;
            }
            if let Some(run) = self.schedulers[partition as usize].next(Nanos(now), dropped) {
                self.is_busy[partition as usize] = true;
                self.busy_time[partition as usize] += run.expected;
                self.busy.push(Reverse((now + run.expected.0, partition)));
            }
            self.late += dropped.len() as u64;
            self.free.extend(dropped.drain(..).map(|id| id.0 as u32));
        }
    }
}
