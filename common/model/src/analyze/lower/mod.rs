//! What each node means, written out: the version of the operator set is resolved, defaults are there, and
//! operators that the CPU engine lacks or reads otherwise become several that mean the same.
//!
//! No engine has to know which operator set the file was written for, nor how it would guess.

mod activations;
mod batch;
mod layout;
mod norms;
mod sizes;
mod windows;
mod writer;

use rten_onnx::onnx::{AttributeProto, NodeProto};

use super::Walk;
use crate::dim::{DType, Dim};
use crate::error::ModelError;
use crate::fact::Fact;
use crate::rules::{Op, axis};
use writer::Writer;

pub(super) use writer::{int_attribute, ints_attribute, operator};

/// The node that is being written out.
struct Lowering<'w, 'a> {
    node: NodeProto,
    opset: i64,
    /// Facts of the inputs; `None`: the input is not given.
    inputs: Vec<Option<Fact>>,
    /// Shape of the first output.
    out: Vec<Dim>,
    out_dtype: DType,
    w: Writer<'w, 'a>,
}

impl Walk<'_> {
    /// Puts what engines are to run for `node` into `self.runs`.
    pub(super) fn lower(
        &mut self,
        node: NodeProto,
        index: usize,
        (out, out_dtype): &(Vec<Dim>, DType),
    ) -> Result<(), ModelError> {
        let inputs = node.input.iter().map(|n| self.facts.get(n).cloned()).collect();
        let opset = self.opset;
        let lowering = Lowering {
            node,
            opset,
            inputs,
            out: out.clone(),
            out_dtype: *out_dtype,
            w: Writer::new(self, index),
        };
        lowering.write()
    }
}

/// Weights whose products with two unsigned bytes fit 16 bits together.
const SEVEN_BITS: std::ops::RangeInclusive<f64> = -64.0..=63.0;

impl Lowering<'_, '_> {
    /// The node under a name that rten does not know, so that it refuses the network.
    fn refused_by_rten(mut self, kind: &str) -> Result<(), ModelError> {
        self.node.op_type = Some(kind.to_owned());
        self.keep();
        Ok(())
    }

    /// Whether weights of integers are constants of seven bits.
    fn pairs_fit(&self) -> bool {
        let weights = self.inputs.get(1).and_then(|f| f.as_ref()?.small.as_ref());
        let fits = |n: &crate::fact::Num| !n.batch && SEVEN_BITS.contains(&n.coef);
        self.dtype(1) == DType::I8 && weights.is_some_and(|w| w.nums.iter().all(fits))
    }

    fn write(mut self) -> Result<(), ModelError> {
        let kind = self.node.op_type.clone().unwrap_or_default();
        match kind.as_str() {
            "Softmax" | "LogSoftmax" => self.softmax(),
            // On processors without such instructions rten sums pairs of products in 16 bits, where they may not fit.
            "ConvInteger" => self.refused_by_rten("ConvIntegerOfPairs"),
            "MatMulInteger" if !self.pairs_fit() => self.refused_by_rten("MatMulIntegerOfPairs"),
            "Conv" | "ConvTranspose" | "MaxPool" | "AveragePool" | "LpPool" => self.windows(&kind),
            "SpaceToDepth" => self.space_to_depth(),
            "Selu" | "Celu" | "Mish" | "ThresholdedRelu" | "Softplus" => self.activation(&kind),
            "Clip" => self.clip(),
            "Cast" if self.out_dtype == DType::F16 && self.is_float(0) && self.dtype(0) != DType::F16 => {
                self.cast_to_half()
            }
            "ReduceL2" => self.reduction(),
            "Sign" if self.is_float(0) => self.sign(),
            "Pow" => self.power(),
            "Div" => self.division(),
            "Cast" if self.out_dtype == DType::Bool => self.cast_to_bool(),
            "ArgMax" | "ArgMin" => self.first_of_equals(),
            "GroupNormalization" => self.group_normalization(),
            "BatchNormalization" => {
                self.drop_attributes(&["is_test", "spatial", "training_mode", "momentum"]);
                self.keep();
                Ok(())
            }
            "Resize" | "Upsample" => self.resize(&kind),
            // rten reads lengths of sequences, and takes all for whole.
            "RNN" | "GRU" | "LSTM" if !self.input(4).is_empty() => {
                self.node.op_type = Some(format!("{kind}OfLengths"));
                self.keep();
                Ok(())
            }
            "QuantizeLinear" => {
                if self.dims(1).len() == 1 {
                    let axis = self.int("axis", 1);
                    self.set_int("axis", axis);
                }
                // rten takes what is not said for signed.
                self.set_int("output_dtype", self.out_dtype.to_onnx().into());
                self.keep();
                Ok(())
            }
            "LRN" => self.local_response(),
            "Pad" => self.pad(),
            "Slice" => self.slice(),
            _ => {
                self.keep();
                Ok(())
            }
        }
    }

