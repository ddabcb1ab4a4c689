//! `graft model`: what a model's cut points are, and whether they hold.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use graft_engine::conformance::{CutCheck, TOLERANCE, check_cuts, check_rows};
use graft_engine::{
    Against, CpuEngine, Engine, PartitionId, Refusal, against, try_out, usable_cores, warnings,
};
use graft_model::{CatalogEntry, DataSet, Manifest, Model, ModelError, operator_of};
use serde_json::{Value, json};

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
    /// A test data set to hold the answer against: a folder with input_0.pb and output_0.pb, as ONNX models carry them
    #[arg(long, value_name = "FOLDER")]
    against: Option<PathBuf>,
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

/// The engine that layers run on here, with a partition of some cores.
struct Here {
    engine: CpuEngine,
    partition: PartitionId,
}

impl Here {
    fn open() -> anyhow::Result<Self> {
        let engine = CpuEngine::new();
        let partition = engine.open_partition(&usable_cores())?;
        Ok(Here { engine, partition })
    }
}

/// A network that is not served, as JSON for programs.
fn refused_json(error: &ModelError) -> Value {
    json!({
        "node": error.node(), "operator": error.operator(), "opset": error.opset(),
        "why": error.what(), "what_to_do": error.hint(),
    })
}

fn against_json(against: &Against) -> Value {
    // JSON has no infinity.
    let worst = Some(against.max_abs_diff).filter(|d| d.is_finite());
    json!({
        "holds": against.holds(), "max_abs": against.max_abs, "allowed": against.allowed, "max_abs_diff": worst,
        "elements": against.given, "elements_expected": against.right,
    })
}

fn refusal_json(refusal: &Refusal) -> Value {
    json!({
        "node": refusal.node, "operator": refusal.node.as_deref().and_then(operator_of),
        "opset": refusal.opset, "why": refusal.why, "what_to_do": refusal.what_to_do,
    })
}

/// Says that a network is not served: with JSON on standard output, if that is asked for.
fn refuse(json: bool, refused: Value, error: anyhow::Error) -> anyhow::Error {
    let object = json!({ "engine": null, "segments": [], "warnings": [], "refused": refused });
    if json && let Err(error) = line(format_args!("{object}")) {
        return error;
    }
    error
}

/// Opens a model and sees whether the engine here runs it.
fn open_and_try(file: &Path, json: bool) -> anyhow::Result<(CatalogEntry, Model, Here)> {
    let (entry, model) = open(file).map_err(|error| match error.downcast_ref::<ModelError>() {
        Some(cause) => refuse(json, refused_json(cause), error),
        None => error,
    })?;
    let here = Here::open()?;
    if let Err(refusal) = try_out(&here.engine, here.partition, &model) {
        let name = here.engine.name();
        let text = format!("{}: engine {name} does not run it: {refusal}", file.display());
        return Err(refuse(json, refusal_json(&refusal), anyhow::anyhow!(text)));
    }
    Ok((entry, model, here))
}

fn inspect(arguments: &Inspect) -> anyhow::Result<Verdict> {
    let (entry, model, here) = open_and_try(&arguments.file, arguments.json)?;
    let info = &entry.info;
    let engine = here.engine.name();
    let warnings = warnings(&here.engine, here.partition, &model, 1)?;
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
            "engine": engine, "warnings": warnings, "refused": null,
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
        "all: {:.1} MFLOP a request, {} bytes of weights; engine {engine} runs all of it",
        flops as f64 / 1e6,
        info.weights_bytes()
    ))?;
    for warning in &warnings {
        line(format_args!("warning: {warning}"))?;
    }
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
    let (entry, model, Here { engine, partition }) = open_and_try(&arguments.file, arguments.json)?;
    let info = &entry.info;
    let against = match &arguments.against {
        None => None,
        Some(folder) => {
            let set = DataSet::read(folder, &info.cuts[0])
                .map_err(|error| refuse(arguments.json, refused_json(&error), error.into()))?;
            let found = against(&engine, partition, &model, set).map_err(|error| {
                let refused = json!({
                    "node": null, "operator": null, "opset": info.opset, "why": error.to_string(),
                    "what_to_do": "Use smaller numbers, or an engine that computes these",
                });
                refuse(arguments.json, refused, error.into())
            })?;
            Some(found)
        }
    };
    let warnings = warnings(&engine, partition, &model, usize::from(arguments.batch))?;
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
    let agrees = against.as_ref().is_none_or(Against::holds);
    let holds = checks.iter().all(CutCheck::holds) && rows_hold && agrees;
    if arguments.json {
        let list: Vec<_> = checks
            .iter()
            .map(|c| json!({ "index": c.at, "max_abs_diff": c.max_abs_diff, "max_abs": c.max_abs, "holds": c.holds() }))
            .collect();
        line(format_args!(
            "{}",
            json!({
                "id": info.id, "opset": info.opset, "engine": engine.name(), "segments": info.segments,
                "warnings": warnings, "refused": null,
                "against": against.as_ref().map(against_json),
                "holds": holds, "worst_relative": worst, "cut_points": list,
                "rows": { "max_abs_diff": mixed, "max_abs": top, "holds": rows_hold },
            })
        ))?;
    } else {
        for warning in &warnings {
            line(format_args!("warning: {warning}"))?;
        }
        if let (Some(against), Some(folder)) = (&against, &arguments.against) {
            line(format_args!(
                "against {}: largest difference {:.3e} of {:.3e}  {}",
                folder.display(),
                against.max_abs_diff,
                against.max_abs,
                if agrees { "ok" } else { "DIFFERS" }
            ))?;
        }
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
