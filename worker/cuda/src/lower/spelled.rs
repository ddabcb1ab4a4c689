//! Layers that files spell out in several nodes, since their opset has no operator for them: GELU and layer normalisation. One launch runs each.

use super::{Lowered, Lowering};
use crate::graph::Node;

/// Difference of a constant from what it stands for, as a part of it, that is rounding.
const ROUNDING: f32 = 1e-3;

/// Gain and offset of rows.
pub(super) type Affine = (Option<Vec<f32>>, Option<Vec<f32>>);

/// A layer normalisation that was found.
pub(super) struct SpelledNorm {
    pub affine: Affine,
    pub epsilon: f32,
    /// The tensor that comes out.
    pub name: String,
}

impl<'g> Lowering<'g> {
    /// The only reader of a tensor, of a kind.
    fn reader(&self, name: &str, kind: &str) -> Option<(usize, &'g Node)> {
        let place = self.only_reader(name)?;
        let node = &self.graph.nodes[place];
        (node.kind == kind).then_some((place, node))
    }

    /// A node's operand beside `name`, where it is one number that is known.
    fn scalar_beside(&self, node: &Node, name: &str) -> Option<f32> {
        let place = node.inputs.iter().position(|i| i != name)?;
        // One of several dimensions could give the result more than the other operand has.
        self.known(node, place).filter(|c| c.dims.len() <= 1)?.only()
    }

    fn is_times(&self, node: &Node, name: &str, wanted: f32) -> bool {
        let near = |value: f32, wanted: f32| (value - wanted).abs() <= ROUNDING * wanted.abs();
        match node.kind.as_str() {
            "Mul" => self.scalar_beside(node, name).is_some_and(|v| near(v, wanted)),
            "Div" => {
                node.input(0) == Some(name)
                    && self
                        .scalar_beside(node, name)
                        .is_some_and(|v| near(v, 1.0 / wanted))
            }
            _ => false,
        }
    }

    /// The two nodes that read a tensor, both of this range, where it is handed on to no other.
    fn two_readers(&self, name: &str) -> Option<[usize; 2]> {
        if !self.fuses || self.given.contains(name) {
            return None;
        }
        let mut readers = self.graph.consumers(name).to_vec();
        readers.dedup();
        let both: [usize; 2] = readers.try_into().ok()?;
        let free = |place: &usize| self.inside.contains(place) && !self.done.contains(place);
        both.iter().all(free).then_some(both)
    }

    /// x/2 · (1 + erf(x/√2)) of a tensor, in any order of the products: takes its nodes, and gives what comes out.
    pub(super) fn take_gelu(&mut self, name: &str) -> Option<String> {
        let both = self.two_readers(name)?;
        let [(first, second), (second_first, first_second)] = [(both[0], both[1]), (both[1], both[0])];
        let found = self
            .gelu_by(name, first, second)
            .or_else(|| self.gelu_by(name, second_first, first_second));
        let (places, out) = found?;
        self.done.extend(places);
        Some(out)
    }

    /// `inner`: the node that may work out x/√2; `outer`: the one that reads x beside it.
    fn gelu_by(&self, name: &str, inner: usize, outer: usize) -> Option<(Vec<usize>, String)> {
        let (by_root, beside) = (&self.graph.nodes[inner], &self.graph.nodes[outer]);
        if !self.is_times(by_root, name, std::f32::consts::FRAC_1_SQRT_2) {
            return None;
        }
        let (erf, erf_node) = self.reader(by_root.output(), "Erf")?;
        let (plus, plus_node) = self.reader(erf_node.output(), "Add")?;
        let is_one = self.scalar_beside(plus_node, erf_node.output()) == Some(1.0);
        if !is_one || beside.kind != "Mul" {
            return None;
        }
        let mut places = vec![inner, erf, plus, outer];
        let reads = |node: &Node, input: &str| node.inputs.iter().any(|i| i == input);
        let plus_out = plus_node.output();
        if self.is_times(beside, name, 0.5) {
            // (x/2) · (1 + erf)
            let (product, node) = self.reader(beside.output(), "Mul")?;
            let joins = reads(node, plus_out) && self.only_reader(plus_out) == Some(product);
            places.push(product);
            return joins.then(|| (places, node.output().to_owned()));
        }
        let place = self.only_reader(plus_out)?;
        let after = &self.graph.nodes[place];
        if place == outer {
            // (x · (1 + erf)) / 2
            let half = self.only_reader(beside.output())?;
            let node = &self.graph.nodes[half];
            places.push(half);
            return self
                .is_times(node, beside.output(), 0.5)
                .then(|| (places, node.output().to_owned()));
        }
        // x · ((1 + erf) / 2)
        let halved = self.is_times(after, plus_out, 0.5)
            && self.only_reader(after.output()) == Some(outer)
            && reads(beside, after.output());
        places.push(place);
        halved.then(|| (places, beside.output().to_owned()))
    }

