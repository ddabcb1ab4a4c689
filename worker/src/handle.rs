//! The way into a worker, over QUIC or in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use graft_model::{Cut, DType};
use graft_plan::{Epoch, Nanos};
use graft_service::Clock;
use graft_telemetry::metrics as names;
use graft_wire::{AnswerHeader, Refused, RunHeader, Status, Timing, WireType};
use graft_worker_core::RequestId;
use tokio::sync::oneshot;

use crate::cancel::CancelOnDrop;
use crate::epochs::Epochs;
use crate::job::{Budget, Input, Job, Spent, UnderWay};

/// An answer, or why there is none.
pub type WorkAnswer = Result<(AnswerHeader, Bytes), Refused>;

/// The way into a worker. Clones lead to the same.
#[derive(Clone)]
pub struct Handle {
    pub(crate) epochs: Arc<ArcSwap<Epochs>>,
    pub(crate) clock: Clock,
    pub(crate) memory: Budget,
    pub(crate) next: Arc<AtomicU64>,
    pub(crate) draining: Arc<AtomicBool>,
}

impl Handle {
    /// Runs one request. Dropping the future takes the request out of the queues.
    pub async fn run(&self, header: RunHeader, payload: Bytes) -> WorkAnswer {
        let start = self.clock.now();
        let outcome = self.route(header, payload, start).await;
        let status = outcome.as_ref().map_or_else(|r| r.status.name(), |_| "ok");
        metrics::counter!(names::WORKER_REQUESTS, "status" => status).increment(1);
        metrics::histogram!(names::WORKER_SECONDS).record((self.clock.now() - start).as_secs());
        outcome
    }

    async fn route(&self, header: RunHeader, payload: Bytes, start: Nanos) -> WorkAnswer {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::new(Status::NotReady, "the worker is draining"));
        }
        let epoch = Epoch(header.epoch);
        let epochs = self.epochs.load();
        let route = epochs
            .get(&epoch)
            .ok_or_else(|| Refused::new(Status::NotReady, format!("plan {epoch} is not prepared here")))?
            .routes
            .get(header.route as usize)
            .cloned()
            .flatten()
            .ok_or_else(|| {
                let what = format!("plan {epoch} has no route {} here", header.route);
                Refused::new(Status::BadRequest, what)
            })?;
        drop(epochs);
        let instance = route
            .hops
            .first()
            .and_then(|h| h.choose())
            .cloned()
            .ok_or_else(|| Refused::new(Status::Internal, "the route has no stage"))?;
        check(&route.input, header.dtype, payload.len())?;
        let held = self.memory.take(payload.len() as u64).ok_or_else(|| {
            Refused::new(Status::Overloaded, "the worker holds all the tensors that it may")
        })?;
        let id = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = oneshot::channel();
        let job = Job {
            id,
            route: Arc::clone(&route),
            at: 0,
            input: Input::Bytes(header.dtype, payload),
            final_deadline: start + Nanos(header.time_left_ns),
            entered: start,
            spent: Spent::default(),
            reply,
            _held: held,
            _under_way: UnderWay::new(&route.under_way),
        };
        let guard = CancelOnDrop::arm(id, Arc::clone(&route));
        instance.submit(job);
        let outcome = answer.await;
        guard.disarm();
        let (tensor, spent) =
            outcome.map_err(|_| Refused::new(Status::Internal, "the partition lost the request"))??;
        let dtype = WireType::of(route.output.dtype)
            .filter(|_| tensor.dtype() != DType::F32)
            .unwrap_or(WireType::F32);
        let bytes = tensor
            .to_bytes(dtype.dtype())
            .map_err(|e| Refused::new(Status::Internal, e.to_string()))?;
        let header = AnswerHeader {
            dtype,
            epoch: epoch.0,
            timing: Timing {
                router_ns: 0,
                queue_ns: spent.queue.0,
                run_ns: spent.run.0,
                batch: spent.batch,
            },
        };
        Ok((header, Bytes::from(bytes)))
    }
}

/// A tensor that does not fit would fail everybody in its batch: it is refused at the door.
fn check(cut: &Cut, dtype: WireType, bytes: usize) -> Result<(), Refused> {
    let sent_float = matches!(dtype, WireType::F32 | WireType::F16);
    let want_float = matches!(cut.dtype, DType::F32 | DType::F16);
    let want = cut.elements.saturating_mul(dtype.dtype().bytes());
    if sent_float == want_float && bytes == want {
        return Ok(());
    }
    let what = format!(
        "{bytes} bytes of {} for {:?} of {}",
        dtype.dtype(),
        cut.shape,
        cut.dtype
    );
    Err(Refused::new(Status::BadRequest, what))
}
