use std::path::Path;
use std::sync::{Condvar, Mutex, mpsc};
use std::time::Instant;

use graft_engine::{
    EmulatedEngine, Engine, EngineError, MemoryUse, PartitionId, PartitionShape, RunEnd, Submitted,
};
use graft_model::{Batch, CutPoint, Model, ModelInfo, ReadOptions, StageRange, samples};
use graft_plan::{Epoch, ModelProfile, Order, Profile, SegmentProfile, Share, Source};
use graft_wire::TraceContext;
use graft_worker_core::{Admission, Due, Leg, Manner, RouteStep, Work};
use tokio::sync::oneshot;

use super::*;
use crate::fence::Fence;
use crate::held::HeldBytes;
use crate::job::{Ended, Hop, RoutePlan, Spent, UnderWay};

/// An engine whose runs hang until they are let go; where it queues them, each end comes when it is let go.
struct Hanging {
    inner: EmulatedEngine,
    queues: bool,
    hangs: Mutex<bool>,
    change: Condvar,
    /// Runs that were put in, in their order, for their ends.
    put: Mutex<Vec<mpsc::Sender<Result<(), EngineError>>>>,
}

/// The end of a queued run.
struct LetGo(mpsc::Receiver<Result<(), EngineError>>);

impl RunEnd for LetGo {
    fn wait(self: Box<Self>) -> Result<(), EngineError> {
        self.0.recv().unwrap_or(Ok(()))
    }
}

impl Hanging {
    fn hangs(&self, hangs: bool) {
        *self.hangs.lock().unwrap() = hangs;
        self.change.notify_all();
    }

    /// How many runs are put in.
    fn put(&self) -> usize {
        self.put.lock().unwrap().len()
    }

    /// The first of those that were put in ends so.
    fn end_first(&self, how: Result<(), EngineError>) {
        self.put.lock().unwrap().remove(0).send(how).unwrap();
    }
}

fn broken() -> Result<(), EngineError> {
    Err(EngineError::Device {
        lost: false,
        cause: "broken".to_owned(),
    })
}

impl Engine for Hanging {
    fn name(&self) -> &'static str {
        self.inner.name()
    }
    fn load(&self, model: &Model) -> Result<(), EngineError> {
        self.inner.load(model)
    }
    fn unload(&self, model: ModelId) -> Result<(), EngineError> {
        self.inner.unload(model)
    }
    fn info(&self, model: ModelId) -> Result<Arc<ModelInfo>, EngineError> {
        self.inner.info(model)
    }
    fn open_partition(&self, shape: &PartitionShape) -> Result<PartitionId, EngineError> {
        self.inner.open_partition(shape)
    }
    fn close_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        self.inner.close_partition(partition)
    }
    fn run(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Batch,
    ) -> Result<Batch, EngineError> {
        let hangs = self.hangs.lock().unwrap();
        drop(self.change.wait_while(hangs, |hangs| *hangs).unwrap());
        self.inner.run(partition, model, range, batch)
    }
    fn queues(&self) -> bool {
        self.queues
    }
    fn submit(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Held,
    ) -> Result<Submitted, EngineError> {
        let (end, waiting) = mpsc::channel();
        let rows = match self.queues {
            true => self.inner.run_held(partition, model, range, batch)?,
            false => self.run_held(partition, model, range, batch)?,
        };
        match self.queues {
            true => self.put.lock().unwrap().push(end),
            false => end.send(Ok(())).unwrap(),
        }
        Ok(Submitted {
            rows,
            end: Box::new(LetGo(waiting)),
        })
    }
    fn memory(&self) -> MemoryUse {
        self.inner.memory()
    }
    fn threads(&self, partition: PartitionId) -> Result<usize, EngineError> {
        self.inner.threads(partition)
    }
}

/// A millisecond for each segment of a network, on one core, one request at a time.
fn profile(info: &ModelInfo) -> Profile {
    let segment = SegmentProfile {
        weights_bytes: 0,
        flops: None,
        ms: vec![vec![1.0]],
    };
    let count = info.last().index();
    let known = ModelProfile {
        cut_bytes: vec![0; count + 1],
        segments: vec![segment; count],
    };
    Profile {
        version: 1,
        device_kind: "test".to_owned(),
        source: Source::Modelled,
        share_total: Share(1),
        shares: vec![Share(1)],
        batches: vec![1],
        stage_overhead_ms: 0.0,
        hop_ms: 0.0,
        models: [(info.id.to_string(), known)].into(),
    }
}

