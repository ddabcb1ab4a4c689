//! This device: runs layers, and knows what they cost here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use graft_engine::{
    Choice, Engine, EngineError, EngineOptions, Engines, MeasureOptions, Missing, PartitionId, Refusal,
};
use graft_engine::{PartitionShape, cpu_kind, measure, usable_cores};
use graft_files::CatalogEntry;
use graft_model::{Batch, CutPoint, Model, ModelError, ModelInfo, StageRange};
use graft_plan::Share;

/// A device that can't run a model.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The model can't be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine can't run it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No engine here runs it.
    #[error("engine {engine} does not run {file}: {refusal}")]
    Refused {
        /// An engine.
        engine: &'static str,
        /// The model's file.
        file: String,
        /// What it does not run.
        refusal: Box<Refusal>,
    },
    /// The engine that was asked for is not here.
    #[error(transparent)]
    Missing(#[from] Missing),
}

/// This device. Sessions share it; its layers run one after the other.
pub struct Device {
    engine: Engines,
    partition: PartitionId,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("engine", &self.engine.name())
            .finish_non_exhaustive()
    }
}

/// A model that is loaded on this device, and what it costs here.
#[derive(Debug, Clone)]
pub struct ModelHere {
    /// What is known of it.
    pub entry: CatalogEntry,
    /// Milliseconds from the input to each cut point; the last: the whole.
    pub head_ms: Vec<f64>,
    /// Which engine runs it, and why.
    pub choice: Arc<Choice>,
}

/// How far the measuring of a model is, in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Steps that are done.
    pub done: usize,
    /// Steps in all.
    pub all: usize,
}

/// What a model's layers take on this kind of device and engine, in a file.
struct Kept(PathBuf);

impl Kept {
    fn of(folder: &Path, entry: &CatalogEntry, engine: &str) -> Self {
        let make = format!("{engine}-{}-{}", cpu_kind(), env!("CARGO_PKG_VERSION"));
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        };
        let make: String = make.chars().map(plain).take(100).collect();
        Kept(folder.join(format!("{}-{make}.json", entry.info.id)))
    }

    /// What was kept, if it can be so: a figure for each cut point, ascending from 0.
    fn read(&self, cuts: usize) -> Option<Vec<f64>> {
        let text = std::fs::read(&self.0).ok()?;
        let head_ms: Vec<f64> = serde_json::from_slice(&text).ok()?;
        let ascends = head_ms.windows(2).all(|w| w[0] <= w[1]);
        let sound = head_ms.len() == cuts && head_ms[0] == 0.0 && ascends;
        sound.then_some(head_ms)
    }

    /// What can't be kept is measured again the next time.
    fn write(&self, head_ms: &[f64]) {
        let written = || -> std::io::Result<()> {
            std::fs::create_dir_all(self.0.parent().unwrap_or(Path::new(".")))?;
            let draft = self.0.with_extension(format!("{}.draft", std::process::id()));
            std::fs::write(&draft, serde_json::to_vec(head_ms)?)?;
            std::fs::rename(&draft, &self.0)
        };
        if let Err(error) = written() {
            tracing::warn!(file = %self.0.display(), %error, "what layers take here can't be kept");
        }
    }
}

/// Runs of which each figure is the median.
const REPEATS: usize = 7;

impl Device {
    /// The CPU, on some of its cores; `None`: one of those that this process may use. Each model runs on whichever engine
    /// here is fastest for it.
    pub fn cpu(cores: Option<&[usize]>) -> Result<Self, DeviceError> {
        Self::with_engines(cores, &EngineOptions::default())
    }

    /// The same with some engines alone.
    pub fn with_engines(cores: Option<&[usize]>, options: &EngineOptions) -> Result<Self, DeviceError> {
        let usable = usable_cores();
        let cores = cores.unwrap_or(usable.get(..1).unwrap_or(&usable));
        let engine = Engines::open(options)?;
        let partition = engine.open_partition(&PartitionShape::cores(cores))?;
        Ok(Device { engine, partition })
    }

    /// Loads a model and measures its segments here. Blocks for about a second.
    pub fn load(&self, entry: CatalogEntry, model: &Model) -> Result<ModelHere, DeviceError> {
        self.load_with(entry, model, None, &mut |_| ())
    }

    /// The same; what was measured is kept in a folder, and taken from there the next time. `progress` hears how far measuring is.
    pub fn load_with(
        &self,
        entry: CatalogEntry,
        model: &Model,
        cache: Option<&Path>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ModelHere, DeviceError> {
        let choice = self
            .engine
            .choose(self.partition, model)
            .map_err(|mut refusals| {
                let (engine, refusal) = refusals.swap_remove(0);
                DeviceError::Refused {
                    engine,
                    file: model.info().file.display().to_string(),
                    refusal: Box::new(refusal),
                }
            })?;
        tracing::info!(model = %entry.manifest.name, engine = choice.engine, why = %choice, "layers run here");
        let kept = cache.map(|folder| Kept::of(folder, &entry, choice.engine));
        if let Some(head_ms) = kept.as_ref().and_then(|kept| kept.read(entry.info.cuts.len())) {
            return Ok(ModelHere {
                entry,
                head_ms,
                choice,
            });
        }
        let options = MeasureOptions {
            batches: vec![1],
            shares: vec![Share(1)],
            device: PartitionShape::cores(&usable_cores()),
            repeats: REPEATS,
            patience: Duration::from_secs(1),
            hop_ms: 0.0,
        };
        let measured = measure(&self.engine, model, &options, |p| {
            progress(Progress {
                done: p.done,
                all: p.all,
            });
        })?;
        let mut head_ms = vec![0.0];
        let mut sum = measured.stage_overhead_ms;
        for segment in &measured.model.segments {
            sum += segment.ms[0][0];
            head_ms.push(sum);
        }
        if let Some(kept) = kept {
            kept.write(&head_ms);
        }
        Ok(ModelHere {
            entry,
            head_ms,
            choice,
        })
    }

    /// Makes ready what handing over at a cut point takes: the layers before it, and those after it for when no answer
    /// comes. Blocks; what is not made ready is made when it is run.
    pub fn prepare(&self, info: &ModelInfo, point: CutPoint) -> Result<(), DeviceError> {
        let head = StageRange::new(CutPoint(0), point);
        let ranges: Vec<StageRange> = head.into_iter().chain(info.tail(point)).collect();
        Ok(self.engine.prepare(self.partition, info.id, &ranges)?)
    }

    /// Runs layers, blocking.
    pub fn run(&self, info: &ModelInfo, range: StageRange, input: Batch) -> Result<Batch, DeviceError> {
        Ok(self.engine.run(self.partition, info.id, range, input)?)
    }

    /// Runs the whole model, blocking.
    pub fn run_whole(&self, info: &ModelInfo, input: impl Into<Batch>) -> Result<Batch, DeviceError> {
        let input = input.into();
        match info.whole() {
            Some(range) => self.run(info, range, input),
            None => Ok(input),
        }
    }
}
