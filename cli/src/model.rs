//! `graft model`: what a model's cut points are, and whether they hold.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use graft_engine::conformance::{CutCheck, TOLERANCE, check_cuts, check_rows};
use graft_engine::{CpuEngine, Engine, usable_cores};
use graft_model::{CatalogEntry, Manifest, Model};
use serde_json::json;

use crate::Verdict;
use crate::output::line;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the cut points of a model, and what lies between them
    Inspect(Inspect),
    /// Run head and tail at every cut point and compare with the whole; and see whether requests of a batch mix
    Check(Check),
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// An ONNX file, a model.toml, or a folder with one
    file: PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// An ONNX file, a model.toml, or a folder with one
    file: PathBuf,
    /// Requests in a batch
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: u16,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Opens a model by its file, its manifest or its folder.
pub(crate) fn open(path: &Path) -> anyhow::Result<(CatalogEntry, Model)> {
    let manifest = if path.is_dir() {
        path.join("model.toml")
    } else {
        path.to_owned()
    };
    if manifest.extension().is_some_and(|e| e == "toml") {
        return Ok(CatalogEntry::open(&manifest)?);
    }
    let manifest = Manifest::for_file(path);
    let model = Model::read(path, &manifest.read_options())?;
    let entry = CatalogEntry {
        folder: path.parent().unwrap_or(Path::new(".")).to_owned(),
        info: model.info().clone(),
        labels: Default::default(),
        manifest,
    };
    Ok((entry, model))
}

pub(crate) fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Inspect(arguments) => inspect(&arguments),
        Command::Check(arguments) => check(&arguments),
    }
}

fn inspect(arguments: &Inspect) -> anyhow::Result<Verdict> {
    let (entry, _) = open(&arguments.file)?;
    let info = &entry.info;
    if arguments.json {
        let cuts: Vec<_> = info
            .cuts
            .iter()
            .enumerate()
            .map(|(i, c)| {
                json!({
                    "index": i, "tensor": c.tensor, "shape": c.shape, "dtype": c.dtype,
                    "elements": c.elements, "bytes": c.bytes(),
                })
            })
            .collect();
        let whole = json!({
            "name": entry.manifest.name, "file": info.file, "id": info.id, "opset": info.opset,
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
        let shape = format!("{:?} {}", cut.shape, cut.dtype);
        let after = info.segments.get(i).map_or(String::new(), |s| {
            format!(
                "{:>10.2} {:>10}  {}",
                s.flops as f64 / 1e6,
                s.weights_bytes,
                summary(&s.nodes)
            )
        });
        line(format_args!(
            "{i:>4}  {:<28} {shape:<18} {:>10}   {after}",
            shortened(&cut.tensor, 28),
            cut.bytes()
        ))?;
    }
    let flops: u64 = info.segments.iter().map(|s| s.flops).sum();
    line(format_args!(
        "all: {:.1} MFLOP a request, {} bytes of weights",
        flops as f64 / 1e6,
        info.weights_bytes()
    ))?;
    Ok(Verdict::Yes)
}

fn shortened(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    format!("…{}", text.chars().skip(count + 1 - width).collect::<String>())
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

fn check(arguments: &Check) -> anyhow::Result<Verdict> {
    let (entry, model) = open(&arguments.file)?;
    let engine = CpuEngine::new();
    engine.load(&model)?;
    let partition = engine.open_partition(&usable_cores())?;
    let info = &entry.info;
    let mut checks: Vec<CutCheck> = vec![];
    let mut printed = Ok(());
    check_cuts(&engine, partition, &model, usize::from(arguments.batch), |c| {
        if !arguments.json && printed.is_ok() {
            printed = line(format_args!(
                "cut point {:>3}  {:<28} max |tail(head(x)) - model(x)| = {:.3e}, {:.1e} of max |model(x)|  {}",
                c.at,
                shortened(&info.cuts[c.at.index()].tensor, 28),
                c.max_abs_diff,
                c.max_abs_diff / c.max_abs.max(f64::MIN_POSITIVE),
                if c.holds() { "ok" } else { "DIFFERS" }
            ));
        }
        checks.push(c);
    })?;
    printed?;
    let worst = checks
        .iter()
        .map(|c| c.max_abs_diff / c.max_abs.max(f64::MIN_POSITIVE))
        .fold(0.0, f64::max);
    let (mixed, top) = check_rows(&engine, partition, &model, usize::from(arguments.batch))?;
    let rows_hold = mixed <= TOLERANCE * top;
    let holds = checks.iter().all(CutCheck::holds) && rows_hold;
    if arguments.json {
        let list: Vec<_> = checks
            .iter()
            .map(|c| json!({ "index": c.at, "max_abs_diff": c.max_abs_diff, "max_abs": c.max_abs, "holds": c.holds() }))
            .collect();
        line(format_args!(
            "{}",
            json!({
                "id": info.id, "holds": holds, "worst_relative": worst, "cut_points": list,
                "rows": { "max_abs_diff": mixed, "max_abs": top, "holds": rows_hold },
            })
        ))?;
    } else {
        line(format_args!(
            "each row with the others exchanged: changes by {mixed:.3e}, {:.1e} of the largest output  {}",
            mixed / top.max(f64::MIN_POSITIVE),
            if rows_hold { "ok" } else { "REQUESTS MIX" }
        ))?;
        line(format_args!(
            "{} cut points, batch {}: worst difference {worst:.1e} of the largest output; {}",
            checks.len(),
            arguments.batch,
            if holds {
                "head and tail equal the whole everywhere"
            } else {
                "NOT all hold"
            }
        ))?;
    }
    Ok(if holds { Verdict::Yes } else { Verdict::No })
}
