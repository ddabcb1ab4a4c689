//! Images of another size.

use super::conv::Pixels;
use super::map::striding;
use super::{Lowered, Lowering};
use crate::graph::Node;
use crate::params::Params;

/// Between which two elements an output lies, and the weight of the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Between {
    /// The first.
    pub low: usize,
    /// The second.
    pub high: usize,
    /// The second's weight.
    pub weight: f32,
}

/// How outputs lie among inputs, as ONNX' Resize tells.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// `coordinate_transformation_mode`
    pub coordinates: &'a str,
    /// `nearest_mode`, for `mode` nearest; `None`: linear.
    pub nearest: Option<&'a str>,
}

/// Where each output lies. `None`: by a rule that is not known here.
pub fn between(rule: Rule<'_>, from: usize, to: usize, scale: f64) -> Option<Vec<Between>> {
    let last = from.checked_sub(1)?;
    (0..to)
        .map(|out| {
            let x = out as f64;
            let at = match rule.coordinates {
                "half_pixel" => (x + 0.5) / scale - 0.5,
                "pytorch_half_pixel" if to > 1 => (x + 0.5) / scale - 0.5,
                "pytorch_half_pixel" => 0.0,
                "asymmetric" => x / scale,
                "align_corners" if to > 1 => x * last as f64 / (to - 1) as f64,
                "align_corners" => 0.0,
                _ => return None,
            };
            let inside = |v: f64| v.clamp(0.0, last as f64) as usize;
            Some(match rule.nearest {
                Some(mode) => {
                    let near = match mode {
                        "round_prefer_floor" => (at - 0.5).ceil(),
                        "round_prefer_ceil" => (at + 0.5).floor(),
                        "floor" => at.floor(),
                        "ceil" => at.ceil(),
                        _ => return None,
                    };
                    Between {
                        low: inside(near),
                        high: inside(near),
                        weight: 0.0,
                    }
                }
                None => {
                    let at = at.clamp(0.0, last as f64);
                    Between {
                        low: inside(at.floor()),
                        high: inside(at.floor() + 1.0),
                        weight: (at - at.floor()) as f32,
                    }
                }
            })
        })
        .collect()
}

impl Lowering<'_> {
    pub(super) fn resize(&mut self, node: &Node) -> Lowered<()> {
        let x = self.device(node, 0)?;
        if x.dims.len() != 4
            || node.int("antialias").unwrap_or(0) != 0
            || node.ints("axes").is_some()
            || !matches!(node.text("keep_aspect_ratio_policy"), None | Some("stretch"))
        {
            return self.unserved("a resize of other than images");
        }
        let list = |place| {
            self.known(node, place)
                .filter(|t| t.dims.iter().product::<usize>() == 4)
        };
        let (scales, sizes) = (list(2).map(|t| t.as_floats()), list(3).map(|t| t.as_integers()));
        let mut dims = x.dims.clone();
        let mut scale = [1.0f64; 4];
        for d in 0..4 {
            match (&scales, &sizes) {
                (_, Some(sizes)) => {
                    dims[d] = sizes[d].max(0) as usize;
                    scale[d] = dims[d] as f64 / x.dims[d] as f64;
                }
                (Some(scales), None) => {
                    scale[d] = f64::from(scales[d]);
                    dims[d] = (x.dims[d] as f64 * scale[d]).floor() as usize;
                }
                (None, None) => return self.unserved("sizes that are worked out from the input"),
            }
        }
        let nearest = match node.text("mode") {
            None | Some("nearest") => Some(node.text("nearest_mode").unwrap_or("round_prefer_floor")),
            Some("linear") => None,
            Some(mode) => return self.unserved(format!("interpolation by {mode}")),
        };
        let rule = Rule {
            coordinates: node
                .text("coordinate_transformation_mode")
                .unwrap_or("half_pixel"),
            nearest,
        };
        let rows = between(rule, x.dims[2], dims[2], scale[2]);
        let cols = between(rule, x.dims[3], dims[3], scale[3]);
        let (Some(rows), Some(cols)) = (rows, cols) else {
            return self.unserved("coordinates by a rule that it does not know");
        };
        if dims[..2] != x.dims[..2] {
            return self.unserved("a resize of channels or of the batch");
        }
        let x = self.as_pixels(&x)?;
        let out = self.fresh_pixels(&dims)?;
        let label = self.key.clone();
        let bytes = |all: &[Between]| -> Vec<u8> {
            let each = |b: &Between| {
                [
                    (b.low as u32).to_le_bytes(),
                    (b.high as u32).to_le_bytes(),
                    b.weight.to_le_bytes(),
                ]
                .concat()
            };
            all.iter().flat_map(each).collect()
        };
        let rows = self.weight(&format!("{label} rows"), || bytes(&rows));
        let cols = self.weight(&format!("{label} columns"), || bytes(&cols));
        let input = Pixels::of(&x);
        let count = out.count();
        let params = Params::default()
            .at(input.at)
            .at(out.at)
            .at(rows)
            .at(cols)
            .u32(input.image as usize)
            .u32(input.row as usize)
            .u32(input.pixel as usize)
            .u32(dims[1])
            .divisor(dims[2] * dims[3])
            .divisor(dims[3])
            .divisor(dims[1])
            .u32(count);
        self.push("resize", 256, striding(count), params);
        self.set(node.output(), out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_lie_among_inputs_as_the_standard_says() {
        let linear = Rule {
            coordinates: "half_pixel",
            nearest: None,
        };
        let all = between(linear, 2, 4, 2.0).unwrap();
        let weights: Vec<(usize, f32)> = all.iter().map(|b| (b.low, b.weight)).collect();
        assert_eq!(weights, [(0, 0.0), (0, 0.25), (0, 0.75), (1, 0.0)]);
        let nearest = Rule {
            coordinates: "asymmetric",
            nearest: Some("floor"),
        };
        let all = between(nearest, 3, 6, 2.0).unwrap();
        assert_eq!(all.iter().map(|b| b.low).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2]);
    }
}
