//! Finds the cut points, where one tensor crosses, and the segments between them.

use std::collections::{BTreeSet, HashMap, HashSet};

use rten_onnx::onnx::NodeProto;

use super::{Kept, Narrow, StandardNode, Walk, malformed, taken};
use crate::cut::{Cut, Segment};
use crate::dim::{DType, Dim, elements};
use crate::error::{ModelError, ModelErrorKind};
use crate::fact::{Fact, Origin};

/// Result of the search for cut points.
pub(super) struct Found {
    pub cuts: Vec<Cut>,
    pub segments: Vec<Segment>,
    /// The nodes that the output needs, their meaning written out.
    pub nodes: Vec<NodeProto>,
    /// These nodes as the file has them.
    pub standard: Vec<StandardNode>,
    pub narrow: Narrow,
}

impl Walk<'_> {
    /// The cut points, their segments and the nodes that the output needs.
    pub(super) fn cut(&mut self, input: &str, output: &str) -> Result<Found, ModelError> {
        // What the output needs, from the end to the start.
        let mut needed: HashSet<String> = HashSet::from([output.to_owned()]);
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
        if !needed.contains(input) {
            return Err(malformed("the output does not depend on the input"));
        }

        // How many nodes are still to use each tensor that depends on the input.
        let mut uses: HashMap<&str, usize> = HashMap::new();
        for name in kept.iter().filter(|n| n.data).flat_map(|n| &n.inputs) {
            if self.facts.get(name).is_some_and(Fact::is_data) {
                *uses.entry(name).or_default() += 1;
            }
        }
        *uses.entry(output).or_default() += 1;

        let mut cuts = vec![];
        let mut segments = vec![];
        let mut crossing: BTreeSet<&str> = BTreeSet::from([input]);
        let mut open = Segment {
            nodes: vec![],
            flops: 0,
            weights_bytes: 0,
        };
        let mut read: BTreeSet<&str> = BTreeSet::new();
        self.close(&crossing, output, &mut cuts)?;
        if cuts.is_empty() {
            return Err(malformed("the input can't be a cut point"));
        }
        let mut segment_of: HashMap<usize, usize> = HashMap::new();
        for node in kept.iter().filter(|n| n.data) {
            segment_of.insert(node.place, segments.len());
            for name in &node.inputs {
                if let Some(left) = uses.get_mut(name.as_str()) {
                    *left -= 1;
                    if *left == 0 {
                        crossing.remove(name.as_str());
                    }
                }
                if self.facts.get(name).is_some_and(|f| f.origin == Origin::Constant) {
                    read.insert(name);
                }
            }
            for name in &node.outputs {
                if uses.get(name.as_str()).is_some_and(|&left| left > 0) {
                    crossing.insert(name);
                }
            }
            open.nodes.push(node.kind.clone());
            open.flops = open.flops.saturating_add(node.flops);
            if self.close(&crossing, output, &mut cuts)? {
                open.weights_bytes = read.iter().map(|name| self.bytes(name)).sum();
                read.clear();
                let next = Segment {
                    nodes: vec![],
                    flops: 0,
                    weights_bytes: 0,
                };
                segments.push(std::mem::replace(&mut open, next));
            }
        }
        if cuts.last().map(|c: &Cut| c.tensor.as_str()) != Some(output) || segments.is_empty() {
            return Err(ModelError::new(
                ModelErrorKind::NoCutPoint,
                format!("the output {output} is not one tensor with the batch as its first dimension"),
                "Export the model with one output of shape [batch, …]",
            ));
        }
        if cuts.len() > usize::from(u16::MAX) {
            return Err(malformed("more than 65535 cut points"));
        }
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

    /// Bytes of a constant.
    fn bytes(&self, name: &str) -> u64 {
        let count = |f: &Fact| {
            f.dims
                .iter()
                .fold(f.dtype.bytes(), |n, d| n.saturating_mul(d.coef)) as u64
        };
        self.facts.get(name).map_or(0, count)
    }

    /// Adds a cut point if one tensor crosses here that can be one; says whether it did.
    fn close(
        &self,
        crossing: &BTreeSet<&str>,
        output: &str,
        cuts: &mut Vec<Cut>,
    ) -> Result<bool, ModelError> {
        let Some(&name) = crossing.first().filter(|_| crossing.len() == 1) else {
            return Ok(false);
        };
        if cuts.last().is_some_and(|c| c.tensor == name) {
            return Ok(false);
        }
        let Some(fact) = self.facts.get(name) else {
            return Ok(false);
        };
        let [Dim::BATCH, rest @ ..] = fact.dims.as_slice() else {
            return Ok(false);
        };
        // Truth values cross only as the input or the output.
        let outer = cuts.is_empty() || name == output;
        if rest.iter().any(|d| d.batch) || fact.dtype == DType::F64 || fact.dtype == DType::Bool && !outer {
            return Ok(false);
        }
        cuts.push(Cut {
            tensor: name.to_owned(),
            shape: rest.iter().map(|d| d.coef).collect(),
            dtype: fact.dtype,
            elements: elements(&fact.dims)?,
        });
        Ok(true)
    }
}
