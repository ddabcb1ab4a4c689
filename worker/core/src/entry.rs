//! A request enters a worker: by when it is to be done, which of a stage's places takes it, what a refusal means to
//! whoever asked.

use graft_plan::Nanos;
use graft_wire::Status;

use crate::queue::{Request, RequestId};
use crate::route::RouteStep;
use crate::scheduler::Refusal;

/// Margin by which a request is to be done early, as a part of what it takes at least: runs take a little longer now and
/// then, and under overload each that is begun at the last moment would be late for it.
const GUARD: f64 = 0.1;
/// Margin by which a request is to be done early at most, as a part of the time that it has left.
const GUARD_AT_MOST: f64 = 0.1;

/// The time by which a request is to be done, as partitions count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due(Nanos);

impl Due {
    /// At its deadline, as in the reference simulation.
    pub fn at(deadline: Nanos) -> Self {
        Due(deadline)
    }

    /// A little before its deadline: for a request that enters a worker now, with `time_left`, at this step of its route.
    pub fn with_guard(now: Nanos, time_left: Nanos, step: &RouteStep) -> Self {
        let part = |of: Nanos, part: f64| Nanos((of.0 as f64 * part) as u64);
        let guard = part(step.least(), GUARD).min(part(time_left, GUARD_AT_MOST));
        Due(now + time_left - guard)
    }
}

impl RouteStep {
    /// A request as this step's partition sees it: how urgent it is, and when it must begin at the latest.
    pub fn request(&self, id: RequestId, due: Due) -> Request {
        Request {
            id,
            key: self.key(due.0),
            latest_start: self.latest_start(due.0),
        }
    }
}

impl Refusal {
    /// What it means to whoever asked.
    pub fn status(self) -> Status {
        match self {
            Refusal::Late => Status::Late,
            Refusal::Overloaded => Status::Overloaded,
            Refusal::UnknownStage | Refusal::Duplicate => Status::Internal,
        }
    }
}

/// Where a request's next stage runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<H, T> {
    /// In a partition of this worker.
    Here(H),
    /// On another worker.
    There(T),
}

/// Of the places where a stage runs, each with the requests of the stage that are there, the one with the fewest; the
/// first on a tie.
pub fn fewest<P>(places: impl IntoIterator<Item = (usize, P)>) -> Option<P> {
    let fewest = places.into_iter().min_by_key(|(present, _)| *present);
    fewest.map(|(_, place)| place)
}

/// Where a request goes on: in memory where its stage runs on the same worker, in the place with the fewest requests; else
/// to the worker with the fewest requests that were handed over to it, for each of its partitions.
pub fn next<H, T>(
    here: impl IntoIterator<Item = (usize, H)>,
    there: impl IntoIterator<Item = (f64, T)>,
) -> Option<Next<H, T>> {
    if let Some(place) = fewest(here) {
        return Some(Next::Here(place));
    }
    let least = there.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
    least.map(|(_, worker)| Next::There(worker))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Leg;

    fn ms(ms: u64) -> Nanos {
        Nanos::from_millis(ms)
    }

    /// Two stages of 20 ms and 10 ms, the second with a local deadline of 30 ms, and hops of 1 ms.
    fn step() -> RouteStep {
        let leg = |alone, deadline| Leg {
            instances: vec![],
            alone: ms(alone),
            deadline: ms(deadline),
        };
        RouteStep::of_route(ms(1), vec![leg(20, 50), leg(10, 30)]).swap_remove(0)
    }

    #[test]
    fn a_request_is_to_be_done_a_tenth_of_its_least_time_early() {
        let (step, now) = (step(), ms(1000));
        let exact = step.request(RequestId(7), Due::at(ms(1100)));
        assert_eq!((exact.key, exact.latest_start), (ms(1069), ms(1069)));
        let guarded = step.request(RequestId(7), Due::with_guard(now, ms(100), &step));
        let early = Nanos(3_100_000);
        assert_eq!(guarded.key, exact.key - early);
        assert_eq!(guarded.latest_start, exact.latest_start - early);
        // Where little is left, the guard takes no more than a tenth of it.
        assert_eq!(Due::with_guard(now, ms(20), &step), Due::at(ms(1018)));
    }

    #[test]
    fn what_runs_here_stays_here_and_of_others_the_least_loaded_takes_it() {
        assert_eq!(
            next([(5, 'a'), (3, 'b'), (3, 'c')], [(0.0, 'x')]),
            Some(Next::Here('b'))
        );
        assert_eq!(
            next(Vec::<(usize, char)>::new(), [(1.5, 'x'), (1.0, 'y')]),
            Some(Next::There('y'))
        );
        assert_eq!(next::<char, char>([], []), None);
    }
}
