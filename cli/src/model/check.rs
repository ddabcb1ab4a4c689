//! `graft model check`.

use std::path::{Path, PathBuf};

use clap::Args;
use graft_engine::Engine as _;
use graft_engine::conformance::{CutCheck, ROUNDING, check_cuts, check_rows};
use graft_engine::{
    Against, Difference, Gives, OnnxRuntimeEngine, against, first_difference, usable_cores, warnings,
};
use graft_files::read_data_set;
use serde_json::{Value, json};

use super::{Here, called, engines_json, npz, open_and_try, refuse, refused_json, shortened};
use crate::Verdict;
use crate::engines::EngineArguments;
use crate::output::line;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An ONNX file, a model.toml, or a folder with one
    file: PathBuf,
    #[command(flatten)]
    engine: EngineArguments,
    /// Requests in a batch
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: u16,
    /// What is right: `onnxruntime`, which runs the file as it is; a test data set, a folder with input_0.pb and
    /// output_0.pb, and so on; or an .npz with arrays called as the model's inputs and outputs are, or `input` and `output`
    #[arg(long, value_name = "onnxruntime|FOLDER|FILE.npz")]
    against: Option<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Comparison of the engine's answers with those that are right.
struct Held {
    /// Comparison of the output.
    output: Against,
    /// The first tensor at a cut point that is too far off; `None`: none is, or only the output is known.
    first: Option<Difference>,
}

fn against_json(held: &Held) -> Value {
    // JSON has no infinity.
    let finite = |d: f64| Some(d).filter(|d| d.is_finite());
    let first = held.first.as_ref().map(|d| {
        json!({
            "index": d.at, "tensor": d.tensor, "max_abs_diff": finite(d.found.max_abs_diff),
            "allowed": d.found.allowed,
        })
    });
    let output = &held.output;
    json!({
        "holds": output.holds() && held.first.is_none(), "max_abs": output.max_abs, "allowed": output.allowed,
        "max_abs_diff": finite(output.max_abs_diff), "elements": output.given, "elements_expected": output.right,
        "first_difference": first,
    })
}

/// Runs what is to be compared with what `place` says is right.
fn hold(here: &Here, place: &Path, arguments: &Arguments) -> anyhow::Result<Held> {
    let info = &here.entry.info;
    let failed = |why: String, what_to_do: &str| {
        let refused = json!({
            "node": null, "operator": null, "opset": info.opset, "why": why, "what_to_do": what_to_do,
        });
        refuse(
            arguments.json,
            refused,
            engines_json(&here.choice),
            anyhow::anyhow!("{why}. {what_to_do}"),
        )
    };
    if place.as_os_str() == "onnxruntime" && !place.exists() {
        let other = OnnxRuntimeEngine::open(arguments.engine.library(), None)?;
        let get_right = "See whether onnxruntime alone runs the file";
        let mut reference = other
            .reference(&here.model, usable_cores().len(), Gives::EveryCut)
            .map_err(|why| failed(format!("onnxruntime does not run the file: {why}"), get_right))?;
        let (output, first) = first_difference(&here.engines, here.partition, &here.model, &mut reference)
            .map_err(|error| failed(error.to_string(), "Try another engine with --engine"))?;
        return Ok(Held { output, first });
    }
    let set = if place.extension().is_some_and(|e| e == "npz") {
        npz::read(place, info)
    } else {
        read_data_set(place, info)
    };
    let set = set.map_err(|error| {
        refuse(
            arguments.json,
            refused_json(&error),
            engines_json(&here.choice),
            error.into(),
        )
    })?;
    let output = against(&here.engines, here.partition, &here.model, set).map_err(|error| {
        failed(
            error.to_string(),
            "Use smaller numbers, or an engine that computes these",
        )
    })?;
    Ok(Held { output, first: None })
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let here = open_and_try(&arguments.file, &arguments.engine, arguments.json)?;
    let (info, batch) = (&here.entry.info, usize::from(arguments.batch));
    let (engine, partition, model) = (&here.engines, here.partition, &here.model);
    let held = arguments
        .against
        .as_deref()
        .map(|place| hold(&here, place, arguments))
        .transpose()?;
    let warnings = warnings(engine, partition, model, batch)?;
    let mut checks: Vec<CutCheck> = vec![];
    let mut printed = Ok(());
    check_cuts(engine, partition, model, batch, |c| {
        if !arguments.json && printed.is_ok() {
            printed = line(format_args!(
                "cut point {:>3}  {:<28} max |tail(head(x)) - model(x)| = {:.3e}, {:.1e} of max |model(x)|  {}",
                c.at,
                shortened(&called(&info.cuts[c.at.index()]), 28),
                c.found.most,
                c.found.relative(),
                if c.holds() { "ok" } else { "DIFFERS" }
            ));
        }
        checks.push(c);
    })?;
    printed?;
    let worst = checks.iter().map(|c| c.found.relative()).fold(0.0, f64::max);
    let mixed = check_rows(engine, partition, model, batch)?;
    let precision = engine.precision(info.id)?;
    let rows_hold = mixed.within(precision.between_ways());
    let agrees = held
        .as_ref()
        .is_none_or(|h| h.output.holds() && h.first.is_none());
    let holds = checks.iter().all(CutCheck::holds) && rows_hold && agrees;
    if arguments.json {
        let list: Vec<_> = checks
            .iter()
            .map(|c| json!({ "index": c.at, "max_abs_diff": c.found.most, "max_abs": c.found.of, "holds": c.holds() }))
            .collect();
        line(format_args!(
            "{}",
            json!({
                "id": info.id, "opset": info.opset, "engine": here.choice.engine, "engines": engines_json(&here.choice),
                "segments": info.segments, "warnings": warnings, "refused": null, "batch": arguments.batch,
                "precision": precision, "tolerance": precision.between_ways(), "rounding": ROUNDING, "cut_points": list, "rows_mix": mixed.most,
                "against": held.as_ref().map(against_json), "holds": holds,
            })
        ))?;
        return Ok(if holds { Verdict::Yes } else { Verdict::No });
    }
    for warning in &warnings {
        line(format_args!("warning: {warning}"))?;
    }
    if let (Some(held), Some(place)) = (&held, &arguments.against) {
        line(format_args!(
            "{} against {}: largest difference {:.3e} of {:.3e}  {}",
            here.choice.engine,
            place.display(),
            held.output.max_abs_diff,
            held.output.max_abs,
            if agrees { "ok" } else { "DIFFERS" }
        ))?;
        if let Some(first) = &held.first {
            line(format_args!(
                "  the first tensor that differs: {} at cut point {}, by {:.3e} ({:.3e} are excused)",
                first.tensor, first.at, first.found.max_abs_diff, first.found.allowed
            ))?;
        }
    }
    line(format_args!(
        "each row with the others exchanged: changes by {:.3e}, {:.1e} of the largest output  {}",
        mixed.most,
        mixed.relative(),
        if rows_hold { "ok" } else { "REQUESTS MIX" }
    ))?;
    line(format_args!(
        "{} cut points, batch {}, engine {}: worst difference {worst:.1e} of the largest output; {}",
        checks.len(),
        arguments.batch,
        here.choice.engine,
        if holds {
            "head and tail equal the whole everywhere"
        } else {
            "NOT all hold"
        }
    ))?;
    Ok(if holds { Verdict::Yes } else { Verdict::No })
}
