//! Writing nodes in place of others.

use rten_onnx::onnx::{AttributeProto, AttributeType, NodeProto};

use crate::analyze::Walk;
use crate::dim::{DType, Dim};
use crate::fact::{Fact, Num, Small};

/// Writes nodes for one node of the file. Names of what it makes begin with `graft:` and the node's place.
pub(super) struct Writer<'w, 'a> {
    pub walk: &'w mut Walk<'a>,
    index: usize,
    made: usize,
}

impl<'w, 'a> Writer<'w, 'a> {
    pub fn new(walk: &'w mut Walk<'a>, index: usize) -> Self {
        Writer { walk, index, made: 0 }
    }

    fn name(&mut self) -> String {
        self.made += 1;
        format!("graft:{}:{}", self.index, self.made)
    }

    fn constant(&mut self, small: Small, dtype: DType) -> String {
        let name = self.name();
        self.walk
            .facts
            .insert(name.clone(), Fact::from_small(small, dtype));
        name
    }

    /// Adds a constant list of integers; gives its name.
    pub fn ints(&mut self, values: &[i64]) -> String {
        let nums = values.iter().map(|&v| Num::fixed(v as f64)).collect();
        self.constant(Small::list(nums), DType::I64)
    }

    /// Adds a constant number of an element type; gives its name.
    pub fn scalar(&mut self, value: f64, dtype: DType) -> String {
        self.constant(Small::scalar(Num::fixed(value)), dtype)
    }

    /// Adds a constant list of `count` equal floats; gives its name.
    pub fn floats(&mut self, value: f64, count: usize) -> String {
        self.constant(Small::list(vec![Num::fixed(value); count]), DType::F32)
    }

    /// Adds an operator; gives the name of its output.
    pub fn op(&mut self, kind: &str, inputs: &[&str], attributes: &[(&str, i64)]) -> String {
        let output = self.name();
        self.op_to(kind, inputs, attributes, &output);
        output
    }

    /// Adds an operator that makes `output`.
    pub fn op_to(&mut self, kind: &str, inputs: &[&str], attributes: &[(&str, i64)], output: &str) {
        self.walk.runs.push(operator(kind, inputs, output, attributes));
    }

    /// Adds an attribute to the latest operator.
    pub fn with(&mut self, attribute: AttributeProto) {
        if let Some(node) = self.walk.runs.last_mut() {
            node.attribute.push(attribute);
        }
    }
}

/// A Reshape target: the dimension that grows with the batch is inferred.
pub(super) fn target(dims: &[Dim]) -> Vec<i64> {
    dims.iter()
        .map(|d| if d.batch { -1 } else { d.coef as i64 })
        .collect()
}

pub(in crate::analyze) fn ints_attribute(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::INTS),
        ..AttributeProto::default()
    }
}

pub(in crate::analyze) fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::INT),
        ..AttributeProto::default()
    }
}

pub(super) fn float_attribute(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        f: Some(value),
        r#type: Some(AttributeType::FLOAT),
        ..AttributeProto::default()
    }
}

pub(in crate::analyze) fn operator(
    kind: &str,
    inputs: &[&str],
    output: &str,
    attributes: &[(&str, i64)],
) -> NodeProto {
    NodeProto {
        name: Some(output.to_owned()),
        op_type: Some(kind.to_owned()),
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: attributes
            .iter()
            .map(|&(name, i)| int_attribute(name, i))
            .collect(),
        domain: None,
    }
}
