//! A request's way through a router: let in, sent to a worker, once more if that one is lost, ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Nanos, nanos_to_ms};
use graft_wire::{GRACE, Refused, RoutesUpdate, Status, Visit};

use crate::fair::{Fair, Source, TooMany};
use crate::lives::Attempt;
use crate::mix::{BudgetClass, ClassKey};
use crate::routes::{InFlight, RouteTable};

/// Requests that a router waits for at most, unless it is told otherwise; one more is refused as overload.
pub const MOST_IN_FLIGHT: usize = 1024;
/// Share of the places in flight that requests which wait for a plan may take: one in so many.
const WAITING_PART: usize = 4;

/// Requests in flight by who asked, where that is known.
#[derive(Debug, Clone, Default)]
struct Holders(Arc<Mutex<HashMap<Source, usize>>>);

/// One of a source's requests in flight, given back when dropped.
#[derive(Debug)]
struct Holding {
    holders: Holders,
    source: Source,
}

impl Holders {
    fn lock(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// `None`: it has as many as are free for all. So whoever takes what he can leaves as much to others.
    fn take(&self, source: Source, free: usize) -> Option<Holding> {
        let mut all = self.lock();
        let count = all.entry(source).or_default();
        if *count >= free.max(1) {
            return None;
        }
        *count += 1;
        drop(all);
        let holders = self.clone();
        Some(Holding { holders, source })
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut all = self.holders.lock();
        if let Some(count) = all.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.source);
            }
        }
    }
}

/// A count of places, each given back when dropped.
#[derive(Debug, Clone, Default)]
struct Seats(Arc<AtomicUsize>);

#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

impl Seats {
    /// `None`: as many are taken as may be.
    fn take(&self, most: usize) -> Option<Seat> {
        let place = Seat(Arc::clone(&self.0));
        (self.0.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }

    fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the passages of a router share: the bounds of what it holds.
#[derive(Debug)]
pub struct Entrance {
    most: usize,
    in_flight: Seats,
    holders: Holders,
    /// Of those in flight, requests that wait for a plan that serves them.
    waiting: Seats,
    fair: Mutex<Fair>,
}

/// A request that is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// What its client is told.
    pub refused: Refused,
    /// The class that it is counted with, where it is demand that may be planned for.
    pub demand: Option<ClassKey>,
}

impl Entrance {
    /// For so many requests in flight at most.
    pub fn new(most: usize) -> Self {
        Entrance {
            most,
            in_flight: Seats::default(),
            holders: Holders::default(),
            waiting: Seats::default(),
            fair: Mutex::default(),
        }
    }

    fn fair(&self) -> MutexGuard<'_, Fair> {
        self.fair.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The routes of another plan, which take the place of those before.
    pub fn switch(&self, now: Nanos, before: &RouteTable, update: RoutesUpdate) -> RouteTable {
        let table = RouteTable::after(before, now, update);
        self.fair().planned(table.planned_rps());
        table
    }

    /// A request that was let in is over. `None`: its client waited no longer, which says nothing.
    pub fn over(&self, now: Nanos, passage: &Passage, outcome: Option<Result<(), Status>>) {
        let Some(outcome) = outcome else { return };
        let too_much = match outcome {
            Err(Status::Overloaded) => !passage.left_out,
            // It waited too long; one that had no time from the start is refused at once.
            Err(Status::Late) => {
                !passage.attempts.is_empty() && now - passage.began > Nanos(passage.asked.time_left.0 / 2)
            }
            _ => false,
        };
        self.fair().ended(now, outcome.is_ok(), too_much);
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.taken()
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The model.
    pub model: ModelId,
    /// Where the client handed over.
    pub point: CutPoint,
    /// What the server has, from now on.
    pub time_left: Nanos,
}

impl Asked {
    /// The class of clients that it is counted with.
    pub fn class(&self) -> ClassKey {
        ClassKey {
            model: self.model,
            partition_point: self.point,
            budget: BudgetClass::of(self.time_left),
        }
    }
}

/// Where a request is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    /// The worker.
    pub worker: String,
    /// The plan.
    pub epoch: Epoch,
    /// The route's place in it.
    pub route: u32,
    /// What is left of the deadline.
    pub time_left: Nanos,
    /// How long to wait for the reply.
    pub patience: Nanos,
}

/// What to do with a request now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Go {
    /// Send it, and say how that ended: [`Passage::replied`].
    Send(Sending),
    /// No route serves it yet: call [`Passage::go`] again when the routes changed, or at this time.
    Wait {
        /// Until then it can wait.
        until: Nanos,
    },
    /// It gets no answer.
    Refuse(Refused),
}

