//! Convolutions, and products with weights, which are convolutions of single pixels.

use super::fuse::Tail;
use super::{Lowered, Lowering, View, floats, halves};
use crate::graph::Node;
use crate::params::{At, Params, Place};
use crate::program::{Blocks, Step};

/// Elements of K that a step multiplies.
const STEP: usize = 32;

/// Steps of K that a block does at least, where tiles are shared between blocks: leaving and adding up parts costs about so many.
const LEAST_STEPS: usize = 8;

/// A tile of a kernel: rows, columns, threads, blocks of a multiprocessor.
#[derive(Debug, Clone, Copy)]
struct Tile {
    m: usize,
    n: usize,
    threads: u32,
    each: u32,
}

const SMALL: Tile = Tile {
    m: 64,
    n: 64,
    threads: 128,
    each: 4,
};
const TALL: Tile = Tile {
    m: 128,
    n: 64,
    threads: 256,
    each: 2,
};
const LARGE: Tile = Tile {
    m: 128,
    n: 128,
    threads: 256,
    each: 2,
};

/// Where windows are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub rows: usize,
    pub cols: usize,
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Above and left.
    pub pad: [i64; 2],
    /// Below and right.
    pub pad_after: [i64; 2],
}

impl Window {
    pub fn single() -> Self {
        Window {
            rows: 1,
            cols: 1,
            stride: [1; 2],
            dilation: [1; 2],
            pad: [0; 2],
            pad_after: [0; 2],
        }
    }

    /// A node's window over pixels of one or two dimensions; one of one dimension has one row.
    pub fn of(node: &Node, sizes: &[usize]) -> Option<Self> {
        let two = |values: Option<&[i64]>, default: i64| -> Option<[i64; 2]> {
            match (values, sizes.len()) {
                (None | Some([]), _) => Some([default; 2]),
                (Some([y, x]), 2) => Some([*y, *x]),
                (Some([x]), 1) => Some([default, *x]),
                _ => None,
            }
        };
        let sizes2 = match sizes {
            [rows, cols] => [*rows, *cols],
            [cols] => [1, *cols],
            _ => return None,
        };
        let size = |n: i64| usize::try_from(n).ok().filter(|&n| n > 0);
        let [stride_y, stride_x] = two(node.ints("strides"), 1)?;
        let [dilation_y, dilation_x] = two(node.ints("dilations"), 1)?;
        let pads = match (node.ints("pads"), sizes.len()) {
            (None | Some([]), _) => [0; 4],
            (Some([top, left, bottom, right]), 2) => [*top, *left, *bottom, *right],
            (Some([left, right]), 1) => [0, *left, 0, *right],
            _ => return None,
        };
        if !matches!(node.text("auto_pad"), None | Some("NOTSET" | "VALID"))
            || node.int("ceil_mode").unwrap_or(0) != 0
        {
            return None;
        }
        Some(Window {
            rows: sizes2[0],
            cols: sizes2[1],
            stride: [size(stride_y)?, size(stride_x)?],
            dilation: [size(dilation_y)?, size(dilation_x)?],
            pad: [pads[0], pads[1]],
            pad_after: [pads[2], pads[3]],
        })
    }

    /// Sizes of what comes out.
    pub fn out(&self, height: usize, width: usize) -> Option<[usize; 2]> {
        let along = |size: usize, window: usize, axis: usize| {
            let padded = size as i64 + self.pad[axis] + self.pad_after[axis];
            let reach = ((window - 1) * self.dilation[axis] + 1) as i64;
            usize::try_from((padded - reach).div_euclid(self.stride[axis] as i64) + 1)
                .ok()
                .filter(|_| padded >= reach)
        };
        Some([along(height, self.rows, 0)?, along(width, self.cols, 1)?])
    }
}

/// Pixels of an image with their strides, in elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pixels {
    pub at: At,
    pub images: usize,
    pub height: usize,
    pub width: usize,
    pub image: i64,
    pub row: i64,
    pub pixel: i64,
}

impl Pixels {
    /// Of a view `[images, channels, (height,) width]` whose channels lie side by side.
    pub fn of(view: &View) -> Self {
        let rank = view.dims.len();
        let (height, row) = if rank == 4 {
            (view.dims[2], view.strides[2])
        } else {
            (1, 0)
        };
        Pixels {
            at: view.at,
            images: view.dims[0],
            height,
            width: view.dims[rank - 1],
            image: view.strides[0],
            row,
            pixel: view.strides[rank - 1],
        }
    }
}

/// A product of sums: pixels by weights.
pub(super) struct Sum<'t> {
    pub input: Pixels,
    pub window: Window,
    /// Of the output.
    pub height: usize,
    pub width: usize,
    pub groups: usize,
    /// Of a group.
    pub channels: usize,
    pub outputs: usize,
    pub out: At,
    pub out_pixel: usize,
    pub weights: At,
    pub bias: Option<At>,
    pub tail: &'t Tail,
    pub residual_pixel: usize,
}

