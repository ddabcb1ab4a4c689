//! `graft model split`: a head for the phone's own runtime, a tail for another server.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use graft_model::{CutPoint, ModelInfo, Part, Parts, StageRange};
use serde_json::json;

use super::{called, cut_json, open, shapes, shortened};
use crate::Verdict;
use crate::output::line;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An ONNX file, a model.toml, or a folder with one
    file: PathBuf,
    /// The cut point at which the parts meet, as `graft model inspect` numbers them; or the name of its only tensor
    #[arg(long, value_name = "CUT", required_unless_present = "all")]
    at: Option<String>,
    /// Where the layers before the cut point go; default: the model's name with `.head.onnx`, in this folder
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Where the layers after it go; default: the model's name with `.tail.onnx`, in this folder
    #[arg(long, value_name = "FILE")]
    tail: Option<PathBuf>,
    /// Size of the batch in both files; left open, if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// List what every cut point would send, and what would be computed on either side, instead of writing files
    #[arg(long, conflicts_with_all = ["at", "head", "tail", "batch"])]
    all: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let (entry, model) = open(&arguments.file)?;
    let info = &entry.info;
    let Some(at) = &arguments.at else {
        return list(info, arguments.json);
    };
    let at = find(info, at)?;
    let parts = model.parts();
    let batch = arguments.batch.map(|n| n as usize);
    let name = &entry.manifest.name;
    let place = |given: &Option<PathBuf>, part: &str| {
        given
            .clone()
            .unwrap_or_else(|| PathBuf::from(format!("{name}.{part}.onnx")))
    };
    // With one of the two files named, only that one is wanted.
    let (head, tail) = match (&arguments.head, &arguments.tail) {
        (Some(head), None) => (Some(head.clone()), None),
        (None, Some(tail)) => (None, Some(tail.clone())),
        _ => (
            Some(place(&arguments.head, "head")),
            Some(place(&arguments.tail, "tail")),
        ),
    };
    let absolute = |file: &Option<PathBuf>| file.as_ref().and_then(|f| std::path::absolute(f).ok());
    anyhow::ensure!(
        head.is_none() || absolute(&head) != absolute(&tail),
        "head and tail would be the same file"
    );
    let mut written = vec![];
    for (range, file) in [(StageRange::new(CutPoint(0), at), head), (info.tail(at), tail)] {
        if let (Some(range), Some(file)) = (range, file) {
            let part = write(&parts, range, batch, &info.file, &file)?;
            written.push((range, file, part));
        }
    }
    let cut = &info.cuts[at.index()];
    let ends = |range: &StageRange, part: &Part| {
        let (from, to) = (&info.cuts[range.from().index()], &info.cuts[range.to().index()]);
        let inputs: Vec<&str> = part
            .inputs
            .iter()
            .map(|&i| from.tensors[i].name.as_str())
            .collect();
        let outputs: Vec<&str> = part
            .outputs
            .iter()
            .map(|&i| to.tensors[i].name.as_str())
            .collect();
        (inputs, outputs)
    };
    // What crosses at the cut point and is no output of the head is one of the model's inputs, which goes on as it is.
    let passing: Vec<&str> = cut
        .names()
        .filter(|name| info.inputs().position(name).is_some())
        .collect();
    let files = written.iter().map(|(range, file, part)| {
        let (inputs, outputs) = ends(range, part);
        json!({
            "file": file, "input": inputs.first(), "output": outputs.first(),
            "inputs": inputs, "outputs": outputs, "flops": info.flops(*range),
        })
    });
    if arguments.json {
        let mut object = cut_json(cut);
        object["at"] = at.0.into();
        object["passing"] = passing.into();
        object["files"] = files.collect();
        line(format_args!("{object}"))?;
        return Ok(Verdict::Yes);
    }
    line(format_args!(
        "cut point {at}: {cut}, {} bytes a request",
        cut.bytes()
    ))?;
    for (range, file, part) in &written {
        let (inputs, outputs) = ends(range, part);
        line(format_args!(
            "{}: layers {range}, from {} to {}, {:.1} MFLOP a request",
            file.display(),
            inputs.join(", "),
            outputs.join(", "),
            info.flops(*range) as f64 / 1e6
        ))?;
    }
    if !passing.is_empty() {
        line(format_args!(
            "the tail takes what the model does, too: {}",
            passing.join(", ")
        ))?;
    }
    Ok(Verdict::Yes)
}

