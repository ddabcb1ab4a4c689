//! What clients do: begin, run the head, hand over, wait, fall back.
//!
//! A phone decides by `graft-client-core`, as the library in an app does.

use std::collections::BTreeSet;

use graft_client_core::{Errand, Handing, Hints, LinkEstimate, Local, Start};
use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Nanos, ms_to_nanos, nanos_to_ms};
use graft_router_core::Source;
use graft_wire::Status;
use graft_worker_core::Due;

use crate::cast::Cast;
use crate::context::Context;
use crate::events::Event;
use crate::requests::{Place, Request, Ticket};

/// Inferences at most whose layers a phone runs or keeps waiting; one more is left out, as a camera leaves frames out.
const MOST_HEADS: u32 = 2;

/// How the request of a client that has no layers ends without an answer.
const REFUSED: &str = "refused";

/// How an inference ends whose answer did not come before the phone had run the rest.
const NO_ANSWER: &str = "local, no answer";

/// What routers say that the server needs.
pub(crate) trait Words {
    /// Milliseconds from each cut point on; empty: not known.
    fn hints(&self, router: u32, model: &ModelId) -> Hints<'_>;

    /// A router can be connected to.
    fn is_there(&self, router: u32) -> bool;
}

/// All clients.
pub(crate) struct Fleet {
    cast: Cast,
    end: Nanos,
    warm_up: Nanos,
    /// Points at which something was handed over in this second.
    points: BTreeSet<(ModelId, CutPoint)>,
    here: u64,
}

/// A client that goes through a router.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    pub router: u32,
    pub model: ModelId,
    /// A phone is behind an address of its own; a stream is many clients.
    pub source: Option<Source>,
}

impl Fleet {
    pub fn new(cast: Cast, warm_up: Nanos, end: Nanos, cx: &mut Context) -> Self {
        for (i, at) in cast.joins.iter().enumerate() {
            cx.events.at(*at, Event::Joins(i as u32));
        }
        let mut fleet = Fleet {
            cast,
            end,
            warm_up,
            points: BTreeSet::new(),
            here: 0,
        };
        for i in 0..fleet.cast.streams.len() {
            fleet.plan_next((fleet.cast.phones.len() + i) as u32, cx);
        }
        fleet
    }

    /// Clients at fixed points: id, requests, in time.
    pub fn streams(&self) -> Vec<(String, u64, u64)> {
        let streams = self.cast.streams.iter();
        streams.map(|s| (s.id.clone(), s.requests, s.in_time)).collect()
    }

    pub fn asker(&self, client: u32) -> Asker {
        let at = client as usize;
        match self.cast.phones.get(at) {
            Some(p) => Asker {
                router: p.router,
                model: p.model,
                source: Some(Source {
                    group: u128::from(client),
                    connection: 0,
                }),
            },
            None => {
                let s = &self.cast.streams[at - self.cast.phones.len()];
                Asker {
                    router: s.router,
                    model: s.model,
                    source: None,
                }
            }
        }
    }

    /// What happened in the second that is over.
    pub fn second_over(&mut self) -> (u64, u64) {
        let points = self.points.len() as u64;
        self.points.clear();
        (self.here, points)
    }

    fn plan_next(&mut self, client: u32, cx: &mut Context) {
        let at = client as usize;
        let phones = self.cast.phones.len();
        let process = match self.cast.phones.get_mut(at) {
            Some(phone) => {
                phone.due = false;
                &mut phone.process
            }
            None => &mut self.cast.streams[at - phones].process,
        };
        if let Some(next) = process.next()
            && next < self.end.0
        {
            cx.events.at(Nanos(next), Event::Due(client));
            if let Some(phone) = self.cast.phones.get_mut(at) {
                phone.due = true;
            }
        }
    }

    pub fn joins(&mut self, now: Nanos, phone: u32, cx: &mut Context) {
        let p = &mut self.cast.phones[phone as usize];
        if std::mem::replace(&mut p.here, true) {
            return;
        }
        self.here += 1;
        p.process.skip_to(now.0);
        // It connects anew.
        p.pilot.disconnected(now);
        if let Some(stay) = p.stay {
            cx.events.at(now + stay, Event::Leaves(phone));
        }
        let due = p.due;
        self.run_errands(now, phone, cx);
        if !due {
            self.plan_next(phone, cx);
        }
    }

    pub fn leaves(&mut self, now: Nanos, phone: u32, cx: &mut Context) {
        let p = &mut self.cast.phones[phone as usize];
        p.here = false;
        self.here -= 1;
        if let Some(away) = p.away {
            cx.events.at(now + away, Event::Joins(phone));
        }
    }

