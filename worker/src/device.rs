//! What a worker runs on: an engine, what it costs, and how much of it there is.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use graft_cuda::{CudaEngine, Gpu};
use graft_engine::{
    EmulatedEngine, Engine, EngineError, EngineKind, EngineOptions, Engines, PartitionShape, Refusal,
    cpu_kind, try_out,
};
use graft_files::Catalog;
use graft_model::{Batch, Model, ModelInfo};
use graft_plan::{Profile, Share};
use graft_wire::DeviceInfo;

use crate::profiles::{Bench, join};
use crate::scratch::Scratch;

/// Which engine.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineChoice {
    /// The cores of this machine.
    Cpu(EngineOptions),
    /// A GPU of this machine, by its number.
    Cuda(u32),
    /// None: layers take the time that a profile says.
    Emulated(Box<Emulated>),
}

/// A device that there is not.
#[derive(Debug, Clone, PartialEq)]
pub struct Emulated {
    /// What stages cost; models by their name in the catalog.
    pub profile: Profile,
    /// Everything takes so many times as long.
    pub stretch: f64,
    /// For weights.
    pub memory_bytes: u64,
}

/// A device whose configuration was checked.
#[derive(Debug, Clone)]
pub struct DeviceSettings {
    /// Its name; `None`: it is the worker's only one.
    pub name: Option<String>,
    /// Layers run there.
    pub engine: EngineChoice,
    /// Cores to run on, at least one; of an emulated device none. Of a GPU, where nothing else can be used: those to run on instead.
    pub cores: Vec<usize>,
    /// Price of the device.
    pub price: Option<f64>,
}

impl DeviceSettings {
    /// The one device of a worker: cores of this machine.
    pub fn only(engine: EngineChoice, cores: Vec<usize>) -> Self {
        DeviceSettings {
            name: None,
            engine,
            cores,
            price: None,
        }
    }

    /// Its id in plans.
    pub(crate) fn id(&self, worker: &str) -> String {
        match &self.name {
            Some(name) => format!("{worker}/{name}"),
            None => worker.to_owned(),
        }
    }
}

/// A device, and what is known of it.
pub(crate) struct Device {
    /// Id in plans.
    pub id: String,
    pub engine: Arc<dyn Engine>,
    /// Models by their identity.
    pub profile: Profile,
    pub kind: String,
    /// All of it.
    pub whole: PartitionShape,
    pub memory_bytes: u64,
    pub price: Option<f64>,
    pub emulated: bool,
    /// Where its engine keeps weights; in use as long as this is there.
    pub scratch: Option<Scratch>,
}

/// What opening a device needs.
pub(crate) struct Opening<'a> {
    /// Id in plans.
    pub id: String,
    pub settings: &'a DeviceSettings,
    /// Devices that share this machine's memory, at least one.
    pub sharers: u64,
    pub catalog: &'a Catalog,
    pub batches: &'a [u32],
    pub state: &'a Path,
}

impl Device {
    /// As the planner is told.
    pub fn told(&self) -> DeviceInfo {
        DeviceInfo {
            id: self.id.clone(),
            kind: self.kind.clone(),
            share_total: self.whole.share(),
            memory_bytes: self.memory_bytes,
            price: self.price,
            profile: self.profile.clone(),
            emulated: self.emulated,
        }
    }
}

