//! Shape rules: what each operator makes of its inputs' shapes, and what it costs.

mod layout;
mod matrix;
mod pick;
mod quantized;
mod recurrent;
mod resize;
mod spatial;

use rten_onnx::onnx::{AttributeProto, NodeProto};

use crate::dim::{DType, Dim, show};
use crate::error::{ModelError, ModelErrorKind};
use crate::fact::{Fact, Small, small_of};

/// An operator with what is known of its inputs.
pub(crate) struct Op<'a> {
    pub node: &'a NodeProto,
    pub kind: &'a str,
    pub opset: i64,
    pub inputs: Vec<Option<&'a Fact>>,
}

/// What an operator yields.
pub(crate) struct Outcome {
    /// Shape and element type of each output.
    pub outputs: Vec<(Vec<Dim>, DType)>,
    /// Floating-point operations for one request, where they differ from one an output element.
    pub flops: Option<u64>,
}

impl Outcome {
    fn one(dims: Vec<Dim>, dtype: DType) -> Self {
        Outcome {
            outputs: vec![(dims, dtype)],
            flops: None,
        }
    }

    fn costing(mut self, flops: u64) -> Self {
        self.flops = Some(flops);
        self
    }
}

type Ruling = Result<Outcome, ModelError>;

impl<'a> Op<'a> {
    /// What is known of input `i`, where it is given.
    pub fn input(&self, i: usize) -> Option<&'a Fact> {
        self.inputs.get(i).copied().flatten()
    }

    fn required(&self, i: usize) -> Result<&'a Fact, ModelError> {
        self.input(i)
            .ok_or_else(|| malformed(format!("input {i} is missing")))
    }

    fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.node
            .attribute
            .iter()
            .find(|a| a.name.as_deref() == Some(name))
    }

    /// An integer attribute, or its default.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|a| a.i).unwrap_or(default)
    }

    fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|a| a.ints.clone())
    }

    fn floats(&self, name: &str) -> Option<Vec<f64>> {
        let list = self.attribute(name)?.floats.iter();
        Some(list.map(|&v| f64::from(v)).collect())
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.attribute(name)?.s.as_deref()
    }

    /// Numbers of input `i`, which must be known if it is given.
    fn numbers(&self, i: usize, what: &str) -> Result<Option<Vec<f64>>, ModelError> {
        let Some(fact) = self.input(i) else {
            return Ok(None);
        };
        let known = fact.small.as_ref().filter(|s| !s.depends_on_batch());
        let known = known.ok_or_else(|| dynamic(what, fact))?;
        Ok(Some(known.nums.iter().map(|n| n.coef).collect()))
    }

    /// A tensor attribute: its values where they are small, and its type.
    pub fn tensor_attribute(&self, name: &str) -> Option<(Option<Small>, DType)> {
        let tensor = self.attribute(name)?.t.as_ref()?;
        let dims: Vec<usize> = tensor
            .dims
            .iter()
            .map(|&d| usize::try_from(d).ok())
            .collect::<Option<_>>()?;
        let dtype = DType::from_onnx(tensor.data_type?.0)?;
        Some((small_of(tensor, &dims, dtype), dtype))
    }

    /// Values of input `i`, which must be known.
    fn values(&self, i: usize, what: &str) -> Result<Vec<i64>, ModelError> {
        let fact = self.required(i)?;
        fact.small
            .as_ref()
            .and_then(Small::ints)
            .ok_or_else(|| dynamic(what, fact))
    }

    /// Axes of Squeeze, Unsqueeze and the reductions: an attribute in older opsets, input `i` in newer ones.
    pub fn axes(&self, i: usize) -> Option<Vec<i64>> {
        self.ints("axes")
            .or_else(|| self.input(i)?.small.as_ref()?.ints())
    }

    /// What a Slice takes of each axis that it names. `None`: not known before the model runs, or of unequal length.
    pub fn slices(&self) -> Option<Vec<SliceOf>> {
        let given = |i: usize, name: &str| -> Option<Vec<i64>> {
            if self.opset < 10 {
                self.ints(name)
            } else {
                self.input(i)?.small.as_ref()?.ints()
            }
        };
        let starts = given(1, "starts")?;
        let ends = given(2, "ends")?;
        let axes = given(3, "axes").unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = given(4, "steps").unwrap_or_else(|| vec![1; starts.len()]);
        let rank = self.input(0)?.dims.len() as i64;
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            return None;
        }
        let parts = starts.into_iter().zip(ends).zip(axes.into_iter().zip(steps));
        Some(
            parts
                .map(|((start, end), (axis, step))| SliceOf {
                    start,
                    end,
                    axis: if axis < 0 { axis + rank } else { axis },
                    step,
                })
                .collect(),
        )
    }
}

