//! Convolutions, pools and padding: dimensions after the batch and the channels.

use super::{Op, Outcome, Ruling, malformed, mixes_batch};
use crate::dim::{Dim, elements, show};
use crate::error::ModelError;
use crate::fact::Fact;

/// Windows along each spatial dimension.
pub(crate) struct Windows {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// Padding before and after, for each dimension, where it is given.
    pads: Vec<(usize, usize)>,
    ceil: bool,
    same: Option<Same>,
}

/// Side on which the odd element goes of padding such that the output has the input's size over the stride.
#[derive(Clone, Copy, PartialEq)]
enum Same {
    Before,
    After,
}

impl Windows {
    /// Windows of a convolution or a pool.
    pub fn of(op: &Op<'_>) -> Result<Self, ModelError> {
        if matches!(op.kind, "Conv" | "ConvTranspose") {
            let weights = op.required(1)?;
            let shape = weights
                .dims
                .iter()
                .skip(2)
                .map(|d| d.known())
                .collect::<Option<Vec<_>>>();
            let shape = shape.ok_or_else(|| malformed("weights that grow with the batch"))?;
            return Windows::new(op, shape);
        }
        let kernel: Option<Vec<usize>> = op
            .ints("kernel_shape")
            .unwrap_or_default()
            .iter()
            .map(|&k| usize::try_from(k).ok())
            .collect();
        let space = op.required(0)?.dims.len().saturating_sub(2);
        let kernel = kernel
            .filter(|k| k.len() == space)
            .ok_or_else(|| malformed("kernel_shape does not fit the input"))?;
        Windows::new(op, kernel)
    }

    /// Padding before and after, for each of the spatial dimensions.
    pub fn explicit_pads(&self, space: &[Dim]) -> Vec<(usize, usize)> {
        let Some(same) = self.same else {
            return self.pads.clone();
        };
        let each = space.iter().enumerate().map(|(i, dim)| {
            let (size, stride) = (dim.coef, self.strides[i]);
            let reach = self.dilations[i] * (self.kernel[i] - 1) + 1;
            let covered = size.div_ceil(stride).saturating_sub(1) * stride + reach;
            let total = covered.saturating_sub(size);
            match same {
                Same::Before => (total - total / 2, total / 2),
                Same::After => (total / 2, total - total / 2),
            }
        });
        each.collect()
    }

    fn new(op: &Op<'_>, kernel: Vec<usize>) -> Result<Self, ModelError> {
        let rank = kernel.len();
        let sizes = |name: &str| -> Result<Vec<usize>, ModelError> {
            let list = op.ints(name).unwrap_or_else(|| vec![1; rank]);
            let list: Option<Vec<usize>> = list
                .iter()
                .map(|&v| usize::try_from(v).ok().filter(|v| (1..1 << 20).contains(v)))
                .collect();
            list.filter(|l| l.len() == rank)
                .ok_or_else(|| malformed(format!("attribute {name} does not fit the kernel")))
        };
        let pads = op.ints("pads").unwrap_or_else(|| vec![0; 2 * rank]);
        let pads: Option<Vec<usize>> = pads
            .iter()
            .map(|&p| usize::try_from(p).ok().filter(|p| *p < 1 << 20))
            .collect();
        let pads = pads
            .filter(|p| p.len() == 2 * rank)
            .ok_or_else(|| malformed("attribute pads does not fit the kernel"))?;
        if kernel.iter().any(|&k| k == 0 || k >= 1 << 20) {
            return Err(malformed("an empty kernel"));
        }
        let auto = op.text("auto_pad").unwrap_or("NOTSET");
        Ok(Windows {
            strides: sizes("strides")?,
            dilations: sizes("dilations")?,
            pads: (0..rank)
                .map(|i| {
                    if auto == "VALID" {
                        (0, 0)
                    } else {
                        (pads[i], pads[i + rank])
                    }
                })
                .collect(),
            ceil: op.int("ceil_mode", 0) != 0,
            same: match auto {
                "SAME_LOWER" => Some(Same::Before),
                "SAME_UPPER" => Some(Same::After),
                _ => None,
            },
            kernel,
        })
    }