    /// (x − mean) / √(variance + ε), and maybe a gain and an offset, along the last dimension, from the node that works out the mean: takes its
    /// nodes but for that one.
    pub(super) fn take_layer_norm(&mut self, mean: &Node, length: usize, rank: usize) -> Option<SpelledNorm> {
        let x = mean.input(0)?;
        if mean.kind != "ReduceMean" || !self.is_along_last(mean, rank) {
            return None;
        }
        let (minus, minus_node) = self.reader(mean.output(), "Sub")?;
        if minus_node.inputs != [x, mean.output()] {
            return None;
        }
        let apart = minus_node.output();
        let [one, other] = self.two_readers(apart)?;
        let (square, by) = match self.graph.nodes[one].kind.as_str() {
            "Div" => (other, one),
            _ => (one, other),
        };
        let (square_node, by_node) = (&self.graph.nodes[square], &self.graph.nodes[by]);
        let is_square = match square_node.kind.as_str() {
            "Pow" => {
                square_node.input(0) == Some(apart) && self.scalar_beside(square_node, apart) == Some(2.0)
            }
            "Mul" => square_node.inputs == [apart, apart],
            _ => false,
        };
        let (variance, variance_node) = self.reader(square_node.output(), "ReduceMean")?;
        let (plus, plus_node) = self.reader(variance_node.output(), "Add")?;
        let epsilon = self.scalar_beside(plus_node, variance_node.output())?;
        let (root, root_node) = self.reader(plus_node.output(), "Sqrt")?;
        let divides = by_node.kind == "Div"
            && by_node.inputs == [apart, root_node.output()]
            && self.only_reader(root_node.output()) == Some(by);
        if !is_square || !divides || !self.is_along_last(variance_node, rank) {
            return None;
        }
        let mut places = vec![minus, square, variance, plus, root, by];
        let mut name = by_node.output();
        let mut affine: Affine = (None, None);
        for (kind, into) in [("Mul", &mut affine.0), ("Add", &mut affine.1)] {
            if let Some((place, node)) = self.reader(name, kind)
                && let Some(values) = self.row_beside(node, name, length, rank)
            {
                *into = Some(values);
                places.push(place);
                name = node.output();
            }
        }
        let name = name.to_owned();
        self.done.extend(places);
        Some(SpelledNorm {
            affine,
            epsilon,
            name,
        })
    }

    /// Whether a reduction is along the last of so many dimensions, and keeps it.
    fn is_along_last(&self, node: &Node, rank: usize) -> bool {
        let listed = match self.known(node, 1) {
            Some(axes) => axes.as_integers(),
            None => node.ints("axes").map(<[i64]>::to_vec).unwrap_or_default(),
        };
        let last = rank as i64 - 1;
        node.int("keepdims").unwrap_or(1) == 1 && matches!(listed[..], [axis] if axis == -1 || axis == last)
    }

    /// A node's operand beside `name`, where it is one number for each element of a row.
    fn row_beside(&self, node: &Node, name: &str, length: usize, rank: usize) -> Option<Vec<f32>> {
        let place = node.inputs.iter().position(|i| i != name)?;
        let known = self.known(node, place)?;
        let count: usize = known.dims.iter().product();
        let fits = count == length && known.dims.last() == Some(&length) && known.dims.len() <= rank;
        fits.then(|| known.as_floats())
    }
}

impl Lowering<'_> {
    /// Runs a layer normalisation that begins with this node, where it does.
    pub(super) fn spelled_layer_norm(&mut self, mean: &Node) -> Lowered<bool> {
        let x = self.device(mean, 0)?;
        let (Some(&length), true) = (x.dims.last(), x.element.is_float()) else {
            return Ok(false);
        };
        let Some(found) = self.take_layer_norm(mean, length, x.dims.len()) else {
            return Ok(false);
        };
        let axis = x.dims.len() - 1;
        self.normalised(x, axis, found.affine, found.epsilon, &found.name)?;
        Ok(true)
    }
}
