//! Nodes that only look at a tensor differently, or put tensors together.

use super::map::{Operation, order_of};
use super::{Lowered, Lowering, Value, View};
use crate::graph::{HostTensor, Node, Numbers};
use crate::program::dense;

/// The view with other sizes, of the same elements in the standard's order. `None`: it does not lie so.
pub(super) fn reshaped(view: &View, dims: &[usize]) -> Option<View> {
    let same = View {
        dims: dims.to_vec(),
        strides: vec![0; dims.len()],
        ..view.clone()
    };
    if view.count() == 0 {
        return Some(same);
    }
    let old: Vec<(usize, i64)> = view
        .dims
        .iter()
        .zip(&view.strides)
        .filter(|(d, _)| **d != 1)
        .map(|(&d, &s)| (d, s))
        .collect();
    let mut strides = vec![0; dims.len()];
    let (mut at, mut to) = (0, 0);
    while at < old.len() {
        // The smallest groups of old and new sizes with the same product.
        let (first, mut have, mut want) = (at, old[at].0, 1);
        let first_to = to;
        at += 1;
        while have != want {
            if want < have {
                want *= dims.get(to)?;
                to += 1;
            } else {
                have *= old.get(at)?.0;
                at += 1;
            }
        }
        let joined = old[first..at]
            .windows(2)
            .all(|two| two[0].1 == two[1].1 * two[1].0 as i64);
        if !joined {
            return None;
        }
        let mut stride = old[at - 1].1;
        for d in (first_to..to).rev() {
            strides[d] = stride;
            stride *= dims[d] as i64;
        }
    }
    Some(View { strides, ..same })
}

/// A place along a dimension, as Slice counts: from the end where it is negative, and limited.
fn limited(at: i64, size: i64, least: i64, most: i64) -> i64 {
    (if at < 0 { at.saturating_add(size) } else { at }).clamp(least, most)
}

