//! Test data sets as ONNX models carry them: `test_data_set_0/input_0.pb` and `output_0.pb`, each a TensorProto, with one
//! more of each for every further input and output.

use std::path::Path;

use rten_onnx::onnx::{ModelProto, TensorProto};

use crate::batch::Batch;
use crate::cut::TensorSpec;
use crate::dim::DType;
use crate::error::{ModelError, ModelErrorKind};
use crate::framing::MessageError;
use crate::info::ModelInfo;
use crate::tensor::{Elements, Tensor};

/// Inputs, and the outputs that are right for them.
#[derive(Debug, Clone)]
pub struct DataSet {
    /// For cut point 0.
    pub inputs: Batch,
    /// The right outputs' elements in row-major order, the batch first.
    pub outputs: Vec<Numbers>,
}

impl DataSet {
    /// Advice about a data set that can't be used.
    pub const HINT: &str = "A test data set has input_0.pb and output_0.pb, and so on for each input and output, each a TensorProto";

    /// Reads the contents of `input_0.pb`, …, and of `output_0.pb`, ….
    pub fn parse(
        inputs: &[impl AsRef<[u8]>],
        outputs: &[impl AsRef<[u8]>],
        info: &ModelInfo,
    ) -> Result<Self, ModelError> {
        fn of(name: &str, files: &[impl AsRef<[u8]>]) -> Result<Vec<Numbers>, ModelError> {
            let read = files.iter().enumerate();
            read.map(|(i, bytes)| numbers(bytes.as_ref()).map_err(|e| wrong(format!("{name}_{i}.pb {e}"))))
                .collect()
        }
        Self::of(of("input", inputs)?, of("output", outputs)?, info)
    }

    /// A data set from the elements of inputs and outputs, in the model's order; `file` is for messages.
    pub fn new(
        file: &Path,
        inputs: Vec<Numbers>,
        outputs: Vec<Numbers>,
        info: &ModelInfo,
    ) -> Result<Self, ModelError> {
        Self::of(inputs, outputs, info).map_err(|e| e.in_file(file))
    }

    fn of(inputs: Vec<Numbers>, outputs: Vec<Numbers>, info: &ModelInfo) -> Result<Self, ModelError> {
        let (of, to) = (&info.inputs().tensors, &info.outputs().tensors);
        for (what, got, want) in [
            ("inputs", inputs.len(), of.len()),
            ("outputs", outputs.len(), to.len()),
        ] {
            if got != want {
                return Err(wrong(format!("there are {got} {what}, the model has {want}")));
            }
        }
        let tensors = inputs
            .into_iter()
            .zip(of)
            .map(|(numbers, spec)| numbers.into_tensor(spec));
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        let inputs = Batch::new(tensors).map_err(|e| wrong(e.to_string()))?;
        let outputs = outputs
            .into_iter()
            .zip(to)
            .map(|(numbers, spec)| numbers.batch_first(spec));
        Ok(DataSet {
            inputs,
            outputs: outputs.collect(),
        })
    }
}

/// A file that holds no tensor, or none that is read.
#[derive(Debug, thiserror::Error)]
enum NoTensor {
    #[error("is no tensor: {0}")]
    Message(#[from] MessageError),
    #[error("is no tensor: {0}")]
    Unread(String),
    #[error("is no tensor")]
    Empty,
    /// Type of the elements, as a number of `TensorProto.DataType`.
    #[error("has element type {0}, which is not read")]
    ElementType(i32),
}

/// The elements of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// Values in row-major order.
    pub values: Vec<f64>,
    /// Their type.
    pub dtype: DType,
}

impl Numbers {
    /// The elements with the batch as the first dimension, where the file's tensor has it elsewhere.
    pub fn batch_first(self, spec: &TensorSpec) -> Self {
        let before: usize = spec.shape.iter().take(spec.batch_axis).product();
        let after: usize = spec.shape.iter().skip(spec.batch_axis).product();
        let requests = self.values.len() / spec.elements.max(1);
        if before <= 1 || requests <= 1 || requests * spec.elements != self.values.len() {
            return self;
        }
        let mut values = Vec::with_capacity(self.values.len());
        for request in 0..requests {
            for outer in 0..before {
                let start = (outer * requests + request) * after;
                values.extend_from_slice(&self.values[start..start + after]);
            }
        }
        Numbers { values, ..self }
    }

