//! Every kernel over random shapes, against its reference in fp64.

use std::collections::BTreeMap;

use graft_engine::{Engine, EngineError, PartitionShape};
use graft_model::{CutPoint, DType, Elements, SplitMix, StageRange};
use half::f16;
use serde::Serialize;

use super::cases::{Case, families};
use super::replay::Recording;
use crate::CudaEngine;
use crate::held::to_elements;
use crate::lane::Given;
use crate::params::Element;
use crate::program::{Layout, places};
use crate::run_error::RunError;

/// What a result may be apart from its reference, as a part of the largest reference.
pub(super) const WITHIN: f64 = 2e-3;

/// A kernel's cases.
#[derive(Debug, Clone, Default, Serialize)]
pub struct KernelReport {
    /// The kernel.
    pub name: String,
    /// How many cases it ran.
    pub cases: usize,
    /// Largest max|out - ref| / max|ref| among them.
    pub worst: f64,
    /// Whether all were within 2e-3, and there was at least one.
    pub ok: bool,
    /// What went wrong, where something did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
}

/// Parts of a device among which a case draws its share.
const PARTS: usize = 1 << 12;
/// Messages of a kernel at most.
const MAX_WRONG: usize = 8;

/// Runs each family of cases so often, and keeps what they compute; `progress` hears how many are done of how many.
pub fn kernels(
    engine: &CudaEngine,
    rounds: usize,
    seed: u64,
    mut progress: impl FnMut(usize, usize),
) -> Result<(Vec<KernelReport>, Recording), EngineError> {
    let mut recording = Recording::default();
    let mut random = SplitMix(seed);
    let names = crate::kernels::names();
    let mut reports: BTreeMap<&str, KernelReport> = names
        .map(|name| {
            let report = KernelReport {
                name: name.to_owned(),
                ..KernelReport::default()
            };
            (name, report)
        })
        .collect();
    let families = families();
    let all = families.len() * rounds;
    let (_, sms) = engine.granularity();
    for (done, (place, round)) in (0..rounds)
        .flat_map(|r| (0..families.len()).map(move |f| (f, r)))
        .enumerate()
    {
        let case = families[place](&mut random, round);
        // Partitions of all sizes: what a kernel computes must not depend on how its work is divided.
        // Cases are the same on devices of all sizes.
        let part = random.below(PARTS);
        let share = 1 + (part * sms as usize / PARTS) as u32;
        let partition = engine.open_partition(&PartitionShape::units(share))?;
        let ran = run(engine, partition, &case, &mut recording);
        engine.close_partition(partition)?;
        let (kernels, outcome) = match ran {
            Ok((kernels, apart)) => (kernels, Ok(apart)),
            Err(error) => {
                recording.add(&case.label, &[], &[]);
                (vec![case.kernel.unwrap_or("")], Err(error.to_string()))
            }
        };
        for kernel in kernels {
            let Some(report) = reports.get_mut(kernel) else {
                continue;
            };
            report.cases += 1;
            let wrong = match &outcome {
                Ok(apart) if *apart <= WITHIN => None,
                Ok(apart) => Some(format!("{}: {apart:.2e}", case.label)),
                Err(error) => Some(format!("{}: {error}", case.label)),
            };
            // JSON has no infinity.
            report.worst = report
                .worst
                .max(outcome.as_ref().copied().unwrap_or(f64::MAX).min(f64::MAX));
            report
                .wrong
                .extend(wrong.filter(|_| report.wrong.len() < MAX_WRONG));
        }
        progress(done + 1, all);
    }
    let reports = reports.into_values().map(|report| KernelReport {
        ok: report.cases > 0 && report.wrong.is_empty() && report.worst <= WITHIN,
        ..report
    });
    Ok((reports.collect(), recording))
}

/// Runs a case; gives its kernels, and how far its result is from its reference.
fn run(
    engine: &CudaEngine,
    partition: graft_engine::PartitionId,
    case: &Case,
    recording: &mut Recording,
) -> Result<(Vec<&'static str>, f64), RunError> {
    let session = engine.session();
    let range = StageRange::new(CutPoint(0), CutPoint(1)).unwrap_or_else(|| unreachable!("0 comes before 1"));
    let mut layouts = vec![];
    let mut inputs = vec![];
    for input in &case.inputs {
        let layout = Layout::handed_on(input.element, &input.tensor.dims);
        inputs.push(session.with(&laid_out(&input.tensor.values, &layout))?);
        layouts.push(layout);
    }
    let (program, weights) = session.alone(&case.graph, range, layouts)?;
    let given = inputs
        .iter()
        .zip(&program.inputs)
        .map(|(memory, layout)| (memory.address(), layout.bytes()));
    let outputs = session.run(partition, &program, &weights, &Given::Device(given.collect()))?;
    let mut kernels: Vec<&'static str> = program.steps.iter().map(|s| s.kernel).collect();
    kernels.sort_unstable();
    kernels.dedup();
    let mut apart = 0.0f64;
    let mut most = 1e-6f64;
    let (mut all_bytes, mut all_values) = (vec![], vec![]);
    for output in &outputs {
        let bytes = output.memory.read(0, output.layout.bytes())?;
        let dtype = if output.layout.element.is_float() {
            DType::F32
        } else {
            DType::I64
        };
        let elements = to_elements(
            &bytes,
            output.layout.element,
            &output.layout.dims,
            &output.layout.strides,
            dtype,
        );
        let got: Vec<f64> = match elements {
            Some(Elements::F32(all)) => all.into_iter().map(f64::from).collect(),
            Some(Elements::I64(all)) => all.into_iter().map(|n| n as f64).collect(),
            _ => vec![],
        };
        let fits = got.len() == case.expected.values.len();
        for (got, wanted) in got.iter().zip(&case.expected.values) {
            let difference = (got - wanted).abs();
            apart = if difference.is_nan() {
                f64::INFINITY
            } else {
                apart.max(difference)
            };
            most = most.max(wanted.abs());
        }
        if !fits {
            apart = f64::INFINITY;
        }
        all_bytes.extend(bytes);
        all_values.extend(got);
    }
    recording.add(&case.label, &all_bytes, &all_values);
    Ok((kernels, apart / most))
}

/// Elements as bytes, where a layout has them.
fn laid_out(values: &[f64], layout: &Layout) -> Vec<u8> {
    let width = layout.element.bytes();
    let mut bytes = vec![0; layout.bytes()];
    for (value, place) in values.iter().zip(places(&layout.dims, &layout.strides)) {
        let to = &mut bytes[place * width..(place + 1) * width];
        match layout.element {
            Element::F16 => to.copy_from_slice(&f16::from_f64(*value).to_le_bytes()),
            Element::F32 => to.copy_from_slice(&(*value as f32).to_le_bytes()),
            _ => to.copy_from_slice(&(*value as i64).to_le_bytes()[..width]),
        }
    }
    bytes
}
