//! Products of matrices.

use super::conv::{Pixels, Sum, Window, with_tail};
use super::layout::reshaped;
use super::map::broadcast;
use super::{Lowered, Lowering, View, floats, halves};
use crate::graph::{HostTensor, Node};
use crate::params::{Activation, Element, Params};
use crate::program::Blocks;

/// Weights of a product, as `[outputs, depth]`.
struct Matrix<'w> {
    source: &'w HostTensor,
    /// Whether the source is `[outputs, depth]` already.
    turned: bool,
    scale: f32,
}

impl Lowering<'_> {
    pub(super) fn gemm(&mut self, node: &Node) -> Lowered<()> {
        let Some(weights) = self.known(node, 1).filter(|w| w.dims.len() == 2) else {
            return self.unserved("weights that are worked out from the input");
        };
        if node.int("transA").unwrap_or(0) != 0 {
            return self.unserved("a first operand that is transposed");
        }
        let beta = node.float("beta").unwrap_or(1.0);
        let turned = node.int("transB").unwrap_or(0) != 0;
        let outputs = weights.dims[usize::from(!turned)];
        let bias = match node.input(2) {
            None => None,
            Some(_) => match self.known(node, 2) {
                Some(c) if c.dims.iter().product::<usize>() == outputs && c.dims.last() == Some(&outputs) => {
                    Some(c.as_floats().into_iter().map(|x| x * beta).collect::<Vec<f32>>())
                }
                Some(c) if c.only().is_some() => Some(vec![c.only().unwrap_or(0.0) * beta; outputs]),
                _ => return self.unserved("a third operand that is no row of constants"),
            },
        };
        let matrix = Matrix {
            source: &weights,
            turned,
            scale: node.float("alpha").unwrap_or(1.0),
        };
        let x = self.device(node, 0)?;
        self.by_weights(node, &x, &matrix, bias)
    }

    pub(super) fn matmul(&mut self, node: &Node) -> Lowered<()> {
        let x = self.device(node, 0)?;
        if let Some(weights) = self.known(node, 1).filter(|w| w.dims.len() == 2)
            && x.dims.len() >= 2
        {
            let matrix = Matrix {
                source: &weights,
                turned: false,
                scale: 1.0,
            };
            return self.by_weights(node, &x, &matrix, None);
        }
        let y = self.device(node, 1)?;
        if self.attention(node, &x, &y)? {
            return Ok(());
        }
        self.of_two(node, &x, &y)
    }

    /// `[..., depth]` by weights.
    fn by_weights(
        &mut self,
        node: &Node,
        x: &View,
        matrix: &Matrix<'_>,
        bias: Option<Vec<f32>>,
    ) -> Lowered<()> {
        let rank = x.dims.len();
        let depth = x.dims[rank - 1];
        let outputs = matrix.source.dims[usize::from(!matrix.turned)];
        let rows: usize = x.dims[..rank - 1].iter().product();
        let x = self.as_halves(x)?;
        let flat =
            reshaped(&x, &[rows, depth]).filter(|f| f.strides[0] >= 0 && (f.strides[1] == 1 || depth == 1));
        let flat = match flat {
            Some(flat) => flat,
            None => {
                let to = self.fresh_rows(Element::F16, &x.dims)?;
                self.copy(&x, &to)?;
                View {
                    dims: vec![rows, depth],
                    strides: vec![depth as i64, 1],
                    ..to
                }
            }
        };
        let mut dims = x.dims[..rank - 1].to_vec();
        dims.push(outputs);
        let out = self.fresh_rows(Element::F16, &dims)?;
        let tail = self.tail(node, &out, outputs, rank - 1)?;
        let (each, bias) = with_tail(&tail, bias, outputs);
        let source = matrix.source.as_floats();
        let padded = depth.next_multiple_of(32);
        let key = format!("{} for {}", self.key, tail.name);
        let (turned, scale) = (matrix.turned, matrix.scale);
        let weights = self.weight(&key, || {
            halves((0..outputs * padded).map(|i| {
                let (o, k) = (i / padded, i % padded);
                match (k < depth, turned) {
                    (false, _) => 0.0,
                    (true, true) => source[o * depth + k] * scale * each[o],
                    (true, false) => source[k * outputs + o] * scale * each[o],
                }
            }))
        });
        let bias = bias.map(|bias| self.weight(&format!("{key}, bias"), || floats(bias.iter().copied())));
        let sum = Sum {
            input: Pixels {
                at: flat.at,
                images: 1,
                height: 1,
                width: rows,
                image: 0,
                row: 0,
                pixel: flat.strides[0],
            },
            window: Window::single(),
            height: 1,
            width: rows,
            groups: 1,
            channels: depth,
            outputs,
            out: out.at,
            out_pixel: outputs,
            weights,
            bias,
            tail: &tail,
            residual_pixel: outputs,
        };
        self.push_sum(&sum)?;
        self.set(&tail.name, out);
        Ok(())
    }

    /// Two tensors that are worked out.
    fn of_two(&mut self, node: &Node, x: &View, y: &View) -> Lowered<()> {
        let (x, y) = (self.as_halves(x)?, self.as_halves(y)?);
        let (rx, ry) = (x.dims.len(), y.dims.len());
        if rx < 2 || ry < 2 {
            return self.unserved("a product with a vector");
        }
        let (m, k, n) = (x.dims[rx - 2], x.dims[rx - 1], y.dims[ry - 1]);
        let outer = broadcast(&[&x.dims[..rx - 2], &y.dims[..ry - 2]]);
        let outer = match (outer, rx, ry) {
            (_, 2, 2) => vec![],
            (Some(outer), ..) if y.dims[ry - 2] == k => outer,
            _ => return self.unserved("operands of sizes that don't fit together"),
        };
        if outer.len() > 4 {
            return self.unserved("a product of more than four outer dimensions");
        }
        let mut dims = outer.clone();
        dims.extend([m, n]);
        let out = self.fresh_rows(Element::F16, &dims)?;
        let outer_strides = |view: &View| -> Vec<i64> {
            let own = view.dims.len() - 2;
            let missing = outer.len() - own;
            let of = |d: usize| match d.checked_sub(missing) {
                Some(at) if view.dims[at] == outer[d] => view.strides[at],
                _ => 0,
            };
            let before = std::iter::repeat_n(0, 4 - outer.len());
            before.chain((0..outer.len()).map(of)).collect()
        };
        let tiles_n = n.div_ceil(64);
        let tiles_mn = tiles_n * m.div_ceil(64);
        let tiles = tiles_mn * outer.iter().product::<usize>();
        let mut params = Params::default()
            .at(x.at)
            .at(y.at)
            .at(out.at)
            .i32s(&outer_strides(&x))
            .i32s(&[x.strides[rx - 2], x.strides[rx - 1]])
            .i32s(&outer_strides(&y))
            .i32s(&[y.strides[ry - 1], y.strides[ry - 2]])
            .i32s(&outer_strides(&out))
            .i32s(&[n as i64, 1]);
        for d in 0..4usize {
            let missing = 4 - outer.len();
            params = params.divisor(d.checked_sub(missing).map_or(1, |at| outer[at]));
        }
        let params = params
            .u32(m)
            .u32(n)
            .u32(k)
            .divisor(tiles_n)
            .divisor(tiles_mn)
            .u32(tiles)
            .f32(1.0)
            .activation(Activation::None);
        let blocks = Blocks {
            useful: u32::try_from(tiles).unwrap_or(u32::MAX),
            each: 4,
        };
        self.push("matmul_64x64", 128, blocks, params);
        self.set(node.output(), out);
        Ok(())
    }
}
