//! Test data sets as ONNX models carry them: `test_data_set_0/input_0.pb` and `output_0.pb`, each a TensorProto.

use std::path::Path;

use rten_onnx::onnx::{ModelProto, TensorProto};

use crate::cut::Cut;
use crate::dim::DType;
use crate::error::{ModelError, ModelErrorKind};
use crate::framing::MessageError;
use crate::tensor::{Elements, Tensor};

/// An input, and the output that is right for it.
#[derive(Debug, Clone)]
pub struct DataSet {
    /// Input, for cut point 0.
    pub input: Tensor,
    /// Elements of the output in row-major order.
    pub output: Vec<f64>,
    /// Type of the output's elements.
    pub dtype: DType,
}

impl DataSet {
    /// Advice about a data set that can't be used.
    pub const HINT: &str = "A test data set has input_0.pb and output_0.pb, each a TensorProto";

    /// Reads the contents of `input_0.pb` and `output_0.pb`, for a model whose input is `cut`.
    pub fn parse(input: &[u8], output: &[u8], cut: &Cut) -> Result<Self, ModelError> {
        let of = |name: &str, bytes: &[u8]| numbers(bytes).map_err(|e| wrong(format!("{name} {e}")));
        Self::of(of("input_0.pb", input)?, of("output_0.pb", output)?, cut)
    }

    /// A data set from the elements of input and output, for a model whose input is `cut`; `file` is for messages.
    pub fn new(file: &Path, input: Numbers, output: Numbers, cut: &Cut) -> Result<Self, ModelError> {
        Self::of(input, output, cut).map_err(|e| e.in_file(file))
    }

    fn of(input: Numbers, output: Numbers, cut: &Cut) -> Result<Self, ModelError> {
        let requests = input.values.len() / cut.elements.max(1);
        if requests == 0 || requests * cut.elements != input.values.len() {
            return Err(wrong(format!(
                "the input has {} elements, a request takes {}",
                input.values.len(),
                cut.elements
            )));
        }
        let whole = |v: f64| match cut.dtype {
            DType::U8 => v as u8 as f64 == v,
            DType::I8 => v as i8 as f64 == v,
            DType::I32 | DType::Bool => v as i32 as f64 == v,
            // Beyond 2^53 a 64-bit float does not hold every integer, and this may be another than the file's.
            DType::I64 => v.fract() == 0.0 && v.abs() <= 9_007_199_254_740_992.0,
            _ => true,
        };
        if let Some(&far) = input.values.iter().find(|&&v| !whole(v)) {
            return Err(wrong(format!(
                "the input holds {far}, which is not compared as {}",
                cut.dtype
            )));
        }
        let values = input.values.iter();
        let elements = match cut.dtype {
            DType::F32 | DType::F16 | DType::F64 => Elements::F32(values.map(|&v| v as f32).collect()),
            DType::U8 => Elements::U8(values.map(|&v| v as u8).collect()),
            DType::I8 => Elements::I8(values.map(|&v| v as i8).collect()),
            DType::I64 => Elements::I64(values.map(|&v| v as i64).collect()),
            DType::I32 | DType::Bool => Elements::I32(values.map(|&v| v as i32).collect()),
        };
        let input = Tensor::new(requests, cut.shape.clone(), elements).map_err(|e| wrong(e.to_string()))?;
        Ok(DataSet {
            input,
            output: output.values,
            dtype: output.dtype,
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
