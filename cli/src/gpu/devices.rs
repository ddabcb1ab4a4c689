//! `graft devices`: what this machine computes on.

use clap::Args;
use graft_cuda::{CudaEngine, Gpu};
use graft_engine::{cpu_kind, usable_cores};
use serde_json::json;

use crate::Verdict;
use crate::output::line;

/// List this machine's devices, and what would be used.
///
/// It ends well with and without a GPU: where there is none that can be used, it says why.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// One JSON object on standard output instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let cores = usable_cores();
    let gpus = Gpu::all();
    let mut list = vec![];
    for gpu in gpus.as_deref().unwrap_or_default() {
        let opened = CudaEngine::open(gpu).map(|engine| (engine.granularity(), engine.undivided()));
        list.push((gpu, opened));
    }
    let usable = list.iter().filter(|(_, opened)| opened.is_ok());
    let names: Vec<String> = usable.map(|(gpu, _)| format!("cuda:{}", gpu.ordinal)).collect();
    let used = match names.is_empty() {
        true => "cpu".to_owned(),
        false => names.join(" "),
    };
    if arguments.json {
        let gpus_json: Vec<_> = list
            .iter()
            .map(|(gpu, opened)| {
                json!({
                    "device": format!("cuda:{}", gpu.ordinal),
                    "name": gpu.name,
                    "softgpu": gpu.is_softgpu(),
                    "sms": gpu.sms,
                    "granularity": opened.as_ref().ok().map(|((each, _), _)| each),
                    "undivided": opened.as_ref().ok().and_then(|(_, undivided)| undivided.as_ref()),
                    "capability": gpu.capability,
                    "memory_bytes": gpu.memory,
                    "driver": gpu.driver,
                    "unusable": opened.as_ref().err().map(ToString::to_string),
                })
            })
            .collect();
        let all = json!({
            "cpu": { "name": cpu_kind(), "cores": cores.len() },
            "gpus": gpus_json,
            "no_gpu": gpus.as_ref().err().map(ToString::to_string),
            "used": used,
        });
        line(serde_json::to_string_pretty(&all)?)?;
        return Ok(Verdict::Yes);
    }
    line(format_args!("cpu     {}, {} core(s)", cpu_kind(), cores.len()))?;
    match &gpus {
        Err(why) => line(format_args!("no GPU  {why}"))?,
        Ok(all) if all.is_empty() => line("no GPU  the driver has no device")?,
        Ok(_) => {}
    }
    for (gpu, opened) in &list {
        let partitions = match opened {
            Ok(((each, all), None)) => format!("partitions of {each} SMs, {all} in all"),
            Ok(((_, all), Some(why))) => {
                format!("one partition of {all} SMs, since the driver does not divide the device: {why}")
            }
            Err(why) => format!("can't be used: {why}"),
        };
        line(format_args!(
            "cuda:{}  {}{}, {} SMs, compute {}.{}, {:.1} GiB, CUDA {}.{}; {partitions}",
            gpu.ordinal,
            gpu.name,
            if gpu.is_softgpu() {
                " (software, for tests)"
            } else {
                ""
            },
            gpu.sms,
            gpu.capability / 10,
            gpu.capability % 10,
            gpu.memory as f64 / f64::from(1 << 30),
            gpu.driver / 1000,
            gpu.driver % 1000 / 10,
        ))?;
    }
    line(format_args!("used    {used}"))?;
    Ok(Verdict::Yes)
}