impl Lowering<'_> {
    pub(super) fn layout(&mut self, node: &Node) -> Lowered<()> {
        match node.kind.as_str() {
            "Concat" => return self.concat(node),
            "Pad" => return self.pad(node),
            "Expand" => return self.expand(node),
            "ConstantOfShape" => return self.constant(node),
            _ => {}
        }
        let x = self.device(node, 0)?;
        let rank = x.dims.len();
        let of = |axis: i64, rank: usize| (if axis < 0 { axis + rank as i64 } else { axis }).max(0) as usize;
        match node.kind.as_str() {
            "Identity" => self.set(node.output(), x),
            "Transpose" => {
                let perm: Vec<usize> = match node.ints("perm") {
                    Some(perm) => perm.iter().map(|&p| of(p, rank)).collect(),
                    None => (0..rank).rev().collect(),
                };
                if perm.len() != rank || perm.iter().any(|&p| p >= rank) {
                    return self.unserved("an order of other dimensions");
                }
                let view = View {
                    dims: perm.iter().map(|&p| x.dims[p]).collect(),
                    strides: perm.iter().map(|&p| x.strides[p]).collect(),
                    ..x
                };
                self.set(node.output(), view);
            }
            "Flatten" => {
                let axis = of(node.int("axis").unwrap_or(1), rank).min(rank);
                let dims = [x.dims[..axis].iter().product(), x.dims[axis..].iter().product()];
                self.reshape(node, x, &dims)?;
            }
            "Squeeze" | "Unsqueeze" => {
                let listed = match self.known(node, 1) {
                    Some(axes) => Some(axes.as_integers()),
                    None => node.ints("axes").map(<[i64]>::to_vec),
                };
                let mut view = x;
                if node.kind == "Squeeze" {
                    let axes: Vec<usize> = match listed {
                        Some(axes) => axes.into_iter().map(|a| of(a, rank)).collect(),
                        None => (0..rank).filter(|&d| view.dims[d] == 1).collect(),
                    };
                    let kept: Vec<usize> = (0..rank).filter(|d| !axes.contains(d)).collect();
                    view.dims = kept.iter().map(|&d| view.dims[d]).collect();
                    view.strides = kept.iter().map(|&d| view.strides[d]).collect();
                } else {
                    let axes = listed.unwrap_or_default();
                    let mut axes: Vec<usize> = axes.iter().map(|&a| of(a, rank + axes.len())).collect();
                    axes.sort_unstable();
                    for axis in axes {
                        let at = axis.min(view.dims.len());
                        view.dims.insert(at, 1);
                        view.strides.insert(at, 0);
                    }
                }
                self.set(node.output(), view);
            }
            "Reshape" => {
                let Some(wanted) = self.known(node, 1) else {
                    return self.unserved("sizes that are worked out from the input");
                };
                let wanted = wanted.as_integers();
                let keeps = node.int("allowzero").unwrap_or(0) == 0;
                let mut dims: Vec<usize> = wanted
                    .iter()
                    .enumerate()
                    .map(|(d, &n)| match n {
                        0 if keeps => x.dims.get(d).copied().unwrap_or(0),
                        -1 => 1,
                        n => n as usize,
                    })
                    .collect();
                if let Some(open) = wanted.iter().position(|&n| n == -1) {
                    let others: usize = dims.iter().product();
                    dims[open] = x.count().checked_div(others).unwrap_or(0);
                }
                if dims.iter().product::<usize>() != x.count() {
                    return self.unserved(format!("{:?} as {dims:?}", x.dims));
                }
                self.reshape(node, x, &dims)?;
            }
            "Slice" => {
                let view = self.sliced(node, x)?;
                self.set(node.output(), view);
            }
            "Split" => {
                let axis = of(node.int("axis").unwrap_or(0), rank);
                let count = node.outputs.len();
                let sizes: Vec<usize> = match self
                    .known(node, 1)
                    .map(|s| s.as_integers())
                    .or(node.ints("split").map(<[i64]>::to_vec))
                {
                    Some(sizes) => sizes.into_iter().map(|n| n as usize).collect(),
                    None => {
                        let each = x.dims[axis].div_ceil(count);
                        (0..count)
                            .map(|i| each.min(x.dims[axis] - (i * each).min(x.dims[axis])))
                            .collect()
                    }
                };
                let mut at = 0;
                for (name, size) in node.outputs.iter().zip(sizes) {
                    let mut view = x.clone().moved(at as i64 * x.strides[axis]);
                    view.dims[axis] = size;
                    at += size;
                    self.set(name, view);
                }
            }
            kind => return self.unserved(format!("{kind} is not run on this device")),
        }
        Ok(())
    }

    fn reshape(&mut self, node: &Node, x: View, dims: &[usize]) -> Lowered<()> {
        let view = match reshaped(&x, dims) {
            Some(view) => view,
            None => {
                let to = self.fresh_rows(x.element, &x.dims)?;
                self.copy(&x, &to)?;
                View {
                    strides: dense(dims, &(0..dims.len()).collect::<Vec<_>>()),
                    dims: dims.to_vec(),
                    ..to
                }
            }
        };
        self.set(node.output(), view);
        Ok(())
    }

    fn sliced(&self, node: &Node, mut x: View) -> Lowered<View> {
        let list = |place: usize, name: &str| {
            let given = node.input(place).is_some();
            let known = self.known(node, place).map(|t| t.as_integers());
            (
                given && known.is_none(),
                known.or(node.ints(name).map(<[i64]>::to_vec)),
            )
        };
        let all = [
            list(1, "starts"),
            list(2, "ends"),
            list(3, "axes"),
            list(4, "steps"),
        ];
        if all.iter().any(|(unknown, _)| *unknown) {
            return self.unserved("places that are worked out from the input");
        }
        let [starts, ends, axes, steps] = all.map(|(_, list)| list);
        let starts = starts.unwrap_or_default();
        let ends = ends.unwrap_or_default();
        let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
            let axis = (if axis < 0 {
                axis + x.dims.len() as i64
            } else {
                axis
            }) as usize;
            if axis >= x.dims.len() || step == 0 || (step < 0 && x.dims[axis] == 0) {
                return self.unserved("a slice without an axis or a step");
            }
            let size = x.dims[axis] as i64;
            let (from, count) = if step > 0 {
                let (from, to) = (limited(start, size, 0, size), limited(end, size, 0, size));
                (from, (to - from + step - 1).div_euclid(step).max(0))
            } else {
                let (from, to) = (
                    limited(start, size, 0, size - 1),
                    limited(end, size, -1, size - 1),
                );
                (from, (from - to - step - 1).div_euclid(-step).max(0))
            };
            let stride = x.strides[axis];
            x = x.moved(from * stride);
            x.dims[axis] = count as usize;
            x.strides[axis] = stride * step;
        }
        Ok(x)
    }

    fn concat(&mut self, node: &Node) -> Lowered<()> {
        let mut parts = vec![];
        for place in 0..node.inputs.len() {
            parts.push(self.device(node, place)?);
        }
        let rank = parts[0].dims.len();
        let axis = node.int("axis").unwrap_or(0);
        let axis = (if axis < 0 { axis + rank as i64 } else { axis }) as usize;
        let mut dims = parts[0].dims.clone();
        dims[axis] = parts.iter().map(|p| p.dims[axis]).sum();
        let element = if parts[0].element.is_float() {
            let halves = parts.iter().any(|p| p.element == crate::params::Element::F16);
            let element = if halves {
                crate::params::Element::F16
            } else {
                self.stored_as(node, &parts, &dims)
            };
            *self.stored.entry(node.output().to_owned()).or_insert(element)
        } else {
            parts[0].element
        };
        let largest = parts.iter().max_by_key(|p| p.count());
        let order = largest.map_or_else(|| (0..rank).collect(), order_of);
        let to = self.fresh(element, &dims, &order)?;
        let mut at = 0;
        for part in parts {
            let mut place = to.clone().moved(at as i64 * to.strides[axis]);
            place.dims[axis] = part.dims[axis];
            at += part.dims[axis];
            self.copy(&part, &place)?;
        }
        self.set(node.output(), to);
        Ok(())
    }

    fn expand(&mut self, node: &Node) -> Lowered<()> {
        let Some(wanted) = self.known(node, 1) else {
            return self.unserved("sizes that are worked out from the input");
        };
        let x = self.device(node, 0)?;
        let wanted: Vec<usize> = wanted
            .as_integers()
            .into_iter()
            .map(|n| n.max(0) as usize)
            .collect();
        let Some(dims) = super::map::broadcast(&[&x.dims, &wanted]) else {
            return self.unserved(format!("{:?} repeated to {wanted:?}", x.dims));
        };
        let view = super::map::expanded(&x, &dims);
        self.set(node.output(), view);
        Ok(())
    }

    /// One number, repeated.
    fn constant(&mut self, node: &Node) -> Lowered<()> {
        let Some(wanted) = self.known(node, 0) else {
            return self.unserved("sizes that are worked out from the input");
        };
        let dims: Vec<usize> = wanted
            .as_integers()
            .into_iter()
            .map(|n| n.max(0) as usize)
            .collect();
        let value = HostTensor {
            dims: vec![],
            element: crate::params::Element::F32,
            numbers: Numbers::Floats(vec![node.constant_value().unwrap_or(0.0)].into()),
        };
        let value = self.on_device(Value::Host(value), None);
        let view = super::map::expanded(&value, &dims);
        self.set(node.output(), view);
        Ok(())
    }

    fn pad(&mut self, node: &Node) -> Lowered<()> {
        let pads = self
            .known(node, 1)
            .map(|t| t.as_integers())
            .or(node.ints("pads").map(<[i64]>::to_vec));
        let plain = matches!(node.text("mode"), None | Some("constant")) && node.input(3).is_none();
        let Some(pads) = pads.filter(|p| plain && p.iter().all(|&n| n >= 0)) else {
            return self.unserved("pads that are no constants, or cut off");
        };
        let value = match node.input(2) {
            None => 0.0,
            Some(_) => match self.known(node, 2).as_ref().and_then(HostTensor::only) {
                Some(value) => value,
                None => return self.unserved("a filling that is worked out from the input"),
            },
        };
        let x = self.device(node, 0)?;
        let rank = x.dims.len();
        if pads.len() != rank * 2 {
            return self.unserved("pads of other dimensions");
        }
        let dims: Vec<usize> = (0..rank)
            .map(|d| x.dims[d] + (pads[d] + pads[rank + d]) as usize)
            .collect();
        let to = self.fresh(x.element, &dims, &order_of(&x))?;
        let filling = HostTensor {
            dims: vec![1; rank],
            element: x.element,
            numbers: if x.element.is_float() {
                Numbers::Floats(vec![value].into())
            } else {
                Numbers::Integers(vec![value as i64].into())
            },
        };
        let filling = self.on_device(Value::Host(filling), None);
        self.map_into(Operation::Copy.into(), &[filling], &to)?;
        let offset: i64 = (0..rank).map(|d| pads[d] * to.strides[d]).sum();
        let inside = View {
            dims: x.dims.clone(),
            ..to.clone().moved(offset)
        };
        self.copy(&x, &inside)?;
        self.set(node.output(), to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{At, Element};

    fn view(dims: &[usize], strides: &[i64]) -> View {
        View {
            at: At::NULL,
            element: Element::F16,
            dims: dims.to_vec(),
            strides: strides.to_vec(),
        }
    }

    #[test]
    fn a_view_is_reshaped_where_its_elements_lie_in_order() {
        let rows = view(&[2, 3, 4], &[12, 4, 1]);
        assert_eq!(reshaped(&rows, &[6, 4]).unwrap().strides, [4, 1]);
        assert_eq!(reshaped(&rows, &[2, 12]).unwrap().strides, [12, 1]);
        assert_eq!(reshaped(&rows, &[2, 3, 2, 2]).unwrap().strides, [12, 4, 2, 1]);
        let pixels = view(&[2, 3, 4, 4], &[48, 1, 12, 3]);
        assert_eq!(reshaped(&pixels, &[2, 3, 16]).unwrap().strides, [48, 1, 3]);
        assert!(reshaped(&pixels, &[2, 48]).is_none(), "channels run fastest");
        let single = view(&[2, 3, 1, 1], &[3, 1, 3, 3]);
        assert_eq!(reshaped(&single, &[2, 3]).unwrap().strides, [3, 1]);
    }
}
