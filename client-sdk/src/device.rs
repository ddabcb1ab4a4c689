//! This device: runs layers on an engine of Graft's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use graft_engine::{
    Engine, EngineOptions, Engines, MeasureOptions, PartitionId, PartitionShape, cpu_kind, measure,
    usable_cores,
};
use graft_files::CatalogEntry;
use graft_model::{Batch, Model, ModelInfo, StageRange};
use graft_plan::Share;

use crate::device_error::DeviceError;
use crate::head::{Head, Kept, ModelHere, Progress, Taken};

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

/// A model on a device.
struct OnEngine {
    device: Arc<Device>,
    engine: &'static str,
}

impl Head for OnEngine {
    fn name(&self) -> &str {
        self.engine
    }

    fn has(&self, _range: StageRange) -> bool {
        true
    }

    fn prepare(&self, model: &ModelInfo, ranges: &[StageRange]) -> Result<(), DeviceError> {
        let Device { engine, partition } = &*self.device;
        Ok(engine.prepare(*partition, model.id, ranges)?)
    }

    fn run(&self, model: &ModelInfo, range: StageRange, input: Batch) -> Result<Batch, DeviceError> {
        let Device { engine, partition } = &*self.device;
        Ok(engine.run(*partition, model.id, range, input)?)
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
    pub fn load(self: &Arc<Self>, entry: CatalogEntry, model: &Model) -> Result<ModelHere, DeviceError> {
        self.load_with(entry, model, None, &mut |_| ())
    }

    /// The same; what was measured is kept in a folder, and taken from there the next time. `progress` hears how far measuring is.
    pub fn load_with(
        self: &Arc<Self>,
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
        let runs = Arc::new(OnEngine {
            device: Arc::clone(self),
            engine: choice.engine,
        });
        let on = format!("{}-{}", choice.engine, cpu_kind());
        let kept = cache.map(|folder| Kept::of(folder, &entry, &on));
        if let Some(taken) = kept.as_ref().and_then(|kept| kept.read(entry.info.cuts.len())) {
            return Ok(ModelHere::new(entry, taken, runs));
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
        let taken = Taken {
            rest_ms: head_ms.iter().map(|ms| Some((sum - ms).max(0.0))).collect(),
            head_ms: head_ms.into_iter().map(Some).collect(),
        };
        if let Some(kept) = kept {
            kept.write(&taken);
        }
        Ok(ModelHere::new(entry, taken, runs))
    }

    /// Runs the whole model, blocking.
    pub fn run_whole(&self, info: &ModelInfo, input: impl Into<Batch>) -> Result<Batch, DeviceError> {
        let input = input.into();
        match info.whole() {
            Some(range) => Ok(self.engine.run(self.partition, info.id, range, input)?),
            None => Ok(input),
        }
    }
}
