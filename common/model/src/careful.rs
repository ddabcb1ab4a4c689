//! A second way through the same weights, for inputs that hold NaN or infinite numbers.
//!
//! An engine's Relu and Clip may take NaN for the lower bound, since processors' maximum does. Written as maximum and
//! minimum of tensors they don't, but take longer. So the graph holds every layer that depends on the input twice.

use std::collections::HashSet;

use rten_onnx::onnx::{DataType, GraphProto, NodeProto, TensorProto};

/// Prefix of tensors' names on the second way.
const PREFIX: &str = "careful:";
/// Name of the constant 0.
const ZERO: &str = "graft:zero";

/// The name of a tensor on the second way.
pub(crate) fn name_of(tensor: &str) -> String {
    format!("{PREFIX}{tensor}")
}

/// Adds the second way, where the graph has layers that need it; says whether it did.
pub(crate) fn add(graph: &mut GraphProto) -> bool {
    let takes_nan = |n: &NodeProto| matches!(n.op_type.as_deref(), Some("Relu" | "Clip"));
    if !graph.node.iter().any(takes_nan) {
        return false;
    }
    // Tensors that depend on the input.
    let mut data: HashSet<String> = graph.input.iter().filter_map(|v| v.name.clone()).collect();
    let mut second = vec![];
    for node in &graph.node {
        if !node.input.iter().any(|name| data.contains(name)) {
            continue;
        }
        data.extend(node.output.iter().filter(|name| !name.is_empty()).cloned());
        let renamed = |name: &String| {
            if data.contains(name) {
                name_of(name)
            } else {
                name.clone()
            }
        };
        let mut copy = node.clone();
        copy.name = copy.name.map(|name| format!("{name} /careful"));
        copy.input = node.input.iter().map(renamed).collect();
        copy.output = node.output.iter().map(renamed).collect();
        second.extend(propagating(copy));
    }
    graph.node.extend(second);
    for list in [&mut graph.input, &mut graph.output] {
        let copies: Vec<_> = list
            .iter()
            .map(|value| {
                let mut copy = value.clone();
                copy.name = copy.name.map(|name| name_of(&name));
                copy
            })
            .collect();
        list.extend(copies);
    }
    graph.initializer.push(TensorProto {
        name: Some(ZERO.to_owned()),
        data_type: Some(DataType::FLOAT),
        float_data: vec![0.0],
        ..TensorProto::default()
    });
    true
}

/// The node, or maximum and minimum in place of a Relu or a Clip.
fn propagating(node: NodeProto) -> Vec<NodeProto> {
    let given = |i: usize| node.input.get(i).filter(|name| !name.is_empty()).cloned();
    let (Some(x), Some(y)) = (given(0), node.output.first().cloned()) else {
        return vec![node];
    };
    let (low, high) = match node.op_type.as_deref() {
        Some("Relu") => (Some(ZERO.to_owned()), None),
        Some("Clip") => (given(1), given(2)),
        _ => return vec![node],
    };
    let step = |kind: &str, inputs: Vec<String>, output: &str| NodeProto {
        name: node.name.clone(),
        op_type: Some(kind.to_owned()),
        input: inputs,
        output: vec![output.to_owned()],
        attribute: vec![],
        domain: None,
    };
    match (low, high) {
        (None, None) => vec![step("Identity", vec![x], &y)],
        (Some(low), None) => vec![step("Max", vec![x, low], &y)],
        (None, Some(high)) => vec![step("Min", vec![x, high], &y)],
        (Some(low), Some(high)) => {
            let above = format!("{y}:above");
            vec![
                step("Max", vec![x, low], &above),
                step("Min", vec![above.clone(), high], &y),
            ]
        }
    }
}
