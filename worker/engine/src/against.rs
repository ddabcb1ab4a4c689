//! Comparison of answers with answers known to be right, and warnings where equality would say little.

use graft_model::{
    Batch, CutPoint, DType, DataSet, Model, Precision, StageRange, Tensor, largest_difference,
};

use crate::engine::Engine;
use crate::error::{EngineError, PartitionId};
use crate::onnxruntime::Reference;

/// Largest difference of a 16-bit float that is allowed, as a part of the largest magnitude of the right output: the files
/// of such outputs are computed in 32 bits here.
const RELATIVE_HALF: f64 = 5e-3;
/// Largest difference in a network that rounds to 8-bit integers, as such a part: engines that sum integers and engines that
/// sum floats round some elements to neighbouring steps, of which there are 255, and the layers after them do so again.
const RELATIVE_QUANTIZED: f64 = 0.02;
/// Difference of floats that is allowed in any case.
const ABSOLUTE: f64 = 1e-5;

/// Comparison of an answer with the right one.
#[derive(Debug, Clone, PartialEq)]
pub struct Against {
    /// Largest difference of an element; infinite where one of two is no number.
    pub max_abs_diff: f64,
    /// Largest finite magnitude of the right output.
    pub max_abs: f64,
    /// Largest difference that is allowed for the output's type.
    pub allowed: f64,
    /// Number of elements of the right output.
    pub right: usize,
    /// Number of elements of the answer.
    pub given: usize,
}

/// Comparison of the answers of all outputs: the first that is too far off, else the one that differs most for what is
/// allowed.
fn worst(all: impl Iterator<Item = Against>) -> Against {
    let part = |a: &Against| a.max_abs_diff / a.allowed.max(f64::MIN_POSITIVE);
    let further = |a: Against, b: Against| {
        let keeps = !a.holds() || b.holds() && part(&a) >= part(&b);
        if keeps { a } else { b }
    };
    all.reduce(further).unwrap_or(Against {
        max_abs_diff: f64::INFINITY,
        max_abs: 0.0,
        allowed: 0.0,
        right: 0,
        given: 0,
    })
}

impl Against {
    /// Whether the answer is as near as the output's type allows.
    pub fn holds(&self) -> bool {
        self.right == self.given && self.max_abs_diff <= self.allowed
    }
}

/// Runs the whole model on a test data set's input and compares.
pub fn against(
    engine: &dyn Engine,
    partition: PartitionId,
    model: &Model,
    set: DataSet,
) -> Result<Against, EngineError> {
    let info = model.info();
    let outputs = match info.whole() {
        Some(whole) => engine.run(partition, info.id, whole, set.inputs)?,
        None => set.inputs,
    };
    let strictness = Strictness::of(engine, model)?;
    let pairs = set.outputs.iter().zip(outputs.tensors());
    Ok(worst(pairs.map(|(right, output)| {
        Against::of(&right.values, right.dtype, strictness, output)
    })))
}

/// How near an answer must be.
#[derive(Clone, Copy)]
struct Strictness {
    /// The precision in which it was computed.
    precision: Precision,
    /// The network rounds to 8-bit integers.
    quantized: bool,
}

impl Strictness {
    fn of(engine: &dyn Engine, model: &Model) -> Result<Self, EngineError> {
        let info = model.info();
        Ok(Strictness {
            precision: engine.precision(info.id)?,
            quantized: info.is_quantized(),
        })
    }

    /// Difference that is allowed of an element, where the largest magnitude is `top`.
    fn allowed(self, dtype: DType, top: f64) -> f64 {
        let of_network = if self.quantized { RELATIVE_QUANTIZED } else { 0.0 };
        let of_type = match dtype {
            DType::F32 | DType::F64 => of_network,
            DType::F16 => RELATIVE_HALF.max(of_network),
            DType::U8 | DType::I8 if self.quantized => of_network,
            _ => return 0.0,
        };
        ABSOLUTE + self.precision.from_right().max(of_type) * top
    }
}

