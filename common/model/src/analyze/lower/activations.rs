//! Operators that work element by element.

use super::Lowering;
use super::writer::{float_attribute, target};
use crate::dim::DType;
use crate::error::ModelError;

/// Value from which on softplus(x) is x, to the last bit of a 32-bit float.
const SOFTPLUS_IS_LINEAR: f64 = 20.0;

/// Value from which on a number rounds to infinity as a 16-bit float.
const HALF_OVERFLOWS: f64 = 65_520.0;

impl Lowering<'_, '_> {
    pub(super) fn activation(mut self, kind: &str) -> Result<(), ModelError> {
        let (x, y) = (self.input(0).to_owned(), self.output().to_owned());
        let dtype = self.dtype(0);
        let w = |this: &mut Self, v: f64| this.w.scalar(v, dtype);
        match kind {
            // γ · Elu(x, α).
            "Selu" => {
                let alpha = self.float("alpha", 1.673_263_2);
                let gamma = f64::from(self.float("gamma", 1.050_701));
                let elu = self.w.op("Elu", &[&x], &[]);
                self.w.with(float_attribute("alpha", alpha));
                let gamma = w(&mut self, gamma);
                self.w.op_to("Mul", &[&elu, &gamma], &[], &y);
            }
            // α · Elu(x / α, 1).
            "Celu" => {
                let alpha = f64::from(self.float("alpha", 1.0));
                let alpha = w(&mut self, alpha);
                let part = self.w.op("Div", &[&x, &alpha], &[]);
                let elu = self.w.op("Elu", &[&part], &[]);
                self.w.with(float_attribute("alpha", 1.0));
                self.w.op_to("Mul", &[&elu, &alpha], &[], &y);
            }
            "Mish" => {
                let soft = self.softplus(&x, None);
                let tanh = self.w.op("Tanh", &[&soft], &[]);
                self.w.op_to("Mul", &[&x, &tanh], &[], &y);
            }
            "ThresholdedRelu" => {
                let alpha = f64::from(self.float("alpha", 1.0));
                let alpha = w(&mut self, alpha);
                let zero = w(&mut self, 0.0);
                let over = self.w.op("Greater", &[&x, &alpha], &[]);
                self.w.op_to("Where", &[&over, &x, &zero], &[], &y);
            }
            _ => {
                self.softplus(&x, Some(&y));
            }
        }
        Ok(())
    }

    /// ln(1 + e^x), without e^x running over: max(x − 20, 0) + softplus(min(x, 20)).
    fn softplus(&mut self, x: &str, output: Option<&str>) -> String {
        let dtype = self.dtype(0);
        let line = self.w.scalar(SOFTPLUS_IS_LINEAR, dtype);
        let zero = self.w.scalar(0.0, dtype);
        let low = self.w.op("Min", &[x, &line], &[]);
        let soft = self.w.op("Softplus", &[&low], &[]);
        let over = self.w.op("Sub", &[x, &line], &[]);
        let over = self.w.op("Max", &[&over, &zero], &[]);
        match output {
            Some(y) => {
                self.w.op_to("Add", &[&over, &soft], &[], y);
                y.to_owned()
            }
            None => self.w.op("Add", &[&over, &soft], &[]),
        }
    }

    /// Clip with its bounds as inputs.
    pub(super) fn clip(mut self) -> Result<(), ModelError> {
        if self.opset < 11 {
            let bounds = [("min", f32::MIN), ("max", f32::MAX)];
            let bounds = bounds.map(|(name, default)| f64::from(self.float(name, default)));
            let dtype = self.dtype(0);
            let bounds = bounds.map(|v| self.w.scalar(v, dtype));
            self.drop_attributes(&["min", "max"]);
            self.node.input.truncate(1);
            self.node.input.extend(bounds);
        }
        self.keep();
        Ok(())
    }

