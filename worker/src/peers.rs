//! Other workers that run stages of the same routes: the hand-over from one host to another.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use graft_plan::Nanos;
use graft_service::Clock;
use graft_transport::{CallError, Endpoint, Link, Protocol, Role};
use graft_wire::{Limits, Refused, RunHeader, Status, Timing, Visit, WorkReply, WorkRequest};

use crate::job::{Activation, Job};

/// An answer is waited for so much longer than the deadline: it may be on its way.
const GRACE: Duration = Duration::from_millis(20);

/// Another worker that runs a stage.
#[derive(Clone)]
pub(crate) struct Peer {
    link: Arc<Link>,
    name: String,
    /// On so many of its partitions.
    partitions: usize,
    /// Requests of the route that were handed over, and have not come back.
    in_flight: Arc<AtomicUsize>,
}

/// Counts a request that was handed over.
struct HandedOver(Arc<AtomicUsize>);

impl Drop for HandedOver {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peer {
    pub fn new(link: Arc<Link>, name: String, partitions: usize) -> Self {
        Peer {
            link,
            name,
            partitions,
            in_flight: Arc::default(),
        }
    }

    pub fn is_connected(&self) -> bool {
        self.link.current().is_some()
    }

    /// Requests for each of its partitions.
    pub fn pressure(&self) -> f64 {
        self.in_flight.load(Ordering::Relaxed) as f64 / self.partitions.max(1) as f64
    }

    /// The same worker.
    pub fn is(&self, other: &Peer) -> bool {
        Arc::ptr_eq(&self.link, &other.link)
    }

    fn count(&self) -> HandedOver {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        HandedOver(Arc::clone(&self.in_flight))
    }
}

/// Sends a request's tensor to another worker, and brings back what comes of it; where that worker is lost or has not
/// the plan, once more to `other`. If nobody waits for it any more, it is taken back there, too.
pub(crate) fn hand_over(mut job: Job, clock: Clock, peer: Peer, other: Option<Peer>) {
    let mut counted = peer.count();
    tokio::spawn(async move {
        let activation = std::mem::replace(&mut job.activation, Activation::taken());
        let (dtype, payload) = match activation.into_bytes() {
            Ok(bytes) => bytes,
            Err(refused) => return job.end(Err(refused)),
        };
        let (mut peer, mut other) = (peer, other);
        loop {
            let now = clock.now();
            let header = RunHeader {
                epoch: job.route.epoch.0,
                route: job.route.number,
                stage: u16::try_from(job.at).unwrap_or(u16::MAX),
                dtype,
                time_left_ns: (job.final_deadline - now).0,
                trace: job.trace,
            };
            let (outcome, timing, visits) = tokio::select! {
                // Dropping the call takes the request back.
                () = job.reply.closed() => return,
                came_back = send(&peer, header, payload.clone()) => came_back,
            };
            let offset = now - job.began;
            job.visits.extend(visits.into_iter().map(|v| later(v, offset)));
            let again = |r: &Refused| matches!(r.status, Status::WorkerLost | Status::NotReady);
            if outcome.as_ref().is_err_and(again)
                && clock.now() < job.final_deadline
                && let Some(next) = other.take()
            {
                counted = next.count();
                peer = next;
                continue;
            }
            job.spent.queue += Nanos(timing.queue_ns);
            job.spent.run += Nanos(timing.run_ns);
            job.spent.batch = job.spent.batch.max(timing.batch);
            drop(counted);
            return job.end(outcome);
        }
    });
}

/// A visit, with times from an earlier begin.
fn later(mut visit: Visit, offset: Nanos) -> Visit {
    visit.entered_ns = visit.entered_ns.saturating_add(offset.0);
    for at in visit.started_ns.iter_mut().chain(&mut visit.done_ns) {
        *at = at.saturating_add(offset.0);
    }
    for chunk in &mut visit.chunks {
        chunk.started_ns = chunk.started_ns.saturating_add(offset.0);
    }
    visit
}

type CameBack = (Result<Activation, Refused>, Timing, Vec<Visit>);

async fn send(peer: &Peer, header: RunHeader, payload: Bytes) -> CameBack {
    let failed = |refused| (Err(refused), Timing::default(), vec![]);
    let name = &peer.name;
    let Some(connection) = peer.link.current() else {
        let what = format!("worker {name}, which runs the next stage, is not connected");
        return failed(Refused::new(Status::WorkerLost, what));
    };
    let patience = Nanos(header.time_left_ns).duration() + GRACE;
    let request = WorkRequest::Run(header);
    match connection
        .call::<_, WorkReply>(&request, payload, Limits::default(), patience)
        .await
    {
        Ok((WorkReply::Answer(answer, visits), bytes)) => {
            let activation = Activation::Bytes(answer.dtype, Bytes::from(bytes));
            (Ok(activation), answer.timing, visits)
        }
        Ok((WorkReply::Refused(refused, visits), _)) => (Err(refused), Timing::default(), visits),
        Err(CallError::TimedOut(_)) => {
            let what = format!("worker {name} did not answer before the deadline");
            failed(Refused::new(Status::Late, what))
        }
        Err(error) => failed(Refused::new(
            Status::WorkerLost,
            format!("worker {name}, which ran the next stage, is gone: {error}"),
        )),
    }
}

/// Connections to other workers; plans share them. One that no plan uses any more is closed.
pub(crate) struct Peers {
    endpoint: Endpoint,
    links: HashMap<(String, SocketAddr), Weak<Link>>,
}

impl Peers {
    pub fn new(endpoint: Endpoint) -> Self {
        Peers {
            endpoint,
            links: HashMap::new(),
        }
    }

    /// The connection to a worker.
    pub fn link(&mut self, name: &str, address: SocketAddr) -> Arc<Link> {
        self.links.retain(|_, link| link.strong_count() > 0);
        let key = (name.to_owned(), address);
        if let Some(link) = self.links.get(&key).and_then(Weak::upgrade) {
            return link;
        }
        let open = Link::open(
            self.endpoint.clone(),
            address,
            Role::Worker,
            Protocol::Work,
            |_| {},
        );
        let link = Arc::new(open);
        self.links.insert(key, Arc::downgrade(&link));
        link
    }
}