    fn output(&self, input: &[Dim]) -> Result<Vec<Dim>, ModelError> {
        input
            .iter()
            .enumerate()
            .map(|(i, dim)| {
                let size = dim
                    .known()
                    .ok_or_else(|| mixes_batch("a window slides over the batch dimension"))?;
                let stride = self.strides[i];
                if self.same.is_some() {
                    return Ok(Dim::fixed(size.div_ceil(stride)));
                }
                let reach = self.dilations[i] * (self.kernel[i] - 1) + 1;
                let padded = size + self.pads[i].0 + self.pads[i].1;
                let room = padded
                    .checked_sub(reach)
                    .ok_or_else(|| malformed(format!("a window of {reach} on {padded} elements")))?;
                let mut count = room / stride + 1;
                if self.ceil && !room.is_multiple_of(stride) && count * stride < size + self.pads[i].0 {
                    count += 1;
                }
                Ok(Dim::fixed(count))
            })
            .collect()
    }
}

fn split<'a>(op: &Op<'_>, dims: &'a [Dim]) -> Result<(Dim, Dim, &'a [Dim]), ModelError> {
    match dims {
        [batch, channels, space @ ..] if !space.is_empty() => {
            if channels.batch || space.iter().any(|d| d.batch) {
                return Err(mixes_batch(format!("{} runs along the batch dimension", op.kind)));
            }
            Ok((*batch, *channels, space))
        }
        _ => Err(malformed(format!(
            "{} on a tensor of shape {}",
            op.kind,
            show(dims)
        ))),
    }
}

/// Sizes of a convolution's weights over so many spatial dimensions.
fn weights_shape(weights: &Fact, space: &[Dim]) -> Result<Vec<usize>, ModelError> {
    let shape: Option<Vec<usize>> = weights.dims.iter().map(|d| d.known()).collect();
    shape
        .filter(|s| s.len() == space.len() + 2)
        .ok_or_else(|| malformed(format!("weights of shape {}", show(&weights.dims))))
}

pub(super) fn conv(op: &Op<'_>) -> Ruling {
    let (x, weights) = (op.required(0)?, op.required(1)?);
    let (batch, channels, space) = split(op, &x.dims)?;
    let shape = weights_shape(weights, space)?;
    let groups = op.int("group", 1).max(1) as usize;
    if channels.known() != Some(shape[1].saturating_mul(groups)) {
        return Err(malformed(format!(
            "{channels} channels meet weights of shape {} in {groups} groups",
            show(&weights.dims)
        )));
    }
    let windows = Windows::of(op)?;
    let mut out = vec![batch, Dim::fixed(shape[0])];
    out.extend(windows.output(space)?);
    let taps: usize = shape[1..].iter().product();
    let flops = (2 * elements(&out)? as u64).saturating_mul(taps as u64);
    Ok(Outcome::one(out, x.dtype).costing(flops))
}

/// ConvTranspose: each element of the input spreads over a window of the output.
pub(super) fn conv_transpose(op: &Op<'_>) -> Ruling {
    let (x, weights) = (op.required(0)?, op.required(1)?);
    let (batch, channels, space) = split(op, &x.dims)?;
    let shape = weights_shape(weights, space)?;
    if channels.known() != Some(shape[0]) {
        return Err(malformed(format!(
            "{channels} channels meet weights of shape {}",
            show(&weights.dims)
        )));
    }
    let automatic = op
        .text("auto_pad")
        .is_some_and(|t| !matches!(t, "NOTSET" | "VALID"));
    if automatic || op.ints("output_shape").is_some() {
        return Err(ModelError::new(
            crate::error::ModelErrorKind::UnknownOperator,
            "ConvTranspose with automatic padding or a given output shape is not served",
            "Export it with pads and output_padding written out",
        ));
    }
    let windows = Windows::new(op, shape[2..].to_vec())?;
    let more = op.ints("output_padding").unwrap_or_else(|| vec![0; space.len()]);
    let groups = op.int("group", 1).max(1) as usize;
    let mut out = vec![batch, Dim::fixed(shape[1].saturating_mul(groups))];
    for (i, dim) in space.iter().enumerate() {
        let reach = windows.dilations[i] * (windows.kernel[i] - 1) + 1;
        let pads = windows.pads[i].0 + windows.pads[i].1;
        let more = usize::try_from(more.get(i).copied().unwrap_or(0)).unwrap_or(0);
        let size = windows.strides[i] * dim.coef.saturating_sub(1) + reach + more;
        let size = size
            .checked_sub(pads)
            .ok_or_else(|| malformed("padding takes more than there is"))?;
        out.push(Dim::fixed(size));
    }
    let taps: usize = shape[1..].iter().product();
    let flops = (2 * elements(&x.dims)? as u64).saturating_mul(taps as u64);
    Ok(Outcome::one(out, x.dtype).costing(flops))
}