impl Opening<'_> {
    /// Loads the models, and measures them if need be. Blocks.
    pub fn open(self) -> anyhow::Result<Device> {
        match &self.settings.engine {
            EngineChoice::Cpu(options) => self.cpu(options),
            EngineChoice::Cuda(ordinal) => self.gpu(*ordinal),
            EngineChoice::Emulated(emulated) => self.emulated(emulated),
        }
    }

    fn cpu(&self, options: &EngineOptions) -> anyhow::Result<Device> {
        let scratch = Scratch::open(&self.state.join("scratch"))?;
        let engine = Engines::open(&EngineOptions {
            scratch: Some(scratch.folder().to_owned()),
            ..options.clone()
        })?;
        if let Some(missing) = engine.missing() {
            tracing::info!(%missing, "onnxruntime is not here; it would run convolutional networks several times as fast");
        }
        let whole = PartitionShape::cores(&self.settings.cores);
        let bench = Bench {
            engine: &engine,
            hardware: &cpu_kind(),
            device: &whole,
            shares: (1..=whole.share()).map(Share).collect(),
            batches: self.batches,
            state: self.state,
        };
        let partition = engine.open_partition(&whole)?;
        let profiles = self.measured(&bench, |model| {
            let choice = engine.choose(partition, model)?;
            tracing::info!(engine = choice.engine, why = %choice, "layers run here");
            Ok(choice.engine)
        })?;
        engine.close_partition(partition)?;
        let kind = kind_of(options);
        let profile = join(profiles).context("no engine here runs any of the models")?;
        Ok(Device {
            id: self.id.clone(),
            price: self.settings.price,
            profile: Profile {
                device_kind: kind.clone(),
                ..profile
            },
            kind,
            whole,
            memory_bytes: memory_bytes() / self.sharers.max(1),
            emulated: !engine.computes(),
            scratch: Some(scratch),
            engine: Arc::new(engine),
        })
    }

    /// A GPU; the cores of this machine, where there is none that can be used.
    fn gpu(&self, ordinal: u32) -> anyhow::Result<Device> {
        let opened = Gpu::find(ordinal)
            .map_err(anyhow::Error::from)
            .and_then(|gpu| Ok(CudaEngine::open(&gpu)?));
        let engine = match opened {
            Ok(engine) => engine,
            Err(error) if self.settings.cores.is_empty() => {
                return Err(error.context("the GPU can't be used, and no `cores` are given to use instead"));
            }
            Err(error) => {
                tracing::warn!(%error, "the GPU can't be used; layers run on the cores of this machine");
                return self.cpu(&EngineOptions::default());
            }
        };
        let gpu = engine.gpu().clone();
        if gpu.is_softgpu() {
            tracing::warn!("the device is a software GPU, for tests: its times are no GPU's");
        }
        let (_, all) = engine.granularity();
        let whole = PartitionShape::units(all);
        let bench = Bench {
            engine: &engine,
            hardware: &gpu.name,
            device: &whole,
            shares: engine.shares().into_iter().map(Share).collect(),
            batches: self.batches,
            state: self.state,
        };
        let partition = engine.open_partition(&whole)?;
        let profiles = self.measured(&bench, |model| {
            let refusal = |refusal| vec![(CudaEngine::NAME, refusal)];
            try_out(&engine, partition, model).map_err(refusal)?;
            let info = model.info();
            let input = Batch::pseudo_random(info.inputs(), 1, 1);
            if let Err(error) = engine.stays_in_range(partition, info.id, &input) {
                engine.unload(info.id).unwrap_or_default();
                return Err(refusal(refused_in_trial(info, &error)));
            }
            tracing::info!(gpu = %gpu.name, "layers run here");
            Ok(CudaEngine::NAME)
        })?;
        engine.close_partition(partition)?;
        let profile = join(profiles).context("the GPU runs none of the models")?;
        Ok(Device {
            id: self.id.clone(),
            price: self.settings.price,
            kind: gpu.name.clone(),
            profile,
            whole,
            memory_bytes: gpu.memory / 4 * 3,
            emulated: !engine.computes(),
            scratch: None,
            engine: Arc::new(engine),
        })
    }

    /// Profiles of the models that an engine runs; `choose` loads one, and names the engine that has it.
    fn measured(
        &self,
        bench: &Bench<'_>,
        choose: impl Fn(&Model) -> Result<&'static str, Vec<(&'static str, Refusal)>>,
    ) -> anyhow::Result<Vec<Profile>> {
        let mut profiles = vec![];
        for entry in self.catalog.entries() {
            let model = entry.load()?;
            let name = &entry.manifest.name;
            let allowed = &entry.manifest.precision;
            if !allowed.iter().any(|p| bench.engine.precisions().contains(p)) {
                let error = EngineError::Precision {
                    engine: bench.engine.name(),
                    wanted: allowed[0],
                    has: bench.engine.precisions().to_vec(),
                };
                tracing::warn!(model = %name, %error, "the model is not served on this device: add a precision to its manifest");
                continue;
            }
            let engine = match choose(&model) {
                Ok(engine) => engine,
                Err(refusals) => {
                    for (engine, refusal) in refusals {
                        tracing::warn!(model = %name, engine, %refusal, "the model is not served: no engine here runs it");
                    }
                    continue;
                }
            };
            match bench.profile(entry, &model, engine) {
                Ok(profile) => profiles.push(profile),
                Err(error) => {
                    tracing::warn!(model = %name, %error, "the model is not served: it could not be measured");
                    bench.engine.unload(entry.info.id)?;
                }
            }
        }
        Ok(profiles)
    }

    fn emulated(&self, emulated: &Emulated) -> anyhow::Result<Device> {
        tracing::warn!("the device is emulated: answers take the time of a real one, and mean nothing");
        let mut profile = emulated.profile.clone();
        profile.stage_overhead_ms *= emulated.stretch;
        let all = profile.models.values_mut().flat_map(|m| &mut m.segments);
        all.flat_map(|s| s.ms.iter_mut().flatten())
            .for_each(|ms| *ms *= emulated.stretch);
        let mut known = std::collections::BTreeMap::new();
        for entry in self.catalog.entries() {
            let name = &entry.manifest.name;
            let model = profile.models.remove(name).with_context(|| {
                format!("the emulated device's profile has no model {name}, which is in the models' folder")
            })?;
            known.insert(entry.info.id.to_string(), model);
        }
        profile.models = known;
        // From a stage to the next this machine takes what it takes.
        profile.hop_ms = crate::profiles::HOP_MS;
        let engine = EmulatedEngine::new(profile.clone());
        for entry in self.catalog.entries() {
            engine.load(&entry.load()?)?;
        }
        Ok(Device {
            id: self.id.clone(),
            price: self.settings.price,
            engine: Arc::new(engine),
            kind: profile.device_kind.clone(),
            whole: PartitionShape::units(profile.share_total.0),
            memory_bytes: emulated.memory_bytes,
            emulated: true,
            scratch: None,
            profile,
        })
    }
}

/// The refusal of a model that a GPU could not run segment by segment.
fn refused_in_trial(info: &ModelInfo, error: &EngineError) -> Refusal {
    Refusal {
        node: None,
        opset: info.opset,
        why: error.to_string(),
        what_to_do: "Serve it on a CPU".to_owned(),
    }
}

/// Kind of the cores of this machine with an engine that was asked for: what it takes is not what another engine takes.
fn kind_of(options: &EngineOptions) -> String {
    match options.kind {
        EngineKind::Fastest => cpu_kind(),
        EngineKind::Rten => format!("{} with rten", cpu_kind()),
        EngineKind::OnnxRuntime => format!("{} with onnxruntime", cpu_kind()),
    }
}

/// For weights: all memory of the machine but a quarter.
fn memory_bytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|v| v.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .unwrap_or(4 << 20);
    total * 1024 / 4 * 3
}
