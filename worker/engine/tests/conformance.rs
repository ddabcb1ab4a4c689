//! The kit finds engines that don't do what they must, and takes one that keeps its batches on a device.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use graft_engine::conformance::{Failure, check};
use graft_engine::{
    Cause, DeviceBatch, Engine, EngineError, Held, MemoryUse, PartitionId, PartitionShape, RtenEngine,
    usable_cores,
};
use graft_model::{
    Batch, CutPoint, Elements, Model, ModelId, ModelInfo, Precision, ReadOptions, StageRange, Tensor, samples,
};

fn model() -> Model {
    let bytes = samples::mlp(3, 8);
    Model::parse("mlp".as_ref(), &bytes, &ReadOptions::default()).expect("samples are well-formed")
}

fn failures(engine: &dyn Engine) -> Vec<Failure> {
    check(engine, &model(), &PartitionShape::cores(&usable_cores()[..1])).unwrap()
}

/// What is wrong with an engine: the kit must find it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Noise in every tail.
    Noise,
    /// A panic where an error is due.
    Panic,
    /// Nothing is run: all numbers are 0.
    Nothing,
    /// What is run is not what was asked for: the range begins a segment later, where the shape allows it.
    Later,
    /// The answer to the first batch of a range and size is given for ever.
    Stale,
    /// Computed in 32 bits, given back in 16: another precision than it says.
    Coarse,
    /// Requests of several batches come together in another order.
    Shuffled,
}

/// Answers by model, range and number of requests.
type Seen = HashMap<(ModelId, StageRange, usize), Batch>;

struct Faulty {
    inner: RtenEngine,
    fault: Fault,
    seen: Mutex<Seen>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Faulty {
            inner: RtenEngine::new(),
            fault,
            seen: Mutex::default(),
        }
    }

    fn changed(batch: &Batch, change: impl Fn(f32) -> f32) -> Batch {
        let tensors = batch.tensors().iter().map(|t| {
            let values = t.numbers().map(|v| change(v as f32)).collect();
            Tensor::new(t.requests(), t.shape().to_vec(), Elements::F32(values)).unwrap()
        });
        Batch::new(tensors.collect()).unwrap()
    }
}

impl Engine for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
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
        let later = StageRange::new(CutPoint(range.from().0 + 1), range.to());
        if let Some(later) = later.filter(|_| self.fault == Fault::Later)
            && let Ok(out) = self.inner.run(partition, model, later, batch.clone())
        {
            return Ok(out);
        }
        let out = self.inner.run(partition, model, range, batch);
        if self.fault == Fault::Panic {
            return Ok(out.expect("a batch of the model's shape"));
        }
        let out = out?;
        Ok(match self.fault {
            Fault::Noise if range.from().0 > 0 => Faulty::changed(&out, |v| v + 0.01),
            Fault::Nothing => Faulty::changed(&out, |_| 0.0),
            Fault::Coarse => Faulty::changed(&out, |v| half::f16::from_f32(v).to_f32()),
            Fault::Stale => {
                let mut seen = self.seen.lock().unwrap();
                seen.entry((model, range, out.requests())).or_insert(out).clone()
            }
            _ => out,
        })
    }
    fn join(
        &self,
        _: PartitionId,
        _: ModelId,
        range: StageRange,
        mut parts: Vec<Held>,
    ) -> Result<Held, EngineError> {
        if self.fault == Fault::Shuffled {
            parts.sort_by_key(|part| std::cmp::Reverse(part.requests()));
            parts.reverse();
            parts.swap(0, 1);
        }
        Held::join_on_host(parts, range).map(Held::Host)
    }
    fn memory(&self) -> MemoryUse {
        self.inner.memory()
    }
    fn threads(&self, partition: PartitionId) -> Result<usize, EngineError> {
        self.inner.threads(partition)
    }
}

#[test]
fn an_engine_that_does_not_do_what_it_must_is_found_out() {
    for (fault, demand) in [
        (Fault::Noise, "head and tail equal the whole"),
        (Fault::Panic, "a panic is an error"),
        (Fault::Nothing, "answers are right"),
        (Fault::Later, "answers are right"),
        (Fault::Stale, "answers are right"),
        (Fault::Coarse, "answers are right"),
        (Fault::Shuffled, "a batch that is kept equals one of the host"),
    ] {
        let found = failures(&Faulty::new(fault));
        assert!(found.iter().any(|f| f.demand == demand), "{fault:?}: {found:#?}");
    }
}

