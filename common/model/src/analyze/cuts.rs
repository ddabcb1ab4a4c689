//! Finds the cut points, where few tensors cross, and the segments between them.

use std::collections::{BTreeSet, HashMap, HashSet};

use rten_onnx::onnx::NodeProto;

use super::crossing::{Crosses, Crossings, Tensor};
use super::{Kept, Narrow, StandardNode, Walk, malformed, taken};
use crate::cut::{Cut, Segment, TensorSpec};
use crate::dim::{DType, Dim, elements};
use crate::error::{ModelError, ModelErrorKind};
use crate::fact::{Fact, Origin};

/// Result of the search for cut points.
pub(super) struct Found {
    pub cuts: Vec<Cut>,
    pub segments: Vec<Segment>,
    /// The nodes that the outputs need, their meaning written out.
    pub nodes: Vec<NodeProto>,
    /// These nodes as the file has them.
    pub standard: Vec<StandardNode>,
    pub narrow: Narrow,
}

impl Walk<'_> {
    /// The cut points, their segments and the nodes that the outputs need.
    pub(super) fn cut(&mut self, inputs: &[String], outputs: &[String]) -> Result<Found, ModelError> {
        // What the outputs need, from the end to the start.
        let mut needed: HashSet<String> = outputs.iter().cloned().collect();
        let mut kept: Vec<Kept> = vec![];
        for node in std::mem::take(&mut self.kept).into_iter().rev() {
            if node.outputs.iter().any(|o| needed.contains(o)) {
                needed.extend(node.inputs.iter().cloned());
                let constant = |name: &String| self.facts.get(name).is_some_and(|f| !f.is_data());
                needed.extend(taken(&node.standard).into_iter().filter(constant));
                kept.push(node);
            }
        }
        kept.reverse();
        let inputs: Vec<&String> = inputs.iter().filter(|i| needed.contains(*i)).collect();
        if inputs.is_empty() || !kept.iter().any(|n| n.data) {
            return Err(ModelError::new(
                ModelErrorKind::NoCutPoint,
                "there are no layers between the inputs and the outputs",
                "There is nothing to run for a request",
            ));
        }
        let places = self.places(&kept, &inputs, outputs)?;
        if places.len() + 2 > usize::from(u16::MAX) {
            return Err(malformed("more than 65535 cut points"));
        }
        let mut cuts = vec![self.tensors(inputs.iter().map(|i| i.as_str()))?];
        let mut segments = vec![];
        let mut segment_of: HashMap<usize, usize> = HashMap::new();
        let mut places = places.into_iter().peekable();
        let mut open = Open::default();
        for (i, node) in kept.iter().filter(|n| n.data).enumerate() {
            segment_of.insert(node.place, segments.len());
            let constants = node.inputs.iter().filter(|name| {
                let fact = self.facts.get(*name);
                fact.is_some_and(|f| f.origin == Origin::Constant)
            });
            open.read.extend(constants.map(String::as_str));
            open.nodes.push(node.kind.clone());
            open.flops = open.flops.saturating_add(node.flops);
            if let Some((_, crossing)) = places.next_if(|(at, _)| *at == i + 1) {
                cuts.push(self.tensors(crossing.iter().map(String::as_str))?);
                segments.push(std::mem::take(&mut open).close(|name| self.bytes(name)));
            }
        }
        cuts.push(self.tensors(outputs.iter().map(String::as_str))?);
        segments.push(open.close(|name| self.bytes(name)));
        // What is not an input of the network that is left need not be watched.
        self.guards
            .retain(|g| g.node.is_some() || inputs.iter().any(|i| **i == g.tensor));
        let narrow = self.narrow(|place| segment_of.get(&place).copied());
        let (mut nodes, mut standard) = (vec![], vec![]);
        for node in kept {
            standard.push(StandardNode {
                segment: segment_of.get(&node.place).copied(),
                nodes: node.standard,
            });
            nodes.extend(node.runs);
        }
        Ok(Found {
            cuts,
            segments,
            nodes,
            standard,
            narrow,
        })
    }

    /// Inner cut points: after how many nodes that depend on the inputs, and what crosses there.
    fn places(
        &self,
        kept: &[Kept],
        inputs: &[&String],
        outputs: &[String],
    ) -> Result<Vec<(usize, Vec<String>)>, ModelError> {
        let data: Vec<&Kept> = kept.iter().filter(|n| n.data).collect();
        let mut uses: HashMap<&str, usize> = HashMap::new();
        let is_data = |name: &&str| self.facts.get(*name).is_some_and(Fact::is_data);
        let read = data.iter().flat_map(|n| &n.inputs).map(String::as_str);
        for name in read.filter(is_data).chain(outputs.iter().map(String::as_str)) {
            *uses.entry(name).or_default() += 1;
        }
        // Between integers, engines run floats in one piece with the operators before and after them.
        let (mut outer, mut within) = (HashSet::new(), HashSet::new());
        outer.extend(inputs.iter().map(|i| i.as_str()));
        outer.extend(outputs.iter().map(String::as_str));
        for node in data.iter().rev() {
            let rounded = node.outputs.iter().any(|o| within.contains(o.as_str()));
            match node.kind.as_str() {
                "DequantizeLinear" => within.extend(node.outputs.iter().map(String::as_str)),
                "QuantizeLinear" => within.extend(node.inputs.iter().map(String::as_str)),
                kind if rounded && ACTIVATIONS.contains(&kind) => {
                    within.extend(node.inputs.iter().map(String::as_str));
                }
                _ => {}
            }
        }
        let place = |name: &str| match (outer.contains(name), within.contains(name)) {
            (true, _) => Place::Outer,
            (_, true) => Place::WithinQuantized,
            _ => Place::Inner,
        };
        let first = inputs
            .iter()
            .map(|name| self.crossing(name, Place::Outer))
            .collect::<Result<Vec<_>, _>>()?;
        let mut crossings = Crossings::new(uses, first);
        for node in data {
            let made = node
                .outputs
                .iter()
                .map(|name| self.crossing(name, place(name)))
                .collect::<Result<Vec<_>, _>>()?;
            let read = node.inputs.iter().map(String::as_str);
            crossings.node(read, made.into_iter());
        }
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let chosen = crossings.choose().into_iter();
        Ok(chosen.map(|(at, names)| (at, owned(names))).collect())
    }

    /// A tensor as far as cut points are concerned.
    fn crossing<'n>(&self, name: &'n str, place: Place) -> Result<Tensor<'n>, ModelError> {
        let never = Tensor {
            name,
            bytes: 0,
            crosses: Crosses::Never,
        };
        let Some(fact) = self.facts.get(name) else {
            return Ok(never);
        };
        let [Dim::BATCH, rest @ ..] = fact.dims.as_slice() else {
            return Ok(never);
        };
        if rest.iter().any(|d| d.batch) || place == Place::WithinQuantized {
            return Ok(never);
        }
        Ok(Tensor {
            name,
            bytes: elements(&fact.dims)?.saturating_mul(fact.dtype.bytes()),
            crosses: match fact.dtype {
                DType::F64 => Crosses::Never,
                // What follows from 64-bit integers was shown to fit into 32 bits for those that come from the inputs.
                DType::I64 => Crosses::Alone,
                // Alone, truth values cross only as the input or the output.
                DType::Bool if place == Place::Inner => Crosses::WithOthers,
                _ => Crosses::Anyhow,
            },
        })
    }

    /// A cut point by the names of what crosses there.
    fn tensors<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Cut, ModelError> {
        let spec = |name: &str| {
            let fact = self.facts.get(name);
            let Some((fact, [Dim::BATCH, rest @ ..])) = fact.map(|f| (f, f.dims.as_slice())) else {
                return Err(ModelError::new(
                    ModelErrorKind::NoCutPoint,
                    format!("{name} does not have the batch as its first dimension"),
                    "Export the model with inputs and outputs of shape [batch, \u{2026}]",
                ));
            };
            Ok(TensorSpec {
                name: name.to_owned(),
                shape: rest.iter().map(|d| d.coef).collect(),
                dtype: fact.dtype,
                elements: elements(&fact.dims)?,
                batch_axis: self.turned.get(name).copied().unwrap_or(0),
            })
        };
        let tensors = names.map(spec).collect::<Result<_, _>>()?;
        Ok(Cut { tensors })
    }

    /// Bytes of a constant.
    fn bytes(&self, name: &str) -> u64 {
        let count = |f: &Fact| {
            f.dims
                .iter()
                .fold(f.dtype.bytes(), |n, d| n.saturating_mul(d.coef)) as u64
        };
        self.facts.get(name).map_or(0, count)
    }
}

/// Operators that engines run in one piece with the layer before and the QuantizeLinear after them.
const ACTIVATIONS: [&str; 6] = ["Relu", "Clip", "LeakyRelu", "HardSigmoid", "HardSwish", "Sigmoid"];

/// Place of a tensor in a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is an input or an output.
    Outer,
    Inner,
    /// DequantizeLinear makes it, or QuantizeLinear reads it, or an activation between the two.
    WithinQuantized,
}

/// A segment that is not yet whole.
#[derive(Default)]
struct Open<'n> {
    nodes: Vec<String>,
    flops: u64,
    /// Constants that its nodes read.
    read: BTreeSet<&'n str>,
}

impl Open<'_> {
    fn close(self, bytes: impl Fn(&str) -> u64) -> Segment {
        Segment {
            nodes: self.nodes,
            flops: self.flops,
            weights_bytes: self.read.into_iter().map(bytes).sum(),
        }
    }
}
