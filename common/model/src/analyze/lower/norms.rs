//! Normalisations.

use super::Lowering;
use super::writer::{float_attribute, ints_attribute, target};
use crate::analyze::malformed;
use crate::dim::{DType, Dim, show};
use crate::error::ModelError;

impl Lowering<'_, '_> {
    /// Group normalisation: groups become the channels of an instance normalisation. Up to opset 20 scale and bias
    /// belong to groups, from 21 on to channels.
    pub(super) fn group_normalization(mut self) -> Result<(), ModelError> {
        let dims = self.dims(0).to_vec();
        let groups = self.int("num_groups", 1);
        let [Dim::BATCH, channels, space @ ..] = dims.as_slice() else {
            return Err(malformed(format!("GroupNormalization of {}", show(&dims))));
        };
        if groups < 1 || channels.coef as i64 % groups != 0 {
            return Err(malformed(format!("{channels} channels in {groups} groups")));
        }
        let area: usize = space.iter().map(|d| d.coef).product();
        let (x, y) = (self.input(0).to_owned(), self.output().to_owned());
        let (scale, bias) = (self.input(1).to_owned(), self.input(2).to_owned());
        let by_group = self.dims(1) == [Dim::fixed(groups as usize)] && self.opset < 21;
        let epsilon = self.float("epsilon", 1e-5);
        let grouped = self
            .w
            .ints(&[-1, groups, channels.coef as i64 / groups * area as i64]);
        let shape = self.w.ints(&target(&dims));
        let rows = self.w.op("Reshape", &[&x, &grouped], &[]);
        let (one, zero) = if by_group {
            (scale.clone(), bias.clone())
        } else {
            let count = groups as usize;
            (self.w.floats(1.0, count), self.w.floats(0.0, count))
        };
        let normal = self.w.op("InstanceNormalization", &[&rows, &one, &zero], &[]);
        self.w.with(float_attribute("epsilon", epsilon));
        if by_group {
            self.w.op_to("Reshape", &[&normal, &shape], &[], &y);
            return Ok(());
        }
        let back = self.w.op("Reshape", &[&normal, &shape], &[]);
        let mut each = vec![channels.coef as i64];
        each.extend(space.iter().map(|_| 1));
        let each = self.w.ints(&each);
        let scale = self.w.op("Reshape", &[&scale, &each], &[]);
        let bias = self.w.op("Reshape", &[&bias, &each], &[]);
        let scaled = self.w.op("Mul", &[&back, &scale], &[]);
        self.w.op_to("Add", &[&scaled, &bias], &[], &y);
        Ok(())
    }

    /// Local response normalisation: for a window of n channels `x / (bias + alpha × mean of x²)^beta`, the mean by a
    /// pool over the channels as if they were rows.
    pub(super) fn local_response(mut self) -> Result<(), ModelError> {
        let (x, y) = (self.input(0).to_owned(), self.output().to_owned());
        let dims = self.dims(0).to_vec();
        let [Dim::BATCH, channels, space @ ..] = dims.as_slice() else {
            return Err(malformed(format!("LRN of {}", show(&dims))));
        };
        let size = self.int("size", 0);
        if !(1..1 << 16).contains(&size) {
            return Err(malformed("LRN without a size"));
        }
        let area = space.iter().fold(1usize, |n, d| n.saturating_mul(d.coef));
        let numbers = [("alpha", 1e-4), ("bias", 1.0), ("beta", 0.75)];
        let [alpha, bias, beta] = numbers.map(|(name, default)| f64::from(self.float(name, default)));
        let rows = self.w.ints(&[-1, 1, channels.coef as i64, area as i64]);
        let shape = self.w.ints(&target(&dims));
        let [alpha, bias, beta] = [alpha, bias, beta].map(|v| self.w.scalar(v, DType::F32));
        let squares = self.w.op("Mul", &[&x, &x], &[]);
        let as_rows = self.w.op("Reshape", &[&squares, &rows], &[]);
        let pool = self.w.op("AveragePool", &[&as_rows], &[("count_include_pad", 1)]);
        self.w.with(ints_attribute("kernel_shape", &[size, 1]));
        self.w
            .with(ints_attribute("pads", &[(size - 1) / 2, 0, size / 2, 0]));
        self.w.with(ints_attribute("strides", &[1, 1]));
        let mean = self.w.op("Reshape", &[&pool, &shape], &[]);
        let scaled = self.w.op("Mul", &[&mean, &alpha], &[]);
        let biased = self.w.op("Add", &[&scaled, &bias], &[]);
        let divisor = self.w.op("Pow", &[&biased, &beta], &[]);
        self.w.op_to("Div", &[&x, &divisor], &[], &y);
        Ok(())
    }
}