    /// A cast to 16-bit floats: what they can't hold becomes infinite, also in engines that compute them in 32 bits.
    pub(super) fn cast_to_half(mut self) -> Result<(), ModelError> {
        let (x, y) = (self.input(0).to_owned(), self.output().to_owned());
        let dtype = self.dtype(0);
        let most = self.w.scalar(HALF_OVERFLOWS, dtype);
        let endless = self.w.scalar(f64::INFINITY, dtype);
        let to = i64::from(DType::F16.to_onnx());
        let magnitude = self.w.op("Abs", &[&x], &[]);
        let over = self.w.op("GreaterOrEqual", &[&magnitude, &most], &[]);
        let far = self.w.op("Mul", &[&x, &endless], &[]);
        let held = self.w.op("Where", &[&over, &far, &x], &[]);
        self.w.op_to("Cast", &[&held], &[("to", to)], &y);
        Ok(())
    }

    /// A reduction of no axes that says that it reduces none: the root of the square of each element.
    pub(super) fn reduction(mut self) -> Result<(), ModelError> {
        let axes = self.inputs.get(1).and_then(Option::as_ref);
        let none = axes.is_none_or(|f| f.dims == [crate::dim::Dim::fixed(0)]);
        let by_attribute = self.attribute("axes").is_some();
        if none && !by_attribute && self.int("noop_with_empty_axes", 0) != 0 {
            let (x, y) = (self.input(0).to_owned(), self.output().to_owned());
            self.w.op_to("Abs", &[&x], &[], &y);
            return Ok(());
        }
        self.keep();
        Ok(())
    }

    /// Sign as (x > 0) − (x < 0); NaN stays NaN.
    pub(super) fn sign(mut self) -> Result<(), ModelError> {
        let (x, y) = (self.input(0).to_owned(), self.output().to_owned());
        let dtype = self.dtype(0);
        let zero = self.w.scalar(0.0, dtype);
        let to = i64::from(dtype.to_onnx());
        let above = self.w.op("Greater", &[&x, &zero], &[]);
        let above = self.w.op("Cast", &[&above], &[("to", to)]);
        let below = self.w.op("Less", &[&x, &zero], &[]);
        let below = self.w.op("Cast", &[&below], &[("to", to)]);
        let sign = self.w.op("Sub", &[&above, &below], &[]);
        let number = self.w.op("Equal", &[&x, &x], &[]);
        self.w.op_to("Where", &[&number, &sign, &x], &[], &y);
        Ok(())
    }

    /// A cast to truth values: whatever is not 0 is true.
    pub(super) fn cast_to_bool(mut self) -> Result<(), ModelError> {
        if self.dtype(0) == DType::Bool {
            self.keep();
            return Ok(());
        }
        let (x, y) = (self.input(0).to_owned(), self.output().to_owned());
        let zero = self.w.scalar(0.0, self.dtype(0));
        let equal = self.w.op("Equal", &[&x, &zero], &[]);
        self.w.op_to("Not", &[&equal], &[], &y);
        Ok(())
    }

    /// Pow with an exponent of the type of its base.
    pub(super) fn power(mut self) -> Result<(), ModelError> {
        let (base, exponent) = (self.dtype(0), self.dtype(1));
        if base != exponent {
            let name = self.input(1).to_owned();
            let cast = self.w.op("Cast", &[&name], &[("to", i64::from(base.to_onnx()))]);
            self.node.input[1] = cast;
        }
        self.division()
    }

    /// A divisor or exponent of one element and more dimensions gives its dimensions to the result.
    pub(super) fn division(mut self) -> Result<(), ModelError> {
        if self.dims(1).len() <= self.dims(0).len() {
            self.keep();
            return Ok(());
        }
        let (x, shape) = (self.input(0).to_owned(), target(&self.out));
        let mut grown = vec![1; self.dims(1).len() - self.dims(0).len()];
        grown.extend(target(self.dims(0)));
        if shape.iter().filter(|&&d| d == -1).count() > 1 {
            self.keep();
            return Ok(());
        }
        let grown = self.w.ints(&grown);
        self.node.input[0] = self.w.op("Reshape", &[&x, &grown], &[]);
        self.keep();
        Ok(())
    }
}
