//! `graft model inspect`.

use std::path::PathBuf;

use clap::Args;
use graft_engine::warnings;
use serde_json::json;

use super::{called, cut_json, engines_json, open_and_try, shapes, shortened};
use crate::Verdict;
use crate::engines::EngineArguments;
use crate::output::line;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An ONNX file, a model.toml, or a folder with one
    file: PathBuf,
    #[command(flatten)]
    engine: EngineArguments,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let here = open_and_try(&arguments.file, &arguments.engine, arguments.json)?;
    let (entry, info) = (&here.entry, &here.entry.info);
    let engine = here.choice.engine;
    let warnings = warnings(&here.engines, here.partition, &here.model, 1)?;
    if arguments.json {
        let cuts: Vec<_> = info
            .cuts
            .iter()
            .enumerate()
            .map(|(i, cut)| {
                let mut object = cut_json(cut);
                object["index"] = i.into();
                object
            })
            .collect();
        let whole = json!({
            "name": entry.manifest.name, "file": info.file, "id": info.id, "opset": info.opset,
            "engine": engine, "engines": engines_json(&here.choice), "warnings": warnings, "refused": null,
            "cut_points": cuts, "segments": info.segments,
            "flops": info.segments.iter().map(|s| s.flops).sum::<u64>(),
            "weights_bytes": info.weights_bytes(),
        });
        line(format_args!("{whole}"))?;
        return Ok(Verdict::Yes);
    }
    line(format_args!("{} ({})", entry.manifest.name, info.file.display()))?;
    line(format_args!(
        "identity {}, opset {}, {} cut points",
        info.id,
        info.opset,
        info.cuts.len()
    ))?;
    line(format_args!(
        "{:>4}  {:<28} {:<18} {:>10}   {:>10} {:>10}  layers after it",
        "cut", "tensor", "shape", "bytes", "MFLOP", "weights"
    ))?;
    for (i, cut) in info.cuts.iter().enumerate() {
        let after = info.segments.get(i).map_or(String::new(), |s| {
            format!(
                "{:>10.2} {:>10}  {}",
                s.flops as f64 / 1e6,
                s.weights_bytes,
                summary(&s.nodes)
            )
        });
        line(format_args!(
            "{i:>4}  {:<28} {:<18} {:>10}   {after}",
            shortened(&called(cut), 28),
            shapes(cut),
            cut.bytes()
        ))?;
    }
    let flops: u64 = info.segments.iter().map(|s| s.flops).sum();
    line(format_args!(
        "all: {:.1} MFLOP a request, {} bytes of weights; engine {engine} runs all of it ({})",
        flops as f64 / 1e6,
        info.weights_bytes(),
        here.choice
    ))?;
    for warning in &warnings {
        line(format_args!("warning: {warning}"))?;
    }
    if let Some(missing) = here.engines.missing() {
        line(format_args!("onnxruntime was not tried: {missing}"))?;
    }
    Ok(Verdict::Yes)
}

fn summary(nodes: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = nodes
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ");
    if nodes.len() > SHOWN {
        text += &format!(" +{}", nodes.len() - SHOWN);
    }
    text
}
