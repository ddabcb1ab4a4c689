//! The engine on onnxruntime, which is found when the program runs.
//!
//! A range is a session of its own on a part of the model; all sessions of a model share its weights, and all sessions
//! of the process the memory of their activations. Whoever runs a partition's session is confined to its first core
//! meanwhile; the threads that a session starts are confined to the others, one each.

mod library;
mod reference;
mod sessions;
mod tell;
mod values;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use graft_model::{Batch, Model, ModelId, ModelInfo, StageRange};

use library::Library;
pub use library::{Missing, start_without_telemetry};
pub use reference::{Gives, Reference};
use sessions::{Loaded, Ready};

use crate::checks::{check_input, guarded};
use crate::cores::{Confined, CoresError};
use crate::engine::{Engine, MemoryUse};
use crate::error::{Cause, EngineError, PartitionId, Refusal};
use crate::shape::PartitionShape;

/// Name of the engine.
const NAME: &str = "onnxruntime";
/// Most sessions that a partition keeps; beyond, the one that was not used for longest goes. A session without its
/// weights takes about a megabyte.
const MAX_SESSIONS: usize = 256;

/// An engine that runs layers through onnxruntime's library.
pub struct OnnxRuntimeEngine {
    library: Arc<Library>,
    scratch: PathBuf,
    models: RwLock<HashMap<ModelId, Arc<Loaded>>>,
    partitions: RwLock<HashMap<PartitionId, Arc<Partition>>>,
    next: AtomicU32,
}

impl OnnxRuntimeEngine {
    /// An engine on the library that is found: `asked` names its file or folder; else `ORT_DYLIB_PATH` does; else the
    /// usual places are looked through, Python environments included. A process loads one library: later calls get the
    /// same. `scratch`: folder for models' weights instead of the system's temporary one, which may be memory.
    pub fn open(asked: Option<&Path>, scratch: Option<&Path>) -> Result<Self, Missing> {
        Ok(OnnxRuntimeEngine {
            library: library::open(asked)?,
            scratch: scratch.map_or_else(std::env::temp_dir, Path::to_owned),
            models: RwLock::default(),
            partitions: RwLock::default(),
            next: AtomicU32::new(0),
        })
    }

    /// The library's file.
    pub fn library(&self) -> &Path {
        &self.library.file
    }

    fn loaded(&self, id: ModelId) -> Result<Arc<Loaded>, EngineError> {
        let models = self.models.read().unwrap_or_else(|e| e.into_inner());
        models.get(&id).cloned().ok_or(EngineError::NotLoaded(id))
    }

    fn partition(&self, id: PartitionId) -> Result<Arc<Partition>, EngineError> {
        let partitions = self.partitions.read().unwrap_or_else(|e| e.into_inner());
        partitions.get(&id).cloned().ok_or(EngineError::NoPartition(id))
    }
}

