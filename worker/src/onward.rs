//! From one stage to the next: in memory on this worker, else over to another.

use std::sync::Arc;

use bytes::Bytes;
use graft_plan::Nanos;
use graft_service::Clock;
use graft_transport::CallError;
use graft_wire::{GRACE, Limits, Refused, RunHeader, Status, Timing, Visit, WorkReply, WorkRequest};
use graft_worker_core::Next;

use crate::job::{Activation, Job};
use crate::peers::Peer;

/// A request goes on to its next stage, here or on another worker; after the last it is answered.
pub(crate) fn go_on(mut job: Job, clock: Clock) {
    let route = Arc::clone(&job.route);
    let Some(hop) = route.hops.get(job.at) else {
        let activation = std::mem::replace(&mut job.activation, Activation::taken());
        return job.end(Ok(activation));
    };
    match hop.choose() {
        Some(Next::Here(instance)) => instance.submit(job),
        Some(Next::There(peer)) => {
            let others = hop.peers.iter().filter(|p| p.is_alive() && !p.is(peer));
            let other = others.min_by(|a, b| a.pressure().total_cmp(&b.pressure()));
            hand_over(job, clock, peer.clone(), other.cloned());
        }
        None => job.end(Err(Refused::new(
            Status::Internal,
            "the route's next stage runs nowhere",
        ))),
    }
}

/// Sends a request's tensors to another worker, and brings back what comes of it; where that worker is lost or has not
/// the plan, once more to `other`. If nobody waits for it any more, it is taken back there, too.
fn hand_over(mut job: Job, clock: Clock, peer: Peer, other: Option<Peer>) {
    let mut counted = peer.count();
    let route = Arc::clone(&job.route);
    tokio::spawn(async move {
        let activation = std::mem::replace(&mut job.activation, Activation::taken());
        let input = route.hops.get(job.at).map_or(&route.output, |hop| &hop.input);
        let (dtypes, payload) = match activation.into_bytes(input) {
            Ok(bytes) => bytes,
            Err(refused) => return job.end(Err(refused)),
        };
        let (mut peer, mut other) = (peer, other);
        loop {
            let now = clock.now();
            let header = RunHeader {
                epoch: job.route.epoch,
                route: job.route.number,
                stage: u16::try_from(job.at).unwrap_or(u16::MAX),
                dtypes: dtypes.clone(),
                coded: false,
                time_left: job.final_deadline - now,
                trace: job.trace,
            };
            let (outcome, timing, visits) = tokio::select! {
                // Dropping the call takes the request back.
                () = job.reply.closed() => return,
                came_back = send(&peer, header, payload.clone()) => came_back,
                // Where no other worker could have it, this one may come back to life.
                () = peer.link().silent(), if other.is_some() => {
                    let what = format!("worker {}, which runs the next stage, gives no sign of life", peer.name());
                    (Err(Refused::new(Status::WorkerLost, what)), Timing::default(), vec![])
                }
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
    let name = peer.name();
    let _asking = peer.link().asks();
    let Some(connection) = peer.link().current() else {
        let what = format!("worker {name}, which runs the next stage, is not connected");
        return failed(Refused::new(Status::WorkerLost, what));
    };
    let patience = (header.time_left + GRACE).duration();
    let request = WorkRequest::Run(header);
    match connection
        .call::<_, WorkReply>(&request, payload, Limits::default(), patience)
        .await
    {
        Ok((WorkReply::Answer(answer, visits), bytes)) => {
            let activation = Activation::Bytes(answer.dtypes, Bytes::from(bytes));
            (Ok(activation), answer.timing, visits)
        }
        Ok((WorkReply::Refused(refused, visits), _)) => (Err(refused), Timing::default(), visits),
        Ok((WorkReply::Alive, _)) => failed(Refused::new(
            Status::Internal,
            format!("worker {name} gave a sign of life for an answer"),
        )),
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
