//! Pooling, and sums over dimensions.

use super::conv::{Pixels, Window};
use super::map::{merged, order_of, striding};
use super::{Lowered, Lowering, View};
use crate::graph::Node;
use crate::params::{Element, MAX_DIMS, Params};
use crate::program::Blocks;

/// Threads of a block that sums.
const THREADS: usize = 128;

/// Reductions; numbers are those of `kernels/reduce.cu`.
fn reduction(kind: &str) -> Option<usize> {
    Some(match kind {
        "ReduceSum" => 0,
        "ReduceMean" | "GlobalAveragePool" => 1,
        "ReduceMax" | "GlobalMaxPool" => 2,
        "ReduceMin" => 3,
        "ReduceL2" => 4,
        "ReduceL1" => 5,
        "ReduceSumSquare" => 6,
        _ => return None,
    })
}

impl Lowering<'_> {
    pub(super) fn pool(&mut self, node: &Node) -> Lowered<()> {
        if node.outputs.len() > 1 && node.outputs[1..].iter().any(|o| !o.is_empty()) {
            return self.unserved("places of the largest elements");
        }
        if node.kind == "AveragePool" && node.input(0).is_some_and(|name| self.is_of_squares(name, 0)) {
            return self.unserved("a mean of squares, which 16-bit floats don't hold");
        }
        let x = self.device(node, 0)?;
        let rank = x.dims.len();
        let sizes = node
            .ints("kernel_shape")
            .map(|k| k.iter().map(|&n| n.max(0) as usize).collect::<Vec<_>>());
        let window = sizes.filter(|s| s.len() + 2 == rank && matches!(rank, 3 | 4));
        let Some(window) = window.and_then(|s| Window::of(node, &s)) else {
            return self.unserved("a window that it does not know");
        };
        let x = self.as_pixels(&x)?;
        let input = Pixels::of(&x);
        let Some([height, width]) = window.out(input.height, input.width) else {
            return self.unserved("a window larger than what it looks at");
        };
        let channels = x.dims[1];
        let mut dims = vec![input.images, channels];
        dims.extend(if rank == 4 {
            vec![height, width]
        } else {
            vec![width]
        });
        let out = self.fresh_pixels(&dims)?;
        let strides = [input.image, input.row, input.pixel].map(|s| s as usize);
        let parts = [
            channels,
            strides[0],
            strides[1],
            strides[2],
            input.at.offset as usize / 2,
        ];
        let vector = if parts.iter().all(|n| n % 8 == 0) { 8 } else { 1 };
        let work = input.images * height * width * (channels / vector);
        let mean = node.kind == "AveragePool";
        let counts = mean && node.int("count_include_pad").unwrap_or(0) == 1;
        let params = Params::default()
            .at(input.at)
            .at(out.at)
            .u32(strides[0])
            .u32(strides[1])
            .u32(strides[2])
            .u32(channels)
            .u32(input.height)
            .u32(input.width)
            .u32(work)
            .divisor(channels / vector)
            .divisor(height * width)
            .divisor(width)
            .u32(window.rows)
            .u32(window.cols)
            .u32(window.stride[0])
            .u32(window.stride[1])
            .u32(window.dilation[0])
            .u32(window.dilation[1])
            .i32(window.pad[0])
            .i32(window.pad[1])
            .i32(input.height as i64 + window.pad_after[0])
            .i32(input.width as i64 + window.pad_after[1])
            .u32(usize::from(mean))
            .u32(usize::from(counts));
        let kernel = if vector == 8 { "pool_v8" } else { "pool_v1" };
        self.push(kernel, 256, striding(work), params);
        self.set(node.output(), out);
        Ok(())
    }

    /// Whether a tensor holds squares or higher powers, by way of nodes that only look at them differently.
    fn is_of_squares(&self, name: &str, depth: usize) -> bool {
        /// Nodes in a row that are looked through.
        const DEPTH: usize = 8;
        let Some(node) = self.graph.producer(name).filter(|_| depth < DEPTH) else {
            return false;
        };
        match node.kind.as_str() {
            "Pow" => true,
            "Mul" => node.inputs.len() == 2 && node.inputs[0] == node.inputs[1],
            "Reshape" | "Transpose" | "Pad" | "Squeeze" | "Unsqueeze" | "Abs" => node
                .input(0)
                .is_some_and(|from| self.is_of_squares(from, depth + 1)),
            _ => false,
        }
    }

    pub(super) fn global_pool(&mut self, node: &Node) -> Lowered<()> {
        let x = self.device(node, 0)?;
        let axes: Vec<usize> = (2..x.dims.len()).collect();
        self.sum_over(node, &x, &axes, true)
    }

    pub(super) fn reduce(&mut self, node: &Node) -> Lowered<()> {
        let x = self.device(node, 0)?;
        let rank = x.dims.len() as i64;
        let listed = match self.known(node, 1) {
            Some(axes) => Some(axes.as_integers()),
            None => node.ints("axes").map(<[i64]>::to_vec),
        };
        let axes: Vec<i64> = match listed {
            Some(axes) if !axes.is_empty() => axes,
            _ if node.int("noop_with_empty_axes").unwrap_or(0) == 1 => vec![],
            _ => (0..rank).collect(),
        };
        let axes: Vec<usize> = axes
            .into_iter()
            .map(|a| if a < 0 { a + rank } else { a } as usize)
            .collect();
        let keeps = node.int("keepdims").unwrap_or(1) == 1;
        self.sum_over(node, &x, &axes, keeps)
    }

    fn sum_over(&mut self, node: &Node, x: &View, axes: &[usize], keeps: bool) -> Lowered<()> {
        let Some(kind) = reduction(&node.kind).filter(|_| x.element.is_float()) else {
            return self.unserved(format!("{} of integers", node.kind));
        };
        let kept: Vec<usize> = (0..x.dims.len()).filter(|d| !axes.contains(d)).collect();
        let summed: Vec<usize> = (0..x.dims.len()).filter(|d| axes.contains(d)).collect();
        let full: Vec<usize> = (0..x.dims.len())
            .map(|d| if axes.contains(&d) { 1 } else { x.dims[d] })
            .collect();
        let dims: Vec<usize> = if keeps {
            full.clone()
        } else {
            kept.iter().map(|&d| x.dims[d]).collect()
        };
        let element = match node.kind.as_str() {
            "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMax" | "ReduceMin" => x.element,
            _ => self.stored_as(node, std::slice::from_ref(x), &dims),
        };
        let element = *self.stored.entry(node.output().to_owned()).or_insert(element);
        let out = self.fresh_rows(element, &dims)?;
        let with_ones = View {
            strides: crate::program::dense(&full, &(0..full.len()).collect::<Vec<_>>()),
            dims: full,
            ..out.clone()
        };
        let order = order_of(x);
        let kept_order: Vec<usize> = order.iter().copied().filter(|d| kept.contains(d)).collect();
        let summed_order: Vec<usize> = order.iter().copied().filter(|d| summed.contains(d)).collect();
        let (kept_sizes, kept_strides) = merged(&x.dims, &kept_order, &[x, &with_ones]);
        let (summed_sizes, summed_strides) = merged(&x.dims, &summed_order, &[x]);
        if kept_sizes.len() > MAX_DIMS || summed_sizes.len() > MAX_DIMS {
            return self.unserved("a layout of too many dimensions");
        }
        let results = out.count();
        let length = x.count().checked_div(results).unwrap_or(0);
        let mut params = Params::default()
            .view(x.at, x.element, &kept_strides[0])
            .view(out.at, element, &kept_strides[1])
            .divisors(&kept_sizes)
            .divisors(&summed_sizes);
        for _ in summed_strides[0].len()..MAX_DIMS {
            params = params.i32(0);
        }
        let params = params.i32s(&summed_strides[0]).u32(results).u32(length).u32(kind);
        // Lanes take neighbours: of the results, or of what is summed.
        let rows = summed_strides[0].last() == Some(&1) && length >= 32;
        let (kernel, each_block) = if rows {
            ("reduce_rows", THREADS / 32)
        } else {
            ("reduce_columns", THREADS)
        };
        let blocks = Blocks {
            useful: u32::try_from(results.div_ceil(each_block)).unwrap_or(u32::MAX),
            each: 8,
        };
        self.push(kernel, THREADS as u32, blocks, params);
        self.set(node.output(), out);
        Ok(())
    }

    /// The view in halves, or a copy of it.
    pub(super) fn as_halves(&mut self, view: &View) -> Lowered<View> {
        if view.element == Element::F16 {
            return Ok(view.clone());
        }
        let to = self.fresh(Element::F16, &view.dims, &order_of(view))?;
        self.copy(view, &to)?;
        Ok(to)
    }
}
