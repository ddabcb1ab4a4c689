//! Discrete events in integer nanoseconds. After the rules of the reference simulation (docs/formats.md).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use graft_plan::{Nanos, Plan, Profile, Workload};
use graft_worker_core::{Finished, Request, RequestId, Scheduler};
use serde::Serialize;

use crate::arrivals::Arrivals;
use crate::setup::{Part, Setup, SetupError};

/// Requests of one fragment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// That arrived.
    pub requests: u64,
    /// That were answered within their budget.
    pub in_time: u64,
}

impl Tally {
    /// Part that was answered in time; 1 where nothing arrived.
    pub fn attainment(self) -> f64 {
        if self.requests == 0 {
            1.0
        } else {
            self.in_time as f64 / self.requests as f64
        }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.requests += other.requests;
        self.in_time += other.in_time;
    }
}

/// What a run gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// By fragment: id and tally.
    pub fragments: Vec<(String, Tally)>,
}

impl Outcome {
    /// All requests.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for (_, tally) in &self.fragments {
            total += *tally;
        }
        total
    }
}

/// Runs a plan once: arrivals for `length`, then until all is done.
pub fn simulate(
    plan: &Plan,
    workload: &Workload,
    profile: &Profile,
    seed: u64,
    length: Nanos,
) -> Result<Outcome, SetupError> {
    let setup = Setup::new(plan, workload, profile)?;
    let mut tallies = vec![Tally::default(); setup.fragments.len()];
    for part in &setup.parts {
        Run::new(part, setup.hop, seed, length).finish(&mut tallies);
    }
    let mut fragments: Vec<(String, Tally)> = setup.fragments.into_iter().zip(tallies).collect();
    for (id, rate) in setup.nothing_owed {
        let mut arrivals = Arrivals::new(seed, &id, rate);
        let requests = std::iter::repeat_with(|| arrivals.next())
            .take_while(|&at| at < length.0)
            .count() as u64;
        let tally = Tally {
            requests,
            in_time: requests,
        };
        fragments.push((id, tally));
    }
    fragments.sort();
    Ok(Outcome { fragments })
}

impl PartialOrd for Tally {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Tally {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.requests, self.in_time).cmp(&(other.requests, other.in_time))
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
    end: u64,
    schedulers: Vec<Scheduler>,
    /// Partitions that compute, by when they are done.
    busy: BinaryHeap<Reverse<(u64, u32)>>,
    is_busy: Vec<bool>,
    arrivals: Vec<Arrivals>,
    /// Journeys by their next arrival.
    next: BinaryHeap<Reverse<(u64, u32)>>,
    /// Requests between stages. All hops are equal, so they come in the order in which they went.
    hops: VecDeque<(u64, u32)>,
    live: Vec<Live>,
    free: Vec<u32>,
    /// Partitions that something happened to at this instant.
    touched: Vec<u32>,
}

impl<'a> Run<'a> {
    fn new(part: &'a Part, hop: Nanos, seed: u64, length: Nanos) -> Self {
        let mut arrivals: Vec<Arrivals> = part
            .journeys
            .iter()
            .map(|j| Arrivals::new(seed, &j.id, j.rate_rps))
            .collect();
        let first = arrivals
            .iter_mut()
            .enumerate()
            .map(|(i, a)| Reverse((a.next(), i as u32)));
        let next = first.filter(|Reverse((at, _))| *at < length.0).collect();
        Run {
            part,
            hop,
            end: length.0,
            schedulers: part.partitions.iter().cloned().map(Scheduler::new).collect(),
            busy: BinaryHeap::new(),
            is_busy: vec![false; part.partitions.len()],
            arrivals,
            next,
            hops: VecDeque::new(),
            live: vec![],
            free: vec![],
            touched: vec![],
        }
    }

    fn finish(mut self, tallies: &mut [Tally]) {
        let mut dropped = vec![];
        loop {
            let arrival = self.next.peek().map(|Reverse((at, _))| *at);
            let hop = self.hops.front().map(|(at, _)| *at);
            let done = self.busy.peek().map(|Reverse((at, _))| *at);
            let Some(now) = [arrival, hop, done].into_iter().flatten().min() else {
                break;
            };
            // All events of an instant, those that they cause at the same instant included.
            while self.apply(now, tallies) {}
            self.choose(now, &mut dropped);
        }
    }

    fn apply(&mut self, now: u64, tallies: &mut [Tally]) -> bool {
        let mut any = false;
        while let Some(mut top) = self.next.peek_mut() {
            let Reverse((at, journey)) = *top;
            if at != now {
                break;
            }
            any = true;
            let following = self.arrivals[journey as usize].next();
            if following < self.end {
                *top = Reverse((following, journey));
            } else {
                std::collections::binary_heap::PeekMut::pop(top);
            }
            let plan = &self.part.journeys[journey as usize];
            tallies[plan.fragment].requests += 1;
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
        let present = |p: &crate::setup::Place| self.schedulers[p.partition as usize].present(p.stage);
        let place = match step.places.as_slice() {
            [only] => *only,
            several => match several.iter().min_by_key(|p| present(p)) {
                Some(least) => *least,
                None => return,
            },
        };
        let entered = Request {
            id: RequestId(u64::from(number)),
            key: request.deadline - step.later_deadlines,
            latest_start: request.deadline - step.least,
        };
        let taken = self.schedulers[place.partition as usize].submit(now, place.stage, entered);
        debug_assert!(taken.is_ok(), "admission is off");
        self.touched.push(place.partition);
    }

    fn hand_on(&mut self, now: u64, number: u32, tallies: &mut [Tally]) {
        let request = &mut self.live[number as usize];
        let journey = &self.part.journeys[request.journey as usize];
        request.step += 1;
        if (request.step as usize) < journey.steps.len() {
            self.hops.push_back((now + self.hop.0, number));
            return;
        }
        tallies[journey.fragment].in_time += u64::from(now <= request.deadline.0);
        self.free.push(number);
    }

    /// Free partitions that something happened to choose what to run.
    fn choose(&mut self, now: u64, dropped: &mut Vec<RequestId>) {
        while let Some(partition) = self.touched.pop() {
            if self.is_busy[partition as usize] {
                continue;
            }
            if let Some(run) = self.schedulers[partition as usize].next(Nanos(now), dropped) {
                self.is_busy[partition as usize] = true;
                self.busy.push(Reverse((now + run.expected.0, partition)));
            }
            self.free.extend(dropped.drain(..).map(|id| id.0 as u32));
        }
    }
}
