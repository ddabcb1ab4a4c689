//! The way into a worker, over QUIC or in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use graft_model::{Cut, DType};
use graft_plan::{Epoch, Nanos};
use graft_service::Clock;
use graft_telemetry::metrics as names;
use graft_wire::{AnswerHeader, Refused, RunHeader, Status, Timing, Visit, WireType};
use graft_worker_core::{Due, RequestId};
use tokio::sync::oneshot;

use crate::cancel::CancelOnDrop;
use crate::epochs::Epochs;
use crate::held::HeldBytes;
use crate::job::{Activation, Ended, Job, Spent, UnderWay};

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
        let (outcome, visits) = match self.accept(header, payload, start) {
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
        check(&hop.input, header.dtype, payload.len())?;
        let held = self.memory.take(payload.len() as u64).ok_or_else(|| {
            Refused::new(Status::Overloaded, "the worker holds all the tensors that it may")
        })?;
        let id = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let time_left = header.time_left;
        let due = Due::with_guard(start, time_left, &hop.step);
        let (reply, ended) = oneshot::channel();
        let job = Job {
            id,
            route: Arc::clone(&route),
            at,
            activation: Activation::Bytes(header.dtype, payload),
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
        Ok(Waiting {
            ended,
            guard,
            output: route.output.dtype,
        })
    }
}

/// A request that is in the queues.
struct Waiting {
    ended: oneshot::Receiver<Ended>,
    guard: CancelOnDrop,
    /// What the model's output holds.
    output: DType,
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
            let (dtype, bytes) = as_output(activation, self.output)?;
            let header = AnswerHeader {
                dtype,
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

/// Outputs travel as 32-bit floats; integers as the model has them.
fn as_output(activation: Activation, output: DType) -> Result<(WireType, Bytes), Refused> {
    let tensor = match activation {
        // From another worker, which ran the last stage: it is as it should be.
        Activation::Bytes(dtype, bytes) => return Ok((dtype, bytes)),
        Activation::Tensor(tensor) => tensor,
    };
    let dtype = WireType::of(output)
        .filter(|_| tensor.dtype() != DType::F32)
        .unwrap_or(WireType::F32);
    let bytes = tensor
        .to_bytes(dtype.dtype())
        .map_err(|e| Refused::new(Status::Internal, e.to_string()))?;
    Ok((dtype, Bytes::from(bytes)))
}

/// A tensor that does not fit would fail everybody in its batch: it is refused at the door.
fn check(cut: &Cut, dtype: WireType, bytes: usize) -> Result<(), Refused> {
    let sent_float = matches!(dtype, WireType::F32 | WireType::F16);
    let want_float = matches!(cut.dtype, DType::F32 | DType::F16);
    let want = cut.elements.saturating_mul(dtype.dtype().bytes());
    let is_byte = |dtype: DType| matches!(dtype, DType::U8 | DType::I8 | DType::Bool);
    let bytes_fit = !is_byte(cut.dtype) && !is_byte(dtype.dtype()) || cut.dtype == dtype.dtype();
    if sent_float == want_float && bytes_fit && bytes == want {
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
