//! The clients of a scenario before a real server: what to send when, decided as in a simulation.
//!
//! Whoever drives it has a clock and connections: it asks [`Crowd::next_at`] when something is due, calls
//! [`Crowd::advance`] then, does what it says, and reports what came back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use graft_client_core::Hints;
use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Nanos, Profiles, Scenario, ms_to_nanos};
use graft_wire::Status;
use graft_worker_core::RequestId;

use crate::cast::{Cast, CastError};
use crate::context::Context;
use crate::events::Event;
use crate::fleet::{Fleet, Words};
use crate::names::identity;
use crate::report::{Ending, Report};
use crate::requests::{Place, Request, Ticket};
use crate::trace::Trace;

/// A request that is to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// Its number, for what comes back.
    pub id: RequestId,
    /// The router that its client uses, from 0.
    pub router: u32,
    /// The profile's name of the model.
    pub model: String,
    /// Where it is handed over.
    pub point: CutPoint,
    /// What the server has, from now on.
    pub budget: Nanos,
    /// When it was to be sent.
    pub due: Nanos,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    /// Send a request.
    Send(Dispatch),
    /// The client waits no longer for a request that was sent.
    GiveUp(RequestId),
}

/// What is known of routers.
#[derive(Default)]
struct Heard {
    /// What they said the server needs.
    hints: HashMap<ModelId, (Vec<f64>, Vec<f64>)>,
    /// Those that can't be connected to.
    gone: HashSet<u32>,
}

impl Words for Heard {
    fn hints(&self, _router: u32, model: &ModelId) -> Hints<'_> {
        let known = self.hints.get(model);
        known.map_or_else(Hints::default, |(server_ms, price)| Hints { server_ms, price })
    }

    fn is_there(&self, router: u32) -> bool {
        !self.gone.contains(&router)
    }
}

/// The clients of a scenario.
pub struct Crowd {
    fleet: Fleet,
    cx: Context,
    heard: Heard,
    names: HashMap<ModelId, String>,
    end: Nanos,
}

impl Crowd {
    /// The clients of a scenario, as a simulation with the same seed has them. Its faults are not theirs.
    pub fn new(
        scenario: &Scenario,
        profiles: &Profiles,
        traces: &[Arc<Trace>],
        seed: u64,
    ) -> Result<Self, CastError> {
        let cast = Cast::new(scenario, profiles, traces, seed)?;
        let report = Report::of(scenario, profiles, &cast, seed);
        let time = |s: f64| ms_to_nanos(s * 1e3);
        let mut crowd = Self::with(cast, report, time(scenario.warmup_s), time(scenario.duration_s));
        let names = profiles.models().map(|name| (identity(name), name.to_owned()));
        crowd.names = names.collect();
        Ok(crowd)
    }

    /// These clients, from 0 to `end`.
    pub(crate) fn of(cast: Cast, warm_up: Nanos, end: Nanos) -> Self {
        let report = Report::of_cast(&cast, end.as_secs(), warm_up.as_secs());
        Self::with(cast, report, warm_up, end)
    }

    fn with(cast: Cast, report: Report, warm_up: Nanos, end: Nanos) -> Self {
        let mut cx = Context::new(report);
        let fleet = Fleet::new(cast, warm_up, end, &mut cx);
        cx.events.at(Nanos::from_millis(1000), Event::Second);
        Crowd {
            fleet,
            cx,
            heard: Heard::default(),
            names: HashMap::new(),
            end,
        }
    }

    /// Each inference that ends is kept.
    pub(crate) fn keep_endings(&mut self) {
        self.cx.ledger.endings = Some(vec![]);
    }

    /// Inferences that phones left out.
    pub(crate) fn skipped(&self) -> u64 {
        self.cx.ledger.report.skipped
    }

    /// Inferences that have ended, in the order of that.
    pub(crate) fn endings(&self) -> &[Ending] {
        self.cx.ledger.endings.as_deref().unwrap_or(&[])
    }

    /// A router says what the server needs of a model from each cut point on, in milliseconds, and what a request costs
    /// it.
    pub fn hears(&mut self, model: &str, server_ms: Vec<f64>, price: Vec<f64>) {
        self.hears_of(identity(model), server_ms, price);
    }

    pub(crate) fn hears_of(&mut self, model: ModelId, server_ms: Vec<f64>, price: Vec<f64>) {
        self.heard.hints.insert(model, (server_ms, price));
    }

    /// Whether a router can be connected to: phones of one that can't run all layers themselves until it can.
    pub fn router_is_there(&mut self, router: u32, there: bool) {
        if there {
            self.heard.gone.remove(&router);
        } else {
            self.heard.gone.insert(router);
        }
    }

