//! `graft profile`: what a model's segments cost, measured on this machine or modelled for a GPU.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use graft_cuda::CudaEngine;
use graft_engine::{Engine, MeasureOptions, PartitionShape, cpu_kind, measure, usable_cores};
use graft_files::ReadFile;
use graft_model::{Model, ModelInfo};
use graft_plan::{FormatFile, ModelProfile, Profile, Share, Source};
use graft_planner_search::{GPUS, Gpu};

use crate::Verdict;
use crate::engines::EngineArguments;
use crate::model::open;
use crate::output::{can_be_written, line};

/// Measure models on this machine's cores, or model them for a GPU.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    measured: Option<Measured>,
    #[command(flatten)]
    engine: EngineArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Model a GPU by what segments compute and move; the profile is marked as modelled
    Model(Modelled),
}

#[derive(Debug, Args)]
struct Measured {
    /// An ONNX file, a model.toml, or a folder with one; several times for several models
    #[arg(long = "model", value_name = "FILE", required = true)]
    models: Vec<PathBuf>,
    /// Where the profile goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Batches to measure, ascending from 1
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    batches: Vec<u32>,
    /// Measure on a GPU instead of cores: cuda:N
    #[arg(long, value_name = "DEVICE", conflicts_with = "cores")]
    device: Option<String>,
    /// Largest number of cores; all that this process may use, if not given
    #[arg(long, value_name = "N")]
    cores: Option<usize>,
    /// Runs of which each figure is the median
    #[arg(long, value_name = "N", default_value_t = 7)]
    repeats: usize,
    /// Time that one batch on one number of cores may take, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 3000)]
    patience: u64,
}

#[derive(Debug, Args)]
struct Modelled {
    /// Which GPU: h200, h100, a100, l4 or t4
    #[arg(long)]
    gpu: String,
    /// An ONNX file, a model.toml, or a folder with one; several times for several models
    #[arg(long = "model", value_name = "FILE", required = true)]
    models: Vec<PathBuf>,
    /// Where the profile goes; a measured one that is there is not overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Time of a hop, from a stage to the next on one host, in milliseconds: a message and a copy.
const HOP_MS: f64 = 0.2;

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    match (arguments.command, arguments.measured) {
        (Some(Command::Model(arguments)), _) => modelled(&arguments),
        (None, Some(measure)) => measured(&measure, &arguments.engine),
        (None, None) => anyhow::bail!("give --model and --out, or the subcommand `model`: see --help"),
    }
}

fn modelled(arguments: &Modelled) -> anyhow::Result<Verdict> {
    can_be_written(&arguments.out)?;
    let known = || GPUS.map(|g| g.name).join(", ");
    let gpu = Gpu::named(&arguments.gpu).with_context(|| {
        format!(
            "there is no model of a GPU {:?}: expected one of {}",
            arguments.gpu,
            known()
        )
    })?;
    if arguments.out.is_file() {
        let before = Profile::read(&arguments.out)?;
        anyhow::ensure!(
            before.source == Source::Modelled,
            "{} holds a measured profile, which a modelled one does not replace: write to another file",
            arguments.out.display()
        );
    }
    let infos = arguments
        .models
        .iter()
        .map(|file| open(file).map(|(entry, _)| (entry.manifest.name, entry.info)))
        .collect::<anyhow::Result<Vec<(String, Arc<ModelInfo>)>>>()?;
    let profile = gpu.profile(infos.iter().map(|(name, info)| (name.clone(), info.as_ref())));
    write(profile, &arguments.out)
}