/// What a Slice takes of one axis.
pub(crate) struct SliceOf {
    pub start: i64,
    pub end: i64,
    pub axis: i64,
    pub step: i64,
}

fn malformed(what: impl Into<String>) -> ModelError {
    ModelError::new(
        ModelErrorKind::Malformed,
        what,
        "the graph contradicts itself: check it with onnx.checker and export it again",
    )
}

fn dynamic(what: &str, fact: &Fact) -> ModelError {
    ModelError::new(
        ModelErrorKind::DynamicShape,
        format!(
            "{what} is computed from data while the model runs (shape {})",
            show(&fact.dims)
        ),
        "Graft needs every shape but the batch to be known: export the model with fixed sizes",
    )
}

fn mixes_batch(what: impl Into<String>) -> ModelError {
    ModelError::new(
        ModelErrorKind::Batch,
        what,
        "Graft answers each request of a batch by itself: export the model so that requests don't mix, with a symbolic batch dimension",
    )
}

/// Operators that keep shape and element type.
const UNARY: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BatchNormalization",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "CumSum",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "Hardmax",
    "HardSwish",
    "InstanceNormalization",
    "GroupNormalization",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "Mish",
    "Neg",
    "Not",
    "PRelu",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Trilu",
];
/// Operators that broadcast their inputs and keep the element type.
const BROADCAST: &[&str] = &[
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "Sum", "Mean", "And", "Or", "Xor",
];
const COMPARE: &[&str] = &["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"];
const REDUCE: &[&str] = &[
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceProd",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
];

/// Shapes of `op`'s outputs. An unknown operator is an error that names it.
pub(crate) fn infer(op: &Op<'_>) -> Ruling {
    if op.kind == "BatchNormalization" && op.int("training_mode", 0) != 0 {
        return Err(mixes_batch(
            "BatchNormalization in training mode runs over the batch",
        ));
    }
    match op.kind {
        kind if UNARY.contains(&kind) => {
            let x = op.required(0)?;
            check_axes(op, &x.dims)?;
            let per_element = if matches!(kind, "Clip" | "Relu") { 1 } else { 4 };
            let elements = crate::dim::elements(&x.dims)? as u64;
            Ok(Outcome::one(x.dims.clone(), x.dtype).costing(per_element * elements))
        }
        kind if BROADCAST.contains(&kind) => {
            let dtype = op.required(0)?.dtype;
            Ok(Outcome::one(broadcast_all(&op.inputs)?, dtype))
        }
        kind if COMPARE.contains(&kind) => Ok(Outcome::one(broadcast_all(&op.inputs)?, DType::Bool)),
        "IsNaN" | "IsInf" => Ok(Outcome::one(op.required(0)?.dims.clone(), DType::Bool)),
        "Where" => Ok(Outcome::one(broadcast_all(&op.inputs)?, op.required(1)?.dtype)),
        "Cast" => {
            let to = DType::from_onnx(op.int("to", 0) as i32)
                .ok_or_else(|| malformed("Cast to an element type that Graft does not know"))?;
            Ok(Outcome::one(op.required(0)?.dims.clone(), to))
        }
        "Conv" => spatial::conv(op),
        "ConvTranspose" => spatial::conv_transpose(op),
        "MaxPool" | "AveragePool" | "LpPool" => spatial::pool(op),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => spatial::global_pool(op),
        "Resize" | "Upsample" => resize::resize(op),
        "RNN" | "GRU" | "LSTM" => recurrent::recurrent(op),
        "QuantizeLinear" => quantized::quantize(op),
        "DequantizeLinear" => quantized::dequantize(op),
        "DynamicQuantizeLinear" => quantized::dynamic_quantize(op),
        "ConvInteger" | "MatMulInteger" => quantized::integer(op),
        "QLinearConv" | "QLinearMatMul" => quantized::linear(op),
        "Pad" => spatial::pad(op),
        "DepthToSpace" | "SpaceToDepth" => spatial::depth_and_space(op),
        "Gemm" => matrix::gemm(op),
        "MatMul" => matrix::matmul(op),
        kind if REDUCE.contains(&kind) => layout::reduce(op),
        "ArgMax" | "ArgMin" => layout::arg(op),
        "TopK" => pick::top(op),
        "GatherElements" => pick::gather_elements(op),
        "ScatterElements" | "Scatter" => pick::scatter_elements(op),
        "GatherND" => pick::gather_nd(op),
        "OneHot" => pick::one_hot(op),
        "GridSample" => pick::grid_sample(op),
        "NonZero" | "NonMaxSuppression" | "Unique" | "Compress" => pick::found_while_running(op),
        "Flatten" => layout::flatten(op),
        "Transpose" => layout::transpose(op),
        "Unsqueeze" => layout::unsqueeze(op),
        "Squeeze" => layout::squeeze(op),
        "Concat" => layout::concat(op),
        "Split" => layout::split(op),
        "Slice" => layout::slice(op),
        "Gather" => layout::gather(op),
        "Reshape" => layout::reshape(op).map(|(_, outcome)| outcome),
        "Expand" => layout::expand(op).map(|(_, outcome)| outcome),
        "Tile" => layout::tile(op),
        "ConstantOfShape" => layout::constant_of_shape(op),
        kind => Err(ModelError::new(
            ModelErrorKind::UnknownOperator,
            format!("operator {kind} is unknown to Graft"),
            "Export the model without it (another opset or a simplifier may help), or add a rule: CONTRIBUTING.md says how",
        )),
    }
}

