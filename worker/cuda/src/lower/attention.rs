//! Attention that is spelled out as products and a softmax, as one launch.

use super::{Lowered, Lowering, Value, View};
use crate::graph::Node;
use crate::params::{Element, Params};
use crate::program::Blocks;

/// Elements of a head at most.
const MAX_DEPTH: usize = 128;

/// What lies between the two products.
struct Between {
    scale: f32,
    mask: Option<View>,
    nodes: Vec<usize>,
    /// The node of the second product.
    second: usize,
}

impl Lowering<'_> {
    /// Takes a product of queries and keys with what follows it, where all of it is attention. `false`: it is not.
    pub(super) fn attention(&mut self, node: &Node, q: &View, k: &View) -> Lowered<bool> {
        let lies = |v: &View| v.dims.len() == 4 && v.element == Element::F16;
        // Keys come transposed: their elements lie along the third dimension.
        let fits = lies(q) && lies(k) && q.strides[3] == 1 && k.strides[2] == 1 && q.dims[3] <= MAX_DEPTH;
        if !fits || q.dims[..2] != k.dims[..2] || q.dims[3] != k.dims[2] {
            return Ok(false);
        }
        let scores = [q.dims[0], q.dims[1], q.dims[2], k.dims[3]];
        let Some(between) = self.between(node.output(), &scores) else {
            return Ok(false);
        };
        let second = &self.graph.nodes[between.second];
        let Some(v) = second.input(1).and_then(|name| self.on_device_already(name)) else {
            return Ok(false);
        };
        let fits = lies(&v) && v.strides[3] == 1 && v.dims == [q.dims[0], q.dims[1], k.dims[3], q.dims[3]];
        if !fits || [q, k, &v].iter().any(|view| view.strides.iter().any(|&s| s < 0)) {
            return Ok(false);
        }
        let depth = q.dims[3];
        // Where results go: heads side by side, as what follows mostly wants them.
        let out = self.fresh(
            Element::F16,
            &[q.dims[0], q.dims[1], q.dims[2], depth],
            &[0, 2, 1, 3],
        )?;
        let strides = |v: &View, row: usize| [v.strides[0], v.strides[1], v.strides[row]];
        let all = [strides(q, 2), strides(k, 3), strides(&v, 2)];
        let aligned = depth.is_multiple_of(8)
            && all.iter().flatten().all(|s| s % 8 == 0)
            && [q, k, &v].iter().all(|v| v.at.offset % 16 == 0);
        let kernel = match (depth, aligned) {
            (..=32, true) => "attention_32_v8",
            (..=64, true) => "attention_64_v8",
            (..=96, true) => "attention_96_v8",
            (_, true) => "attention_128_v8",
            (..=32, false) => "attention_32_v1",
            (_, false) => "attention_128_v1",
        };
        let mut params = Params::default().at(q.at).at(k.at).at(v.at).at(out.at);
        for strides in all {
            params = params.i32s(&strides);
        }
        params = params.i32s(&strides(&out, 2));
        params = match &between.mask {
            // Strides stand first in this view.
            Some(mask) => {
                let mut strides = mask.strides.clone();
                strides.resize(crate::params::MAX_DIMS, 0);
                params.view(mask.at, mask.element, &strides)
            }
            None => params.no_view(),
        };
        let tiles = q.dims[2].div_ceil(64);
        let work = q.dims[0] * q.dims[1] * tiles;
        let params = params
            .divisor(q.dims[1])
            .divisor(tiles)
            .u32(work)
            .u32(q.dims[2])
            .u32(k.dims[3])
            .u32(depth)
            .f32(between.scale);
        let blocks = Blocks {
            useful: u32::try_from(work).unwrap_or(u32::MAX),
            each: 2,
        };
        self.push(kernel, 128, blocks, params);
        self.done.extend(between.nodes);
        self.done.insert(between.second);
        let name = second.output().to_owned();
        self.set(&name, out);
        Ok(true)
    }

    /// Looks along the scores' way to the second product.
    fn between(&self, scores: &str, dims: &[usize]) -> Option<Between> {
        let mut found = Between {
            scale: 1.0,
            mask: None,
            nodes: vec![],
            second: 0,
        };
        let mut name = scores.to_owned();
        let mut softened = false;
        loop {
            let place = self.only_reader(&name)?;
            let node = &self.graph.nodes[place];
            let first = node.input(0) == Some(&name);
            match node.kind.as_str() {
                "Mul" | "Div" if found.mask.is_none() && !softened => {
                    let constant = self.known(node, usize::from(first))?.only()?;
                    match (node.kind.as_str(), first) {
                        ("Mul", _) => found.scale *= constant,
                        ("Div", true) => found.scale /= constant,
                        _ => return None,
                    }
                }
                "Add" if found.mask.is_none() && !softened => {
                    let other = node.input(usize::from(first))?;
                    let Value::Device(mask) = self.value(other).ok()? else {
                        return None;
                    };
                    let fits = mask.element.is_float() && super::map::broadcast(&[&mask.dims, dims])? == dims;
                    let mask = super::map::expanded(&mask, dims);
                    found.mask = Some(mask).filter(|_| fits);
                    found.mask.as_ref()?;
                }
                "Softmax" if !softened && matches!(node.int("axis"), None | Some(-1 | 3)) => softened = true,
                "MatMul" if softened && first => {
                    found.second = place;
                    return Some(found);
                }
                _ => return None,
            }
            found.nodes.push(place);
            name = node.output().to_owned();
        }
    }
}
