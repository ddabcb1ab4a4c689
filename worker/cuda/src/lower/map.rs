//! Nodes that do the same to each element.

use super::{Lowered, Lowering, Value, View};
use crate::graph::{HostTensor, Node};
use crate::params::{Activation, Element, MAX_DIMS, Params};
use crate::program::Blocks;

/// Operations; numbers are those of `kernels/map.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Copy = 0,
    Add = 1,
    Sub = 2,
    Mul = 3,
    Div = 4,
    Pow = 5,
    Max = 6,
    Min = 7,
    Equal = 8,
    Less = 9,
    LessOrEqual = 10,
    And = 11,
    Or = 12,
    Select = 13,
    Not = 14,
    Neg = 15,
    Abs = 16,
    Exp = 17,
    Log = 18,
    Sqrt = 19,
    Reciprocal = 20,
    Erf = 21,
    Floor = 22,
    Ceil = 23,
    Softplus = 24,
    Activate = 25,
    Scale = 26,
    Mod = 27,
    Prelu = 28,
    Round = 29,
}

impl Operation {
    /// Whether it is done to floats alone.
    fn is_of_floats(self) -> bool {
        use Operation::{
            Activate, Ceil, Erf, Exp, Floor, Log, Pow, Prelu, Reciprocal, Round, Scale, Softplus, Sqrt,
        };
        matches!(
            self,
            Pow | Exp
                | Log
                | Sqrt
                | Reciprocal
                | Erf
                | Floor
                | Ceil
                | Softplus
                | Activate
                | Scale
                | Prelu
                | Round
        )
    }
}

/// What is done to each element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapping {
    pub operation: Operation,
    pub activation: Activation,
    /// What follows.
    pub after: Activation,
}

impl From<Operation> for Mapping {
    fn from(operation: Operation) -> Self {
        Mapping {
            operation,
            activation: Activation::None,
            after: Activation::None,
        }
    }
}

/// Threads of a block, and blocks of a multiprocessor.
const THREADS: usize = 256;
const EACH: u32 = 4;

pub(super) fn striding(work: usize) -> Blocks {
    Blocks {
        useful: u32::try_from(work.div_ceil(THREADS)).unwrap_or(u32::MAX),
        each: EACH,
    }
}

/// The sizes of operands together, as the standard repeats them.
pub(super) fn broadcast(all: &[&[usize]]) -> Option<Vec<usize>> {
    let rank = all.iter().map(|d| d.len()).max()?;
    let mut out = vec![1; rank];
    for dims in all {
        for (to, &d) in out[rank - dims.len()..].iter_mut().zip(*dims) {
            match (*to, d) {
                (1, d) => *to = d,
                (_, 1) => {}
                (a, b) if a == b => {}
                _ => return None,
            }
        }
    }
    Some(out)
}

/// A view as one of larger sizes, repeated.
pub(super) fn expanded(view: &View, dims: &[usize]) -> View {
    let missing = dims.len() - view.dims.len();
    let strides = (0..dims.len()).map(|d| match d.checked_sub(missing) {
        Some(own) if view.dims[own] == dims[d] => view.strides[own],
        _ => 0,
    });
    View {
        strides: strides.collect(),
        dims: dims.to_vec(),
        ..view.clone()
    }
}

/// The dimensions of a view by their strides, the one that runs fastest last; of those that are repeated, as they are numbered.
pub(super) fn order_of(view: &View) -> Vec<usize> {
    let mut order: Vec<usize> = (0..view.dims.len()).collect();
    order.sort_by_key(|&d| {
        std::cmp::Reverse(if view.dims[d] == 1 {
            0
        } else {
            view.strides[d].abs()
        })
    });
    // Dimensions of one element fit anywhere; they keep their place beside their neighbours.
    let (ones, mut others): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&d| view.dims[d] == 1);
    for d in ones {
        let place = others.iter().position(|&o| o > d).unwrap_or(others.len());
        others.insert(place, d);
    }
    others
}

