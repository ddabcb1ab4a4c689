//! `graft gpu-check`: whether a GPU computes what it should.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use graft_client::picture;
use graft_cuda::check::{
    FaultReport, KernelReport, Latency, ModelReport, Networks, faults, kernels, latency, model,
};
use graft_cuda::{CudaEngine, Gpu};
use graft_engine::{Engine, PartitionShape, RtenEngine, usable_cores};
use graft_files::CatalogEntry;
use graft_model::{Batch, Model, ReadOptions, samples};
use serde::Serialize;

use super::{npy, page, use_softgpu};
use crate::Verdict;
use crate::output::line;

/// Check a GPU: every kernel over random shapes, and whole networks at their cut points, against references on the processor.
///
/// A kernel may be apart from its reference in fp64 by 2e-3 of the largest element; a network, by the norm, by 1e-2. The exit code is 0
/// where everything is within that, else 1. On the software GPU, every launch is watched for addresses outside of memory, reads of what
/// nobody wrote and races, and planned faults are tried.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Number of the GPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    gpu: u32,
    /// Check the software GPU: the library that GRAFT_CUDA_LIBRARY names, else the one beside this program
    #[arg(long)]
    softgpu: bool,
    /// A network: an ONNX file, a model.toml, or a folder with one; several times for several; default: samples that are built in
    #[arg(long = "model", value_name = "FILE")]
    models: Vec<PathBuf>,
    /// How many cases each family of kernels gets
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(6..=100_000))]
    rounds: u32,
    /// Seed of the cases' shapes and elements
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Cut points of a network at most that are tried; others are left out evenly
    #[arg(long, value_name = "N", default_value_t = 64)]
    cuts: usize,
    /// Time the networks' launches on partitions of all sizes, too; on the software GPU figures are modelled
    #[arg(long)]
    latency: bool,
    /// One JSON object on standard output instead of text
    #[arg(long)]
    json: bool,
    /// Write each network's input and output there, as NAME.input.npy and NAME.output.npy
    #[arg(long, value_name = "DIR")]
    outputs: Option<PathBuf>,
    /// Write a page with the report there
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub device: Gpu,
    pub softgpu: bool,
    pub kernels: Vec<KernelReport>,
    pub models: Vec<ModelReport>,
    /// Of networks that are as they should be.
    pub latency: Vec<Latency>,
    pub faults: Vec<FaultReport>,
    pub ok: bool,
}

/// A network to be checked, with an input.
struct Network {
    name: String,
    /// Its name, which others may have, too.
    called: String,
    file: PathBuf,
    model: Model,
    input: Batch,
}

/// Seed of inputs that are made up.
const INPUT_SEED: u64 = 7;

fn say(text: &str, last: bool) {
    let mut out = std::io::stderr().lock();
    let terminal = std::io::stderr().is_terminal();
    // A terminal that went away hears nothing; that is no failure.
    let written = match (terminal, last) {
        (true, false) => write!(out, "\r\x1b[K{text}").and_then(|()| out.flush()),
        (true, true) => writeln!(out, "\r\x1b[K{text}"),
        (false, true) => writeln!(out, "{text}"),
        (false, false) => Ok(()),
    };
    written.unwrap_or_default();
}

fn given(files: &[PathBuf]) -> anyhow::Result<Vec<Network>> {
    let mut networks = vec![];
    for file in files {
        let (entry, model) = crate::model::open(file)?;
        let sample = sample(&entry)?;
        let made_up = || Batch::pseudo_random(model.info().inputs(), 1, INPUT_SEED);
        // A file is called by its name, a folder by its manifest's; files of one name in several folders are numbered.
        let stem = file.extension().filter(|e| *e == "onnx").and(file.file_stem());
        let own = stem.map_or_else(
            || entry.manifest.name.clone(),
            |s| s.to_string_lossy().into_owned(),
        );
        let before = networks.iter().filter(|n: &&Network| n.called == own).count();
        let name = if before == 0 {
            own.clone()
        } else {
            format!("{own}-{}", before + 1)
        };
        networks.push(Network {
            name,
            called: own,
            file: file.clone(),
            input: sample.unwrap_or_else(made_up),
            model,
        });
    }
    Ok(networks)
}

/// A network's sample picture, where it has one.
fn sample(entry: &CatalogEntry) -> anyhow::Result<Option<Batch>> {
    let (Some(sample), Some(spec)) = (&entry.manifest.sample, &entry.manifest.input.image) else {
        return Ok(None);
    };
    let file = entry.folder.join(&sample.file);
    let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
    Ok(Some(picture::tensor(&picture::decode(&bytes)?, spec)?.into()))
}

