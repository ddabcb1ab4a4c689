//! The engines of this machine as one engine: each model runs on the one that is fastest for it.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Instant;

use graft_model::{Batch, Model, ModelId, ModelInfo, Precision, StageRange};

use crate::cores::usable_cores;
use crate::engine::{Engine, MemoryUse};
use crate::error::{EngineError, PartitionId, Refusal};
use crate::held::Held;
use crate::onnxruntime::{Missing, OnnxRuntimeEngine};
use crate::rten::RtenEngine;
use crate::shape::PartitionShape;
use crate::trial::try_out;

/// Number of runs of which the median is an engine's time, when several engines run a model.
const REPEATS: usize = 3;

/// Kind of engines to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// Whichever engine here is fastest for a model.
    #[default]
    Fastest,
    /// The engine on rten, which is always there.
    Rten,
    /// The engine on onnxruntime, which needs a library on the machine.
    OnnxRuntime,
}

/// Options for opening engines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineOptions {
    /// Engines to use.
    pub kind: EngineKind,
    /// onnxruntime's library, or a folder with it; `None`: it is looked for.
    pub library: Option<PathBuf>,
    /// Folder for the weights of models that onnxruntime runs; `None`: the system's temporary folder.
    pub scratch: Option<PathBuf>,
}

/// Choice of an engine for a model, with the reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The engine.
    pub engine: &'static str,
    /// Another engine that also runs it, but computes its 64-bit integers in fewer bits; `None`: there is none such.
    pub narrow: Option<&'static str>,
    /// All engines here, in order: milliseconds of one request where it was measured, or why it does not run the model.
    pub tried: Vec<(&'static str, Result<Option<f64>, Refusal>)>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.tried.iter().map(|(name, outcome)| match outcome {
            Ok(Some(ms)) => format!("{name} takes {ms:.2} ms"),
            Ok(None) => format!("{name} runs it"),
            Err(refusal) => format!("{name} does not run it ({})", refusal.why),
        });
        f.write_str(&parts.collect::<Vec<_>>().join(", "))?;
        match self.narrow {
            Some(name) => write!(f, "; {name} computes its 64-bit integers in fewer bits"),
            None => Ok(()),
        }
    }
}

/// A loaded model: which engine has it, and why.
#[derive(Clone)]
struct Chosen {
    place: usize,
    choice: Arc<Choice>,
}

/// All engines, each model on one of them.
pub struct Engines {
    list: Vec<Box<dyn Engine>>,
    missing: Option<Missing>,
    chosen: RwLock<HashMap<ModelId, Chosen>>,
    /// Partitions, with their ids in each of the engines.
    partitions: RwLock<HashMap<PartitionId, Arc<Vec<PartitionId>>>>,
    next: AtomicU32,
}

impl Engines {
    /// The engines of a kind. `Err`: onnxruntime was asked for, and is not here.
    pub fn open(options: &EngineOptions) -> Result<Self, Missing> {
        let (kind, library) = (options.kind, options.library.as_deref());
        let (mut list, mut missing): (Vec<Box<dyn Engine>>, _) = (vec![], None);
        if kind != EngineKind::Rten {
            match OnnxRuntimeEngine::open(library, options.scratch.as_deref()) {
                Ok(engine) => list.push(Box::new(engine)),
                Err(error) if kind == EngineKind::OnnxRuntime || library.is_some() => return Err(error),
                Err(error) => missing = Some(error),
            }
        }
        if kind != EngineKind::OnnxRuntime {
            list.push(Box::new(RtenEngine::new()));
        }
        Ok(Engines {
            list,
            missing,
            chosen: RwLock::default(),
            partitions: RwLock::default(),
            next: AtomicU32::new(0),
        })
    }

    /// Reason why onnxruntime is not among them, where it was looked for.
    pub fn missing(&self) -> Option<&Missing> {
        self.missing.as_ref()
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.list.iter().map(|e| e.name())
    }