/// How an attempt to have a request served ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempted {
    /// The worker answered.
    Answered,
    /// The worker refused.
    Refused(Refused),
    /// The worker can't be reached, or was lost on the way, and how.
    Lost(String),
    /// The worker did not reply in time.
    TimedOut,
}

/// The life of one request in a router.
///
/// [`enter`](Self::enter), then [`go`](Self::go), which says what to do, and after each sending [`replied`](Self::replied),
/// until one of them says how it ended. Dropped at any time, it gives back the places that it has.
#[derive(Debug)]
pub struct Passage {
    asked: Asked,
    began: Nanos,
    attempts: Vec<Attempt>,
    /// Until then it waits for a plan.
    until: Option<Nanos>,
    /// The worker that had it and is gone, and the plan of then.
    lost: Option<(String, Epoch)>,
    /// The latest [`go`](Self::go) found no route.
    unserved: bool,
    /// The plan leaves its class out.
    left_out: bool,
    _in_flight: Seat,
    _holding: Option<Holding>,
    waiting: Option<Seat>,
    /// Its place among those that its worker has.
    at_worker: Option<InFlight>,
}

impl Passage {
    /// A request comes in, whole and sound. `source`: who asks; `None`: many together, of whom nobody is held back for the others. `Err`: as
    /// many are in flight as may be, or he asks for more than others can have.
    pub fn enter(
        entrance: &Entrance,
        now: Nanos,
        source: Option<Source>,
        asked: Asked,
    ) -> Result<Self, Outside> {
        let most = entrance.most;
        let outside = |what: String, is_demand: bool| Outside {
            refused: Refused::new(Status::Overloaded, what),
            demand: is_demand.then(|| asked.class()),
        };
        let running = entrance.in_flight().saturating_sub(entrance.waiting.taken());
        let held_back = source.map_or(Ok(()), |source| entrance.fair().ask(now, source, running));
        held_back.map_err(|TooMany { is_demand }| {
            let what = "more is asked for than can be served, and this connection asks for more than others";
            outside(what.to_owned(), is_demand)
        })?;
        let full = || {
            entrance.fair().ended(now, false, true);
            let what = format!("{most} requests are in flight, as many as are allowed");
            outside(what, true)
        };
        let free = most.saturating_sub(entrance.in_flight());
        let holding = match source {
            None => None,
            Some(source) => {
                let crowding = || {
                    let what = "this connection has as many requests in flight as are left for all others";
                    outside(what.to_owned(), false)
                };
                Some(entrance.holders.take(source, free).ok_or_else(crowding)?)
            }
        };
        Ok(Passage {
            asked,
            began: now,
            attempts: vec![],
            until: None,
            lost: None,
            unserved: false,
            left_out: false,
            _in_flight: entrance.in_flight.take(most).ok_or_else(full)?,
            _holding: holding,
            waiting: None,
            at_worker: None,
        })
    }

    /// The class of clients that it is counted with.
    pub fn class(&self) -> ClassKey {
        self.asked.class()
    }

    /// When it must be answered.
    pub fn deadline(&self) -> Nanos {
        self.began + self.asked.time_left
    }

    /// Where it was sent so far.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// It has no route: the planner should know at once.
    pub fn is_unserved(&self) -> bool {
        self.unserved
    }

