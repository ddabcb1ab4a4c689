//! A model's own nodes between two cut points, as an ONNX file of the same operator set.
//!
//! For engines that read operator sets themselves, and for people who run a head or a tail elsewhere.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::sync::Arc;

use rten_onnx::onnx::{
    DataLocation, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
};

use crate::analyze::{StandardNode, value_info};
use crate::cut::StageRange;
use crate::dim::DType;
use crate::edit::with_graph_name;
use crate::error::{ModelError, ModelErrorKind};
use crate::info::ModelInfo;

/// Smallest weights that get into a file of their own, in bytes.
const LARGE_BYTES: usize = 4096;
/// Alignment of weights in their file, in bytes: pages, so that engines may map them into memory.
const ALIGNED_BYTES: u64 = 4096;

/// What a model keeps of its file.
pub(crate) struct Originals<'m> {
    pub info: &'m Arc<ModelInfo>,
    pub ir_version: Option<i64>,
    /// The file's own nodes.
    pub nodes: &'m [StandardNode],
    /// Operator sets of the file beside the standard's, with their versions.
    pub domains: &'m [(String, i64)],
    /// All constants of the graph and of the file's nodes.
    pub constants: Vec<&'m TensorProto>,
}

/// A model's nodes, from which parts between cut points are written.
pub struct Parts {
    info: Arc<ModelInfo>,
    ir_version: Option<i64>,
    /// Nodes with the segment that they are in; `None`: they compute constants.
    nodes: Vec<(Option<usize>, NodeProto)>,
    constants: BTreeMap<String, TensorProto>,
    domains: Vec<(String, i64)>,
}

impl Parts {
    /// Name of the file of weights beside parts that don't hold them.
    pub const WEIGHTS: &str = "weights";

    /// The parts of a model, with every constant as `keep` gives it back.
    pub(crate) fn of<E>(
        originals: Originals<'_>,
        mut keep: impl FnMut(DType, &TensorProto) -> Result<TensorProto, E>,
    ) -> Result<Self, E> {
        let listed = originals.nodes.iter();
        let nodes: Vec<(Option<usize>, NodeProto)> = listed
            .flat_map(|n| n.nodes.iter().map(|node| (n.segment, node.clone())))
            .collect();
        let read: HashSet<&str> = nodes
            .iter()
            .flat_map(|(_, n)| n.input.iter().map(String::as_str))
            .collect();
        let mut constants = BTreeMap::new();
        for tensor in originals.constants {
            let name = tensor.name.clone().unwrap_or_default();
            let dtype = tensor.data_type.and_then(|t| DType::from_onnx(t.0));
            if let Some(dtype) = dtype.filter(|_| read.contains(name.as_str())) {
                constants.insert(name, keep(dtype, tensor)?);
            }
        }
        Ok(Parts {
            info: Arc::clone(originals.info),
            ir_version: originals.ir_version,
            nodes,
            constants,
            domains: originals.domains.to_vec(),
        })
    }

    fn operator_sets(&self) -> Vec<OperatorSetIdProto> {
        let set = |domain: Option<&String>, version| OperatorSetIdProto {
            domain: domain.cloned(),
            version: Some(version),
        };
        let others = self.domains.iter();
        let others = others.map(|(domain, version)| set(Some(domain), *version));
        std::iter::once(set(None, self.info.opset))
            .chain(others)
            .collect()
    }

    /// The model.
    pub fn info(&self) -> &Arc<ModelInfo> {
        &self.info
    }

