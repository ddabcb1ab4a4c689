//! Routers: what comes in, where it goes, how it ends. Decided by `graft-router-core`.

use std::collections::BTreeMap;

use graft_client_core::Hints;
use graft_model::ModelId;
use graft_plan::{Epoch, Nanos};
use graft_router_core::{
    Arrived, Asked, Attempted, ClassKey, Entrance, Go, MOST_IN_FLIGHT, MixWindow, Passage, RouteTable,
    URGENT_EVERY,
};
use graft_wire::{MixEntry, RoutesUpdate, Status};

use crate::context::Context;
use crate::events::Event;
use crate::fleet::{Asker, Words};
use crate::requests::{Place, Ticket};
use crate::workers::Workers;

/// One router.
struct Router {
    table: RouteTable,
    entrance: Entrance,
    window: MixWindow,
    counts: BTreeMap<ClassKey, Arrived>,
    /// No urgent report before that.
    urgent_at: Nanos,
    /// Requests that wait for a plan that serves them.
    waiting: Vec<Ticket>,
}

/// All routers.
pub(crate) struct Routers {
    routers: Vec<Router>,
    /// Time that messages take besides, while they are late.
    pub late: Nanos,
    /// Requests that are over at this instant.
    pub done: Vec<(Ticket, Result<(), Status>)>,
}

impl Words for Routers {
    fn hints(&self, router: u32, model: &ModelId) -> Hints<'_> {
        let table = &self.routers[router as usize].table;
        Hints {
            server_ms: table.server_ms(model),
            price: table.price(model),
        }
    }

    fn is_there(&self, _router: u32) -> bool {
        true
    }
}

impl Routers {
    pub fn new(count: u32) -> Self {
        let router = |_| Router {
            table: RouteTable::default(),
            entrance: Entrance::new(MOST_IN_FLIGHT),
            window: MixWindow::of_router(Nanos::ZERO),
            counts: BTreeMap::new(),
            urgent_at: Nanos::ZERO,
            waiting: vec![],
        };
        Routers {
            routers: (0..count.max(1)).map(router).collect(),
            late: Nanos::ZERO,
            done: vec![],
        }
    }

    /// Their places.
    pub fn all(&self) -> std::ops::Range<u32> {
        0..self.routers.len() as u32
    }

    /// The plan that a router uses.
    pub fn epoch_of(&self, router: u32) -> Epoch {
        self.routers[router as usize].table.epoch()
    }

    /// A router switches. `false`: it uses a later plan.
    pub fn switch(
        &mut self,
        now: Nanos,
        router: u32,
        update: RoutesUpdate,
        workers: &mut Workers,
        cx: &mut Context,
    ) -> bool {
        let r = &mut self.routers[router as usize];
        if update.epoch < r.table.epoch() {
            return false;
        }
        r.table = r.entrance.switch(now, &r.table, update);
        for ticket in std::mem::take(&mut r.waiting) {
            self.go(now, ticket, workers, cx);
        }
        true
    }

    /// What a router has observed.
    pub fn observed(&mut self, now: Nanos, router: u32) -> (f64, Vec<MixEntry>) {
        let r = &mut self.routers[router as usize];
        for (key, count) in std::mem::take(&mut r.counts) {
            r.window.add(now, key, count);
        }
        r.window.rates(now)
    }

    /// A request is there whole.
    pub fn at_router(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        asker: &Asker,
        workers: &mut Workers,
        cx: &mut Context,
    ) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        request.at_router = now;
        request.server_deadline = now + request.budget;
        request.router = asker.router;
        request.place = Place::AtRouter;
        cx.ledger.arrived(request);
        let asked = Asked {
            model: asker.model,
            point: request.point,
            time_left: request.budget,
        };
        let router = &mut self.routers[asker.router as usize];
        match Passage::enter(&router.entrance, now, asker.source, asked) {
            Ok(passage) => {
                router.counts.entry(passage.class()).or_default().add(now);
                request.passage = Some(passage);
                self.go(now, ticket, workers, cx);
            }
            Err(outside) => {
                if let Some(class) = outside.demand {
                    router.counts.entry(class).or_default().add(now);
                }
                self.ends(now, ticket, Err(outside.refused.status), cx);
            }
        }
    }

    /// A request goes on, or has waited long enough.
    pub fn go(&mut self, now: Nanos, ticket: Ticket, workers: &mut Workers, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket).filter(|r| r.place == Place::AtRouter) else {
            return;
        };
        let (number, Some(passage)) = (request.router, &mut request.passage) else {
            return;
        };
        let router = &mut self.routers[number as usize];
        let seems_there = |worker: &str| workers.seems_there(worker);
        let go = passage.go(now, &router.entrance, &router.table, &seems_there);
        if passage.is_unserved() && now >= router.urgent_at {
            router.urgent_at = now + URGENT_EVERY;
            let (router, urgent) = (number, true);
            cx.events.at(now, Event::Reports { router, urgent });
        }
        match go {
            Go::Refuse(refused) => self.ends(now, ticket, Err(refused.status), cx),
            Go::Wait { until } => {
                // Those that wait no longer go when there is no room for more.
                if router.waiting.len() == router.waiting.capacity() {
                    let waits = |t: &Ticket| cx.requests.get(*t).is_some_and(|r| r.place == Place::AtRouter);
                    router.waiting.retain(waits);
                }
                router.waiting.push(ticket);
                cx.events.at(until, Event::WaitedEnough(ticket));
            }
            Go::Send(sending) => {
                let attempt = passage.attempts().len() as u32;
                cx.events
                    .at(now + sending.patience, Event::TimedOut { ticket, attempt });
                workers.take(now, ticket, &sending, self.late, cx);
            }
        }
    }

    /// A worker has not replied in time.
    pub fn timed_out(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        attempt: u32,
        workers: &mut Workers,
        cx: &mut Context,
    ) {
        let request = cx.requests.get(ticket).filter(|r| r.place.is_at_worker());
        let passage = request.and_then(|r| r.passage.as_ref());
        if passage.is_some_and(|p| p.attempts().len() as u32 == attempt) {
            workers.cancel(ticket, cx);
            self.replied(now, ticket, Attempted::TimedOut, workers, cx);
        }
    }

    /// A worker's reply is there.
    pub fn replied(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        how: Attempted,
        workers: &mut Workers,
        cx: &mut Context,
    ) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        request.place = Place::AtRouter;
        let passage = request.passage.as_mut();
        match passage.and_then(|p| p.replied(now, how, vec![])) {
            Some(outcome) => self.ends(now, ticket, outcome.map_err(|refused| refused.status), cx),
            None => self.go(now, ticket, workers, cx),
        }
    }

    fn ends(&mut self, now: Nanos, ticket: Ticket, outcome: Result<(), Status>, cx: &mut Context) {
        if let Some(request) = cx.requests.get(ticket) {
            if let Some(passage) = &request.passage {
                let entrance = &self.routers[request.router as usize].entrance;
                entrance.over(now, passage, Some(outcome));
            }
            (request.passage, request.place) = (None, Place::Outside);
            self.done.push((ticket, outcome));
        }
    }
}
