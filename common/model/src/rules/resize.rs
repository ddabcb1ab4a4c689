//! Resize and Upsample: how large the output is, and by what each dimension is scaled.

use super::{Op, Outcome, Ruling, axis, dynamic, malformed, mixes_batch};
use crate::dim::{Dim, elements, show};
use crate::error::{ModelError, ModelErrorKind};

/// Largest dimension for which it is computed whether two engines take the same pixels.
const MOST_COMPARED: usize = 1 << 16;

/// What a Resize makes of its input's dimensions.
pub(crate) struct Resizing {
    /// Sizes of the output.
    pub dims: Vec<Dim>,
    /// Scale of each dimension, as the node gives it or as it follows from the sizes.
    pub scales: Vec<f32>,
    /// Whether the node gives sizes.
    pub by_sizes: bool,
}

impl Resizing {
    /// Reads scales or sizes, whichever the node has.
    pub fn of(op: &Op<'_>) -> Result<Self, ModelError> {
        let x = op.required(0)?;
        let rank = x.dims.len();
        let policy = op.text("keep_aspect_ratio_policy").unwrap_or("stretch");
        let coordinates = op.text("coordinate_transformation_mode").unwrap_or("");
        if policy != "stretch" || coordinates == "tf_crop_and_resize" {
            return Err(ModelError::new(
                ModelErrorKind::UnknownOperator,
                format!("Resize with {policy}, {coordinates} is not served"),
                "Export it with sizes, stretched, and without a region of interest",
            ));
        }
        let axes = match op.ints("axes") {
            None => (0..rank).collect(),
            Some(axes) => {
                let axes = axes.into_iter().map(|a| axis(a, rank));
                axes.collect::<Result<Vec<usize>, _>>()?
            }
        };
        // Upsample, and Resize before operator set 11, have no region of interest before the scales.
        let at = if op.kind == "Upsample" || op.opset < 11 {
            1
        } else {
            2
        };
        let scales = match op.floats("scales") {
            Some(scales) => Some(scales),
            None => op.numbers(at, "the scales")?.filter(|s| !s.is_empty()),
        };
        let mut resizing = Resizing {
            dims: x.dims.clone(),
            scales: vec![1.0; rank],
            by_sizes: scales.is_none(),
        };
        match scales {
            Some(scales) if scales.len() == axes.len() => {
                for (&at, scale) in axes.iter().zip(scales) {
                    resizing.scale(at, scale as f32)?;
                }
            }
            Some(_) => return Err(malformed("the scales don't fit the input")),
            None => {
                let asked = op.input(at + 1).filter(|_| op.kind == "Resize" && at == 2);
                let asked = asked.ok_or_else(|| malformed("Resize without scales and sizes"))?;
                let sizes = asked.small.as_ref();
                let sizes = &sizes.ok_or_else(|| dynamic("the sizes", asked))?.nums;
                if sizes.len() != axes.len() {
                    return Err(malformed("the sizes don't fit the input"));
                }
                for (&at, size) in axes.iter().zip(sizes) {
                    let whole = size.coef >= 1.0 && size.coef.fract() == 0.0 && size.coef < 1e9;
                    // The batch stays as it is, whether the file names it or has one of 1 baked in.
                    let kept = x.dims[at].batch && size.coef == x.dims[at].coef as f64;
                    match kept {
                        true => {}
                        false if whole && !size.batch => resizing.size(at, size.coef as usize)?,
                        false => return Err(mixes_batch("Resize to a multiple of the batch")),
                    }
                }
            }
        }
        elements(&resizing.dims)?;
        Ok(resizing)
    }

    fn known(&self, at: usize) -> Result<usize, ModelError> {
        let size = self.dims[at].known().filter(|&n| n > 0);
        size.ok_or_else(|| mixes_batch(format!("Resize of {} along the batch", show(&self.dims))))
    }

    fn scale(&mut self, at: usize, scale: f32) -> Result<(), ModelError> {
        if scale == 1.0 {
            return Ok(());
        }
        let size = self.known(at)?;
        let scaled = (size as f32 * scale).floor();
        if !(1.0..1e9).contains(&scaled) {
            return Err(malformed(format!("a dimension of {size} is scaled by {scale}")));
        }
        self.dims[at] = Dim::fixed(scaled as usize);
        self.scales[at] = scale;
        Ok(())
    }

    fn size(&mut self, at: usize, size: usize) -> Result<(), ModelError> {
        self.scales[at] = size as f32 / self.known(at)? as f32;
        self.dims[at] = Dim::fixed(size);
        Ok(())
    }

    /// Whether an engine that multiplies by the inverse of a scale takes the same pixels as one that divides by it, as
    /// the standard says, where each pixel of the output is one of the input's. Before operator set 11 the standard did not
    /// say which pixel is the nearest: it is the next lower one where a dimension grows, and the next higher one where it
    /// shrinks, as ONNX Runtime has it, and such an engine always takes the lower one.
    pub fn inverse_does(&self, op: &Op<'_>, before: &[Dim]) -> bool {
        if op.text("mode").unwrap_or("nearest") != "nearest" {
            return true;
        }
        let old = op.kind == "Upsample" || op.opset < 11;
        let (coordinates, nearest) = if old {
            ("asymmetric", "floor")
        } else {
            (
                op.text("coordinate_transformation_mode").unwrap_or("half_pixel"),
                op.text("nearest_mode").unwrap_or("round_prefer_floor"),
            )
        };
        if coordinates == "align_corners" {
            return true;
        }
        let dims = before.iter().zip(&self.dims).zip(&self.scales);
        dims.filter(|((a, b), _)| a != b).all(|((from, to), &scale)| {
            let inverse = if self.by_sizes {
                from.coef as f32 / to.coef as f32
            } else {
                1.0 / scale
            };
            let right = if old && scale < 1.0 { "ceil" } else { nearest };
            let pixel = |nearest: &str, at: f32| {
                let at = at.clamp(0.0, from.coef as f32 - 1.0);
                match nearest {
                    "floor" => at.floor(),
                    "ceil" => at.ceil(),
                    "round_prefer_ceil" => (at + 0.5).floor(),
                    _ => (at - 0.5).ceil(),
                }
            };
            let same = |x: usize| {
                let x = x as f32;
                match coordinates {
                    "asymmetric" => pixel(right, x / scale) == pixel(nearest, x * inverse),
                    _ => pixel(right, (x + 0.5) / scale - 0.5) == pixel(nearest, inverse * (x + 0.5) - 0.5),
                }
            };
            to.coef <= MOST_COMPARED && (0..to.coef).all(same)
        })
    }
}

pub(super) fn resize(op: &Op<'_>) -> Ruling {
    let dtype = op.required(0)?.dtype;
    let dims = Resizing::of(op)?.dims;
    let each = match op.text("mode").unwrap_or("nearest") {
        "nearest" => 1,
        "linear" => 8,
        _ => 32,
    };
    let flops = (elements(&dims)? as u64).saturating_mul(each);
    Ok(Outcome::one(dims, dtype).costing(flops))
}