/// A partition whose engine hangs, and requests for it.
struct Around {
    engine: Arc<Hanging>,
    partition: Addr<PartitionActor>,
    counts: Arc<PartitionCounts>,
    route: Arc<RoutePlan>,
    clock: Clock,
    held: HeldBytes,
    sent: u64,
}

impl Around {
    /// `chunk_ms`: what a chunk may take of segments of a millisecond; 0: all run at once.
    fn new(queues: bool, chunk_ms: f64) -> Self {
        let (name, bytes) = samples::all().remove(0);
        let model = Model::parse(Path::new(name), &bytes, &ReadOptions::default()).unwrap();
        let info = model.info();
        let (profile, id) = (profile(info), info.id.to_string());
        let engine = Arc::new(Hanging {
            inner: EmulatedEngine::new(profile.clone()),
            queues,
            hangs: Mutex::new(true),
            change: Condvar::new(),
            put: Mutex::default(),
        });
        engine.load(&model).unwrap();
        let its_engine = Arc::clone(&engine) as Arc<dyn Engine>;
        let fence = Fence::new(&its_engine, &PartitionShape::units(1)).unwrap();
        let range = StageRange::new(CutPoint(0), info.last()).unwrap();
        let manner = Manner {
            share: Share(1),
            order: Order::Edf,
            quantum_ms: chunk_ms,
            admission: Admission::Off,
        };
        let work = Work {
            model: &id,
            range,
            batch: 1,
        };
        let (clock, counts) = (Clock::start(), Arc::default());
        let (actor, _) = PartitionActor::new(PartitionParts {
            name: "1/p0".to_owned(),
            worker: "w".to_owned(),
            id: "p0".to_owned(),
            spec: PartitionSpec::new(manner, [work], &profile).unwrap(),
            models: vec![info.id],
            place: Place {
                fence: Arc::new(fence),
                device: 0,
            },
            clock,
            corrections: Arc::new(CostCorrections::new(&[], "")),
            observed: Arc::default(),
            counts: Arc::clone(&counts),
        });
        let leg = Leg {
            instances: vec![],
            alone: Nanos::from_millis(1),
            deadline: Nanos::from_millis(60_000),
        };
        let hop = Hop {
            model: Arc::clone(info),
            range,
            input: info.cuts[0].clone(),
            instances: vec![],
            peers: vec![],
            step: RouteStep::of_route(Nanos::ZERO, vec![leg]).remove(0),
        };
        let route = RoutePlan {
            epoch: Epoch(1),
            number: 0,
            output: info.cuts[info.last().index()].clone(),
            under_way: Arc::default(),
            hops: vec![hop],
        };
        Around {
            engine,
            partition: actor.start(),
            counts,
            route: Arc::new(route),
            clock,
            held: HeldBytes::new(1 << 30),
            sent: 0,
        }
    }

    /// A request with a minute's time.
    fn send(&mut self) -> oneshot::Receiver<Ended> {
        let (reply, answer) = oneshot::channel();
        let now = self.clock.now();
        let deadline = now + Nanos::from_millis(60_000);
        self.sent += 1;
        let job = Job {
            id: RequestId(self.sent),
            route: Arc::clone(&self.route),
            at: 0,
            activation: Activation::Held(
                0,
                Held::Host(Batch::pseudo_random(&self.route.hops[0].input, 1, 5)),
            ),
            began: now,
            final_deadline: deadline,
            due: Due::at(deadline),
            trace: TraceContext::new(1, 1),
            entered: now,
            spent: Spent::default(),
            visits: vec![],
            reply,
            _held: self.held.take(1).unwrap(),
            _under_way: UnderWay::new(&self.route.under_way),
        };
        let stage = StageIndex(0);
        self.partition.do_send(Submit { stage, job });
        answer
    }

    fn is_silent(&self) -> bool {
        self.counts.take("p0", Duration::from_secs(1)).silent
    }
}

fn status(ended: Ended) -> Result<(), Status> {
    ended.outcome.map(drop).map_err(|refused| refused.status)
}

#[actix::test]
async fn whoever_waits_for_an_engine_that_hangs_is_told_and_served_again_when_it_answers() {
    let mut around = Around::new(false, 0.0);
    let waiting = [around.send(), around.send(), around.send()];
    let patience = SILENT_AFTER.duration() + 5 * WATCH_EVERY;
    for answer in waiting {
        let ended = tokio::time::timeout(patience, answer)
            .await
            .expect("told in time");
        assert_eq!(status(ended.unwrap()), Err(Status::WorkerLost));
    }
    assert!(around.is_silent(), "the planner is told with the next report");
    let at_once = Duration::from_secs(1);
    let refused = tokio::time::timeout(at_once, around.send())
        .await
        .expect("told at once");
    assert_eq!(status(refused.unwrap()), Err(Status::WorkerLost));

    around.engine.hangs(false);
    let start = Instant::now();
    while around.is_silent() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "it answers, and stays silent"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let served = tokio::time::timeout(at_once, around.send())
        .await
        .expect("served at once");
    assert_eq!(status(served.unwrap()), Ok(()));
    assert_eq!(
        around.route.under_way.load(Ordering::SeqCst),
        0,
        "nobody counts as under way"
    );
}