/// An engine whose batches stay on its device, which is a list of them here: nobody else reads them.
struct Remote {
    inner: RtenEngine,
    device: Arc<Mutex<HashMap<usize, Batch>>>,
    next: AtomicUsize,
    brought: Arc<AtomicUsize>,
}

/// Rows of a batch on the device.
struct OnDevice {
    device: Arc<Mutex<HashMap<usize, Batch>>>,
    brought: Arc<AtomicUsize>,
    number: usize,
    next: Arc<dyn Fn() -> usize + Send + Sync>,
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        self.device.lock().unwrap().remove(&self.number);
    }
}

impl DeviceBatch for OnDevice {
    fn requests(&self) -> usize {
        self.device.lock().unwrap()[&self.number].requests()
    }
    fn row(&self, row: usize) -> Option<Box<dyn DeviceBatch>> {
        let one = self.device.lock().unwrap()[&self.number].row(row)?;
        let number = (self.next)();
        self.device.lock().unwrap().insert(number, one);
        Some(Box::new(OnDevice {
            device: Arc::clone(&self.device),
            brought: Arc::clone(&self.brought),
            number,
            next: Arc::clone(&self.next),
        }))
    }
    fn to_host(&self) -> Result<Batch, EngineError> {
        self.brought.fetch_add(1, Ordering::Relaxed);
        Ok(self.device.lock().unwrap()[&self.number].clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Remote {
    fn new() -> Self {
        Remote {
            inner: RtenEngine::new(),
            device: Arc::default(),
            next: AtomicUsize::new(0),
            brought: Arc::default(),
        }
    }

    fn keep(&self, batch: Batch) -> Held {
        // Rows have numbers of their own, far from those of batches.
        let number = self.next.fetch_add(1, Ordering::Relaxed) * 1_000_000;
        let rows = AtomicUsize::new(number);
        self.device.lock().unwrap().insert(number, batch);
        Held::Device(Box::new(OnDevice {
            device: Arc::clone(&self.device),
            brought: Arc::clone(&self.brought),
            number,
            next: Arc::new(move || rows.fetch_add(1, Ordering::Relaxed) + 1),
        }))
    }

    /// What is on the device, without a way over the host.
    fn here(&self, held: Held) -> Batch {
        match held {
            Held::Host(batch) => batch,
            Held::Device(batch) => {
                let own = batch.as_any().downcast_ref::<OnDevice>().expect("this engine's");
                self.device.lock().unwrap()[&own.number].clone()
            }
        }
    }
}

impl Engine for Remote {
    fn name(&self) -> &'static str {
        "remote"
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
        self.inner.run(partition, model, range, batch)
    }
    fn run_held(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Held,
    ) -> Result<Held, EngineError> {
        let batch = self.here(batch);
        Ok(self.keep(self.inner.run(partition, model, range, batch)?))
    }
    fn join(
        &self,
        _: PartitionId,
        _: ModelId,
        range: StageRange,
        parts: Vec<Held>,
    ) -> Result<Held, EngineError> {
        let parts: Vec<Batch> = parts.into_iter().map(|part| self.here(part)).collect();
        let cause = Cause::Shapes;
        let joined = Batch::join(&parts).ok_or(EngineError::Run { range, cause })?;
        Ok(self.keep(joined))
    }
    fn memory(&self) -> MemoryUse {
        self.inner.memory()
    }
    fn threads(&self, partition: PartitionId) -> Result<usize, EngineError> {
        self.inner.threads(partition)
    }
}

#[test]
fn an_engine_that_keeps_batches_on_its_device_conforms_and_leaves_nothing_there() {
    let engine = Remote::new();
    let found = failures(&engine);
    assert!(found.is_empty(), "{found:#?}");
    assert!(engine.device.lock().unwrap().is_empty());
    assert_eq!(
        engine.brought.load(Ordering::Relaxed),
        1,
        "only the end is brought to the host"
    );
}

#[test]
fn a_precision_that_an_engine_has_not_is_an_error() {
    let engine = RtenEngine::new();
    let error = engine.load_in(&model(), Precision::F16).unwrap_err().to_string();
    assert_eq!(error, "the rten engine does not compute in f16, but in f32");
    engine.load_in(&model(), Precision::F32).unwrap();
    assert_eq!(engine.precision(model().info().id).unwrap(), Precision::F32);
}
