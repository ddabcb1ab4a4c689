//! Comparison of answers with answers known to be right, and warnings where equality would say little.

use graft_model::{CutPoint, DType, DataSet, Model, StageRange, Tensor, largest_difference};

use crate::engine::{Engine, EngineError, PartitionId};
use crate::onnxruntime::Reference;

/// Difference of floats that is allowed, as a part of the largest magnitude of the right output.
const RELATIVE: f64 = 1e-4;
/// Largest difference of a 16-bit float, as such a part: larger, since they are computed in 32 bits here.
const RELATIVE_HALF: f64 = 5e-3;
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
    let output = match info.whole() {
        Some(whole) => engine.run(partition, info.id, whole, set.input)?,
        None => set.input,
    };
    Ok(Against::of(&set.output, set.dtype, &output))
}

impl Against {
    fn of(right: &[f64], dtype: DType, output: &Tensor) -> Self {
        let (worst, top) = largest_difference(right.iter().copied(), output.numbers());
        Against {
            max_abs_diff: worst,
            max_abs: top,
            allowed: match dtype {
                DType::F32 | DType::F64 => ABSOLUTE + RELATIVE * top,
                DType::F16 => ABSOLUTE + RELATIVE_HALF * top,
                _ => 0.0,
            },
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
    let mut tensor = Tensor::pseudo_random(&info.cuts[0], 1, 5);
    let whole = info.whole().ok_or(EngineError::NotLoaded(info.id))?;
    let right = reference.run(tensor.clone());
    let right = right.map_err(|cause| EngineError::Run { range: whole, cause })?;
    let all = engine.run(partition, info.id, whole, tensor.clone())?;
    let mut first = None;
    for (to, right) in info.cut_points().skip(1).zip(&right) {
        let Some(range) = StageRange::new(CutPoint(to.0 - 1), to) else {
            continue;
        };
        tensor = engine.run(partition, info.id, range, tensor)?;
        let cut = &info.cuts[to.index()];
        let found = Against::of(&right.numbers().collect::<Vec<f64>>(), cut.dtype, &tensor);
        if !found.holds() {
            first = Some(Difference {
                at: to,
                tensor: cut.tensor.clone(),
                found,
            });
            break;
        }
    }
    let numbers: Vec<f64> = right.last().map_or(vec![], |r| r.numbers().collect());
    let dtype = info.cuts.last().map_or(DType::F32, |c| c.dtype);
    Ok((Against::of(&numbers, dtype, &all), first))
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
    let input = Tensor::pseudo_random(&info.cuts[0], batch, 7);
    let output = engine.run(partition, info.id, whole, input)?;
    let mut found = vec![];
    let mut warn = |what: &str| found.push(format!("{what}: that parts equal the whole says nothing then"));
    if output.numbers().any(f64::is_nan) {
        warn("the output holds NaN for an ordinary input");
    }
    if output.numbers().any(f64::is_infinite) {
        warn("the output holds infinite numbers for an ordinary input");
    }
    let first = output.numbers().next().unwrap_or(0.0);
    if output.numbers().all(|v| v == first) && output.numbers().count() > 1 {
        warn("all elements of the output are equal");
    } else if output.dtype() == DType::F32 && output.numbers().all(|v| v == 0.0 || v == 1.0) {
        warn("the output is saturated: every element is 0 or 1");
    }
    Ok(found)
}