    /// Loads a model on the engine that runs it fastest on a partition. `Err`: none runs it; what each says.
    pub fn choose(
        &self,
        partition: PartitionId,
        model: &Model,
    ) -> Result<Arc<Choice>, Vec<(&'static str, Refusal)>> {
        let info = model.info();
        if let Ok(chosen) = self.chosen(info.id) {
            return Ok(chosen.choice);
        }
        let partitions = self
            .partition(partition)
            .map_err(|e| vec![(self.name(), broken(info, &e))])?;
        let pairs = || self.list.iter().zip(partitions.iter());
        let mut tried: Vec<_> = pairs()
            .map(|(engine, &partition)| (engine.name(), try_out(&**engine, partition, model).map(|()| None)))
            .collect();
        if tried.iter().filter(|(_, outcome)| outcome.is_ok()).count() > 1 {
            for ((engine, &partition), (_, outcome)) in pairs().zip(&mut tried) {
                if outcome.is_ok() {
                    *outcome = time(&**engine, partition, info).map(Some);
                }
            }
        }
        let running = tried.iter().enumerate();
        let running = running
            .filter_map(|(place, (_, outcome))| Some((place, (*outcome.as_ref().ok()?).unwrap_or(0.0))));
        // Engines that compute 64-bit integers in 64 bits come first.
        let narrows = |place: usize| self.list.get(place).is_some_and(|e| e.narrows(info));
        let order =
            |a: &(usize, f64), b: &(usize, f64)| narrows(a.0).cmp(&narrows(b.0)).then(a.1.total_cmp(&b.1));
        let Some((place, _)) = running.min_by(order) else {
            return Err(tried
                .into_iter()
                .filter_map(|(name, outcome)| Some((name, outcome.err()?)))
                .collect());
        };
        for (other, engine) in self.list.iter().enumerate() {
            if other != place
                && engine.info(info.id).is_ok()
                && let Err(error) = engine.unload(info.id)
            {
                tracing::warn!(%error, engine = engine.name(), "a model stays loaded that another engine runs");
            }
        }
        let others = tried.iter().enumerate();
        let narrow =
            others.filter(|(other, (_, outcome))| *other != place && outcome.is_ok() && narrows(*other));
        let narrow = narrow.map(|(_, (name, _))| *name).next();
        let choice = Arc::new(Choice {
            engine: self.list[place].name(),
            narrow: narrow.filter(|_| !narrows(place)),
            tried,
        });
        let chosen = Chosen {
            place,
            choice: Arc::clone(&choice),
        };
        self.chosen
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .insert(info.id, chosen);
        Ok(choice)
    }

    /// The engine that a model runs on.
    pub fn engine_of(&self, model: ModelId) -> Result<&'static str, EngineError> {
        Ok(self.chosen(model)?.choice.engine)
    }

    fn chosen(&self, model: ModelId) -> Result<Chosen, EngineError> {
        let chosen = self.chosen.read().unwrap_or_else(|e| e.into_inner());
        chosen.get(&model).cloned().ok_or(EngineError::NotLoaded(model))
    }

    fn partition(&self, id: PartitionId) -> Result<Arc<Vec<PartitionId>>, EngineError> {
        let partitions = self.partitions.read().unwrap_or_else(|e| e.into_inner());
        partitions.get(&id).cloned().ok_or(EngineError::NoPartition(id))
    }

    /// The engine of a model, and the id of a partition in that engine.
    fn place(
        &self,
        partition: PartitionId,
        model: ModelId,
    ) -> Result<(&dyn Engine, PartitionId), EngineError> {
        let partitions = self.partition(partition)?;
        let place = self.chosen(model)?.place;
        match (self.list.get(place), partitions.get(place)) {
            (Some(engine), Some(&partition)) => Ok((&**engine, partition)),
            _ => Err(EngineError::NoPartition(partition)),
        }
    }
}

fn broken(info: &ModelInfo, error: &EngineError) -> Refusal {
    Refusal {
        node: None,
        opset: info.opset,
        why: error.to_string(),
        what_to_do: "Try again".to_owned(),
    }
}

/// Milliseconds that one request takes from input to output.
fn time(engine: &dyn Engine, partition: PartitionId, info: &ModelInfo) -> Result<f64, Refusal> {
    let Some(whole) = info.whole() else { return Ok(0.0) };
    let input = Batch::pseudo_random(info.inputs(), 1, 1);
    let mut times = vec![];
    for _ in 0..REPEATS {
        let input = input.clone();
        let start = Instant::now();
        engine
            .run(partition, info.id, whole, input)
            .map_err(|e| broken(info, &e))?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[REPEATS / 2])
}