    /// What to do now. `usable`: whether a worker can be reached.
    pub fn go(
        &mut self,
        now: Nanos,
        entrance: &Entrance,
        table: &RouteTable,
        usable: &dyn Fn(&str) -> bool,
    ) -> Go {
        let Asked { model, point, .. } = self.asked;
        let left = self.deadline() - now;
        let usable = |worker: &str| {
            // The worker that had it is passed over, in the plan of then.
            let had_it = |(lost, epoch): &(String, Epoch)| lost == worker && *epoch == table.epoch();
            !self.lost.as_ref().is_some_and(had_it) && usable(worker)
        };
        let admitted = match self.attempts.is_empty() {
            true => table.admit(now, model, point, left, &usable),
            false => table.admit_again(now, model, point, left, &usable),
        };
        let refused = match admitted {
            Ok(admitted) => {
                let sending = Sending {
                    worker: admitted.target.worker.clone(),
                    epoch: admitted.epoch,
                    route: admitted.target.route,
                    time_left: left,
                    patience: left + GRACE,
                };
                (self.unserved, self.waiting) = (false, None);
                self.at_worker = Some(admitted.in_flight);
                self.attempts.push(Attempt {
                    worker: sending.worker.clone(),
                    epoch: sending.epoch,
                    route: sending.route,
                    sent_ms: nanos_to_ms(now - self.began),
                    took_ms: 0.0,
                    failed: None,
                    visits: vec![],
                });
                return Go::Send(sending);
            }
            Err(refused) => refused,
        };
        self.unserved = refused.status == Status::NotReady;
        self.left_out = table.leaves_out(&model, point);
        if !may_come(refused.status) {
            self.waiting = None;
            return Go::Refuse(refused);
        }
        let until = *self
            .until
            .get_or_insert_with(|| now + table.patience(&model, point, left));
        // Those who wait keep their places, but for a part of them only: others are served meanwhile.
        if self.waiting.is_none() && now < until {
            self.waiting = entrance.waiting.take((entrance.most / WAITING_PART).max(1));
        }
        if self.waiting.is_none() || now >= until {
            self.waiting = None;
            return Go::Refuse(refused);
        }
        Go::Wait { until }
    }

    /// Whether another worker could have it now, were the one that has it lost.
    pub fn may_go_elsewhere(&self, now: Nanos, table: &RouteTable, usable: &dyn Fn(&str) -> bool) -> bool {
        let Some(latest) = self.attempts.last().filter(|_| self.lost.is_none()) else {
            return false;
        };
        let other =
            |worker: &str| (worker != latest.worker || table.epoch() != latest.epoch) && usable(worker);
        let Asked { model, point, .. } = self.asked;
        table.could_serve(model, point, self.deadline() - now, &other)
    }

    /// The attempt that [`go`](Self::go) said is over; `visits`: where the request was. `None`: it is tried once more, on
    /// another worker; call `go`.
    pub fn replied(
        &mut self,
        now: Nanos,
        attempted: Attempted,
        visits: Vec<Visit>,
    ) -> Option<Result<(), Refused>> {
        self.at_worker = None;
        let refused = match attempted {
            Attempted::Answered => None,
            Attempted::Refused(refused) => Some(refused),
            Attempted::Lost(why) => Some(Refused::new(Status::WorkerLost, why)),
            Attempted::TimedOut => {
                let what = "the worker did not answer before the deadline";
                Some(Refused::new(Status::Late, what))
            }
        };
        let attempt = self.attempts.last_mut();
        let was_at = attempt.map(|attempt| {
            attempt.took_ms = nanos_to_ms(now - self.began) - attempt.sent_ms;
            attempt.failed.clone_from(&refused);
            attempt.visits = visits;
            (attempt.worker.clone(), attempt.epoch)
        });
        let Some(refused) = refused else {
            return Some(Ok(()));
        };
        let again = may_come(refused.status) && self.lost.is_none() && now < self.deadline();
        if !again {
            return Some(Err(refused));
        }
        self.lost = was_at;
        None
    }

    /// Whether an answer now is in time.
    pub fn is_in_time(&self, now: Nanos) -> bool {
        now <= self.deadline()
    }

    /// It is over: where it was sent.
    pub fn into_attempts(self) -> Vec<Attempt> {
        self.attempts
    }
}

/// Another worker or plan may serve it.
fn may_come(status: Status) -> bool {
    matches!(status, Status::NotReady | Status::WorkerLost)
}
