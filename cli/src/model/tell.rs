//! `graft model tell`: shapes of what operators give for which Graft has no rule.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use graft_engine::OnnxRuntimeEngine;
use graft_files::{read_manifest, read_model};
use graft_model::{Manifest, ToldTensor};

use crate::Verdict;
use crate::engines::EngineArguments;
use crate::output::line;

/// Operators that are asked about at most.
const MOST_OPERATORS: usize = 1024;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An ONNX file, a model.toml, or a folder with one
    file: PathBuf,
    #[command(flatten)]
    engine: EngineArguments,
    /// Add what is found to model.toml, instead of printing it
    #[arg(long)]
    write: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let place = if arguments.file.is_dir() {
        arguments.file.join("model.toml")
    } else {
        arguments.file.clone()
    };
    let is_manifest = place.extension().is_some_and(|e| e == "toml");
    anyhow::ensure!(
        is_manifest || !arguments.write,
        "--write: {} has no model.toml",
        place.display()
    );
    let (manifest, file) = if is_manifest {
        let manifest = read_manifest(&place)?;
        let file = place.with_file_name(&manifest.file);
        (manifest, file)
    } else {
        (Manifest::for_file(&place), place.clone())
    };
    let engine = OnnxRuntimeEngine::open(arguments.engine.library(), None)?;
    let mut options = manifest.read_options(None);
    let mut found: BTreeMap<String, ToldTensor> = BTreeMap::new();
    for _ in 0..MOST_OPERATORS {
        let Err(error) = read_model(&file, &options) else {
            break;
        };
        let outputs = error.outputs_without_rule().to_vec();
        if outputs.is_empty() {
            return Err(error.into());
        }
        let told = engine
            .tell(&file, &options, &outputs)
            .map_err(|cause| anyhow::anyhow!("{error}; and onnxruntime can't tell: {cause}"))?;
        found.extend(told.clone());
        options.tensors.extend(told);
    }
    let mut text = String::new();
    for (name, told) in &found {
        let ToldTensor { shape, dtype } = told;
        write!(
            text,
            "\n[tensors.{name:?}]\nshape = {shape:?}\ndtype = \"{dtype}\"\n"
        )?;
    }
    if !arguments.write {
        line(format_args!("{}", text.trim()))?;
    } else if !found.is_empty() {
        let file = OpenOptions::new().append(true).open(&place);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| place.display().to_string())?;
    }
    if arguments.write {
        line(format_args!(
            "{} tensors added to {}",
            found.len(),
            place.display()
        ))?;
    }
    Ok(Verdict::Yes)
}
