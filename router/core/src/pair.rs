//! Passages in virtual time: a router's end and workers' ends, with nothing between them.

use std::collections::{BTreeMap, BTreeSet};

use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Nanos};
use graft_wire::{Refused, RouteTarget, RoutesUpdate, Status};

use crate::{Asked, Attempted, Entrance, Go, Passage, RouteTable};

const MODEL: ModelId = ModelId([1; 32]);
const POINT: CutPoint = CutPoint(3);
/// What the layers take alone, in milliseconds.
const LEAST_MS: f64 = 10.0;

fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

/// What a worker does with what it gets.
#[derive(Debug, Clone, Copy)]
enum WorkerEnd {
    /// It answers after so long.
    Answers(Nanos),
    /// It refuses at once.
    Refuses(Status),
    /// Its connection ends after so long.
    IsLost(Nanos),
    /// It never replies.
    Silent,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Answered,
    Refused,
    Lost,
    TimedOut,
    WaitedEnough,
}

/// How a request ended, and when.
type Ending = (Nanos, Result<(), Status>);

/// A router and its workers.
struct Pair {
    now: Nanos,
    entrance: Entrance,
    table: RouteTable,
    workers: BTreeMap<&'static str, WorkerEnd>,
    unreachable: BTreeSet<&'static str>,
    passages: Vec<Option<Passage>>,
    endings: Vec<Option<Ending>>,
    events: BTreeSet<(Nanos, usize, Happens)>,
    /// Times at which the planner was to be told of a request without a route.
    urgent: Vec<Nanos>,
}

fn routes(epoch: u64, workers: &[&str]) -> RoutesUpdate {
    let target = |worker: &&str| RouteTarget {
        route: 0,
        model: MODEL,
        partition_point: POINT,
        budget_ms: 50.0,
        rate_rps: 10.0,
        least_ms: LEAST_MS,
        worker: (*worker).to_owned(),
        pool: 0,
        work_ms: LEAST_MS,
    };
    RoutesUpdate {
        epoch: Epoch(epoch),
        limited: false,
        emulated: false,
        routers: 1,
        workers: BTreeMap::new(),
        routes: workers.iter().map(target).collect(),
        server_ms: BTreeMap::from([(MODEL, vec![LEAST_MS; 5])]),
        price: BTreeMap::new(),
        left_out: vec![],
    }
}