    /// A phone begins the errand that is due.
    fn run_errands(&mut self, now: Nanos, phone: u32, cx: &mut Context) {
        let p = &mut self.cast.phones[phone as usize];
        if let Some(errand) = p.pilot.errand(now) {
            let trip = ms_to_nanos(p.link.rtt_ms(now));
            let longest = errand.patience();
            let (takes, took) = match errand {
                // A connection takes a round trip, what is exchanged in it another.
                Errand::Connect | Errand::Describe => (trip, None),
                Errand::Probe => {
                    // On the uplink, after what it has.
                    let (_, there) = p.send(now, LinkEstimate::PROBE_BYTES as u64);
                    let full = there + p.link.half_trip(there) - now;
                    p.link_free = p.link_free.min(now + longest);
                    let took = (full <= longest).then(|| (nanos_to_ms(trip), nanos_to_ms(full)));
                    (trip + full.min(longest), took)
                }
            };
            cx.events
                .at(now + takes.min(longest), Event::Ran { phone, errand, took });
        }
    }

    /// A phone has run an errand.
    pub fn ran(
        &mut self,
        now: Nanos,
        phone: u32,
        (errand, took): (Errand, Option<(f64, f64)>),
        words: &dyn Words,
        cx: &mut Context,
    ) {
        let p = &mut self.cast.phones[phone as usize];
        let is_there = words.is_there(p.router);
        match errand {
            Errand::Connect => p.pilot.connected(now, is_there),
            Errand::Probe => p.pilot.probed(now, took.filter(|_| is_there)),
            Errand::Describe => {
                let hints = words.hints(p.router, &p.model);
                let told = is_there.then(|| (hints.server_ms.to_vec(), hints.price.to_vec()));
                p.pilot.described(now, told);
            }
        }
        self.run_errands(now, phone, cx);
        for ticket in std::mem::take(&mut self.cast.phones[phone as usize].waiting) {
            self.start(now, ticket, cx);
        }
    }

    pub fn due(&mut self, now: Nanos, client: u32, cx: &mut Context) {
        self.plan_next(client, cx);
        let phones = self.cast.phones.len();
        if client as usize >= phones {
            self.stream_due(now, client, cx);
            return;
        }
        let counted = now >= self.warm_up;
        let p = &mut self.cast.phones[client as usize];
        if !p.here {
            return;
        }
        if p.heads >= MOST_HEADS {
            cx.ledger.second(now).skipped += 1;
            cx.ledger.report.skipped += u64::from(counted);
            return;
        }
        p.heads += 1;
        p.pilot.begins(now);
        let request = Request {
            deadline: now + p.slo,
            ..begun(client, now, counted)
        };
        cx.ledger.began(&request);
        let ticket = cx.requests.add(request);
        self.run_errands(now, client, cx);
        self.start(now, ticket, cx);
    }