    /// The layers of a range as an ONNX file. `batch`: the first size of its inputs and outputs; `None` leaves it open.
    /// `Err`: the range goes beyond the last cut point.
    pub fn part(&self, range: StageRange, batch: Option<usize>) -> Result<Part, ModelError> {
        let wrong =
            |what: String| ModelError::new(ModelErrorKind::Malformed, what, "").in_file(&self.info.file);
        let ends = self.info.cut(range.from()).zip(self.info.cut(range.to()));
        let (from, to) = ends.ok_or_else(|| {
            let last = self.info.last();
            wrong(format!("layers {range} go beyond the last cut point {last}"))
        })?;
        let segments = range.segments();
        let passing = self.info.passing(range);
        let outputs: Vec<usize> = (0..to.tensors.len()).filter(|&i| passing[i].is_none()).collect();
        let mut wanted: HashSet<&str> = outputs.iter().map(|&i| to.tensors[i].name.as_str()).collect();
        let mut nodes = vec![];
        for (segment, node) in self.nodes.iter().rev() {
            let inside = segment.is_none_or(|s| segments.contains(&s));
            if inside && node.output.iter().any(|o| wanted.contains(o.as_str())) {
                wanted.extend(node.input.iter().map(String::as_str));
                nodes.push(node.clone());
            }
        }
        nodes.reverse();
        let inputs: Vec<usize> = (0..from.tensors.len())
            .filter(|&i| wanted.contains(from.tensors[i].name.as_str()))
            .collect();
        let initializer = self.constants.iter();
        let initializer = initializer.filter(|(name, _)| wanted.contains(name.as_str()));
        let proto = ModelProto {
            ir_version: self.ir_version,
            producer_name: Some("graft".to_owned()),
            opset_import: self.operator_sets(),
            graph: Some(GraphProto {
                node: nodes,
                initializer: initializer.map(|(_, tensor)| tensor.clone()).collect(),
                input: inputs
                    .iter()
                    .map(|&i| value_info(&from.tensors[i], batch))
                    .collect(),
                output: outputs
                    .iter()
                    .map(|&i| value_info(&to.tensors[i], batch))
                    .collect(),
                value_info: vec![],
            }),
            ..ModelProto::default()
        };
        let bytes = proto.write_buf();
        let bytes = bytes.map_err(|e| wrong(format!("can't be written: {e}")))?;
        let bytes = with_graph_name(&bytes, "graft").map_err(|e| wrong(format!("can't be written: {e}")))?;
        Ok(Part {
            bytes,
            inputs,
            outputs,
        })
    }
}

/// The layers of a range as an ONNX file, and which of the tensors at its ends it reads and makes. Those that only pass,
/// and those that none of these layers reads, are neither its inputs nor its outputs.
#[derive(Debug, Clone)]
pub struct Part {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its inputs: places among the tensors of the range's first cut point.
    pub inputs: Vec<usize>,
    /// Its outputs: places among the tensors of the range's last cut point.
    pub outputs: Vec<usize>,
}

/// A file of weights, one after the other.
pub(crate) struct WeightsFile<W> {
    file: W,
    at: u64,
}

impl<W: Write> WeightsFile<W> {
    pub fn new(file: W) -> Self {
        WeightsFile { file, at: 0 }
    }

    /// Writes a tensor's elements if there are many, and gives the tensor that says where they are; else gives the
    /// tensor as it is.
    pub fn put(&mut self, dtype: DType, tensor: &TensorProto) -> io::Result<TensorProto> {
        let elements = raw(dtype, tensor);
        if elements.len() < LARGE_BYTES {
            return Ok(tensor.clone());
        }
        let start = self.at.next_multiple_of(ALIGNED_BYTES);
        let gap = vec![0; (start - self.at) as usize];
        self.file.write_all(&gap)?;
        self.file.write_all(&elements)?;
        self.at = start + elements.len() as u64;
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value),
        };
        Ok(TensorProto {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            data_type: tensor.data_type,
            data_location: Some(DataLocation::EXTERNAL),
            external_data: vec![
                entry("location", Parts::WEIGHTS.to_owned()),
                entry("offset", start.to_string()),
                entry("length", elements.len().to_string()),
            ],
            ..TensorProto::default()
        })
    }

    pub fn close(mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The elements of a tensor of the file, little-endian.
fn raw(dtype: DType, tensor: &TensorProto) -> Vec<u8> {
    if let Some(raw) = &tensor.raw_data {
        return raw.borrow().clone();
    }
    let words = &tensor.int32_data;
    match dtype {
        DType::F32 => tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 => tensor.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I32 => words.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => words.iter().flat_map(|&v| (v as u16).to_le_bytes()).collect(),
        DType::I8 | DType::U8 | DType::Bool => words.iter().map(|&v| v as u8).collect(),
    }
}