pub(super) fn pool(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let (batch, channels, space) = split(op, &x.dims)?;
    let windows = Windows::of(op)?;
    let taps: usize = windows.kernel.iter().fold(1, |n, &k| n.saturating_mul(k));
    let mut out = vec![batch, channels];
    out.extend(windows.output(space)?);
    let flops = (elements(&out)? as u64).saturating_mul(taps as u64);
    Ok(Outcome::one(out, x.dtype).costing(flops))
}

pub(super) fn global_pool(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let (batch, channels, space) = split(op, &x.dims)?;
    let mut out = vec![batch, channels];
    out.extend(space.iter().map(|_| Dim::ONE));
    Ok(Outcome::one(out, x.dtype).costing(elements(&x.dims)? as u64))
}

/// Padding before every axis, then after every axis: an attribute before opset 11; from 18 on of some axes only.
pub(crate) fn full_pads(op: &Op<'_>) -> Result<Vec<i64>, ModelError> {
    let rank = op.required(0)?.dims.len();
    let pads = match op.ints("pads") {
        Some(pads) => pads,
        None => op.values(1, "the padding")?,
    };
    let axes: Vec<usize> = match op.input(3) {
        None => (0..rank).collect(),
        Some(_) => op
            .values(3, "the list of axes")?
            .into_iter()
            .map(|a| super::axis(a, rank))
            .collect::<Result<_, _>>()?,
    };
    if pads.len() != 2 * axes.len() {
        return Err(malformed("pads does not fit the input"));
    }
    let mut full = vec![0; 2 * rank];
    for (i, &at) in axes.iter().enumerate() {
        full[at] = pads[i];
        full[at + rank] = pads[i + axes.len()];
    }
    Ok(full)
}

pub(super) fn pad(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let rank = x.dims.len();
    let pads = full_pads(op)?;
    let dims = x
        .dims
        .iter()
        .enumerate()
        .map(|(i, dim)| {
            let more = pads[i].saturating_add(pads[i + rank]);
            match dim.known() {
                None if more == 0 => Ok(*dim),
                None => Err(mixes_batch("the batch dimension is padded")),
                Some(size) => usize::try_from((size as i64).saturating_add(more))
                    .map(Dim::fixed)
                    .map_err(|_| malformed("padding takes more than there is")),
            }
        })
        .collect::<Result<_, _>>()?;
    Ok(Outcome::one(dims, x.dtype).costing(0))
}

pub(super) fn depth_and_space(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let block = usize::try_from(op.int("blocksize", 1)).unwrap_or(0);
    if x.dims.iter().skip(1).any(|d| d.batch) {
        return Err(mixes_batch(format!("{} runs along the batch dimension", op.kind)));
    }
    match (op.kind, x.dims.as_slice()) {
        ("DepthToSpace", [n, c, h, w]) if block > 0 && block < 1 << 10 && c.coef % (block * block) == 0 => {
            let dims = vec![
                *n,
                Dim::fixed(c.coef / (block * block)),
                Dim::fixed(h.coef * block),
                Dim::fixed(w.coef * block),
            ];
            Ok(Outcome::one(dims, x.dtype).costing(0))
        }
        ("SpaceToDepth", [n, c, h, w])
            if block > 0 && block < 1 << 10 && h.coef % block == 0 && w.coef % block == 0 =>
        {
            let dims = vec![
                *n,
                Dim::fixed(c.coef * block * block),
                Dim::fixed(h.coef / block),
                Dim::fixed(w.coef / block),
            ];
            Ok(Outcome::one(dims, x.dtype).costing(0))
        }
        _ => Err(malformed(format!(
            "{} with block size {block} of {}",
            op.kind,
            show(&x.dims)
        ))),
    }
}
