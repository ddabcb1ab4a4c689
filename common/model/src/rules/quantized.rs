//! Operators on 8-bit integers that stand for floats.

use super::{Op, Outcome, Ruling, axis, malformed, matrix, mixes_batch, spatial};
use crate::dim::{DType, Dim, show};
use crate::error::{ModelError, ModelErrorKind};

/// Scales and zero points, inputs `scale` and the one after it, must be constants: one of each, or one a place of an axis.
fn check_scale(op: &Op<'_>, scale: usize, dims: &[Dim]) -> Result<(), ModelError> {
    for i in [scale, scale + 1] {
        let Some(fact) = op.input(i) else { continue };
        if fact.is_data() {
            return Err(mixes_batch(
                "a scale of integers is computed from data, from all requests of a batch together",
            ));
        }
        if fact.dims.len() == 1 && fact.dims[0].coef > 1 {
            let at = axis(op.int("axis", 1), dims.len())?;
            if dims[at].batch {
                return Err(mixes_batch(format!("{} has a scale for each request", op.kind)));
            }
            if dims[at] != fact.dims[0] {
                return Err(malformed(format!(
                    "{} scales for dimension {at} of {}",
                    fact.dims[0],
                    show(dims)
                )));
            }
        }
    }
    Ok(())
}

pub(super) fn quantize(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    op.required(1)?;
    check_scale(op, 1, &x.dims)?;
    let asked = op.int("output_dtype", 0);
    let dtype = match (op.input(2), asked) {
        (Some(zero), _) => zero.dtype,
        (None, 0) => DType::U8,
        (None, code) => i32::try_from(code)
            .ok()
            .and_then(DType::from_onnx)
            .ok_or_else(|| {
                ModelError::new(
                    ModelErrorKind::UnknownOperator,
                    format!("QuantizeLinear to elements of type {code}, which Graft does not read"),
                    "Quantise to integers of 8 bits",
                )
            })?,
    };
    Ok(Outcome::one(x.dims.clone(), dtype))
}

pub(super) fn dequantize(op: &Op<'_>) -> Ruling {
    let (x, scale) = (op.required(0)?, op.required(1)?);
    check_scale(op, 1, &x.dims)?;
    Ok(Outcome::one(x.dims.clone(), scale.dtype))
}

/// DynamicQuantizeLinear looks for the smallest and the largest element of all that it gets.
pub(super) fn dynamic_quantize(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    if x.dims.iter().any(|d| d.batch) {
        return Err(mixes_batch(
            "DynamicQuantizeLinear scales by the largest element of all requests of a batch",
        ));
    }
    Ok(Outcome {
        outputs: vec![
            (x.dims.clone(), DType::U8),
            (vec![], DType::F32),
            (vec![], DType::U8),
        ],
        flops: None,
    })
}

/// An operator on integers as the operator on floats whose shapes it has: its inputs and output.
fn as_floats<'o>(op: &Op<'o>, kind: &'o str, inputs: &[usize]) -> Op<'o> {
    Op {
        node: op.node,
        kind,
        opset: op.opset,
        inputs: inputs.iter().map(|&i| op.input(i)).collect(),
    }
}

pub(super) fn integer(op: &Op<'_>) -> Ruling {
    for i in [2, 3] {
        if op.input(i).is_some_and(|zero| zero.is_data()) {
            return Err(mixes_batch("a zero point is computed from data"));
        }
    }
    let mut outcome = match op.kind {
        "ConvInteger" => spatial::conv(&as_floats(op, "Conv", &[0, 1]))?,
        _ => matrix::matmul(&as_floats(op, "MatMul", &[0, 1]))?,
    };
    for output in &mut outcome.outputs {
        output.1 = DType::I32;
    }
    Ok(outcome)
}

pub(super) fn linear(op: &Op<'_>) -> Ruling {
    for i in [1, 2, 4, 5, 6, 7] {
        if op.required(i)?.is_data() {
            return Err(mixes_batch(
                "a scale of integers is computed from data, from all requests of a batch together",
            ));
        }
    }
    let mut outcome = match op.kind {
        "QLinearConv" => spatial::conv(&as_floats(op, "Conv", &[0, 3]))?,
        _ => matrix::matmul(&as_floats(op, "MatMul", &[0, 3]))?,
    };
    let dtype = op.required(7)?.dtype;
    for output in &mut outcome.outputs {
        output.1 = dtype;
    }
    Ok(outcome)
}