impl Engine for OnnxRuntimeEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn load(&self, model: &Model) -> Result<(), EngineError> {
        let info = model.info();
        if self.loaded(info.id).is_ok() {
            return Ok(());
        }
        if let Some(node) = &info.divides {
            // Version 1.32 looks for 0 first, but not for the smallest integer over -1: the processor's signal ends the
            // process.
            let refusal = Refusal {
                node: Some(node.clone()),
                opset: info.opset,
                why: "it divides integers by what may be 0 or -1, for which onnxruntime may end the process"
                    .to_owned(),
                what_to_do: "Divide floats, or by a constant".to_owned(),
            };
            return Err(EngineError::Refused {
                engine: NAME,
                file: info.file.display().to_string(),
                refusal: Box::new(refusal),
            });
        }
        let loaded = guarded(|| Loaded::new(Arc::clone(&self.library), &self.scratch, model));
        let loaded = loaded.map_err(|cause| EngineError::Load {
            engine: NAME,
            file: info.file.display().to_string(),
            cause,
        })?;
        let mut models = self.models.write().unwrap_or_else(|e| e.into_inner());
        models.insert(info.id, Arc::new(loaded));
        Ok(())
    }

    fn unload(&self, model: ModelId) -> Result<(), EngineError> {
        let mut models = self.models.write().unwrap_or_else(|e| e.into_inner());
        models.remove(&model).ok_or(EngineError::NotLoaded(model))?;
        drop(models);
        let partitions = self.partitions.read().unwrap_or_else(|e| e.into_inner());
        for partition in partitions.values() {
            partition.forget(model);
        }
        Ok(())
    }

    fn info(&self, model: ModelId) -> Result<Arc<ModelInfo>, EngineError> {
        Ok(Arc::clone(&self.loaded(model)?.info))
    }

    fn open_partition(&self, shape: &PartitionShape) -> Result<PartitionId, EngineError> {
        let opened = match shape {
            PartitionShape::Cores(cores) => Partition::open(cores),
            PartitionShape::Units { .. } => Err(Cause::OtherShape("cores of a CPU")),
        };
        let opened = opened.map_err(|cause| EngineError::Partition {
            shape: shape.clone(),
            cause,
        })?;
        let id = PartitionId(self.next.fetch_add(1, Ordering::Relaxed));
        let mut partitions = self.partitions.write().unwrap_or_else(|e| e.into_inner());
        partitions.insert(id, Arc::new(opened));
        Ok(id)
    }

    fn close_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        let mut partitions = self.partitions.write().unwrap_or_else(|e| e.into_inner());
        partitions
            .remove(&partition)
            .map(drop)
            .ok_or(EngineError::NoPartition(partition))
    }

    fn prepare(
        &self,
        partition: PartitionId,
        model: ModelId,
        ranges: &[StageRange],
    ) -> Result<(), EngineError> {
        let partition = self.partition(partition)?;
        let loaded = self.loaded(model)?;
        for &range in ranges {
            let made = guarded(|| partition.session(&loaded, range).map(drop));
            made.map_err(|cause| EngineError::Run { range, cause })?;
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
        let partition = self.partition(partition)?;
        let loaded = self.loaded(model)?;
        let last = loaded.info.last();
        if range.to() > last {
            return Err(EngineError::BeyondLastCut {
                range,
                last: last.index(),
            });
        }
        check_input(&loaded.info, range.from(), &batch)?;
        let failed = |cause: Cause| EngineError::Run { range, cause };
        guarded(|| partition.run(&loaded, range, batch)).map_err(failed)
    }

    fn memory(&self) -> MemoryUse {
        let models = self.models.read().unwrap_or_else(|e| e.into_inner());
        MemoryUse {
            models: models.len(),
            weights_bytes: models.values().map(|m| m.weights_bytes()).sum(),
        }
    }

    fn threads(&self, partition: PartitionId) -> Result<usize, EngineError> {
        Ok(self.partition(partition)?.cores.len())
    }
}

/// Key of a session: the model, and the range that it runs.
type SessionKey = (ModelId, StageRange);

/// A session, and when it was last used.
struct Kept {
    ready: Arc<Mutex<Ready>>,
    used: u64,
}

/// Cores, and the sessions that were made for them.
struct Partition {
    cores: Vec<usize>,
    sessions: Mutex<HashMap<SessionKey, Kept>>,
    /// Lock that whoever runs a session holds: sessions of a partition run one after the other.
    running: Mutex<()>,
    /// Counter of uses, by which the session that was not used for longest is found.
    now: AtomicU64,
}

impl Partition {
    /// A partition of some cores. `Err`: this process may not use them.
    fn open(cores: &[usize]) -> Result<Self, Cause> {
        let first = cores.get(..1).ok_or(CoresError::None)?;
        Confined::to(first)?;
        Ok(Partition {
            cores: cores.to_vec(),
            sessions: Mutex::default(),
            running: Mutex::default(),
            now: AtomicU64::new(0),
        })
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionKey, Kept>> {
        self.sessions.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn forget(&self, model: ModelId) {
        self.sessions().retain(|(of, _), _| *of != model);
    }

    /// The session of a range, made if need be.
    fn session(&self, loaded: &Loaded, range: StageRange) -> Result<Arc<Mutex<Ready>>, Cause> {
        let key = (loaded.info.id, range);
        let now = self.now.fetch_add(1, Ordering::Relaxed);
        if let Some(kept) = self.sessions().get_mut(&key) {
            kept.used = now;
            return Ok(Arc::clone(&kept.ready));
        }
        let ready = Arc::new(Mutex::new(loaded.ready(range, &self.cores)?));
        let mut sessions = self.sessions();
        if sessions.len() >= MAX_SESSIONS
            && let Some(oldest) = sessions.iter().min_by_key(|(_, k)| k.used).map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
        }
        let kept = Kept {
            ready: Arc::clone(&ready),
            used: now,
        };
        sessions.insert(key, kept);
        Ok(ready)
    }

    fn run(&self, loaded: &Loaded, range: StageRange, batch: Batch) -> Result<Batch, Cause> {
        let ready = self.session(loaded, range)?;
        let mut ready = ready.lock().unwrap_or_else(|e| e.into_inner());
        let _running = self.running.lock().unwrap_or_else(|e| e.into_inner());
        let _confined = Confined::to(&self.cores[..1])?;
        ready.run(batch)
    }
}
