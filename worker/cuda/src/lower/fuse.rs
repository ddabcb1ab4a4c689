//! What a convolution's or product's launch does beside its sums: the nodes that follow it.

use super::{Lowered, Lowering, View, same_places};
use crate::graph::Node;
use crate::params::{Activation, At, Element};

/// What follows a sum, in this order.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    /// Scale and offset of each channel, which go into weights and bias.
    pub scale: Option<(Vec<f32>, Vec<f32>)>,
    /// Added to each channel, beside the node's own bias.
    pub bias: Option<Vec<f32>>,
    pub act1: Activation,
    pub residual: Option<View>,
    pub act2: Activation,
    /// The tensor that comes out.
    pub name: String,
}

impl Tail {
    fn of(name: &str) -> Self {
        Tail {
            scale: None,
            bias: None,
            act1: Activation::None,
            residual: None,
            act2: Activation::None,
            name: name.to_owned(),
        }
    }

    /// Where its residual is, and the stride of its pixels.
    pub fn residual_at(&self) -> At {
        self.residual.as_ref().map_or(At::NULL, |v| v.at)
    }
}

/// The order of what a launch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Sum,
    Scaled,
    Activated,
    Added,
    Finished,
}

impl Lowering<'_> {
    /// The only node that reads a tensor, where the range does not give the tensor itself.
    pub(super) fn only_reader(&self, name: &str) -> Option<usize> {
        if self.given.contains(name) || !self.fuses {
            return None;
        }
        match self.graph.consumers(name) {
            [one] if self.inside.contains(one) && !self.done.contains(one) => Some(*one),
            _ => None,
        }
    }

    /// Takes what follows a node's sums, as far as its launch can do it. `result`: where its elements will lie; `channels`: sizes along
    /// the dimension that the bias belongs to.
    pub(super) fn tail(
        &mut self,
        node: &Node,
        result: &View,
        channels: usize,
        channel_dim: usize,
    ) -> Lowered<Tail> {
        let mut tail = Tail::of(node.output());
        let mut stage = Stage::Sum;
        while stage < Stage::Finished {
            if self.take_silu(&mut tail, &mut stage) {
                continue;
            }
            if matches!(stage, Stage::Sum | Stage::Scaled | Stage::Added)
                && let Some(name) = self.take_gelu(&tail.name)
            {
                let (act, next) = match stage {
                    Stage::Added => (&mut tail.act2, Stage::Finished),
                    _ => (&mut tail.act1, Stage::Activated),
                };
                *act = Activation::Gelu;
                tail.name = name;
                stage = next;
                continue;
            }
            let Some(place) = self.only_reader(&tail.name) else {
                break;
            };
            let next = &self.graph.nodes[place];
            let taken = match next.kind.as_str() {
                "BatchNormalization" if stage == Stage::Sum && channel_dim == 1 => {
                    match self.scale_and_offset(next) {
                        Some(both) if next.input(0) == Some(&tail.name) && both.0.len() == channels => {
                            tail.scale = Some(both);
                            stage = Stage::Scaled;
                            true
                        }
                        _ => false,
                    }
                }
                "Add" => self.take_add(next, &mut tail, &mut stage, result, channels, channel_dim),
                "Relu" | "Clip" | "Sigmoid" | "Tanh" | "HardSwish" | "HardSigmoid" | "LeakyRelu" | "Elu"
                | "Gelu" => match self.activation_of(next) {
                    Ok(activation) if stage < Stage::Activated => {
                        tail.act1 = activation;
                        stage = Stage::Activated;
                        true
                    }
                    Ok(activation) if stage == Stage::Added => {
                        tail.act2 = activation;
                        stage = Stage::Finished;
                        true
                    }
                    _ => false,
                },
                _ => false,
            };
            if !taken {
                break;
            }
            self.done.insert(place);
            tail.name = next.output().to_owned();
        }
        Ok(tail)
    }

    /// x * sigmoid(x), which two nodes read.
    fn take_silu(&mut self, tail: &mut Tail, stage: &mut Stage) -> bool {
        if *stage >= Stage::Activated || !self.fuses || self.given.contains(&tail.name) {
            return false;
        }
        let &[first, second] = self.graph.consumers(&tail.name) else {
            return false;
        };
        let (sigmoid, product) = (&self.graph.nodes[first], &self.graph.nodes[second]);
        let reads = |name: &str| product.inputs.iter().any(|i| i == name);
        let known = sigmoid.kind == "Sigmoid"
            && product.kind == "Mul"
            && reads(&tail.name)
            && reads(sigmoid.output())
            && self.graph.consumers(sigmoid.output()) == [second]
            && !self.given.contains(sigmoid.output())
            && [first, second]
                .iter()
                .all(|p| self.inside.contains(p) && !self.done.contains(p));
        if known {
            tail.act1 = Activation::Silu;
            tail.name = product.output().to_owned();
            self.done.extend([first, second]);
            *stage = Stage::Activated;
        }
        known
    }

    fn take_add(
        &mut self,
        add: &Node,
        tail: &mut Tail,
        stage: &mut Stage,
        result: &View,
        channels: usize,
        channel_dim: usize,
    ) -> bool {
        let Some(other) = add.inputs.iter().find(|i| **i != tail.name) else {
            return false;
        };
        let place = add.inputs.iter().position(|i| i == other).unwrap_or(0);
        if let Some(constant) = self.known(add, place) {
            // A bias: one number for each channel.
            let rank = result.dims.len();
            let aligned = constant.dims.len() <= rank
                && constant
                    .dims
                    .iter()
                    .rev()
                    .enumerate()
                    .all(|(i, &d)| d == if rank - 1 - i == channel_dim { channels } else { 1 })
                && constant.dims.iter().product::<usize>() == channels;
            if *stage > Stage::Scaled || !aligned || tail.bias.is_some() {
                return false;
            }
            tail.bias = Some(constant.as_floats());
            *stage = Stage::Scaled;
            return true;
        }
        let Some(view) = self.on_device_already(other).filter(|_| *stage < Stage::Added) else {
            return false;
        };
        if view.dims != result.dims || view.element != Element::F16 || !same_places(&view, result) {
            return false;
        }
        tail.residual = Some(view);
        *stage = Stage::Added;
        true
    }
}
