//! `graft gpu-check`: whether a GPU computes what it should.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use graft_cuda::check::{
    FaultReport, KernelReport, Latency, ModelReport, Networks, Recording, Replay, Together, faults, kernels,
    latency, model, together,
};
use graft_cuda::{CudaEngine, Gpu, softgpu_plan};
use graft_engine::{Engine, PartitionShape, RtenEngine, usable_cores};
use serde::Serialize;

use super::beside::{Sanitizer, Torch, on_softgpu, sanitizer, torch, torch_name};
use super::networks::{Network, built_in, given};
use super::{npy, page, softgpu_library, text, use_softgpu};
use crate::Verdict;
use crate::output::line;

/// Check a GPU: every kernel over random shapes, and whole networks at their cut points, against references on the processor.
///
/// A kernel may be apart from its reference in fp64 by 2e-3 of the largest element; a network, by the norm, by 1e-2. The exit code is 0
/// where everything is within that, else 1. Where the software GPU's library is there, the first launches are run on it, too, and compared;
/// where compute-sanitizer is installed, it watches them. On the software GPU, every launch is watched for addresses outside of memory, reads
/// of what nobody wrote and races, and planned faults are tried.
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
    /// Time networks, too: by batch and partition, chunks one after the other, partitions beside one another, a change of partitions, and torch
    /// where it is installed; on the software GPU figures are modelled
    #[arg(long)]
    latency: bool,
    /// Python that has torch and torchvision, for the networks whose names torchvision knows
    #[arg(long, value_name = "FILE", default_value = "python3")]
    python: PathBuf,
    /// Check kernels alone, on this device alone
    #[arg(long, conflicts_with_all = ["models", "latency", "outputs"])]
    kernels_only: bool,
    /// Write what the kernels compute there, for a comparison
    #[arg(long, value_name = "FILE", hide = true)]
    record: Option<PathBuf>,
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
    /// What partitions and chunks cost one another.
    pub together: Vec<Together>,
    /// The same networks by torch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch: Option<Torch>,
    /// The kernels' first launches, on the software GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sanitizer: Option<Sanitizer>,
    /// What was not done, and why.
    pub left_out: Vec<String>,
    pub faults: Vec<FaultReport>,
    pub ok: bool,
}

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

/// Milliseconds on the host's clock for a modelled one of the software GPU, while it is timed: more than it takes to work them out.
pub(super) const STRETCH: u32 = 500;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let stands_in = arguments.softgpu.then(use_softgpu).transpose()?;
    let gpu = Gpu::find(arguments.gpu)?;
    anyhow::ensure!(
        gpu.is_softgpu() == arguments.softgpu,
        "the device is {}: give --softgpu for the software GPU, and for it alone",
        gpu.name
    );
    let networks = match arguments.models.as_slice() {
        _ if arguments.kernels_only => vec![],
        [] => built_in()?,
        files => given(files)?,
    };
    if let Some(folder) = &arguments.outputs {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let engine = CudaEngine::open(&gpu)?;
    let (kernels, recording) = kernels(&engine, arguments.rounds as usize, arguments.seed, |done, all| {
        say(&format!("kernels: {done} of {all} cases"), done == all);
    })?;
    if let Some(file) = &arguments.record {
        std::fs::write(file, serde_json::to_vec(&recording)?).with_context(|| file.display().to_string())?;
    }
    let mut report = Report {
        device: gpu,
        softgpu: arguments.softgpu,
        kernels,
        models: vec![],
        latency: vec![],
        together: vec![],
        torch: None,
        replay: None,
        sanitizer: None,
        left_out: vec![],
        faults: vec![],
        ok: false,
    };
    if !arguments.kernels_only {
        elsewhere(arguments, stands_in, &recording, &mut report);
        check_networks(arguments, &engine, &networks, &mut report)?;
    }
    report.ok = report.kernels.iter().all(|k| k.ok)
        && report.models.iter().all(|m| m.ok)
        && report.faults.iter().all(|f| f.ok)
        && report.replay.as_ref().is_none_or(|r| r.ok)
        && report.sanitizer.as_ref().is_none_or(|s| s.ok);
    if let Some(file) = &arguments.page {
        std::fs::write(file, page::of(&report)).with_context(|| file.display().to_string())?;
    }
    if arguments.json {
        line(serde_json::to_string_pretty(&report)?)?;
    } else {
        text::text(&report)?;
    }
    Ok(if report.ok { Verdict::Yes } else { Verdict::No })
}

