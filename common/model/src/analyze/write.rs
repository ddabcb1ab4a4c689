//! The graph that engines load.

use std::collections::BTreeSet;

use rten_onnx::onnx::{
    DataType, Dimension, GraphProto, ModelProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    TypeProtoTensor, ValueInfoProto,
};

use super::cuts::Found;
use super::{Analysis, Narrow, Walk};
use crate::dim::DType;

impl Walk<'_> {
    /// The graph for engines: every cut point's tensor is an output of it, so that no optimiser fuses it away.
    pub(super) fn write(
        &mut self,
        input: &str,
        input_dtype: DType,
        found: Found,
        opset: i64,
        ir_version: i64,
    ) -> Analysis {
        let Found {
            cuts,
            segments,
            nodes,
            narrow,
        } = found;
        let used: BTreeSet<&String> = nodes.iter().flat_map(|n| &n.input).collect();
        let initializer = used
            .into_iter()
            .filter_map(|name| self.initializers.remove(name))
            .collect();
        let value = |name: &str, shape: &[usize], dtype: DType| ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(TypeProto {
                tensor_type: Some(TypeProtoTensor {
                    elem_type: Some(DataType(dtype.to_onnx())),
                    shape: Some(TensorShapeProto {
                        dim: std::iter::once(Dimension {
                            dim_value: None,
                            dim_param: Some("batch".to_owned()),
                        })
                        .chain(shape.iter().map(|&d| Dimension {
                            dim_value: Some(d as i64),
                            dim_param: None,
                        }))
                        .collect(),
                    }),
                }),
                sequence: None,
            }),
        };
        let mut output: Vec<ValueInfoProto> = cuts[1..]
            .iter()
            .map(|c| value(&c.tensor, &c.shape, c.dtype))
            .collect();
        if let Narrow::Within(guards) = &narrow {
            for guard in guards {
                if cuts.iter().any(|c| c.tensor == guard.tensor)
                    || output.iter().any(|v| v.name.as_ref() == Some(&guard.tensor))
                {
                    continue;
                }
                // Of what is watched the shape does not matter.
                let dtype = self.facts.get(&guard.tensor).map_or(DType::F32, |f| f.dtype);
                let mut info = value(&guard.tensor, &[], dtype);
                if let Some(tensor) = info.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()) {
                    tensor.shape = None;
                }
                output.push(info);
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
                input: vec![value(input, &cuts[0].shape, input_dtype)],
                output,
                value_info: vec![],
            }),
            ..ModelProto::default()
        };
        Analysis {
            input: input.to_owned(),
            output: cuts.last().map(|c| c.tensor.clone()).unwrap_or_default(),
            cuts,
            segments,
            graph,
            narrow,
        }
    }
}