/// Sizes and strides of several views together, with dimensions that lie one after the other in all of them as one.
pub(super) fn merged(dims: &[usize], order: &[usize], views: &[&View]) -> (Vec<usize>, Vec<Vec<i64>>) {
    let mut sizes: Vec<usize> = vec![];
    let mut strides: Vec<Vec<i64>> = vec![vec![]; views.len()];
    for &d in order.iter().filter(|&&d| dims[d] != 1) {
        let size = dims[d];
        let follows = !sizes.is_empty()
            && views
                .iter()
                .zip(&strides)
                .all(|(view, so_far)| so_far.last() == Some(&(view.strides[d] * size as i64)));
        if follows {
            if let Some(last) = sizes.last_mut() {
                *last *= size;
            }
            for (view, so_far) in views.iter().zip(&mut strides) {
                if let Some(last) = so_far.last_mut() {
                    *last = view.strides[d];
                }
            }
        } else {
            sizes.push(size);
            for (view, so_far) in views.iter().zip(&mut strides) {
                so_far.push(view.strides[d]);
            }
        }
    }
    (sizes, strides)
}

impl Lowering<'_> {
    /// Copies a view to another of the same sizes.
    pub(super) fn copy(&mut self, from: &View, to: &View) -> Lowered<()> {
        self.map_into(Operation::Copy.into(), std::slice::from_ref(from), to)
    }

    /// Does something to each element of operands that are repeated to the sizes of the result.
    pub(super) fn map_into(&mut self, mapping: Mapping, operands: &[View], to: &View) -> Lowered<()> {
        let count = to.count();
        if count == 0 {
            return Ok(());
        }
        let operands: Vec<View> = operands.iter().map(|v| expanded(v, &to.dims)).collect();
        let flat_kind = matches!(mapping.operation, Operation::Copy | Operation::Activate)
            && operands.len() == 1
            || matches!(
                mapping.operation,
                Operation::Add | Operation::Sub | Operation::Mul
            ) && operands.len() == 2;
        let order = order_of(to);
        let all: Vec<&View> = std::iter::once(to).chain(&operands).collect();
        let (sizes, strides) = merged(&to.dims, &order, &all);
        let halves = all.iter().all(|v| v.element == Element::F16);
        let side_by_side = strides.iter().all(|s| s.as_slice() == [1]);
        let aligned = all.iter().all(|v| v.at.offset % 16 == 0);
        if flat_kind && halves && side_by_side && aligned && count.is_multiple_of(8) {
            let params = Params::default()
                .at(operands[0].at)
                .at(operands.get(1).map_or(crate::params::At::NULL, |v| v.at))
                .at(to.at)
                .u32(mapping.operation as usize)
                .activation(mapping.activation)
                .activation(mapping.after)
                .u32(count / 8);
            self.push("map_flat", 256, striding(count / 8), params);
            return Ok(());
        }
        if sizes.len() > MAX_DIMS {
            return self.unserved(format!("a layout of {} dimensions", sizes.len()));
        }
        let integer = !to.element.is_float() && operands.iter().all(|v| !v.element.is_float())
            || matches!(
                mapping.operation,
                Operation::Equal | Operation::Less | Operation::LessOrEqual
            ) && operands.iter().all(|v| !v.element.is_float());
        let mut params = Params::default();
        for (view, strides) in all.iter().zip(&strides) {
            params = params.view(view.at, view.element, strides);
        }
        for _ in all.len()..4 {
            params = params.no_view();
        }
        let params = params
            .u32(mapping.operation as usize)
            .u32(usize::from(integer))
            .activation(mapping.activation)
            .activation(mapping.after)
            .divisors(&sizes)
            .u32(count);
        self.push("map_any", 256, striding(count), params);
        Ok(())
    }

    /// The view as halves with its channels side by side, as convolutions read it; copied where it is not.
    pub(super) fn as_pixels(&mut self, view: &View) -> Lowered<View> {
        let channel = view.dims.len() > 1 && (view.dims[1] == 1 || view.strides[1] == 1);
        if view.element == Element::F16 && channel && view.strides.iter().all(|&s| s >= 0) {
            return Ok(view.clone());
        }
        let to = self.fresh_pixels(&view.dims)?;
        self.copy(view, &to)?;
        Ok(to)
    }

    pub(super) fn elementwise(&mut self, node: &Node) -> Lowered<()> {
        let mut activation = Activation::None;
        let operation = match node.kind.as_str() {
            "Add" => Operation::Add,
            "Sub" => Operation::Sub,
            "Mul" => Operation::Mul,
            "Div" => Operation::Div,
            "Pow" => Operation::Pow,
            "Max" if node.inputs.len() == 2 => Operation::Max,
            "Min" if node.inputs.len() == 2 => Operation::Min,
            "Equal" => Operation::Equal,
            "Less" => Operation::Less,
            "LessOrEqual" => Operation::LessOrEqual,
            "And" => Operation::And,
            "Or" => Operation::Or,
            "Where" => Operation::Select,
            "Not" => Operation::Not,
            "Neg" => Operation::Neg,
            "Abs" => Operation::Abs,
            "Exp" => Operation::Exp,
            "Log" => Operation::Log,
            "Sqrt" => Operation::Sqrt,
            "Reciprocal" => Operation::Reciprocal,
            "Erf" => Operation::Erf,
            "Floor" => Operation::Floor,
            "Ceil" => Operation::Ceil,
            "Round" => Operation::Round,
            "Softplus" => Operation::Softplus,
            "PRelu" => Operation::Prelu,
            "Cast" => Operation::Copy,
            "Mod" if node.int("fmod").unwrap_or(0) == 0 => Operation::Mod,
            "BatchNormalization" => return self.batch_norm(node),
            "Relu" | "Clip" | "Sigmoid" | "Tanh" | "HardSwish" | "HardSigmoid" | "LeakyRelu" | "Elu"
            | "Gelu" => {
                activation = self.activation_of(node)?;
                Operation::Activate
            }
            kind => return self.unserved(format!("{kind} is not run on this device")),
        };
        let used = if operation == Operation::Activate {
            1
        } else {
            node.inputs.len()
        };
        let mut operands = vec![];
        for place in 0..used {
            operands.push(self.device(node, place)?);
        }
        let floats = operands.iter().any(|v| v.element.is_float());
        if operation == Operation::Mod && floats || operation.is_of_floats() && !floats {
            return self.unserved(format!(
                "{} of {}",
                node.kind,
                if floats { "floats" } else { "integers" }
            ));
        }
        let dims: Vec<&[usize]> = operands.iter().map(|v| v.dims.as_slice()).collect();
        let Some(dims) = broadcast(&dims) else {
            return self.unserved("operands of sizes that don't fit together");
        };
        let element = match operation {
            Operation::Equal
            | Operation::Less
            | Operation::LessOrEqual
            | Operation::And
            | Operation::Or
            | Operation::Not => Element::Bool,
            Operation::Copy => self.cast_to(node, &operands, &dims)?,
            Operation::Select => match operands[1].element.is_float() {
                true => self.stored_as(node, &operands[1..], &dims),
                false => operands[1].element,
            },
            _ if operands[0].element.is_float() => self.stored_as(node, &operands, &dims),
            _ => operands[0].element,
        };
        let (after, name, element) = self.activated_after(node.output(), element);
        let mapping = Mapping {
            operation,
            activation,
            after,
        };
        let model = operands.iter().find(|v| v.dims == dims);
        let order = model.map_or_else(|| (0..dims.len()).collect(), order_of);
        let to = self.fresh(element, &dims, &order)?;
        self.map_into(mapping, &operands, &to)?;
        self.set(&name, to);
        Ok(())
    }

    /// The activation that alone reads a float tensor, which the tensor's own launch does, too; what it gives is called, and in which type it
    /// is kept.
    fn activated_after(&mut self, name: &str, element: Element) -> (Activation, String, Element) {
        if element.is_float()
            && let Some(name) = self.take_gelu(name)
        {
            let stored = self.stored.get(&name).copied();
            return (Activation::Gelu, name, stored.unwrap_or(element));
        }
        let place = self.only_reader(name).filter(|_| element.is_float());
        let next = place.map(|place| &self.graph.nodes[place]);
        let activation = next.and_then(|next| self.activation_of(next).ok());
        match (place, next, activation) {
            (Some(place), Some(next), Some(activation)) => {
                self.done.insert(place);
                let stored = self.stored.get(next.output()).copied();
                (activation, next.output().to_owned(), stored.unwrap_or(element))
            }
            _ => (Activation::None, name.to_owned(), element),
        }
    }

    fn cast_to(&mut self, node: &Node, operands: &[View], dims: &[usize]) -> Lowered<Element> {
        // Numbers of ONNX' TensorProto.DataType.
        Ok(match node.int("to") {
            Some(1 | 10) => self.stored_as(node, operands, dims),
            Some(2) => Element::U8,
            Some(3) => Element::I8,
            Some(6) => Element::I32,
            Some(7) => Element::I64,
            Some(9) => Element::Bool,
            _ => return self.unserved("a type that it does not know"),
        })
    }

    /// A node's activation, with its attributes. `Err`: it is none, or has limits that are not known.
    pub(super) fn activation_of(&self, node: &Node) -> Lowered<Activation> {
        let float = |name: &str, default| node.float(name).unwrap_or(default);
        Ok(match node.kind.as_str() {
            "Relu" => Activation::Relu,
            "Clip" => {
                let limit = |place: usize, default: f32| match node.input(place) {
                    None => Some(default),
                    Some(_) => self.known(node, place).as_ref().and_then(HostTensor::only),
                };
                match (limit(1, f32::MIN), limit(2, f32::MAX)) {
                    (Some(low), Some(high)) => Activation::Clip(low, high),
                    _ => return self.unserved("limits that are worked out from the input"),
                }
            }
            "Sigmoid" => Activation::Sigmoid,
            "Tanh" => Activation::Tanh,
            "HardSwish" => Activation::HardSwish,
            "HardSigmoid" => Activation::HardSigmoid(float("alpha", 0.2), float("beta", 0.5)),
            "LeakyRelu" => Activation::LeakyRelu(float("alpha", 0.01)),
            "Elu" => Activation::Elu(float("alpha", 1.0)),
            "Gelu" if node.text("approximate") == Some("tanh") => Activation::GeluTanh,
            "Gelu" => Activation::Gelu,
            kind => return self.unserved(format!("{kind} is no activation")),
        })
    }

    /// Scale and offset of each channel, from a node's gain, offset, mean and variance.
    pub(super) fn scale_and_offset(&self, node: &Node) -> Option<(Vec<f32>, Vec<f32>)> {
        let [gain, offset, mean, variance] = [1, 2, 3, 4].map(|i| self.known(node, i).map(|t| t.as_floats()));
        let (gain, offset, mean, variance) = (gain?, offset?, mean?, variance?);
        let epsilon = f64::from(node.float("epsilon").unwrap_or(1e-5));
        let mut both = (vec![], vec![]);
        for c in 0..gain.len() {
            let scale = f64::from(*gain.get(c)?) / (f64::from(*variance.get(c)?) + epsilon).sqrt();
            both.0.push(scale as f32);
            both.1
                .push((f64::from(*offset.get(c)?) - f64::from(*mean.get(c)?) * scale) as f32);
        }
        Some(both)
    }

    fn batch_norm(&mut self, node: &Node) -> Lowered<()> {
        let Some((scale, offset)) = self.scale_and_offset(node) else {
            return self.unserved("gain and offset that are worked out from the input");
        };
        let x = self.device(node, 0)?;
        let channels = scale.len();
        let mut dims = vec![1; x.dims.len()];
        if let Some(c) = dims.get_mut(1) {
            *c = channels;
        }
        let label = self.key.clone();
        let mut constant = |what: &str, values: &[f32]| {
            let at = self.weight(&format!("{label} {what}"), || {
                super::floats(values.iter().copied())
            });
            let order: Vec<usize> = (0..dims.len()).collect();
            View {
                at,
                element: Element::F32,
                strides: crate::program::dense(&dims, &order),
                dims: dims.clone(),
            }
        };
        let (scale, offset) = (constant("scale", &scale), constant("offset", &offset));
        let element = self.stored_as(node, std::slice::from_ref(&x), &x.dims.clone());
        let (after, name, element) = self.activated_after(node.output(), element);
        let mapping = Mapping {
            after,
            ..Operation::Scale.into()
        };
        let to = self.fresh(element, &x.dims, &order_of(&x))?;
        self.map_into(mapping, &[x, scale, offset], &to)?;
        self.set(&name, to);
        Ok(())
    }

    /// An input that is on the device already.
    pub(super) fn on_device_already(&self, name: &str) -> Option<View> {
        match self.values.get(name) {
            Some(Value::Device(view)) => Some(view.clone()),
            _ => None,
        }
    }
}