/// The most halves that can be copied at once: a divisor of all strides and of the channels.
fn vector(numbers: &[usize]) -> usize {
    [8, 4, 2]
        .into_iter()
        .find(|v| numbers.iter().all(|n| n % v == 0))
        .unwrap_or(1)
}

impl Lowering<'_> {
    pub(super) fn conv(&mut self, node: &Node) -> Lowered<()> {
        let Some(weights) = self.known(node, 1) else {
            return self.unserved("weights that are worked out from the input");
        };
        let x = self.device(node, 0)?;
        let rank = x.dims.len();
        if !matches!(rank, 3 | 4) || weights.dims.len() != rank {
            return self.unserved("a convolution over other than one or two dimensions");
        }
        let x = self.as_pixels(&x)?;
        let groups = usize::try_from(node.int("group").unwrap_or(1))
            .unwrap_or(1)
            .max(1);
        let (outputs, channels) = (weights.dims[0] / groups, weights.dims[1]);
        let window = Window::of(node, &weights.dims[2..]);
        let input = Pixels::of(&x);
        let sizes = window.and_then(|w| w.out(input.height, input.width));
        let (Some(window), Some([height, width])) = (window, sizes) else {
            return self.unserved("pads that it does not know");
        };
        let mut dims = vec![input.images, outputs * groups];
        dims.extend(if rank == 4 {
            vec![height, width]
        } else {
            vec![width]
        });
        let out = self.fresh_pixels(&dims)?;
        let tail = self.tail(node, &out, outputs * groups, 1)?;
        let bias = self.known(node, 2).map(|t| t.as_floats());
        if node.input(2).is_some() && bias.as_ref().is_none_or(|b| b.len() != outputs * groups) {
            return self.unserved("a bias that is not one constant an output");
        }
        let (scale, bias) = with_tail(&tail, bias, outputs * groups);
        let key = format!("{} for {}", self.key, tail.name);
        let source = weights.as_floats();
        let depth = channels * window.rows * window.cols;
        let area = window.rows * window.cols;
        let depthwise = channels == 1 && groups > 1;
        let packed = if depthwise {
            // [R, S, outputs]
            let all = outputs * groups;
            self.weight(&key, || {
                halves((0..area * all).map(|i| source[i % all * area + i / all] * scale[i % all]))
            })
        } else {
            let padded = depth.next_multiple_of(STEP);
            self.weight(&key, || {
                halves((0..outputs * groups * padded).map(|i| {
                    let (o, k) = (i / padded, i % padded);
                    let (place, c) = (k / channels, k % channels);
                    if k < depth {
                        source[(o * channels + c) * area + place] * scale[o]
                    } else {
                        0.0
                    }
                }))
            })
        };
        let bias = bias.map(|bias| self.weight(&format!("{key}, bias"), || floats(bias.iter().copied())));
        let sum = Sum {
            input,
            window,
            height,
            width,
            groups,
            channels,
            outputs,
            out: out.at,
            out_pixel: outputs * groups,
            weights: packed,
            bias,
            tail: &tail,
            residual_pixel: outputs * groups,
        };
        if depthwise {
            self.push_depthwise(&sum)?;
        } else {
            self.push_sum(&sum)?;
        }
        self.set(&tail.name, out);
        Ok(())
    }

    /// Launches a convolution by products of tiles.
    pub(super) fn push_sum(&mut self, sum: &Sum<'_>) -> Lowered<()> {
        let depth = sum.channels * sum.window.rows * sum.window.cols;
        let strides = [sum.input.image, sum.input.row, sum.input.pixel].map(|s| s as usize);
        let mut parts = vec![
            sum.channels,
            strides[0],
            strides[1],
            strides[2],
            sum.input.at.offset as usize / 2,
        ];
        if sum.input.images == 1 {
            parts[1] = 0;
        }
        let vector = vector(&parts);
        let pixels = sum.input.images * sum.height * sum.width;
        let tile = match vector {
            8 if sum.outputs >= 128 && pixels >= 2048 => LARGE,
            8 if pixels >= 2048 => TALL,
            _ => SMALL,
        };
        let kernel = match (tile.m, tile.n, vector) {
            (128, 128, _) => "conv_128x128_v8",
            (128, ..) => "conv_128x64_v8",
            (.., 8) => "conv_64x64_v8",
            (.., 4) => "conv_64x64_v4",
            (.., 2) => "conv_64x64_v2",
            _ => "conv_64x64_v1",
        };
        let steps = depth.div_ceil(STEP);
        let tiles_n = sum.outputs.div_ceil(tile.n);
        let tiles_mn = tiles_n * pixels.div_ceil(tile.m);
        let tiles = tiles_mn * sum.groups;
        if tiles * steps >= 1 << 31 || pixels >= 1 << 31 {
            return self.unserved("a convolution of more than 2^31 steps: plan for smaller batches");
        }
        let null_or = |at: Option<At>| at.unwrap_or(At::NULL);
        let partial = At {
            place: Place::Partial,
            offset: 0,
        };
        let arrived = At {
            place: Place::Arrived,
            offset: 0,
        };
        let params = Params::default()
            .at(sum.input.at)
            .at(sum.weights)
            .at(null_or(sum.bias))
            .at(sum.tail.residual_at())
            .at(sum.out)
            .at(partial)
            .at(arrived)
            .activation(sum.tail.act1)
            .activation(sum.tail.act2)
            .u32(strides[0])
            .u32(strides[1])
            .u32(strides[2])
            .u32(sum.residual_pixel)
            .u32(sum.out_pixel)
            .u32(sum.input.height)
            .u32(sum.input.width)
            .u32(pixels)
            .divisor(sum.height * sum.width)
            .divisor(sum.width)
            .u32(sum.channels)
            .u32(sum.outputs)
            .u32(depth)
            .u32(depth.next_multiple_of(STEP))
            .divisor(sum.window.cols * sum.channels)
            .divisor(sum.channels)
            .u32(sum.window.stride[0])
            .u32(sum.window.stride[1])
            .u32(sum.window.dilation[0])
            .u32(sum.window.dilation[1])
            .i32(sum.window.pad[0])
            .i32(sum.window.pad[1])
            .divisor(tiles_n)
            .divisor(tiles_mn)
            .u32(tiles)
            .divisor(steps);
        let shared = (tiles * steps).div_ceil(LEAST_STEPS).max(tiles);
        self.steps.push(Step {
            kernel,
            blocks: Blocks {
                useful: u32::try_from(shared).unwrap_or(u32::MAX),
                each: tile.each,
            },
            threads: tile.threads,
            params,
            label: self.label.clone(),
            partial_bytes: 2 * tile.m * tile.n * 4,
            counters: tiles,
        });
        Ok(())
    }

    fn push_depthwise(&mut self, sum: &Sum<'_>) -> Lowered<()> {
        let outputs = sum.outputs * sum.groups;
        let strides = [sum.input.image, sum.input.row, sum.input.pixel].map(|s| s as usize);
        let aligned = vector(&[
            outputs,
            strides[0],
            strides[1],
            strides[2],
            sum.input.at.offset as usize / 2,
        ]) == 8;
        let residual = sum.tail.residual_at().offset.is_multiple_of(16);
        let vector = if aligned && residual && sum.outputs == 1 {
            8
        } else {
            1
        };
        let pixels = sum.input.images * sum.height * sum.width;
        let work = pixels * (outputs / vector);
        let params = Params::default()
            .at(sum.input.at)
            .at(sum.weights)
            .at(sum.bias.unwrap_or(At::NULL))
            .at(sum.tail.residual_at())
            .at(sum.out)
            .activation(sum.tail.act1)
            .activation(sum.tail.act2)
            .u32(strides[0])
            .u32(strides[1])
            .u32(strides[2])
            .u32(sum.residual_pixel)
            .u32(sum.out_pixel)
            .u32(sum.input.height)
            .u32(sum.input.width)
            .u32(work)
            .divisor(outputs / vector)
            .divisor(sum.height * sum.width)
            .divisor(sum.width)
            .divisor(sum.outputs)
            .u32(outputs)
            .u32(sum.window.rows)
            .u32(sum.window.cols)
            .u32(sum.window.stride[0])
            .u32(sum.window.stride[1])
            .u32(sum.window.dilation[0])
            .u32(sum.window.dilation[1])
            .i32(sum.window.pad[0])
            .i32(sum.window.pad[1]);
        let kernel = if vector == 8 {
            "depthwise_v8"
        } else {
            "depthwise_v1"
        };
        self.push(kernel, 256, super::map::striding(work), params);
        Ok(())
    }
}

/// The scale of each output's weights, and the bias of each, with what follows taken in.
pub(super) fn with_tail(tail: &Tail, bias: Option<Vec<f32>>, outputs: usize) -> (Vec<f32>, Option<Vec<f32>>) {
    let scale = tail
        .scale
        .as_ref()
        .map_or_else(|| vec![1.0; outputs], |(scale, _)| scale.clone());
    if bias.is_none() && tail.scale.is_none() && tail.bias.is_none() {
        return (scale, None);
    }
    let offset = tail.scale.as_ref().map(|(_, offset)| offset);
    let all = (0..outputs).map(|o| {
        let own = bias.as_ref().map_or(0.0, |b| b[o]) * scale[o];
        own + offset.map_or(0.0, |v| v[o]) + tail.bias.as_ref().map_or(0.0, |b| b[o])
    });
    let all = all.collect();
    (scale, Some(all))
}
