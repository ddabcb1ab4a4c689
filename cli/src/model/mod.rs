//! `graft model`: what a model's cut points are, whether they hold, and its parts as files.

mod check;
mod features;
mod inspect;
mod npz;
mod split;
mod tell;

use std::path::Path;
use std::sync::Arc;

use clap::Subcommand;
use graft_engine::{Choice, Engine, Engines, PartitionId, PartitionShape, Refusal, usable_cores};
use graft_files::CatalogEntry;
use graft_model::{Cut, Model, ModelError, operator_of};
use serde_json::{Value, json};

use crate::Verdict;
use crate::engines::EngineArguments;
use crate::output::line;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the cut points of a model, what lies between them, and which engines here run it
    Inspect(inspect::Arguments),
    /// Run head and tail at every cut point and compare with the whole; and see whether requests of a batch mix
    Check(check::Arguments),
    /// Write a model's head and tail at a cut point as ONNX files, or list what every cut point would send and compute
    Split(split::Arguments),
    /// Find how intermediate tensors may travel in fewer bytes, from photographs, and write it for the manifest
    Features(features::Arguments),
    /// Ask onnxruntime for the shapes of what operators give for which Graft has no rule, for the manifest
    Tell(tell::Arguments),
}

/// Opens a model by its file, its manifest or its folder.
pub(crate) fn open(path: &Path) -> anyhow::Result<(CatalogEntry, Model)> {
    Ok(CatalogEntry::at(path)?)
}

pub(crate) fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Split(arguments) => split::run(&arguments),
        Command::Features(arguments) => features::run(&arguments),
        Command::Tell(arguments) => tell::run(&arguments),
    }
}

/// A model, and the engine that it runs on here, with a partition of all cores.
struct Here {
    entry: CatalogEntry,
    model: Model,
    engines: Engines,
    partition: PartitionId,
    choice: Arc<Choice>,
}

/// A network that is not served, as JSON for programs.
fn refused_json(error: &ModelError) -> Value {
    json!({
        "node": error.node(), "operator": error.operator(), "opset": error.opset(),
        "why": error.what(), "what_to_do": error.hint(),
    })
}

fn refusal_json(refusal: &Refusal) -> Value {
    json!({
        "node": refusal.node, "operator": refusal.node.as_deref().and_then(operator_of),
        "opset": refusal.opset, "why": refusal.why, "what_to_do": refusal.what_to_do,
    })
}

/// The engines, and what each says of a network.
fn engines_json(choice: &Choice) -> Value {
    let tried = choice.tried.iter().map(|(name, outcome)| {
        let (runs, ms) = (outcome.is_ok(), outcome.as_ref().ok().copied().flatten());
        json!({ "engine": name, "runs": runs, "ms": ms, "refused": outcome.as_ref().err().map(refusal_json) })
    });
    tried.collect()
}

/// Reports that a network is not served, with JSON on standard output if that is asked for; gives the error.
fn refuse(json: bool, refused: Value, engines: Value, error: anyhow::Error) -> anyhow::Error {
    let object =
        json!({ "engine": null, "engines": engines, "segments": [], "warnings": [], "refused": refused });
    if json && let Err(error) = line(format_args!("{object}")) {
        return error;
    }
    error
}

/// Opens a model and sees which engine here runs it.
fn open_and_try(file: &Path, with: &EngineArguments, json: bool) -> anyhow::Result<Here> {
    let (entry, model) = open(file).map_err(|error| match error.downcast_ref::<ModelError>() {
        Some(cause) => refuse(json, refused_json(cause), json!([]), error),
        None => error,
    })?;
    try_engines(file, entry, model, with, json)
}

/// Sees which engine here runs a model.
fn try_engines(
    file: &Path,
    entry: CatalogEntry,
    model: Model,
    with: &EngineArguments,
    json: bool,
) -> anyhow::Result<Here> {
    let engines = with.open()?;
    let partition = engines.open_partition(&PartitionShape::cores(&usable_cores()))?;
    let choice = engines.choose(partition, &model).map_err(|refusals| {
        let texts = refusals
            .iter()
            .map(|(name, refusal)| format!("engine {name} does not run it: {refusal}"));
        let text = format!("{}: {}", file.display(), texts.collect::<Vec<_>>().join("; "));
        // The engine that is there everywhere comes last.
        let refused = refusals
            .last()
            .map_or(Value::Null, |(_, refusal)| refusal_json(refusal));
        let tried = refusals.into_iter().map(|(name, refusal)| (name, Err(refusal)));
        let choice = Choice {
            engine: "",
            narrow: None,
            tried: tried.collect(),
        };
        refuse(json, refused, engines_json(&choice), anyhow::anyhow!(text))
    })?;
    Ok(Here {
        entry,
        model,
        engines,
        partition,
        choice,
    })
}

/// What crosses at a cut point, by name.
fn called(cut: &Cut) -> String {
    cut.names().collect::<Vec<_>>().join(", ")
}

/// A cut point for programs. What is said of one tensor stands at the top where only one crosses.
fn cut_json(cut: &Cut) -> Value {
    let only = cut.only();
    json!({
        "tensor": only.map(|t| &t.name), "shape": only.map(|t| &t.shape), "dtype": only.map(|t| t.dtype),
        "elements": cut.elements(), "bytes": cut.bytes(), "tensors": cut.tensors,
    })
}

/// Shapes and types of what crosses at a cut point.
fn shapes(cut: &Cut) -> String {
    let each = cut.tensors.iter().map(|t| format!("{:?} {}", t.shape, t.dtype));
    each.collect::<Vec<_>>().join(", ")
}

fn shortened(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    format!("…{}", text.chars().skip(count + 1 - width).collect::<String>())
}