pub(crate) use layout::{expand, reshape};
pub(crate) use recurrent::{is_whole, is_zero};
pub(crate) use resize::Resizing;
pub(crate) use spatial::{Windows, full_pads};

/// Operators that look along axes must not look along the batch.
fn check_axes(op: &Op<'_>, dims: &[Dim]) -> Result<(), ModelError> {
    let rank = dims.len();
    let looked_along = match op.kind {
        // Before opset 13 everything from the axis on was one axis.
        "Softmax" | "LogSoftmax" | "Hardmax" if op.opset < 13 => axis(op.int("axis", 1), rank)?..rank,
        "LayerNormalization" => axis(op.int("axis", -1), rank)?..rank,
        "Softmax" | "LogSoftmax" | "Hardmax" | "LpNormalization" => {
            let at = axis(op.int("axis", -1), rank)?;
            at..at + 1
        }
        "CumSum" => {
            let axes = op.values(1, "the axis")?;
            let at = axis(
                *axes.first().ok_or_else(|| malformed("CumSum without an axis"))?,
                rank,
            )?;
            at..at + 1
        }
        "LRN" => 1..2.min(rank).max(1),
        "InstanceNormalization" | "GroupNormalization" => 1.min(rank)..rank,
        "Trilu" => rank.saturating_sub(2)..rank,
        _ => 0..0,
    };
    if dims.get(looked_along).unwrap_or_default().iter().any(|d| d.batch) {
        return Err(mixes_batch(format!("{} runs along the batch dimension", op.kind)));
    }
    Ok(())
}

fn broadcast_all(inputs: &[Option<&Fact>]) -> Result<Vec<Dim>, ModelError> {
    let mut out: Vec<Dim> = vec![];
    for fact in inputs.iter().flatten() {
        out = broadcast(&out, &fact.dims)?;
    }
    Ok(out)
}

fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, ModelError> {
    let rank = a.len().max(b.len());
    let at =
        |dims: &[Dim], i: usize| -> Dim { (i + dims.len()).checked_sub(rank).map_or(Dim::ONE, |i| dims[i]) };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (Dim::ONE, y) => Ok(y),
            (x, Dim::ONE) => Ok(x),
            (x, y) if x.batch != y.batch => Err(mixes_batch(format!(
                "{} and {} meet in one dimension, and only one of them grows with the batch",
                show(a),
                show(b)
            ))),
            _ => Err(malformed(format!("shapes {} and {} don't fit", show(a), show(b)))),
        })
        .collect()
}

/// An axis from the end (negative) or the start, within `rank`.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, ModelError> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_start)
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(|| malformed(format!("axis {axis} of a tensor with {rank} dimensions")))
}