/// The kernels' first launches again, by other means.
fn elsewhere(arguments: &Arguments, stands_in: Option<PathBuf>, recording: &Recording, report: &mut Report) {
    match stands_in.map_or_else(softgpu_library, Ok) {
        Ok(library) => {
            say("kernels: the same launches on the software GPU", false);
            match on_softgpu(&library, arguments.seed, arguments.seed.wrapping_add(1)) {
                Ok(again) => report.replay = Some(recording.against(&again)),
                Err(error) => report
                    .left_out
                    .push(format!("launches on the software GPU: {error:#}")),
            }
        }
        Err(why) => report
            .left_out
            .push(format!("launches on the software GPU: {why}")),
    }
    if arguments.softgpu {
        return;
    }
    say("kernels: under compute-sanitizer", false);
    match sanitizer(arguments.gpu) {
        Ok(Some(found)) => report.sanitizer = Some(found),
        Ok(None) => report
            .left_out
            .push("compute-sanitizer: it is not installed".to_owned()),
        Err(error) => report.left_out.push(format!("compute-sanitizer: {error:#}")),
    }
}

fn check_networks(
    arguments: &Arguments,
    engine: &CudaEngine,
    networks: &[Network],
    report: &mut Report,
) -> anyhow::Result<()> {
    let reference = RtenEngine::new();
    let cores = reference.open_partition(&PartitionShape::cores(&usable_cores()))?;
    let (_, sms) = engine.granularity();
    let partition = engine.open_partition(&PartitionShape::units(sms))?;
    let on = Networks {
        gpu: (engine, partition),
        reference: (&reference, cores),
        most_cuts: arguments.cuts,
    };
    // A software GPU's figures are worked out from what it counts: one batch tells enough.
    let batches: &[usize] = match arguments.softgpu {
        true => &[1],
        false => &[1, 2, 4, 8, 16, 32],
    };
    for network in networks {
        say(&format!("{}: running", network.name), false);
        let (of, output) = model(&on, network.file.clone(), &network.model, &network.input);
        let told = format!(
            "{}: {} cut point(s), worst {:.1e}",
            network.name, of.cuts, of.worst
        );
        say(&told, true);
        if let Some(folder) = &arguments.outputs {
            npy::write(folder, &format!("{}.input", network.name), &network.input)?;
            if let Some(output) = &output {
                npy::write(folder, &format!("{}.output", network.name), output)?;
            }
        }
        if of.ok && arguments.latency {
            say(&format!("{}: timing", network.name), false);
            let figures = latency(engine, &network.name, &network.model, batches)?;
            report.latency.extend(figures);
            if !arguments.softgpu {
                let found = together(engine, &of.file, &network.model)?;
                report.together.extend(found);
            }
        }
        report.models.push(of);
    }
    // The smallest that ran, since what follows runs it often.
    let ran = networks.iter().zip(&report.models).filter(|(_, of)| of.ok);
    let smallest = ran.min_by_key(|(n, _)| n.model.info().whole().map_or(0, |w| n.model.info().flops(w)));
    let ordinal = engine.gpu().ordinal;
    match smallest {
        Some((network, of)) if arguments.softgpu => {
            if arguments.latency {
                softgpu_plan(ordinal, &format!("stretch={STRETCH}"))?;
                let found = together(engine, &of.file, &network.model)?;
                report.together.extend(found);
                softgpu_plan(ordinal, "stretch=0")?;
            }
            report.faults = faults(engine, partition, &network.model, &network.input)?;
        }
        _ => {}
    }
    if arguments.latency && !arguments.softgpu {
        say("torch: timing", false);
        let names: Vec<String> = networks.iter().map(|n| torch_name(&n.name)).collect();
        let device = format!("cuda:{}", arguments.gpu);
        let left_out = match torch(&arguments.python, &device, &names) {
            Ok(found) => {
                report.torch = found;
                let python = arguments.python.display();
                let lacks = || format!("torch: {python} has no torch and torchvision");
                report.torch.is_none().then(lacks)
            }
            Err(error) => Some(format!("torch: {error:#}")),
        };
        report.left_out.extend(left_out);
    }
    Ok(())
}
