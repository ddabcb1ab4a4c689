//! The engine on a GPU.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use graft_engine::{
    Cause, Engine, EngineError, Held, MemoryUse, PartitionId, PartitionShape, Refusal, RunEnd, Submitted,
    guarded,
};
use graft_model::{Batch, Model, ModelId, ModelInfo, Precision, StageRange};

use crate::driver::{CudaFault, Gpu, softgpu_report};
use crate::graph::{Graph, Unserved};
use crate::held::{Copying, HeldBatch, HeldTensor};
use crate::lane::{Flight, Given};
use crate::run_error::RunError;
use crate::session::{Layers, Session, SetUpError, learned};

/// An engine that runs layers on a GPU, in 16-bit floats with 32-bit sums. A partition is a set of its multiprocessors.
pub struct CudaEngine {
    gpu: Gpu,
    session: RwLock<Arc<Session>>,
    /// Held while the device is set up anew; why it could not be, where it could not.
    setting_up: Mutex<Option<String>>,
    models: RwLock<HashMap<ModelId, Arc<Layers>>>,
    /// Of each partition: multiprocessors before it, and its own.
    partitions: RwLock<HashMap<PartitionId, (u32, u32)>>,
    next: AtomicU32,
}

/// Why the engine does not take a network, as engines tell it.
fn refused(info: &ModelInfo, unserved: &Unserved) -> EngineError {
    EngineError::Refused {
        engine: CudaEngine::NAME,
        file: info.file.display().to_string(),
        refusal: Box::new(Refusal {
            node: unserved.node.clone(),
            opset: info.opset,
            why: unserved.why.clone(),
            what_to_do: "Serve it on a CPU".to_owned(),
        }),
    }
}

impl CudaEngine {
    /// Its name.
    pub const NAME: &'static str = "cuda";

