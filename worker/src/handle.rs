//! The way into a worker, over QUIC or in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use graft_model::{DType, TensorError};
use graft_plan::{Epoch, Nanos};
use graft_service::Clock;
use graft_telemetry::metrics as names;
use graft_wire::{AnswerHeader, Refused, RunHeader, Status, Timing, Visit, WireType};
use graft_worker_core::{Due, RequestId};
use tokio::sync::oneshot;

use crate::cancel::CancelOnDrop;
use crate::epochs::Epochs;
use crate::held::HeldBytes;
use crate::job::{Activation, Ended, Job, RoutePlan, Spent, UnderWay};

/// An answer, or why there is none; and where the request was.
pub type WorkAnswer = (Result<(AnswerHeader, Bytes), Refused>, Vec<Visit>);

/// The way into a worker. Clones lead to the same.
#[derive(Clone)]
pub struct Handle {
    pub(crate) epochs: Arc<ArcSwap<Epochs>>,
    pub(crate) clock: Clock,
    pub(crate) memory: HeldBytes,
    pub(crate) next: Arc<AtomicU64>,
    pub(crate) draining: Arc<AtomicBool>,
}

impl Handle {
    /// Runs one request. Dropping the future takes the request out of the queues.
    pub async fn run(&self, header: RunHeader, payload: Bytes) -> WorkAnswer {
        let start = self.clock.now();
        let epoch = header.epoch;
        let accepted = match header.coded {
            false => self.accept(header, payload, start),
            // Decoding takes a millisecond for a megabyte: not on a thread that others' bytes wait for.
            true => {
                let this = self.clone();
                let accepting = tokio::task::spawn_blocking(move || this.accept(header, payload, start));
                let broken = |e: tokio::task::JoinError| Refused::new(Status::Internal, e.to_string());
                accepting.await.map_err(broken).and_then(|accepted| accepted)
            }
        };
        let (outcome, visits) = match accepted {
            Ok(waiting) => waiting.answer(epoch).await,
            Err(refused) => (Err(refused), vec![]),
        };
        let status = outcome.as_ref().map_or_else(|r| r.status.name(), |_| "ok");
        metrics::counter!(names::WORKER_REQUESTS, "status" => status).increment(1);
        metrics::histogram!(names::WORKER_SECONDS).record((self.clock.now() - start).as_secs());
        (outcome, visits)
    }

    /// Checks a request, and puts it into the queue of its stage.
    fn accept(&self, header: RunHeader, payload: Bytes, start: Nanos) -> Result<Waiting, Refused> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::new(Status::NotReady, "the worker is draining"));
        }
        let epoch = header.epoch;
        let epochs = self.epochs.load();
        let not_here = || {
            let what = format!(
                "plan {epoch} does not run stage {} of route {} here",
                header.stage, header.route
            );
            Refused::new(Status::BadRequest, what)
        };
        let route = epochs
            .get(&epoch)
            .ok_or_else(|| Refused::new(Status::NotReady, format!("plan {epoch} is not prepared here")))?
            .routes
            .get(header.route as usize)
            .cloned()
            .flatten()
            .ok_or_else(not_here)?;
        drop(epochs);
        let at = usize::from(header.stage);
        let hop = route.hops.get(at).ok_or_else(not_here)?;
        let instance = hop.choose_here().cloned().ok_or_else(not_here)?;
        // Tensors that don't fit would fail everybody in their batch: they are refused at the door.
        let bad = |e: TensorError| Refused::new(Status::BadRequest, e.to_string());
        let (types, point) = (WireType::dtypes(&header.dtypes), hop.range.from());
        let decoded_bytes = match header.coded {
            true => hop
                .model
                .check_coded(point, &types, payload.len())
                .map(|()| hop.input.bytes_sent(DType::F32)),
            false => hop.input.check(&types, payload.len()).map(|()| payload.len()),
        };
        let held = self
            .memory
            .take(decoded_bytes.map_err(bad)? as u64)
            .ok_or_else(|| {
                Refused::new(Status::Overloaded, "the worker holds all the tensors that it may")
            })?;
        let payload = match header.coded {
            true => Bytes::from(hop.model.decode(point, &payload).map_err(bad)?),
            false => payload,
        };
        let id = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let time_left = header.time_left;
        let due = Due::with_guard(start, time_left, &hop.step);
        let (reply, ended) = oneshot::channel();
        let job = Job {
            id,
            route: Arc::clone(&route),
            at,
            activation: Activation::Bytes(header.dtypes, payload),
            began: start,
            final_deadline: start + time_left,
            due,
            trace: header.trace,
            entered: start,
            spent: Spent::default(),
            visits: vec![],
            reply,
            _held: held,
            _under_way: UnderWay::new(&route.under_way),
        };
        let guard = CancelOnDrop::arm(id, Arc::clone(&route));
        instance.submit(job);
        Ok(Waiting { ended, guard, route })
    }
}

/// A request that is in the queues.
struct Waiting {
    ended: oneshot::Receiver<Ended>,
    guard: CancelOnDrop,
    route: Arc<RoutePlan>,
}

impl Waiting {
    async fn answer(self, epoch: Epoch) -> WorkAnswer {
        let ended = self.ended.await;
        self.guard.disarm();
        let Ok(Ended {
            outcome,
            spent,
            visits,
        }) = ended
        else {
            let lost = Refused::new(Status::Internal, "the partition lost the request");
            return (Err(lost), vec![]);
        };
        let answer = outcome.and_then(|activation| {
            // What another worker answered, which ran the last stage, is as it should be.
            let (dtypes, bytes) = activation.into_bytes(&self.route.output)?;
            let header = AnswerHeader {
                dtypes,
                epoch,
                timing: Timing {
                    router_ns: 0,
                    queue_ns: spent.queue.0,
                    run_ns: spent.run.0,
                    batch: spent.batch,
                },
            };
            Ok((header, bytes))
        });
        (answer, visits)
    }
}
