//! The graph that engines load.

use std::collections::BTreeSet;

use rten_onnx::onnx::{
    DataType, Dimension, GraphProto, ModelProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    TypeProtoTensor, ValueInfoProto,
};

use super::cuts::Found;
use super::{Analysis, Narrow, Walk};
use crate::cut::TensorSpec;
use crate::dim::DType;

impl Walk<'_> {
    /// The graph for engines: every cut point's tensor is an output of it, so that no optimiser fuses it away.
    pub(super) fn write(&mut self, found: Found, opset: i64, ir_version: i64) -> Analysis {
        let Found {
            cuts,
            segments,
            nodes,
            standard,
            narrow,
        } = found;
        let used: BTreeSet<&String> = nodes.iter().flat_map(|n| &n.input).collect();
        let initializer = used
            .into_iter()
            .filter_map(|name| self.initializers.remove(name))
            .collect();
        let others = standard.iter().flat_map(|n| &n.nodes).flat_map(|n| &n.input);
        let constants = others.filter_map(|name| self.initializers.remove(name)).collect();
        let mut listed: BTreeSet<&str> = cuts[0].names().collect();
        let mut output: Vec<ValueInfoProto> = vec![];
        for tensor in cuts[1..].iter().flat_map(|c| &c.tensors) {
            if listed.insert(&tensor.name) {
                output.push(value_info(tensor, None));
            }
        }
        if let Narrow::Within(guards) = &narrow {
            for guard in guards {
                if listed.insert(&guard.tensor) {
                    // Of what is watched the shape does not matter.
                    let dtype = self.facts.get(&guard.tensor).map_or(DType::F32, |f| f.dtype);
                    output.push(typed(&guard.tensor, dtype, None));
                }
            }
        }
        let graph = ModelProto {
            ir_version: Some(ir_version),
            opset_import: vec![OperatorSetIdProto {
                domain: None,
                version: Some(opset),
            }],
            graph: Some(GraphProto {
                node: nodes,
                initializer,
                input: cuts[0].tensors.iter().map(|t| value_info(t, None)).collect(),
                output,
                value_info: vec![],
            }),
            ..ModelProto::default()
        };
        Analysis {
            cuts,
            segments,
            graph,
            standard,
            constants,
            narrow,
            opaque: std::mem::take(&mut self.opaque),
            divides: self.divides.take(),
        }
    }
}

/// A tensor of a cut point as a graph's input or output; `batch`: `None` leaves it open.
pub(crate) fn value_info(tensor: &TensorSpec, batch: Option<usize>) -> ValueInfoProto {
    let first = match batch {
        Some(n) => Dimension {
            dim_value: Some(n as i64),
            dim_param: None,
        },
        None => Dimension {
            dim_value: None,
            dim_param: Some("batch".to_owned()),
        },
    };
    let others = tensor.shape.iter().map(|&d| Dimension {
        dim_value: Some(d as i64),
        dim_param: None,
    });
    let dim = std::iter::once(first).chain(others).collect();
    typed(&tensor.name, tensor.dtype, Some(TensorShapeProto { dim }))
}

fn typed(name: &str, dtype: DType, shape: Option<TensorShapeProto>) -> ValueInfoProto {
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(TypeProtoTensor {
                elem_type: Some(DataType(dtype.to_onnx())),
                shape,
            }),
            sequence: None,
        }),
    }
}