    /// The elements as a model's input.
    fn into_tensor(self, spec: &TensorSpec) -> Result<Tensor, ModelError> {
        let name = &spec.name;
        let requests = self.values.len() / spec.elements.max(1);
        if requests == 0 || requests * spec.elements != self.values.len() {
            return Err(wrong(format!(
                "input {name} has {} elements, a request takes {}",
                self.values.len(),
                spec.elements
            )));
        }
        let whole = |v: f64| match spec.dtype {
            DType::U8 => v as u8 as f64 == v,
            DType::I8 => v as i8 as f64 == v,
            DType::I32 | DType::Bool => v as i32 as f64 == v,
            // Beyond 2^53 a 64-bit float does not hold every integer, and this may be another than the file's.
            DType::I64 => v.fract() == 0.0 && v.abs() <= 9_007_199_254_740_992.0,
            _ => true,
        };
        if let Some(&far) = self.values.iter().find(|&&v| !whole(v)) {
            return Err(wrong(format!(
                "input {name} holds {far}, which is not compared as {}",
                spec.dtype
            )));
        }
        let moved = self.batch_first(spec);
        let elements = Elements::of(spec.dtype, moved.values.into_iter());
        Tensor::new(requests, spec.shape.clone(), elements).map_err(|e| wrong(e.to_string()))
    }

    /// Reads little-endian bytes; bytes left over at the end are ignored.
    pub fn from_bytes(dtype: DType, bytes: &[u8]) -> Self {
        let chunks = bytes.chunks_exact(dtype.bytes());
        let values = match dtype {
            DType::F32 => chunks.map(|c| f64::from(f32::from_le_bytes(of(c)))).collect(),
            DType::F64 => chunks.map(|c| f64::from_le_bytes(of(c))).collect(),
            DType::F16 => chunks.map(|c| half::f16::from_le_bytes(of(c)).to_f64()).collect(),
            DType::I64 => chunks.map(|c| i64::from_le_bytes(of(c)) as f64).collect(),
            DType::I32 => chunks.map(|c| f64::from(i32::from_le_bytes(of(c)))).collect(),
            DType::I8 => bytes.iter().map(|&b| f64::from(b as i8)).collect(),
            DType::U8 | DType::Bool => bytes.iter().map(|&b| f64::from(b)).collect(),
        };
        Numbers { values, dtype }
    }
}

fn wrong(what: String) -> ModelError {
    ModelError::new(ModelErrorKind::Data, what, DataSet::HINT)
}

fn numbers(bytes: &[u8]) -> Result<Numbers, NoTensor> {
    crate::framing::check_tensor(bytes)?;
    let tensor = parsed(bytes)?;
    let code = tensor.data_type.map_or(0, |t| t.0);
    let dtype = DType::from_onnx(code).ok_or(NoTensor::ElementType(code))?;
    let values = match &tensor.raw_data {
        Some(raw) => return Ok(Numbers::from_bytes(dtype, &raw.borrow())),
        None => match dtype {
            DType::F32 => tensor.float_data.iter().map(|&v| f64::from(v)).collect(),
            DType::F64 => tensor.double_data.clone(),
            DType::I64 => tensor.int64_data.iter().map(|&v| v as f64).collect(),
            DType::F16 => tensor
                .int32_data
                .iter()
                .map(|&v| half::f16::from_bits(v as u16).to_f64())
                .collect(),
            _ => tensor.int32_data.iter().map(|&v| f64::from(v)).collect(),
        },
    };
    Ok(Numbers { values, dtype })
}

/// Parses a tensor file. The parser reads whole models only, so the tensor is made the only initializer (field 5) of a
/// graph (field 7).
fn parsed(bytes: &[u8]) -> Result<TensorProto, NoTensor> {
    let enclosed = |field: u8, bytes: &[u8]| {
        let mut out = vec![field << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(bytes);
        out
    };
    let model = ModelProto::parse_buf(&enclosed(7, &enclosed(5, bytes)));
    let graph = model.map_err(|e| NoTensor::Unread(e.to_string()))?.graph;
    let tensor = graph.and_then(|mut g| g.initializer.pop());
    tensor.ok_or(NoTensor::Empty)
}

fn of<const N: usize>(chunk: &[u8]) -> [u8; N] {
    chunk.try_into().unwrap_or([0; N])
}