    /// Keeps the node as it is.
    fn keep(&mut self) {
        let node = std::mem::take(&mut self.node);
        self.w.walk.runs.push(node);
    }

    fn drop_attributes(&mut self, names: &[&str]) {
        self.node
            .attribute
            .retain(|a| !names.contains(&a.name.as_deref().unwrap_or("")));
    }

    fn set_int(&mut self, name: &str, value: i64) {
        self.drop_attributes(&[name]);
        self.node.attribute.push(int_attribute(name, value));
    }

    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        let mut all = self.node.attribute.iter();
        all.find(|a| a.name.as_deref() == Some(name))
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|a| a.i).unwrap_or(default)
    }

    fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).and_then(|a| a.f).unwrap_or(default)
    }

    /// The node as the shape rules see it.
    fn op<'s>(&'s self, kind: &'s str) -> Op<'s> {
        Op {
            node: &self.node,
            kind,
            opset: self.opset,
            inputs: self.inputs.iter().map(Option::as_ref).collect(),
        }
    }

    fn input(&self, i: usize) -> &str {
        self.node.input.get(i).map_or("", String::as_str)
    }

    fn output(&self) -> &str {
        self.node.output.first().map_or("", String::as_str)
    }

    fn dims(&self, i: usize) -> &[Dim] {
        self.inputs
            .get(i)
            .and_then(Option::as_ref)
            .map_or(&[], |f| f.dims.as_slice())
    }

    fn dtype(&self, i: usize) -> DType {
        self.inputs
            .get(i)
            .and_then(Option::as_ref)
            .map_or(DType::F32, |f| f.dtype)
    }

    fn is_float(&self, i: usize) -> bool {
        matches!(self.dtype(i), DType::F32 | DType::F16 | DType::F64)
    }

    /// Softmax and its like: before opset 13 everything from the axis on was one axis.
    fn softmax(mut self) -> Result<(), ModelError> {
        let dims = self.dims(0).to_vec();
        let default = if self.opset < 13 { 1 } else { -1 };
        let at = axis(self.int("axis", default), dims.len())?;
        if self.opset >= 13 || at + 1 == dims.len() {
            self.set_int("axis", at as i64);
            self.keep();
            return Ok(());
        }
        let kind = self.node.op_type.clone().unwrap_or_default();
        let (input, output) = (self.input(0).to_owned(), self.output().to_owned());
        let width: usize = dims[at..].iter().map(|d| d.coef).product();
        let rows = self.w.ints(&[-1, width as i64]);
        let flat = self.w.op("Reshape", &[&input, &rows], &[]);
        let soft = self.w.op(&kind, &[&flat], &[("axis", 1)]);
        let shape = self.w.ints(&writer::target(&dims));
        self.w.op_to("Reshape", &[&soft, &shape], &[], &output);
        Ok(())
    }
}
