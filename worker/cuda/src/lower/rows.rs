//! Rows: softmax, normalisation, and rows by number.

use super::map::{merged, order_of};
use super::spelled::Affine;
use super::{Lowered, Lowering, View, floats};
use crate::graph::Node;
use crate::params::{Activation, At, Element, MAX_DIMS, Params, Place};
use crate::program::Blocks;

/// Threads of a block; a warp takes a row.
const THREADS: u32 = 128;

fn rows_blocks(rows: usize) -> Blocks {
    Blocks {
        useful: u32::try_from(rows.div_ceil(THREADS as usize / 32)).unwrap_or(u32::MAX),
        each: 8,
    }
}

impl Lowering<'_> {
    /// Views of one tensor's sizes, as rows along some dimensions: sizes before the row, and strides with the row's last. `None`: they don't
    /// lie so.
    fn as_rows(dims: &[usize], row: &[usize], views: &[&View]) -> Option<(Vec<usize>, usize, Vec<Vec<i64>>)> {
        let outer: Vec<usize> = (0..dims.len()).filter(|d| !row.contains(d)).collect();
        let (mut sizes, mut strides) = merged(dims, &outer, views);
        let (row_sizes, row_strides) = merged(dims, row, views);
        if row_sizes.len() > 1 || sizes.len() + 1 > MAX_DIMS {
            return None;
        }
        for (all, own) in strides.iter_mut().zip(row_strides) {
            all.push(own.first().copied().unwrap_or(1));
        }
        let length = row_sizes.first().copied().unwrap_or(1);
        sizes.push(length);
        Some((sizes, length, strides))
    }

    pub(super) fn softmax(&mut self, node: &Node) -> Lowered<()> {
        let x = self.device(node, 0)?;
        let rank = x.dims.len() as i64;
        let axis = node.int("axis").unwrap_or(-1);
        let axis = (if axis < 0 { axis + rank } else { axis }) as usize;
        if axis >= x.dims.len() || !x.element.is_float() {
            return self.unserved("an axis that it does not have");
        }
        let logarithm = node.kind == "LogSoftmax";
        let element = self.stored_as(node, std::slice::from_ref(&x), &x.dims);
        let out = self.fresh(element, &x.dims, &order_of(&x))?;
        let Some((sizes, length, strides)) = Self::as_rows(&x.dims, &[axis], &[&x, &out]) else {
            return self.unserved("a layout of too many dimensions");
        };
        let rows = x.count() / length.max(1);
        let params = Params::default()
            .view(x.at, x.element, &strides[0])
            .view(out.at, out.element, &strides[1])
            .no_view()
            .no_view()
            .no_view()
            .divisors(&sizes)
            .u32(rows)
            .u32(length)
            .f32(1.0)
            .f32(0.0)
            .u32(usize::from(logarithm));
        self.push("softmax", THREADS, rows_blocks(rows), params);
        self.set(node.output(), out);
        Ok(())
    }

    pub(super) fn layer_norm(&mut self, node: &Node) -> Lowered<()> {
        if node.outputs.len() > 1 && node.outputs[1..].iter().any(|o| !o.is_empty()) {
            return self.unserved("means and deviations as outputs");
        }
        let x = self.device(node, 0)?;
        let rank = x.dims.len() as i64;
        let axis = node.int("axis").unwrap_or(-1);
        let axis = (if axis < 0 { axis + rank } else { axis }) as usize;
        let row: Vec<usize> = (axis..x.dims.len()).collect();
        let length: usize = x.dims[axis.min(x.dims.len())..].iter().product();
        let constant = |place| match node.input(place) {
            None => Ok(None),
            Some(_) => match self.known(node, place) {
                Some(c) if c.dims.iter().product::<usize>() == length => Ok(Some(c.as_floats())),
                _ => self.unserved("a gain or an offset that is not one number an element"),
            },
        };
        let affine = (constant(1)?, constant(2)?);
        let epsilon = node.float("epsilon").unwrap_or(1e-5);
        self.normalised(
            x,
            row.first().copied().unwrap_or(0),
            affine,
            epsilon,
            node.output(),
        )
    }

    /// Rows along the dimensions from `axis` on, each with mean 0 and variance 1 but for a gain and an offset.
    pub(super) fn normalised(
        &mut self,
        mut x: View,
        axis: usize,
        (gain, offset): Affine,
        epsilon: f32,
        name: &str,
    ) -> Lowered<()> {
        let row: Vec<usize> = (axis..x.dims.len()).collect();
        let constants = [(gain, 1), (offset, 2)].map(|(values, place)| {
            let key = format!("{} input {place}", self.key);
            values.map(|values| self.weight(&key, || floats(values.iter().copied())))
        });
        let element = self.stored_named(name, std::slice::from_ref(&x), &x.dims);
        let out = self.fresh_rows(element, &x.dims)?;
        if Self::as_rows(&x.dims, &row, &[&x, &out]).is_none() {
            let to = self.fresh_rows(x.element, &x.dims)?;
            self.copy(&x, &to)?;
            x = to;
        }
        let Some((sizes, length, strides)) = Self::as_rows(&x.dims, &row, &[&x, &out]) else {
            return self.unserved("a layout of too many dimensions");
        };
        let rows = x.count() / length.max(1);
        let mut params = Params::default()
            .view(x.at, x.element, &strides[0])
            .view(out.at, out.element, &strides[1])
            .no_view();
        for at in constants {
            params = params.view(at.unwrap_or(At::NULL), Element::F32, &[1]);
        }
        let params = params
            .divisors(&sizes)
            .u32(rows)
            .u32(length)
            .f32(1.0)
            .f32(epsilon)
            .u32(0);
        self.push("layer_norm", THREADS, rows_blocks(rows), params);
        self.set(name, out);
        Ok(())
    }

    pub(super) fn group_norm(&mut self, node: &Node) -> Lowered<()> {
        let x = self.device(node, 0)?;
        let x = self.as_pixels(&x)?;
        let rank = x.dims.len();
        let channels = x.dims.get(1).copied().unwrap_or(0);
        let constant = |place| {
            self.known(node, place)
                .map(|t| t.as_floats())
                .filter(|v| v.len() == channels)
        };
        let (Some(gain), Some(offset)) = (constant(1), constant(2)) else {
            return self.unserved("a gain or an offset that is not one number a channel");
        };
        let groups = match node.kind.as_str() {
            "GroupNormalization" => node.int("num_groups").unwrap_or(1).max(1) as usize,
            _ => channels,
        };
        let pixels: usize = x.dims[2..].iter().product();
        let spatial: Vec<usize> = (2..rank).collect();
        let (sizes, strides) = merged(&x.dims, &spatial, &[&x]);
        if sizes.len() > 1 || groups == 0 || channels % groups != 0 {
            return self.unserved("pixels that don't lie at one stride");
        }
        let pixel = strides[0].first().copied().unwrap_or(0);
        let out = self.fresh_pixels(&x.dims)?;
        let label = self.key.clone();
        let gain = self.weight(&format!("{label} gain"), || floats(gain.iter().copied()));
        let offset = self.weight(&format!("{label} offset"), || floats(offset.iter().copied()));
        let work = x.dims[0] * groups;
        let params = Params::default()
            .at(x.at)
            .at(out.at)
            .at(gain)
            .at(offset)
            .activation(Activation::None)
            .u32(x.strides[0] as usize)
            .u32(pixel as usize)
            .u32(pixels * channels)
            .u32(channels)
            .u32(work)
            .divisor(groups)
            .divisor(channels / groups)
            .u32(pixels * (channels / groups))
            .f32(node.float("epsilon").unwrap_or(1e-5));
        let blocks = Blocks {
            useful: u32::try_from(work).unwrap_or(u32::MAX),
            each: 4,
        };
        self.push("group_norm", 256, blocks, params);
        self.set(node.output(), out);
        Ok(())
    }

    pub(super) fn gather(&mut self, node: &Node) -> Lowered<()> {
        let index = self.device(node, 1)?;
        let data = self.device(node, 0)?;
        let rank = data.dims.len() as i64;
        let axis = node.int("axis").unwrap_or(0);
        let axis = (if axis < 0 { axis + rank } else { axis }) as usize;
        if axis >= data.dims.len() || index.element.is_float() {
            return self.unserved("an axis that it does not have");
        }
        if let Some(known) = self.known(node, 1).filter(|k| k.dims.is_empty()) {
            // One row: a view.
            let mut at = known.as_integers()[0];
            if at < 0 {
                at += data.dims[axis] as i64;
            }
            if !(0..data.dims[axis] as i64).contains(&at) {
                return self.unserved("an index that names no row");
            }
            let stride = data.strides[axis];
            let mut view = data.moved(at * stride);
            view.dims.remove(axis);
            view.strides.remove(axis);
            self.set(node.output(), view);
            return Ok(());
        }
        let outer: Vec<usize> = (0..axis).collect();
        let inner: Vec<usize> = (axis + 1..data.dims.len()).collect();
        let mut data = data;
        let fits = |data: &View| {
            let (o, os) = merged(&data.dims, &outer, &[data]);
            let (i, is) = merged(&data.dims, &inner, &[data]);
            (o.len() <= 1 && i.len() <= 1).then(|| {
                [
                    os[0].first().copied().unwrap_or(0),
                    data.strides[axis],
                    is[0].first().copied().unwrap_or(1),
                ]
            })
        };
        if fits(&data).is_none() {
            let to = self.fresh_rows(data.element, &data.dims)?;
            self.copy(&data, &to)?;
            data = to;
        }
        let Some(strides) = fits(&data) else {
            return self.unserved("a layout of too many dimensions");
        };
        let mut index = index;
        let (index_sizes, _) = merged(&index.dims, &(0..index.dims.len()).collect::<Vec<_>>(), &[&index]);
        if index_sizes.len() > 1 {
            let to = self.fresh_rows(index.element, &index.dims)?;
            self.copy(&index, &to)?;
            index = to;
        }
        let order: Vec<usize> = (0..index.dims.len()).collect();
        let (_, index_strides) = merged(&index.dims, &order, &[&index]);
        let mut dims = data.dims[..axis].to_vec();
        dims.extend(&index.dims);
        dims.extend(&data.dims[axis + 1..]);
        let element = if data.element.is_float() {
            self.stored_as(node, std::slice::from_ref(&data), &dims)
        } else {
            data.element
        };
        let out = self.fresh_rows(element, &dims)?;
        let inner_size: usize = data.dims[axis + 1..].iter().product();
        let indices = index.count();
        let fault = At {
            place: Place::Fault,
            offset: 0,
        };
        // Strides stand first in these views: of rows before, rows, elements.
        let first = |strides: &[i64]| {
            let mut all = strides.to_vec();
            all.resize(MAX_DIMS, 0);
            all
        };
        let index_stride = index_strides[0].first().copied().unwrap_or(0);
        let params = Params::default()
            .view(data.at, data.element, &first(&strides))
            .view(index.at, index.element, &first(&[index_stride]))
            .view(
                out.at,
                element,
                &first(&[(indices * inner_size) as i64, inner_size as i64, 1]),
            )
            .at(fault)
            .u32(out.count())
            .divisor(inner_size)
            .divisor(indices)
            .u32(data.dims[axis]);
        self.can_fault = true;
        self.push("gather", 256, super::map::striding(out.count()), params);
        self.set(node.output(), out);
        Ok(())
    }
}