    /// When something is due next. `None`: nothing any more, but for what comes back.
    pub fn next_at(&self) -> Option<Nanos> {
        self.cx.events.next_at()
    }

    /// All requests have begun and ended.
    pub fn is_over(&self, now: Nanos) -> bool {
        now >= self.end && self.cx.requests.under_way() == 0
    }

    /// What has been seen so far: inferences that began, that ended in time, requests that were sent, that the server
    /// answered in time.
    pub fn seen(&self) -> (u64, u64, u64, u64) {
        let r = &self.cx.ledger.report;
        (r.inferences, r.in_time, r.server.arrived, r.server.in_time)
    }

    /// All that is due by now happens; what is to be done is added to `doings`.
    pub fn advance(&mut self, now: Nanos, doings: &mut Vec<Doing>) {
        while let Some(at) = self.cx.events.next_at().filter(|at| *at <= now) {
            while let Some(event) = self.cx.events.pop(at) {
                // Links and heads take what they take; what was late in being looked at is sent late.
                self.happens(at.max(now), at, event, doings);
            }
        }
    }

    fn happens(&mut self, now: Nanos, at: Nanos, event: Event, doings: &mut Vec<Doing>) {
        let (fleet, cx) = (&mut self.fleet, &mut self.cx);
        match event {
            // Due when it was to be: latencies count from there.
            Event::Due(client) => fleet.due(at, client, cx),
            Event::Joins(phone) => fleet.joins(at, phone, cx),
            Event::Leaves(phone) => fleet.leaves(at, phone, cx),
            Event::Ran { phone, errand, took } => fleet.ran(at, phone, (errand, took), &self.heard, cx),
            Event::StartsAnyway(ticket) => fleet.start(at, ticket, cx),
            Event::HeadDone(ticket) => fleet.head_done(at, ticket, cx),
            Event::LocalDone(ticket) => fleet.local_done(at, ticket, cx),
            Event::Answered(ticket) => fleet.answered(at, ticket, cx),
            Event::Refused(ticket) => fleet.refused(at, ticket, cx),
            Event::RunsAlone(ticket) => fleet.runs_alone(at, ticket, cx),
            Event::GivenUp(ticket) => {
                if cx.requests.get(ticket).is_some_and(|r| r.place == Place::Hop) {
                    doings.push(Doing::GiveUp(ticket.id()));
                }
                fleet.given_up(now, ticket, cx);
            }
            Event::AtRouter(ticket) => {
                let Some(request) = cx.requests.get(ticket) else {
                    return;
                };
                // What this generator is late by is the server's no less than its own.
                request.at_router = at;
                request.server_deadline = at + request.budget;
                request.place = Place::Hop;
                let left = request.server_deadline - now;
                let (client, point) = (request.client, request.point);
                cx.ledger.arrived(request);
                let asker = fleet.asker(client);
                doings.push(Doing::Send(Dispatch {
                    id: ticket.id(),
                    router: asker.router,
                    model: self.names.get(&asker.model).cloned().unwrap_or_default(),
                    point,
                    budget: left,
                    due: at,
                }));
            }
            Event::Second => {
                let (phones, points) = fleet.second_over();
                let second = cx.ledger.second(at - Nanos(1));
                (second.phones, second.points) = (phones, points);
                if at < self.end {
                    cx.events.at(at + Nanos::from_millis(1000), Event::Second);
                }
            }
            // The server's own doings.
            _ => {}
        }
    }

    /// A request came back: the plan that answered it, or why there is no answer.
    pub fn comes_back(&mut self, now: Nanos, id: RequestId, outcome: Result<Epoch, Status>) {
        let ticket = Ticket::of(id);
        if let Some(request) = self.cx.requests.get(ticket) {
            if let Ok(epoch) = outcome {
                self.cx.ledger.answered_by(request, epoch.0);
            }
            self.fleet
                .comes_back(now, ticket, outcome.map(|_| ()), &mut self.cx);
        }
    }

    /// A request's connection is gone, or it was not answered however long one waited.
    pub fn lost(&mut self, now: Nanos, id: RequestId) {
        self.fleet.lost(now, Ticket::of(id), &mut self.cx);
    }

    /// What came of it. Requests that have not come back are counted as lost.
    pub fn finish(mut self) -> Report {
        self.cx.ledger.report.fragments = self.fleet.streams();
        let at_server = |r: &&Request| r.counted && r.place != Place::Outside;
        let lost = self.cx.requests.all().filter(at_server).count();
        self.cx.ledger.report.server.lost += lost as u64;
        self.cx.ledger.finish()
    }
}