impl Pair {
    fn new(most_in_flight: usize, workers: &[(&'static str, WorkerEnd)]) -> Self {
        let names: Vec<&str> = workers.iter().map(|(name, _)| *name).collect();
        Pair {
            now: ms(1),
            entrance: Entrance::new(most_in_flight),
            table: RouteTable::new(routes(1, &names)),
            workers: workers.iter().copied().collect(),
            unreachable: BTreeSet::new(),
            passages: vec![],
            endings: vec![],
            events: BTreeSet::new(),
            urgent: vec![],
        }
    }

    /// A request for a cut point comes in. Its number.
    fn asks_at(&mut self, point: CutPoint, left: Nanos) -> usize {
        let number = self.passages.len();
        let asked = Asked {
            model: MODEL,
            point,
            time_left: left,
        };
        match Passage::enter(&self.entrance, self.now, None, asked) {
            Ok(passage) => {
                self.passages.push(Some(passage));
                self.endings.push(None);
                self.goes(number);
            }
            Err(outside) => {
                self.passages.push(None);
                self.endings.push(Some((self.now, Err(outside.refused.status))));
            }
        }
        number
    }

    fn asks(&mut self, left: Nanos) -> usize {
        self.asks_at(POINT, left)
    }

    fn ends(&mut self, number: usize, how: Result<(), Status>) {
        self.passages[number] = None;
        self.endings[number] = Some((self.now, how));
    }

    fn goes(&mut self, number: usize) {
        let Some(passage) = &mut self.passages[number] else {
            return;
        };
        let unreachable = &self.unreachable;
        let usable = |worker: &str| !unreachable.contains(worker);
        let go = passage.go(self.now, &self.entrance, &self.table, &usable);
        if passage.is_unserved() {
            self.urgent.push(self.now);
        }
        match go {
            Go::Refuse(refused) => self.ends(number, Err(refused.status)),
            Go::Wait { until } => {
                self.events.insert((until, number, Happens::WaitedEnough));
            }
            Go::Send(sending) => {
                let (after, what) = match self.workers[sending.worker.as_str()] {
                    WorkerEnd::Answers(after) => (after, Happens::Answered),
                    WorkerEnd::Refuses(_) => (Nanos::ZERO, Happens::Refused),
                    WorkerEnd::IsLost(after) => (after, Happens::Lost),
                    WorkerEnd::Silent => (sending.patience, Happens::TimedOut),
                };
                self.events.insert((self.now + after, number, what));
            }
        }
    }

    /// Other routes from now on.
    fn switches(&mut self, update: RoutesUpdate) {
        self.table = RouteTable::new(update);
        let waiting: Vec<usize> = self
            .events
            .iter()
            .filter(|e| e.2 == Happens::WaitedEnough)
            .map(|e| e.1)
            .collect();
        self.events.retain(|e| e.2 != Happens::WaitedEnough);
        waiting.into_iter().for_each(|number| self.goes(number));
    }

    /// All that happens until then.
    fn runs_until(&mut self, end: Nanos) {
        while let Some((at, number, what)) = self.events.first().cloned().filter(|e| e.0 <= end) {
            self.events.pop_first();
            self.now = at;
            let refuses = |worker: &str| match self.workers[worker] {
                WorkerEnd::Refuses(status) => status,
                _ => Status::Internal,
            };
            let Some(passage) = &mut self.passages[number] else {
                continue;
            };
            let attempted = match what {
                Happens::WaitedEnough => {
                    self.goes(number);
                    continue;
                }
                Happens::Answered => Attempted::Answered,
                Happens::Lost => Attempted::Lost("the connection is gone".to_owned()),
                Happens::TimedOut => Attempted::TimedOut,
                Happens::Refused => {
                    let worker = &passage.attempts()[passage.attempts().len() - 1].worker;
                    Attempted::Refused(Refused::new(refuses(worker), "so it is"))
                }
            };
            match passage.replied(at, attempted, vec![]) {
                Some(outcome) => self.ends(number, outcome.map_err(|r| r.status)),
                None => self.goes(number),
            }
        }
        self.now = end;
    }

    fn ending(&mut self, number: usize) -> Ending {
        self.runs_until(self.now + ms(60_000));
        self.endings[number].expect("it ended")
    }
}

#[test]
fn a_request_is_sent_and_answered_and_gives_back_its_place() {
    let mut pair = Pair::new(2, &[("a", WorkerEnd::Answers(ms(20)))]);
    let number = pair.asks(ms(100));
    assert_eq!(pair.entrance.in_flight(), 1);
    assert_eq!(pair.ending(number), (ms(21), Ok(())));
    assert_eq!(pair.entrance.in_flight(), 0);
}

#[test]
fn one_more_than_may_be_in_flight_is_refused_and_costs_nobody_else() {
    let mut pair = Pair::new(2, &[("a", WorkerEnd::Answers(ms(20)))]);
    let numbers = [(); 3].map(|()| pair.asks(ms(100)));
    assert_eq!(pair.endings[numbers[2]], Some((ms(1), Err(Status::Overloaded))));
    assert!(numbers[..2].iter().all(|n| pair.ending(*n).1.is_ok()));
    assert_eq!(pair.entrance.in_flight(), 0);
}

#[test]
fn a_lost_worker_is_passed_over_once_and_the_second_loss_ends_it() {
    let mut pair = Pair::new(
        8,
        &[("a", WorkerEnd::IsLost(ms(5))), ("b", WorkerEnd::Answers(ms(20)))],
    );
    for _ in 0..2 {
        let number = pair.asks(ms(100));
        assert_eq!(pair.ending(number).1, Ok(()));
    }
    pair.workers.insert("b", WorkerEnd::IsLost(ms(5)));
    let began = pair.now;
    let number = pair.asks(ms(100));
    assert_eq!(pair.ending(number), (began + ms(10), Err(Status::WorkerLost)));
}

#[test]
fn requests_that_were_let_in_are_not_refused_for_the_rate_when_their_worker_is_lost() {
    let workers = [("a", WorkerEnd::IsLost(ms(5))), ("b", WorkerEnd::Answers(ms(20)))];
    let mut pair = Pair::new(64, &workers);
    // Partitions have no room beyond the plan's rate: all of those let in go on, however many they are.
    let mut update = routes(1, &["a", "b"]);
    update.limited = true;
    update.routes.iter_mut().for_each(|target| target.work_ms = 200.0);
    pair.table = RouteTable::new(update);
    pair.unreachable.insert("b");
    let numbers: Vec<usize> = (0..40).map(|_| pair.asks(ms(100))).collect();
    let let_in: Vec<usize> = numbers
        .into_iter()
        .filter(|n| pair.endings[*n].is_none())
        .collect();
    assert!(
        let_in.len() > 1 && let_in.len() < 40,
        "{} are let in",
        let_in.len()
    );
    pair.unreachable.clear();
    for number in let_in {
        assert_eq!(pair.ending(number).1, Ok(()));
    }
}

#[test]
fn who_lost_its_worker_after_the_deadline_is_not_tried_again() {
    let mut pair = Pair::new(
        8,
        &[
            ("a", WorkerEnd::IsLost(ms(100))),
            ("b", WorkerEnd::IsLost(ms(100))),
        ],
    );
    let number = pair.asks(ms(100));
    assert_eq!(pair.ending(number), (ms(101), Err(Status::WorkerLost)));
}

#[test]
fn a_worker_that_is_not_ready_costs_a_try_and_a_late_refusal_is_final() {
    let mut pair = Pair::new(
        8,
        &[
            ("a", WorkerEnd::Refuses(Status::NotReady)),
            ("b", WorkerEnd::Answers(ms(9))),
        ],
    );
    let number = pair.asks(ms(100));
    assert_eq!(pair.ending(number).1, Ok(()));
    pair.workers = [
        ("a", WorkerEnd::Refuses(Status::Late)),
        ("b", WorkerEnd::Refuses(Status::Late)),
    ]
    .into();
    let number = pair.asks(ms(100));
    assert_eq!(pair.ending(number).1, Err(Status::Late));
}

#[test]
fn a_silent_worker_is_waited_for_a_little_beyond_the_deadline() {
    let mut pair = Pair::new(8, &[("a", WorkerEnd::Silent)]);
    let number = pair.asks(ms(100));
    assert_eq!(pair.ending(number), (ms(121), Err(Status::Late)));
}

#[test]
fn who_has_no_route_waits_for_a_plan_and_the_planner_is_told() {
    let mut pair = Pair::new(8, &[("a", WorkerEnd::Answers(ms(5)))]);
    pair.table = RouteTable::new(RoutesUpdate {
        routes: vec![RouteTarget {
            partition_point: CutPoint(0),
            ..routes(1, &["a"]).routes[0].clone()
        }],
        ..routes(1, &[])
    });
    let (served, unserved) = (pair.asks(ms(200)), pair.asks_at(CutPoint(4), ms(200)));
    assert_eq!(pair.urgent, [ms(1), ms(1)]);
    pair.runs_until(ms(50));
    pair.switches(routes(2, &["a"]));
    assert_eq!(pair.ending(served), (ms(55), Ok(())));
    // Half of its time is for the wait.
    assert_eq!(pair.endings[unserved], Some((ms(101), Err(Status::NotReady))));
}

#[test]
fn those_who_wait_take_no_more_than_their_part_of_the_places() {
    let mut pair = Pair::new(8, &[("a", WorkerEnd::Answers(ms(20)))]);
    let waiting = [(); 3].map(|()| pair.asks_at(CutPoint(4), ms(200)));
    assert_eq!(pair.endings[waiting[2]], Some((ms(1), Err(Status::NotReady))));
    assert!(waiting[..2].iter().all(|n| pair.endings[*n].is_none()));
    let served = pair.asks(ms(100));
    assert_eq!(pair.ending(served).1, Ok(()));
}

#[test]
fn workers_that_can_t_be_reached_are_waited_for() {
    let mut pair = Pair::new(8, &[("a", WorkerEnd::Answers(ms(5)))]);
    pair.unreachable.insert("a");
    let number = pair.asks(ms(100));
    pair.runs_until(ms(20));
    pair.unreachable.clear();
    pair.switches(routes(2, &["a"]));
    assert_eq!(pair.ending(number), (ms(25), Ok(())));
}