    /// Sets a device up. `Err`: the driver does not let it be used.
    pub fn open(gpu: &Gpu) -> Result<Self, SetUpError> {
        Ok(CudaEngine {
            gpu: gpu.clone(),
            session: RwLock::new(Arc::new(Session::begin(gpu)?)),
            setting_up: Mutex::new(None),
            models: RwLock::default(),
            partitions: RwLock::default(),
            next: AtomicU32::new(0),
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Multiprocessors of the smallest partition, and of all together.
    pub fn granularity(&self) -> (u32, u32) {
        self.session().granularity()
    }

    /// Why the only partition is all of the device, in words. `None`: it is divided.
    pub fn undivided(&self) -> Option<String> {
        self.session().undivided().map(ToString::to_string)
    }

    /// Shares of the device that are worth measuring: the smallest partition, its doubles, and all.
    pub fn shares(&self) -> Vec<u32> {
        let (each, all) = self.granularity();
        let doubles = std::iter::successors(Some(each.max(1)), |share| share.checked_mul(2));
        doubles.take_while(|share| *share < all).chain([all]).collect()
    }

    /// Runs a loaded model segment by segment, and looks at all that is handed on. `Err`: numbers leave the range of 16-bit floats, in
    /// which the device computes, so that the model is not to be served here.
    pub fn stays_in_range(
        &self,
        partition: PartitionId,
        model: ModelId,
        input: &Batch,
    ) -> Result<(), EngineError> {
        let info = self.info(model)?;
        let points: Vec<_> = info.cut_points().collect();
        let mut crossing = Held::Host(input.clone());
        for range in points
            .windows(2)
            .filter_map(|two| StageRange::new(two[0], two[1]))
        {
            let next = self.run_held(partition, model, range, crossing)?;
            if let Held::Device(batch) = &next {
                batch.to_host()?;
            }
            crossing = next;
        }
        Ok(())
    }

    /// Milliseconds that the launches of a partition's last run took on the device; on the software GPU they are modelled.
    pub fn last_ms(&self, partition: PartitionId) -> Result<f32, CudaFault> {
        self.session().last_ms(partition)
    }

    /// Milliseconds that the device had nothing to do between a partition's last two runs. `None`: there were no two.
    pub fn last_gap_ms(&self, partition: PartitionId) -> Result<Option<f32>, CudaFault> {
        self.session().last_gap_ms(partition)
    }

    /// What the software GPU found since it was asked last; nothing, where it is a real one.
    pub fn softgpu_messages(&self) -> Vec<String> {
        #[derive(serde::Deserialize)]
        struct Told {
            messages: Vec<String>,
        }
        let report = softgpu_report(self.gpu.ordinal).ok();
        let told = report.and_then(|r| serde_json::from_str::<Told>(&r).ok());
        told.map_or_else(Vec::new, |t| t.messages)
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// Sets the device up anew, after a fault that spoiled what was on it.
    fn set_up_anew(&self, spoiled: &Arc<Session>) {
        let mut failed = self.setting_up.lock().unwrap_or_else(|e| e.into_inner());
        if failed.is_some() || self.session().number() != spoiled.number() {
            return;
        }
        let begun = spoiled
            .end()
            .map_err(SetUpError::from)
            .and_then(|()| Session::begin(&self.gpu));
        match begun {
            Ok(session) => {
                tracing::warn!(
                    device = self.gpu.ordinal,
                    "a fault spoiled the device; it is set up anew"
                );
                *self.session.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(session);
            }
            Err(error) => {
                tracing::error!(device = self.gpu.ordinal, %error, "the device can't be set up anew: it is lost");
                *failed = Some(error.to_string());
            }
        }
    }

    fn layers(&self, id: ModelId) -> Result<Arc<Layers>, EngineError> {
        let models = self.models.read().unwrap_or_else(|e| e.into_inner());
        models.get(&id).cloned().ok_or(EngineError::NotLoaded(id))
    }

    fn share(&self, id: PartitionId) -> Result<(u32, u32), EngineError> {
        let partitions = self.partitions.read().unwrap_or_else(|e| e.into_inner());
        partitions.get(&id).copied().ok_or(EngineError::NoPartition(id))
    }

    /// The session, set up anew where a fault spoiled the last. `Err`: the device is lost.
    fn sound_session(&self) -> Result<Arc<Session>, EngineError> {
        let session = self.session();
        if session.is_spoiled() {
            self.set_up_anew(&session);
        }
        let failed = self.setting_up.lock().unwrap_or_else(|e| e.into_inner());
        match failed.clone() {
            Some(cause) => Err(EngineError::Device { lost: true, cause }),
            None => Ok(self.session()),
        }
    }

    /// The session, with a partition open on it.
    fn with_partition(&self, id: PartitionId) -> Result<Arc<Session>, EngineError> {
        let share = self.share(id)?;
        let session = self.sound_session()?;
        if !session.has_partition(id) {
            let opened = session.open_partition(id, share);
            opened.map_err(|fault| EngineError::Device {
                lost: fault.is_lost(),
                cause: fault.to_string(),
            })?;
        }
        Ok(session)
    }

    fn submit_here(
        &self,
        session: &Arc<Session>,
        partition: PartitionId,
        layers: &Layers,
        range: StageRange,
        batch: Held,
    ) -> Result<Submitted, RunError> {
        let requests = batch.requests();
        // On an early return the copying is dropped, and waited for, before the tensors that it fills.
        let mut read = None;
        let mut copying = None;
        let (given, finite) = match &batch {
            Held::Host(batch) => (Given::Host(batch), batch.is_finite()),
            Held::Device(held) => {
                let held = held.as_any().downcast_ref::<HeldBatch>();
                let Some(held) = held.filter(|h| h.session == session.number()) else {
                    return Err(RunError::Gone);
                };
                let whole = held.first == 0
                    && held
                        .tensors
                        .first()
                        .is_some_and(|t| t.layout.dims[0] == held.count);
                let tensors = if whole {
                    copying = held.copying.clone();
                    Arc::clone(&held.tensors)
                } else {
                    let (tensors, gathered) = session.gather(partition, &[held])?;
                    copying = gathered;
                    Arc::new(tensors)
                };
                let places = tensors.iter().map(|t| (t.memory.address(), t.layout.bytes()));
                let places = places.collect();
                read = Some(tensors);
                (Given::Device(places), held.finite)
            }
        };
        let from_host = matches!(given, Given::Host(_));
        let (program, weights) = session.program(layers, range, requests, from_host)?;
        let name = (layers.info.id, range, requests, from_host);
        let (tensors, flight) = session.submit(partition, Some(name), &program, &weights, &given)?;
        let tensors = Arc::new(tensors);
        let end = InFlight {
            session: Arc::clone(session),
            flight: Some(flight),
            range,
            _held: read.into_iter().chain([Arc::clone(&tensors)]).collect(),
            _copying: copying,
        };
        let rows = Held::Device(Box::new(HeldBatch {
            session: session.number(),
            info: Arc::clone(&layers.info),
            at: range.to(),
            tensors,
            first: 0,
            count: requests,
            finite,
            copying: None,
        }));
        Ok(Submitted {
            rows,
            end: Box::new(end),
        })
    }
}

/// A run that was put in, and what it reads and writes.
struct InFlight {
    session: Arc<Session>,
    /// `None`: it was waited for.
    flight: Option<Flight>,
    range: StageRange,
    /// Dropped before what it fills.
    _copying: Option<Arc<Copying>>,
    _held: Vec<Arc<Vec<HeldTensor>>>,
}

impl InFlight {
    fn wait_once(&mut self) -> Result<(), CudaFault> {
        match self.flight.take() {
            Some(flight) => self.session.wait(&flight),
            None => Ok(()),
        }
    }
}

impl RunEnd for InFlight {
    fn wait(mut self: Box<Self>) -> Result<(), EngineError> {
        self.wait_once().map_err(|fault| {
            if fault.is_spoiled() {
                self.session.spoil();
            }
            RunError::from(fault).into_engine(self.range)
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Nobody asked what became of it.
        self.wait_once().unwrap_or_default();
    }
}

fn fenced((first, count): (u32, u32), fault: &CudaFault) -> EngineError {
    EngineError::Partition {
        shape: PartitionShape::Units { first, count },
        cause: Cause::Library(fault.to_string()),
    }
}

impl Engine for CudaEngine {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn is_modelled(&self) -> bool {
        self.gpu.is_softgpu()
    }

    fn precisions(&self) -> &[Precision] {
        &[Precision::F16]
    }

    fn load(&self, model: &Model) -> Result<(), EngineError> {
        let info = Arc::clone(model.info());
        if self.layers(info.id).is_ok() {
            return Ok(());
        }
        let layers = guarded(|| -> Result<Layers, EngineError> {
            let graph = Graph::of(model).map_err(|e| refused(&info, &e))?;
            let layers = Layers { info, graph };
            learned(&layers).map_err(|e| refused(&layers.info, &e))?;
            Ok(layers)
        })?;
        let mut models = self.models.write().unwrap_or_else(|e| e.into_inner());
        models.insert(layers.info.id, Arc::new(layers));
        Ok(())
    }

    fn unload(&self, model: ModelId) -> Result<(), EngineError> {
        let mut models = self.models.write().unwrap_or_else(|e| e.into_inner());
        let known = models.remove(&model);
        drop(models);
        known.ok_or(EngineError::NotLoaded(model))?;
        self.session().forget(model);
        Ok(())
    }

    fn info(&self, model: ModelId) -> Result<Arc<ModelInfo>, EngineError> {
        Ok(Arc::clone(&self.layers(model)?.info))
    }

    fn open_partition(&self, shape: &PartitionShape) -> Result<PartitionId, EngineError> {
        let PartitionShape::Units { first, count } = shape else {
            return Err(EngineError::Partition {
                shape: shape.clone(),
                cause: Cause::OtherShape("multiprocessors of a GPU"),
            });
        };
        if *count == 0 {
            return Err(EngineError::Partition {
                shape: shape.clone(),
                cause: Cause::OtherShape("at least one multiprocessor of a GPU"),
            });
        }
        let id = PartitionId(self.next.fetch_add(1, Ordering::Relaxed));
        let session = self.sound_session()?;
        let share = (*first, *count);
        session
            .open_partition(id, share)
            .map_err(|fault| fenced(share, &fault))?;
        let mut partitions = self.partitions.write().unwrap_or_else(|e| e.into_inner());
        partitions.insert(id, share);
        Ok(id)
    }

    fn close_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        let mut partitions = self.partitions.write().unwrap_or_else(|e| e.into_inner());
        let known = partitions.remove(&partition);
        drop(partitions);
        known.ok_or(EngineError::NoPartition(partition))?;
        // It waits for what is under way there: others go on meanwhile.
        self.session().close_partition(partition);
        Ok(())
    }

    fn prepare(
        &self,
        partition: PartitionId,
        model: ModelId,
        ranges: &[StageRange],
    ) -> Result<(), EngineError> {
        let layers = self.layers(model)?;
        let session = self.with_partition(partition)?;
        for &range in ranges {
            let made = session.program(&layers, range, 1, true);
            made.map_err(|error| error.into_engine(range))?;
        }
        Ok(())
    }

    fn run(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Batch,
    ) -> Result<Batch, EngineError> {
        self.run_held(partition, model, range, Held::Host(batch))?
            .into_host()
    }

    fn run_held(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Held,
    ) -> Result<Held, EngineError> {
        let submitted = self.submit(partition, model, range, batch)?;
        let waited = submitted.end.wait();
        let session = self.session();
        if waited.is_err() && session.is_spoiled() {
            self.set_up_anew(&session);
        }
        waited.map(|()| submitted.rows)
    }

    fn queues(&self) -> bool {
        true
    }

    fn submit(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Held,
    ) -> Result<Submitted, EngineError> {
        self.share(partition)?;
        let layers = self.layers(model)?;
        let info = &layers.info;
        if info.cut(range.to()).is_none() {
            return Err(EngineError::BeyondLastCut {
                range,
                last: info.last().index(),
            });
        }
        if let Held::Host(batch) = &batch {
            graft_engine::check_input(info, range.from(), batch)?;
        }
        let session = self.with_partition(partition)?;
        guarded(|| self.submit_here(&session, partition, &layers, range, batch)).map_err(|error| {
            if error.fault().is_some_and(CudaFault::is_spoiled) {
                self.set_up_anew(&session);
            }
            error.into_engine(range)
        })
    }

    fn join(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        parts: Vec<Held>,
    ) -> Result<Held, EngineError> {
        let layers = self.layers(model)?;
        let session = self.with_partition(partition)?;
        let held: Option<Vec<&HeldBatch>> = parts
            .iter()
            .map(|part| match part {
                Held::Device(batch) => batch.as_any().downcast_ref::<HeldBatch>(),
                Held::Host(_) => None,
            })
            .map(|held| held.filter(|h| h.session == session.number() && h.at == range.from()))
            .collect();
        let Some(held) = held.filter(|h| !h.is_empty()) else {
            return Held::join_on_host(parts, range).map(Held::Host);
        };
        let gathered = session.gather(partition, &held);
        let (tensors, copying) = gathered.map_err(|error| error.into_engine(range))?;
        Ok(Held::Device(Box::new(HeldBatch {
            session: session.number(),
            info: Arc::clone(&layers.info),
            at: range.from(),
            tensors: Arc::new(tensors),
            first: 0,
            count: held.iter().map(|h| h.count).sum(),
            finite: held.iter().all(|h| h.finite),
            copying,
        })))
    }

    fn memory(&self) -> MemoryUse {
        let models = self.models.read().unwrap_or_else(|e| e.into_inner());
        MemoryUse {
            models: models.len(),
            weights_bytes: models.values().map(|m| m.info.weights_bytes()).sum(),
        }
    }

    fn threads(&self, partition: PartitionId) -> Result<usize, EngineError> {
        self.share(partition).map(|_| 1)
    }
}