/// Loads a model; gives the engine that has it, and what runs its layers.
type Loading = Box<dyn Fn(&Model) -> anyhow::Result<(Box<dyn Engine>, &'static str)>>;

/// What is measured on: an engine for each model, all of the device, its shares, and its kind.
struct Bench {
    engine: Loading,
    device: PartitionShape,
    shares: Vec<Share>,
    kind: String,
}

/// A GPU, by its name on the command line.
fn gpu(name: &str) -> anyhow::Result<Bench> {
    let ordinal = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
    let ordinal = ordinal.with_context(|| format!("--device {name}: expected cuda:N"))?;
    let gpu = graft_cuda::Gpu::find(ordinal)?;
    let engine = CudaEngine::open(&gpu)?;
    let (_, all) = engine.granularity();
    Ok(Bench {
        device: PartitionShape::units(all),
        shares: engine.shares().into_iter().map(Share).collect(),
        kind: gpu.name.clone(),
        engine: Box::new(move |model| {
            let engine = CudaEngine::open(&gpu)?;
            engine.load(model)?;
            Ok((Box::new(engine), CudaEngine::NAME))
        }),
    })
}

/// Cores of this machine.
fn cpu(arguments: &Measured, engine: &EngineArguments) -> anyhow::Result<Bench> {
    let mut cores = usable_cores();
    if let Some(most) = arguments.cores {
        anyhow::ensure!(
            (1..=cores.len()).contains(&most),
            "--cores is {most}; this process may use 1 to {}",
            cores.len()
        );
        cores.truncate(most);
    }
    let engine = engine.clone();
    Ok(Bench {
        device: PartitionShape::cores(&cores),
        shares: (1..=cores.len() as u32).map(Share).collect(),
        kind: cpu_kind(),
        engine: Box::new(move |model| {
            let engines = engine.open()?;
            engines.load(model)?;
            let name = engines.engine_of(model.info().id)?;
            Ok((Box::new(engines), name))
        }),
    })
}

fn measured(arguments: &Measured, engine: &EngineArguments) -> anyhow::Result<Verdict> {
    can_be_written(&arguments.out)?;
    let bench = match &arguments.device {
        Some(name) => gpu(name)?,
        None => cpu(arguments, engine)?,
    };
    let options = MeasureOptions {
        batches: arguments.batches.clone(),
        shares: bench.shares,
        device: bench.device,
        repeats: arguments.repeats.max(1),
        patience: Duration::from_millis(arguments.patience),
        hop_ms: HOP_MS,
    };
    let mut models: BTreeMap<String, ModelProfile> = BTreeMap::new();
    let mut joint: Option<Profile> = None;
    for file in &arguments.models {
        let (entry, model) = open(file)?;
        let name = entry.manifest.name;
        let (engine, runs) = (bench.engine)(&model)?;
        eprintln!("{name}: on {runs}");
        let measured = measure(&*engine, &model, &options, |p| {
            eprintln!("{name}: {} of {} measured", p.done, p.all);
        })?;
        let profile = measured.into_profile(&name, &bench.kind, &options);
        models.extend(profile.models.clone());
        // The largest overhead of the models holds for all of them.
        let overhead = joint
            .as_ref()
            .map_or(0.0, |j| j.stage_overhead_ms)
            .max(profile.stage_overhead_ms);
        joint = Some(Profile {
            stage_overhead_ms: overhead,
            ..profile
        });
    }
    let profile = joint.context("no model was given")?;
    write(Profile { models, ..profile }, &arguments.out)
}

fn write(profile: Profile, out: &Path) -> anyhow::Result<Verdict> {
    let profile = profile.verified()?;
    std::fs::write(out, profile.to_json()?).with_context(|| out.display().to_string())?;
    line(format_args!(
        "{}: {} of {}, shares {} to {}, batches {} to {}",
        out.display(),
        match profile.source {
            Source::Measured => "measured",
            Source::Modelled => "modelled",
        },
        profile.device_kind,
        profile.shares[0],
        profile.shares[profile.shares.len() - 1],
        profile.batches[0],
        profile.batches[profile.batches.len() - 1],
    ))?;
    for (name, model) in &profile.models {
        let whole = |share: usize| model.segments.iter().map(|s| s.ms[0][share]).sum::<f64>();
        line(format_args!(
            "  {name}: {} segments; one request takes {:.3} ms on the smallest share, {:.3} ms on the largest",
            model.segments.len(),
            whole(0),
            whole(profile.shares.len() - 1)
        ))?;
    }
    Ok(Verdict::Yes)
}
