//! Operators that move elements.

use super::Lowering;
use super::writer::{ints_attribute, target};
use crate::error::ModelError;
use crate::rules::{Resizing, full_pads};

impl Lowering<'_, '_> {
    /// SpaceToDepth, `[N, C, H, W]` to `[N, C·b², H/b, W/b]`: rows and columns of a block become the outer channels.
    pub(super) fn space_to_depth(mut self) -> Result<(), ModelError> {
        let (x, y) = (self.input(0).to_owned(), self.output().to_owned());
        let b = self.int("blocksize", 1);
        let dims = self.dims(0);
        let [c, h, w] = [1, 2, 3].map(|i| dims.get(i).map_or(1, |d| d.coef as i64));
        let blocks = self.w.ints(&[-1, c, h / b, b, w / b, b]);
        let shape = target(&self.out);
        let shape = self.w.ints(&shape);
        let apart = self.w.op("Reshape", &[&x, &blocks], &[]);
        let moved = self.w.op("Transpose", &[&apart], &[]);
        self.w.with(ints_attribute("perm", &[0, 3, 5, 1, 2, 4]));
        self.w.op_to("Reshape", &[&moved, &shape], &[], &y);
        Ok(())
    }

    /// Resize as engines know it since operator set 11, and Upsample, which is what it was before.
    pub(super) fn resize(mut self, kind: &str) -> Result<(), ModelError> {
        let by_sizes = self.node.input.get(3).is_some();
        let mode = self.attribute("mode").and_then(|a| a.s.clone());
        let kind = match (kind, mode.as_deref()) {
            // rten takes it for linear.
            (_, Some("cubic")) => "ResizeCubic",
            // rten would take other pixels.
            _ if !self.inverse_does(kind, by_sizes) => "ResizeNearest",
            ("Resize", _) if self.opset < 11 => "Upsample",
            (kind, _) => kind,
        };
        // rten takes an empty list for scales.
        for name in self.node.input.iter_mut().skip(1) {
            if name.starts_with("graft:roi:") || name.starts_with("graft:scales:") && by_sizes {
                name.clear();
            }
        }
        if kind != "ResizeCubic" {
            self.drop_attributes(&["cubic_coeff_a", "exclude_outside", "extrapolation_value"]);
        }
        self.node.op_type = Some(kind.to_owned());
        self.keep();
        Ok(())
    }

    /// Whether rten, which multiplies by the inverse of a scale, takes the same pixels as the standard says.
    fn inverse_does(&self, kind: &str, by_sizes: bool) -> bool {
        let before = self.dims(0);
        let scales = self.inputs.iter().skip(1).flatten();
        let scales = scales
            .filter_map(|f| f.small.as_ref())
            .find(|s| !s.nums.is_empty());
        let pairs = self.out.iter().zip(before);
        let scales = match scales.filter(|_| !by_sizes) {
            Some(scales) => scales.nums.iter().map(|n| n.coef as f32).collect(),
            None => pairs
                .map(|(to, from)| to.coef as f32 / from.coef as f32)
                .collect(),
        };
        let resizing = Resizing {
            dims: self.out.clone(),
            scales,
            by_sizes,
        };
        resizing.inverse_does(&self.op(kind), before)
    }

    /// Pad with the padding of every axis as an input.
    pub(super) fn pad(mut self) -> Result<(), ModelError> {
        let op = self.op("Pad");
        let pads = full_pads(&op)?;
        let value = match self.opset {
            ..11 => {
                let value = f64::from(self.float("value", 0.0));
                self.w.scalar(value, self.dtype(0))
            }
            _ => self.input(2).to_owned(),
        };
        self.drop_attributes(&["pads", "value"]);
        let pads = self.w.ints(&pads);
        self.node.input.truncate(1);
        self.node.input.push(pads);
        if !value.is_empty() {
            self.node.input.push(value);
        }
        self.keep();
        Ok(())
    }

    /// Slice with what is taken of each axis as inputs; an axis that is taken whole is left out.
    pub(super) fn slice(mut self) -> Result<(), ModelError> {
        let op = self.op("Slice");
        let slices = op.slices().unwrap_or_default();
        let dims = self.dims(0).to_vec();
        let kept: Vec<_> = slices
            .into_iter()
            .filter(|s| !dims.get(s.axis as usize).is_some_and(|d| d.batch))
            .collect();
        self.drop_attributes(&["starts", "ends", "axes"]);
        self.node.input.truncate(1);
        if kept.is_empty() {
            self.node.op_type = Some("Identity".to_owned());
            self.keep();
            return Ok(());
        }
        let clamp = |v: i64| v.clamp(-i64::from(i32::MAX), i64::from(i32::MAX));
        let lists = [
            kept.iter().map(|s| clamp(s.start)).collect::<Vec<_>>(),
            kept.iter().map(|s| clamp(s.end)).collect(),
            kept.iter().map(|s| s.axis).collect(),
            kept.iter().map(|s| clamp(s.step)).collect(),
        ];
        for list in lists {
            let name = self.w.ints(&list);
            self.node.input.push(name);
        }
        self.keep();
        Ok(())
    }
}