/// Networks that are built in, but for those with layers that only engines on the processor run.
fn built_in() -> anyhow::Result<Vec<Network>> {
    let small = [
        ("residual-cnn", samples::residual_cnn()),
        ("dense-cnn", samples::dense_cnn()),
        ("detector", samples::detector()),
        ("unet", samples::unet()),
        ("vit", samples::vit(samples::BatchAs::Symbolic)),
        ("bert-with-mask", samples::bert_with_mask()),
    ];
    small
        .into_iter()
        .map(|(name, bytes)| {
            let model = Model::parse(Path::new(name), &bytes, &ReadOptions::default())?;
            Ok(Network {
                name: name.to_owned(),
                called: name.to_owned(),
                file: PathBuf::from(name),
                input: Batch::pseudo_random(model.info().inputs(), 2, INPUT_SEED),
                model,
            })
        })
        .collect()
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    if arguments.softgpu {
        use_softgpu()?;
    }
    let gpu = Gpu::find(arguments.gpu)?;
    anyhow::ensure!(
        gpu.is_softgpu() == arguments.softgpu,
        "the device is {}: give --softgpu for the software GPU, and for it alone",
        gpu.name
    );
    let networks = match arguments.models.as_slice() {
        [] => built_in()?,
        files => given(files)?,
    };
    if let Some(folder) = &arguments.outputs {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let engine = CudaEngine::open(&gpu)?;
    let reference = RtenEngine::new();
    let cores = reference.open_partition(&PartitionShape::cores(&usable_cores()))?;
    let kernels = kernels(&engine, arguments.rounds as usize, arguments.seed, |done, all| {
        say(&format!("kernels: {done} of {all} cases"), done == all);
    })?;
    let (_, sms) = engine.granularity();
    let partition = engine.open_partition(&PartitionShape::units(sms))?;
    let on = Networks {
        gpu: (&engine, partition),
        reference: (&reference, cores),
        most_cuts: arguments.cuts,
    };
    let (mut models, mut figures) = (vec![], vec![]);
    // A software GPU's figures are worked out from what it counts: one batch tells enough.
    let batches: &[usize] = if arguments.softgpu {
        &[1]
    } else {
        &[1, 2, 4, 8, 16, 32]
    };
    for network in &networks {
        say(&format!("{}: running", network.name), false);
        let (report, output) = model(&on, network.file.clone(), &network.model, &network.input);
        say(
            &format!(
                "{}: {} cut point(s), worst {:.1e}",
                network.name, report.cuts, report.worst
            ),
            true,
        );
        if let Some(folder) = &arguments.outputs {
            npy::write(folder, &format!("{}.input", network.name), &network.input)?;
            if let Some(output) = &output {
                npy::write(folder, &format!("{}.output", network.name), output)?;
            }
        }
        if report.ok && arguments.latency {
            say(&format!("{}: timing", network.name), false);
            figures.extend(latency(&engine, &report.file, &network.model, batches)?);
        }
        models.push(report);
    }
    // The smallest that ran, since each fault is a run or two.
    let ran = networks.iter().zip(&models).filter(|(_, report)| report.ok);
    let smallest = ran.min_by_key(|(n, _)| n.model.info().whole().map_or(0, |w| n.model.info().flops(w)));
    let faults = match smallest {
        Some((network, _)) if arguments.softgpu => {
            faults(&engine, partition, &network.model, &network.input)?
        }
        _ => vec![],
    };
    let ok = kernels.iter().all(|k| k.ok) && models.iter().all(|m| m.ok) && faults.iter().all(|f| f.ok);
    let report = Report {
        device: gpu,
        softgpu: arguments.softgpu,
        kernels,
        models,
        latency: figures,
        faults,
        ok,
    };
    if let Some(file) = &arguments.page {
        std::fs::write(file, page::of(&report)).with_context(|| file.display().to_string())?;
    }
    if arguments.json {
        line(serde_json::to_string_pretty(&report)?)?;
    } else {
        text(&report)?;
    }
    Ok(if report.ok { Verdict::Yes } else { Verdict::No })
}

fn mark(ok: bool) -> &'static str {
    if ok { "ok   " } else { "WRONG" }
}

fn text(report: &Report) -> anyhow::Result<()> {
    let kind = if report.softgpu { ", a software GPU" } else { "" };
    line(format_args!(
        "{} ({} SMs{kind})",
        report.device.name, report.device.sms
    ))?;
    line("kernels: max|out - ref| / max|ref|, to stay within 2e-3")?;
    for kernel in &report.kernels {
        line(format_args!(
            "  {} {:18} {:4} cases  {:.1e}",
            mark(kernel.ok),
            kernel.name,
            kernel.cases,
            kernel.worst
        ))?;
        for wrong in &kernel.wrong {
            line(format_args!("        {wrong}"))?;
        }
    }
    line("networks: |out - ref| / |ref|, to stay within 1e-2, whole and cut in two")?;
    for model in &report.models {
        line(format_args!(
            "  {} {}: {} cut point(s), {:.1e}",
            mark(model.ok),
            model.file,
            model.cuts,
            model.worst
        ))?;
        for wrong in &model.wrong {
            line(format_args!("        {wrong}"))?;
        }
    }
    for figure in &report.latency {
        let kind = if figure.modelled { "modelled" } else { "measured" };
        line(format_args!(
            "  {}: batch {:2} on {:3} SMs: {:.3} ms, {kind}",
            figure.file, figure.batch, figure.sms, figure.ms
        ))?;
    }
    for fault in &report.faults {
        line(format_args!(
            "  {} planned: {}; told: {}",
            mark(fault.ok),
            fault.name,
            fault.told
        ))?;
    }
    line(if report.ok {
        "all is well"
    } else {
        "NOT all is well"
    })
}