/// An inner cut point by its number or its tensor.
fn find(info: &ModelInfo, at: &str) -> anyhow::Result<CutPoint> {
    let last = info.last();
    let called_so = |p: &CutPoint| info.cuts[p.index()].only().is_some_and(|t| t.name == at);
    let by_name = || info.cut_points().find(called_so);
    let point = at.parse().ok().map(CutPoint).or_else(by_name);
    let point = point.with_context(|| {
        format!("--at {at}: the model has no cut point and no tensor at one that is called so")
    })?;
    anyhow::ensure!(
        CutPoint(0) < point && point < last,
        "--at {point}: expected a cut point from 1 to {}, between input and output (`graft model inspect` lists them)",
        last.0.saturating_sub(1)
    );
    Ok(point)
}

fn write(
    parts: &Parts,
    range: StageRange,
    batch: Option<usize>,
    source: &Path,
    file: &Path,
) -> anyhow::Result<Part> {
    let same = |a: &Path, b: &Path| {
        a.canonicalize()
            .ok()
            .zip(b.canonicalize().ok())
            .is_some_and(|(a, b)| a == b)
    };
    anyhow::ensure!(!same(source, file), "{}: is the model itself", file.display());
    let part = parts.part(range, batch)?;
    anyhow::ensure!(
        part.bytes.len() < LARGEST_BYTES,
        "{}: would have {} bytes; readers of ONNX files take less than {LARGEST_BYTES}",
        file.display(),
        part.bytes.len()
    );
    // The file is written under another name and then renamed, so that it is whole or not there at all.
    let mut draft = file.as_os_str().to_owned();
    draft.push(".draft");
    let draft = PathBuf::from(draft);
    let written = std::fs::write(&draft, &part.bytes).and_then(|()| std::fs::rename(&draft, file));
    if written.is_err() && draft.exists() {
        std::fs::remove_file(&draft).with_context(|| draft.display().to_string())?;
    }
    written.with_context(|| format!("{} can't be written", file.display()))?;
    Ok(part)
}

/// Largest protobuf message that readers take, in bytes.
const LARGEST_BYTES: usize = 1 << 31;

/// A table of all inner cut points.
fn list(info: &ModelInfo, as_json: bool) -> anyhow::Result<Verdict> {
    let all: u64 = info.segments.iter().map(|s| s.flops).sum();
    let rows = info.cut_points().map(|at| {
        let cut = &info.cuts[at.index()];
        let before: u64 = info.segments[..at.index()].iter().map(|s| s.flops).sum();
        let weights: u64 = info.segments[..at.index()].iter().map(|s| s.weights_bytes).sum();
        (at, cut, before, weights)
    });
    if as_json {
        let rows: Vec<_> = rows
            .map(|(at, cut, before, weights)| {
                let only = cut.only();
                json!({
                    "index": at, "tensor": only.map(|t| &t.name), "shape": only.map(|t| &t.shape),
                    "dtype": only.map(|t| t.dtype), "tensors": cut.tensors,
                    "sent_bytes": cut.bytes(), "head_flops": before, "tail_flops": all - before,
                    "head_weights_bytes": weights, "tail_weights_bytes": info.weights_bytes().saturating_sub(weights),
                })
            })
            .collect();
        line(format_args!("{}", json!({ "id": info.id, "cut_points": rows })))?;
        return Ok(Verdict::Yes);
    }
    line(format_args!(
        "{:>4}  {:<28} {:<18} {:>10}  {:>10} {:>10}  {:>12} {:>12}",
        "cut", "tensor", "shape", "sent bytes", "head MFLOP", "tail MFLOP", "head weights", "tail weights"
    ))?;
    for (at, cut, before, weights) in rows {
        line(format_args!(
            "{at:>4}  {:<28} {:<18} {:>10}  {:>10.2} {:>10.2}  {weights:>12} {:>12}",
            shortened(&called(cut), 28),
            shapes(cut),
            cut.bytes(),
            before as f64 / 1e6,
            (all - before) as f64 / 1e6,
            info.weights_bytes().saturating_sub(weights)
        ))?;
    }
    Ok(Verdict::Yes)
}