    /// An inference begins with its head, or waits for the router.
    pub fn start(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket).filter(|r| !r.is_started) else {
            return;
        };
        let p = &mut self.cast.phones[request.client as usize];
        match p.pilot.start(now, request.started, &p.layers) {
            Start::Wait(until) => {
                p.waiting.push(ticket);
                cx.events.at(until, Event::StartsAnyway(ticket));
            }
            Start::Run(point, local) => {
                request.is_started = true;
                request.point = point;
                request.why = local.map_or("", why);
                let done = p.run_head(now, point);
                cx.events.at(done, Event::HeadDone(ticket));
            }
        }
    }

    fn stream_due(&mut self, now: Nanos, client: u32, cx: &mut Context) {
        let s = &mut self.cast.streams[client as usize - self.cast.phones.len()];
        let request = Request {
            deadline: now + s.budget,
            budget: s.budget,
            point: s.point,
            sent: now,
            ..begun(client, now, now >= self.warm_up)
        };
        s.requests += u64::from(request.counted);
        self.points.insert((s.model, s.point));
        cx.ledger.began(&request);
        cx.ledger.handed_over(&request, 0);
        let ticket = cx.requests.add(request);
        cx.events.at(now, Event::AtRouter(ticket));
    }

    pub fn head_done(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        let p = &mut self.cast.phones[request.client as usize];
        p.heads -= 1;
        if request.point == p.last() {
            let why = request.why;
            self.ended(now, ticket, why, cx);
            return;
        }
        let bytes = p.bytes(request.point);
        let handing = p
            .pilot
            .hand_over(now, request.started, request.point, bytes, &p.layers);
        let Handing {
            budget, alone_after, ..
        } = match handing {
            Ok(handing) => handing,
            Err(local) => {
                self.fall_back(now, ticket, why(local), cx);
                return;
            }
        };
        request.budget = budget;
        request.sent = now;
        let (sending, there) = p.send(now, bytes);
        request.sending = sending;
        self.points.insert((p.model, request.point));
        cx.ledger.handed_over(request, bytes);
        cx.events.at(there, Event::AtRouter(ticket));
        cx.events.at(now + alone_after, Event::RunsAlone(ticket));
    }

    /// The server is done with a request: the answer, or why there is none, goes back.
    pub fn comes_back(&mut self, now: Nanos, ticket: Ticket, outcome: Result<(), Status>, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        request.place = Place::Outside;
        request.answered = now;
        cx.ledger.served(request, outcome);
        let at = request.client as usize;
        let Some(phone) = self.cast.phones.get(at) else {
            let s = &mut self.cast.streams[at - self.cast.phones.len()];
            let in_time = outcome.is_ok() && now <= request.deadline;
            s.in_time += u64::from(in_time && request.counted);
            let end = if outcome.is_ok() { "served" } else { REFUSED };
            self.ended(now, ticket, end, cx);
            return;
        };
        let back = phone.link.half_trip(now);
        match outcome {
            Ok(()) => {
                let time = back + phone.link.sending(now, phone.layers.answer_bytes);
                cx.events.at(now + time, Event::Answered(ticket));
            }
            Err(_) => cx.events.at(now + back, Event::Refused(ticket)),
        }
    }

    /// A request is lost: its client hears nothing of it, but that the connection is gone.
    pub fn lost(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        request.place = Place::Outside;
        request.answered = now;
        cx.ledger.lost(request);
        if let Some(phone) = self.cast.phones.get_mut(request.client as usize) {
            phone.pilot.no_answer(now);
            phone.pilot.disconnected(now);
            let why = "local, the connection was lost";
            request.why = why;
            if !request.runs_alone {
                self.fall_back(now, ticket, why, cx);
            }
        } else {
            self.ended(now, ticket, REFUSED, cx);
        }
    }

    pub fn answered(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        let p = &mut self.cast.phones[request.client as usize];
        let server = request.answered - request.at_router;
        let on_the_way = now - request.sent - server;
        let bytes = p.bytes(request.point);
        p.pilot.answered(now, bytes, on_the_way, &p.layers);
        self.ended(now, ticket, "served", cx);
    }

    pub fn refused(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        let why = "local, refused by the server";
        request.why = why;
        let runs_alone = request.runs_alone;
        // A refusal after that is no sign that the router answers in time.
        if !runs_alone {
            self.cast.phones[request.client as usize].pilot.refused(now);
            self.fall_back(now, ticket, why, cx);
        }
    }

    /// There is no answer yet: the phone runs the rest, too.
    pub fn runs_alone(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        request.runs_alone = true;
        request.why = NO_ANSWER;
        let p = &mut self.cast.phones[request.client as usize];
        p.pilot.no_answer(now);
        p.heads += 1;
        let done = p.run(now, request.point, p.last());
        cx.events.at(done, Event::GivenUp(ticket));
    }

    /// The phone waits no longer: it has run the rest.
    pub fn given_up(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        let Some(request) = cx.requests.get(ticket) else {
            return;
        };
        let arrived = request.at_router != Nanos::ZERO;
        if arrived && request.answered == Nanos::ZERO {
            cx.ledger.given_up(request);
        }
        let phone = &mut self.cast.phones[request.client as usize];
        if !arrived {
            // It was still being sent, or to be: if none is behind it, the uplink is free for the next.
            if phone.link_free == request.sending.1 {
                phone.link_free = phone.link_free.min(now.max(request.sending.0));
            }
        }
        let why = request.why;
        self.ended(now, ticket, why, cx);
    }

    /// All layers that are left run on the phone.
    fn fall_back(&mut self, now: Nanos, ticket: Ticket, why: &'static str, cx: &mut Context) {
        // From here on the request is another: what was sent about the first one finds nothing.
        let Some(mut request) = cx.requests.remove(ticket) else {
            return;
        };
        let p = &mut self.cast.phones[request.client as usize];
        p.heads += 1;
        let done = p.run(now, request.point, p.last());
        request.runs_alone = true;
        (request.why, request.place) = (why, Place::Outside);
        let ticket = cx.requests.add(request);
        cx.events.at(done, Event::LocalDone(ticket));
    }

    pub fn local_done(&mut self, now: Nanos, ticket: Ticket, cx: &mut Context) {
        if let Some(why) = cx.requests.get(ticket).map(|r| r.why) {
            self.ended(now, ticket, why, cx);
        }
    }

    fn ended(&mut self, now: Nanos, ticket: Ticket, how: &'static str, cx: &mut Context) {
        if let Some(request) = cx.requests.remove(ticket) {
            // Who was refused has nothing, however early.
            if let Some(p) = self.cast.phones.get_mut(request.client as usize) {
                p.heads -= u32::from(request.runs_alone);
            }
            let in_time = how != REFUSED && now <= request.deadline;
            cx.ledger.ended(now, &request, how, in_time);
        }
    }
}

/// How an inference ends whose layers all run on the phone.
fn why(local: Local) -> &'static str {
    match local {
        Local::FasterAlone => "local, by choice",
        Local::NoPlan => "local, no plan yet",
        Local::Unreachable => "local, not connected",
        Local::InDoubt => "local, the router did not answer lately",
        Local::NoTime => "local, no time left for the server",
    }
}

fn begun(client: u32, now: Nanos, counted: bool) -> Request {
    Request {
        is_started: false,
        client,
        started: now,
        counted,
        deadline: now,
        point: CutPoint(0),
        sent: Nanos::ZERO,
        sending: (Nanos::ZERO, Nanos::ZERO),
        budget: Nanos::ZERO,
        at_router: Nanos::ZERO,
        server_deadline: Nanos::ZERO,
        due: Due::at(Nanos::ZERO),
        answered: Nanos::ZERO,
        epoch: Epoch(0),
        route: 0,
        worker: 0,
        step: 0,
        place: Place::Outside,
        router: 0,
        passage: None,
        runs_alone: false,
        why: "",
    }
}
