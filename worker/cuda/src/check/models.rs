//! Whole networks and each of their cut points, against an engine on the processor.

use std::path::PathBuf;

use graft_engine::{Engine, EngineError, Held, PartitionId};
use graft_model::{Batch, CutPoint, Model, StageRange};
use serde::Serialize;

use crate::CudaEngine;
use crate::held::HeldBatch;

/// What a network's output may be apart from the reference, as a part of the reference's norm.
const WITHIN: f64 = 1e-2;

/// A network's report.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// Its file.
    pub file: String,
    /// Cut points at which it was cut.
    pub cuts: usize,
    /// Largest ‖out - ref‖ / ‖ref‖ of the whole and of all ways in two pieces.
    pub worst: f64,
    /// Whether the largest element of each row is the reference's, or one that is as large there within a thousandth.
    pub top1_equal: bool,
    /// Whether it is within 1e-2, with the same largest elements.
    pub ok: bool,
    /// What went wrong, where something did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
}

/// Engines that networks are run on, each with a partition.
pub struct Networks<'e> {
    /// The GPU.
    pub gpu: (&'e CudaEngine, PartitionId),
    /// The reference.
    pub reference: (&'e dyn Engine, PartitionId),
    /// Cut points at most that are tried; those in between are left out evenly.
    pub most_cuts: usize,
}

/// Runs a network whole and cut in two, on a batch; gives the report, and the GPU's output where there is one.
///
/// One forward's tensors serve for all cut points: from what crosses there in the reference the rest is run.
pub fn model(on: &Networks<'_>, file: PathBuf, model: &Model, input: &Batch) -> (ModelReport, Option<Batch>) {
    let mut report = ModelReport {
        file: file.display().to_string(),
        cuts: 0,
        worst: 0.0,
        top1_equal: true,
        ok: false,
        wrong: vec![],
    };
    let output = match compared(on, model, input, &mut report) {
        Ok(output) => Some(output),
        Err(error) => {
            report.wrong.push(error.to_string());
            report.worst = f64::MAX;
            None
        }
    };
    report.ok = report.wrong.is_empty() && report.top1_equal && report.worst <= WITHIN;
    (report, output)
}

fn compared(
    on: &Networks<'_>,
    model: &Model,
    input: &Batch,
    report: &mut ModelReport,
) -> Result<Batch, EngineError> {
    let ((gpu, part), (reference, cores)) = (on.gpu, on.reference);
    gpu.load(model)?;
    reference.load(model)?;
    let info = model.info();
    let Some(whole) = info.whole() else {
        return Ok(input.clone());
    };
    let wanted = reference.run(cores, info.id, whole, input.clone())?;
    let got = gpu.run(part, info.id, whole, input.clone())?;
    let mut look = |got: &Batch, what: String| {
        let apart = relative(got, &wanted);
        // JSON has no infinity.
        report.worst = report.worst.max(if apart.is_finite() { apart } else { f64::MAX });
        if !same_top1(got, &wanted) {
            report.top1_equal = false;
            report.wrong.push(format!("{what}: another largest element"));
        } else if !apart.is_finite() || apart > WITHIN {
            report.wrong.push(format!("{what}: {apart:.2e}"));
        }
    };
    look(&got, "whole".to_owned());
    let last = info.last().0;
    let step = usize::from(last.saturating_sub(1))
        .div_ceil(on.most_cuts.max(1))
        .max(1);
    // One forward, piece by piece, serves for all heads.
    let mut before = CutPoint(0);
    let mut crossing = Held::Host(input.clone());
    for at in (1..last).step_by(step).map(CutPoint) {
        let ranges = StageRange::new(before, at).zip(StageRange::new(at, CutPoint(last)));
        let Some((piece, tail)) = ranges else { continue };
        let middle = gpu.run_held(part, info.id, piece, crossing)?;
        // What crosses has to be in the range of 16-bit floats.
        again(&middle)?.into_host()?;
        let end = gpu.run_held(part, info.id, tail, again(&middle)?)?.into_host()?;
        look(&end, format!("cut at {}", at.0));
        report.cuts += 1;
        (before, crossing) = (at, middle);
    }
    Ok(got)
}

/// The same batch once more, where it lies.
fn again(batch: &Held) -> Result<Held, EngineError> {
    Ok(match batch {
        Held::Host(batch) => Held::Host(batch.clone()),
        Held::Device(batch) => match batch.as_any().downcast_ref::<HeldBatch>() {
            Some(own) => Held::Device(Box::new(own.clone())),
            None => Held::Host(batch.to_host()?),
        },
    })
}

fn numbers(batch: &Batch) -> Vec<f64> {
    batch
        .tensors()
        .iter()
        .flat_map(|t| t.numbers().collect::<Vec<_>>())
        .collect()
}

/// ‖got - wanted‖ / ‖wanted‖
fn relative(got: &Batch, wanted: &Batch) -> f64 {
    let (got, wanted) = (numbers(got), numbers(wanted));
    if got.len() != wanted.len() {
        return f64::INFINITY;
    }
    let apart: f64 = got.iter().zip(&wanted).map(|(a, b)| (a - b) * (a - b)).sum();
    let norm: f64 = wanted.iter().map(|b| b * b).sum();
    (apart / norm.max(1e-12)).sqrt()
}

/// Difference from its largest element within which the reference can't tell which of two is larger, as a part of that element.
const TIE: f64 = 1e-3;

/// Whether each row of the first tensor has its largest element where the reference has its own, or one as large.
fn same_top1(got: &Batch, wanted: &Batch) -> bool {
    let (Some(got), Some(wanted)) = (got.tensors().first(), wanted.tensors().first()) else {
        return true;
    };
    let each = (got.shape().iter().product::<usize>()).max(1);
    let (got, wanted): (Vec<f64>, Vec<f64>) = (got.numbers().collect(), wanted.numbers().collect());
    got.chunks(each).zip(wanted.chunks(each)).all(|(got, wanted)| {
        let place = (0..got.len())
            .max_by(|&a, &b| got[a].total_cmp(&got[b]))
            .unwrap_or(0);
        let most = wanted.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        wanted.get(place).is_some_and(|at| most - at <= TIE * most.abs())
    })
}