impl Against {
    fn of(right: &[f64], dtype: DType, strictness: Strictness, output: &Tensor) -> Self {
        let (worst, top) = largest_difference(right.iter().copied(), output.numbers());
        Against {
            max_abs_diff: worst,
            max_abs: top,
            allowed: strictness.allowed(dtype, top),
            right: right.len(),
            given: output.numbers().count(),
        }
    }
}

/// A tensor that is not as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Cut point of the tensor.
    pub at: CutPoint,
    /// Name of the tensor.
    pub tensor: String,
    /// Comparison with the right tensor.
    pub found: Against,
}

/// Runs one request segment by segment and compares each tensor with what the file gives when it is run untouched.
/// Gives the output's comparison, and the first tensor that is too far off.
pub fn first_difference(
    engine: &dyn Engine,
    partition: PartitionId,
    model: &Model,
    reference: &mut Reference,
) -> Result<(Against, Option<Difference>), EngineError> {
    let info = model.info();
    let mut crossing = Batch::pseudo_random(info.inputs(), 1, 5);
    let whole = info.whole().ok_or(EngineError::NotLoaded(info.id))?;
    let right = reference.run(crossing.clone());
    let right = right.map_err(|cause| EngineError::Run { range: whole, cause })?;
    let all = engine.run(partition, info.id, whole, crossing.clone())?;
    let strictness = Strictness::of(engine, model)?;
    let compared = |right: &Tensor, dtype: DType, given: &Tensor| {
        let right: Vec<f64> = right.numbers().collect();
        Against::of(&right, dtype, strictness, given)
    };
    let mut first = None;
    'cuts: for (to, right) in info.cut_points().skip(1).zip(&right) {
        let Some(range) = StageRange::new(CutPoint(to.0 - 1), to) else {
            continue;
        };
        crossing = engine.run(partition, info.id, range, crossing)?;
        let specs = &info.cuts[to.index()].tensors;
        for ((spec, right), given) in specs.iter().zip(right.tensors()).zip(crossing.tensors()) {
            let found = compared(right, spec.dtype, given);
            if !found.holds() {
                first = Some(Difference {
                    at: to,
                    tensor: spec.name.clone(),
                    found,
                });
                break 'cuts;
            }
        }
    }
    let outputs = right.last().map_or(&[][..], Batch::tensors);
    let specs = info.outputs().tensors.iter();
    let pairs = specs.zip(outputs).zip(all.tensors());
    let output = worst(pairs.map(|((spec, right), given)| compared(right, spec.dtype, given)));
    Ok((output, first))
}

/// What makes equality say little: outputs that hold no numbers, do not depend on the input, or only 0 and 1.
pub fn warnings(
    engine: &dyn Engine,
    partition: PartitionId,
    model: &Model,
    batch: usize,
) -> Result<Vec<String>, EngineError> {
    let info = model.info();
    let Some(whole) = info.whole() else {
        return Ok(vec![]);
    };
    let input = Batch::pseudo_random(info.inputs(), batch, 7);
    let outputs = engine.run(partition, info.id, whole, input)?;
    let several = outputs.tensors().len() > 1;
    let mut found = vec![];
    for (spec, output) in info.outputs().tensors.iter().zip(outputs.tensors()) {
        let which = if several {
            format!("output {}", spec.name)
        } else {
            "the output".to_owned()
        };
        let mut warn = |what: &str| {
            let says_nothing = "that parts equal the whole says nothing then";
            found.push(format!("{which} {what}: {says_nothing}"));
        };
        if output.numbers().any(f64::is_nan) {
            warn("holds NaN for an ordinary input");
        }
        if output.numbers().any(f64::is_infinite) {
            warn("holds infinite numbers for an ordinary input");
        }
        let first = output.numbers().next().unwrap_or(0.0);
        if output.numbers().all(|v| v == first) && output.numbers().count() > 1 {
            warn("has the same number everywhere");
        } else if output.dtype() == DType::F32 && output.numbers().all(|v| v == 0.0 || v == 1.0) {
            warn("is saturated: every element is 0 or 1");
        }
    }
    Ok(found)
}