/// All of its engines compute in the host's memory, and queue nothing.
impl Engine for Engines {
    /// Name of all engines together; [`Engines::engine_of`] names a model's.
    fn name(&self) -> &'static str {
        match self.list.as_slice() {
            [one] => one.name(),
            _ => "fastest",
        }
    }

    /// Chooses an engine on the first core; [`Engines::choose`] does so on a partition.
    fn load(&self, model: &Model) -> Result<(), EngineError> {
        if self.chosen(model.info().id).is_ok() {
            return Ok(());
        }
        let cores = usable_cores();
        let first = PartitionShape::cores(cores.get(..1).unwrap_or(&cores));
        let partition = self.open_partition(&first)?;
        let chosen = self.choose(partition, model);
        self.close_partition(partition)?;
        chosen.map(drop).map_err(|mut refusals| match refusals.pop() {
            Some((engine, refusal)) => EngineError::Refused {
                engine,
                file: model.info().file.display().to_string(),
                refusal: Box::new(refusal),
            },
            None => EngineError::NotLoaded(model.info().id),
        })
    }

    fn unload(&self, model: ModelId) -> Result<(), EngineError> {
        let mut chosen = self.chosen.write().unwrap_or_else(|e| e.into_inner());
        let gone = chosen.remove(&model).ok_or(EngineError::NotLoaded(model))?;
        drop(chosen);
        self.list
            .get(gone.place)
            .map_or(Ok(()), |engine| engine.unload(model))
    }

    fn info(&self, model: ModelId) -> Result<Arc<ModelInfo>, EngineError> {
        let place = self.chosen(model)?.place;
        self.list
            .get(place)
            .ok_or(EngineError::NotLoaded(model))?
            .info(model)
    }

    fn open_partition(&self, shape: &PartitionShape) -> Result<PartitionId, EngineError> {
        let mut opened = vec![];
        for engine in &self.list {
            match engine.open_partition(shape) {
                Ok(partition) => opened.push(partition),
                Err(error) => {
                    self.close(&opened)?;
                    return Err(error);
                }
            }
        }
        let id = PartitionId(self.next.fetch_add(1, Ordering::Relaxed));
        let mut partitions = self.partitions.write().unwrap_or_else(|e| e.into_inner());
        partitions.insert(id, Arc::new(opened));
        Ok(id)
    }

    fn close_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        let mut partitions = self.partitions.write().unwrap_or_else(|e| e.into_inner());
        let gone = partitions.remove(&partition);
        drop(partitions);
        self.close(&gone.ok_or(EngineError::NoPartition(partition))?)
    }

    fn prepare(
        &self,
        partition: PartitionId,
        model: ModelId,
        ranges: &[StageRange],
    ) -> Result<(), EngineError> {
        let (engine, partition) = self.place(partition, model)?;
        engine.prepare(partition, model, ranges)
    }

    fn run(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Batch,
    ) -> Result<Batch, EngineError> {
        let (engine, partition) = self.place(partition, model)?;
        engine.run(partition, model, range, batch)
    }

    fn precision(&self, model: ModelId) -> Result<Precision, EngineError> {
        let place = self.chosen(model)?.place;
        let engine = self.list.get(place).ok_or(EngineError::NotLoaded(model))?;
        engine.precision(model)
    }

    fn run_held(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Held,
    ) -> Result<Held, EngineError> {
        let (engine, partition) = self.place(partition, model)?;
        engine.run_held(partition, model, range, batch)
    }

    fn join(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        parts: Vec<Held>,
    ) -> Result<Held, EngineError> {
        let (engine, partition) = self.place(partition, model)?;
        engine.join(partition, model, range, parts)
    }

    fn memory(&self) -> MemoryUse {
        self.list
            .iter()
            .map(|e| e.memory())
            .fold(MemoryUse::default(), |all, one| MemoryUse {
                models: all.models + one.models,
                weights_bytes: all.weights_bytes + one.weights_bytes,
            })
    }

    fn threads(&self, partition: PartitionId) -> Result<usize, EngineError> {
        let partitions = self.partition(partition)?;
        let mut each = self
            .list
            .iter()
            .zip(partitions.iter())
            .map(|(engine, &p)| engine.threads(p));
        each.try_fold(0, |most, threads| Ok(threads?.max(most)))
    }
}

impl Engines {
    /// Closes a partition's parts, one for each of the first engines.
    fn close(&self, partitions: &[PartitionId]) -> Result<(), EngineError> {
        let closed = self
            .list
            .iter()
            .zip(partitions)
            .map(|(engine, &p)| engine.close_partition(p));
        closed.fold(Ok(()), Result::and)
    }
}
