//! A graph as a file, written without a copy of its weights.

use rten_onnx::onnx::{GraphProto, OperatorSetIdProto, TensorProto};
use rten_onnx::protobuf::{EncodeMessage, MessageWriter, ProtobufError, WriteValue};

/// Numbers of fields in onnx.proto3.
mod field {
    pub const MODEL_IR_VERSION: u64 = 1;
    pub const MODEL_GRAPH: u64 = 7;
    pub const MODEL_OPSET_IMPORT: u64 = 8;
    pub const GRAPH_NODE: u64 = 1;
    pub const GRAPH_INITIALIZER: u64 = 5;
    pub const GRAPH_INPUT: u64 = 11;
    pub const GRAPH_OUTPUT: u64 = 12;
    pub const GRAPH_VALUE_INFO: u64 = 13;
}

/// A model whose graph has further weights, which stay where they are.
pub(crate) struct Written<'a> {
    pub ir_version: Option<i64>,
    pub opset_import: &'a [OperatorSetIdProto],
    pub graph: GraphBeside<'a>,
}

/// A graph, and weights that belong to it.
pub(crate) struct GraphBeside<'a> {
    pub graph: &'a GraphProto,
    pub weights: &'a [TensorProto],
}

impl EncodeMessage for GraphBeside<'_> {
    fn encode_fields<W: WriteValue>(&self, fields: &mut MessageWriter<W>) -> Result<(), ProtobufError> {
        fields.write_repeated_message(field::GRAPH_NODE, &self.graph.node)?;
        fields.write_repeated_message(field::GRAPH_INITIALIZER, self.weights)?;
        fields.write_repeated_message(field::GRAPH_INITIALIZER, &self.graph.initializer)?;
        fields.write_repeated_message(field::GRAPH_INPUT, &self.graph.input)?;
        fields.write_repeated_message(field::GRAPH_OUTPUT, &self.graph.output)?;
        fields.write_repeated_message(field::GRAPH_VALUE_INFO, &self.graph.value_info)
    }
}

impl EncodeMessage for Written<'_> {
    fn encode_fields<W: WriteValue>(&self, fields: &mut MessageWriter<W>) -> Result<(), ProtobufError> {
        if let Some(ir_version) = self.ir_version {
            fields.write_int64(field::MODEL_IR_VERSION, ir_version)?;
        }
        fields.write_message(field::MODEL_GRAPH, &self.graph)?;
        fields.write_repeated_message(field::MODEL_OPSET_IMPORT, self.opset_import)
    }
}
