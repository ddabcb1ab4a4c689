//! Convolutions and pools.

use super::Lowering;
use super::writer::ints_attribute;
use crate::dim::DType;
use crate::error::ModelError;
use crate::rules::Windows;

impl Lowering<'_, '_> {
    /// Convolutions and pools with kernel, strides, dilations and pads written out; nothing is automatic.
    pub(super) fn windows(mut self, kind: &str) -> Result<(), ModelError> {
        let op = self.op(kind);
        let windows = Windows::of(&op)?;
        let pads = windows.explicit_pads(&self.dims(0)[2..]);
        self.drop_attributes(&["auto_pad", "kernel_shape", "strides", "dilations", "pads"]);
        let list = |values: &[usize]| values.iter().map(|&v| v as i64).collect::<Vec<_>>();
        let before_and_after: Vec<i64> = pads
            .iter()
            .map(|p| p.0 as i64)
            .chain(pads.iter().map(|p| p.1 as i64))
            .collect();
        let mut attributes = vec![
            ints_attribute("kernel_shape", &list(&windows.kernel)),
            ints_attribute("strides", &list(&windows.strides)),
            ints_attribute("pads", &before_and_after),
        ];
        if kind.starts_with("Conv") || windows.dilations.iter().any(|&d| d != 1) {
            attributes.push(ints_attribute("dilations", &list(&windows.dilations)));
        }
        if kind == "LpPool" {
            return self.lp_pool(attributes, windows.kernel.iter().product());
        }
        self.node.attribute.extend(attributes);
        self.keep();
        Ok(())
    }

    /// LpPool as (area × mean of |x|^p)^(1/p), the mean with padding counted.
    fn lp_pool(
        mut self,
        attributes: Vec<rten_onnx::onnx::AttributeProto>,
        area: usize,
    ) -> Result<(), ModelError> {
        let (x, y) = (self.input(0).to_owned(), self.output().to_owned());
        let p = self.int("p", 2);
        if self.int("ceil_mode", 0) != 0 {
            self.node.attribute.extend(attributes);
            self.keep();
            return Ok(());
        }
        let magnitude = self.w.op("Abs", &[&x], &[]);
        let exponent = self.w.scalar(p as f64, DType::F32);
        let powers = self.w.op("Pow", &[&magnitude, &exponent], &[]);
        let mean = self.w.op("AveragePool", &[&powers], &[("count_include_pad", 1)]);
        for attribute in attributes {
            self.w.with(attribute);
        }
        let area = self.w.scalar(area as f64, DType::F32);
        let sum = self.w.op("Mul", &[&mean, &area], &[]);
        let root = self.w.scalar(1.0 / p as f64, DType::F32);
        self.w.op_to("Pow", &[&sum, &root], &[], &y);
        Ok(())
    }

    /// ArgMax and ArgMin: of several such elements the first counts, unless the last is asked for. Engines take the
    /// last, so the axis is read backwards.
    pub(super) fn first_of_equals(mut self) -> Result<(), ModelError> {
        let last = self.int("select_last_index", 0) != 0;
        self.drop_attributes(&["select_last_index"]);
        let rank = self.dims(0).len();
        let at = crate::rules::axis(self.int("axis", 0), rank)?;
        self.set_int("axis", at as i64);
        let keepdims = self.int("keepdims", 1);
        self.set_int("keepdims", keepdims);
        if last {
            self.keep();
            return Ok(());
        }
        let size = self.dims(0)[at].coef as i64;
        let (x, y) = (self.input(0).to_owned(), self.output().to_owned());
        let kind = self.node.op_type.clone().unwrap_or_default();
        let starts = self.w.ints(&[size - 1]);
        let ends = self.w.ints(&[-size - 1]);
        let axes = self.w.ints(&[at as i64]);
        let steps = self.w.ints(&[-1]);
        let turned = self.w.op("Slice", &[&x, &starts, &ends, &axes, &steps], &[]);
        let found = self
            .w
            .op(&kind, &[&turned], &[("axis", at as i64), ("keepdims", keepdims)]);
        let end = self.w.scalar(size as f64 - 1.0, DType::I64);
        self.w.op_to("Sub", &[&end, &found], &[], &y);
        Ok(())
    }
}