/// Waits until so many runs are on the device.
async fn until_put(around: &Around, runs: usize) {
    let start = Instant::now();
    while around.engine.put() < runs {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{} of {runs} runs are put in",
            around.engine.put()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // One more would come now.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(around.engine.put(), runs, "a device has two chunks at most");
}

async fn told(answer: oneshot::Receiver<Ended>) -> Result<(), Status> {
    let ended = tokio::time::timeout(Duration::from_secs(5), answer).await;
    status(ended.expect("told in time").expect("told"))
}

#[actix::test]
async fn the_next_chunk_is_on_the_device_before_the_one_that_runs_ends() {
    let mut around = Around::new(true, 1.0);
    let (first, second) = (around.send(), around.send());
    // The first request's chunks, one after the other: with each that ends another is put in, and the second request's follow.
    let chunks = around.route.hops[0].range.segments().len() * 2;
    for left in (1..=chunks).rev() {
        until_put(&around, left.min(2)).await;
        around.engine.end_first(Ok(()));
    }
    assert_eq!((told(first).await, told(second).await), (Ok(()), Ok(())));
    assert_eq!(around.route.under_way.load(Ordering::SeqCst), 0);
}

#[actix::test]
async fn a_chunk_that_fails_costs_its_own_request_and_no_other() {
    // All at once: the next chunk is another request's.
    let mut around = Around::new(true, 0.0);
    let (first, second) = (around.send(), around.send());
    until_put(&around, 2).await;
    around.engine.end_first(broken());
    assert_eq!(told(first).await, Err(Status::WorkerLost));
    around.engine.end_first(Ok(()));
    assert_eq!(told(second).await, Ok(()));

    // In chunks: the next one is the same request's.
    let mut around = Around::new(true, 1.0);
    let first = around.send();
    until_put(&around, 2).await;
    let second = around.send();
    around.engine.end_first(broken());
    assert_eq!(told(first).await, Err(Status::WorkerLost));
    around.engine.end_first(broken());
    let chunks = around.route.hops[0].range.segments().len();
    for left in (1..=chunks).rev() {
        until_put(&around, left.min(2)).await;
        around.engine.end_first(Ok(()));
    }
    assert_eq!(told(second).await, Ok(()));
    assert_eq!(around.route.under_way.load(Ordering::SeqCst), 0);
}

#[actix::test]
async fn a_request_that_is_cancelled_while_its_next_chunk_is_on_the_device_is_let_go() {
    let mut around = Around::new(true, 1.0);
    let first = around.send();
    until_put(&around, 2).await;
    let id = RequestId(around.sent);
    let second = around.send();
    around.partition.do_send(Cancel(id));
    around.engine.end_first(Ok(()));
    around.engine.end_first(Ok(()));
    let chunks = around.route.hops[0].range.segments().len();
    for left in (1..=chunks).rev() {
        until_put(&around, left.min(2)).await;
        around.engine.end_first(Ok(()));
    }
    assert_eq!(told(second).await, Ok(()));
    assert!(first.await.is_err(), "nobody answers what nobody waits for");
    assert_eq!(around.route.under_way.load(Ordering::SeqCst), 0);
}

#[actix::test]
async fn a_plan_that_is_retired_answers_what_is_on_the_device() {
    let mut around = Around::new(true, 0.0);
    let (first, second) = (around.send(), around.send());
    until_put(&around, 2).await;
    around.partition.do_send(Drain {
        patience: Duration::from_secs(10),
        under_way: Arc::clone(&around.route.under_way),
    });
    tokio::time::sleep(3 * DRAIN_LOOK).await;
    around.engine.end_first(Ok(()));
    tokio::time::sleep(3 * DRAIN_LOOK).await;
    around.engine.end_first(Ok(()));
    assert_eq!((told(first).await, told(second).await), (Ok(()), Ok(())));
    tokio::time::sleep(5 * DRAIN_LOOK).await;
    assert!(!around.partition.connected(), "then it ends");
}
