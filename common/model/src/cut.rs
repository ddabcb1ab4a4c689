//! Cut points, segments, stages' ranges and a model's identity.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::dim::DType;
use crate::tensor_error::TensorError;

/// Version of the rules by which cut points are numbered; part of a model's identity.
///
/// Rules of version 2: nodes in the file's order, without those that depend on constants and shapes only
/// and without `Identity` and `Dropout`. The inputs are the first cut point, the outputs the last. Between them there is
/// one after each prefix of nodes that leaves exactly one tensor to be used later. Where more than 32 nodes lie between
/// two neighbours of these, there is one more, and again in what is left: of the prefixes that leave at most 8 tensors
/// with at most 64 MiB for one request, in the middle half of these nodes (or else anywhere among them), the one that leaves
/// the fewest tensors, then the fewest bytes, then the nearest to the middle, then the first; 1024 such at most. A tensor that crosses has
/// the batch as its first dimension and nowhere else, and, but for inputs and outputs, is neither made by DequantizeLinear nor
/// read by QuantizeLinear, or by a Relu, Clip, LeakyRelu, HardSigmoid, HardSwish or Sigmoid before it. Between the ends, 64-bit integers cross only alone, truth values only with others, 64-bit floats never.
pub const NUMBERING: u32 = 2;

/// A cut point's index: 0 is the model's input, the last is its output.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, Encode, Decode,
)]
#[serde(transparent)]
pub struct CutPoint(pub u16);

impl CutPoint {
    /// The number as an index into lists of cut points.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for CutPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The layers between cut points `from` and `to`, `from < to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageRange {
    from: CutPoint,
    to: CutPoint,
}

impl StageRange {
    /// A range. `None` unless `from < to`.
    pub fn new(from: CutPoint, to: CutPoint) -> Option<Self> {
        (from < to).then_some(Self { from, to })
    }

    /// Where the range begins.
    pub fn from(self) -> CutPoint {
        self.from
    }

    /// Where the range ends.
    pub fn to(self) -> CutPoint {
        self.to
    }

    /// Indexes of its segments.
    pub fn segments(self) -> std::ops::Range<usize> {
        self.from.index()..self.to.index()
    }
}

impl fmt::Display for StageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.from, self.to)
    }
}

/// A tensor that crosses at a cut point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Its name in the ONNX file.
    pub name: String,
    /// Shape for one request, without the batch dimension.
    pub shape: Vec<usize>,
    /// Type of its elements.
    pub dtype: DType,
    /// Elements for one request.
    pub elements: usize,
    /// Place of the batch among the dimensions of the file's tensor. Graft has it as the first everywhere: an input or
    /// output for which this is not 0 was turned.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub batch_axis: usize,
}

fn is_zero(axis: &usize) -> bool {
    *axis == 0
}

impl TensorSpec {
    /// Bytes for one request in the model's own element type.
    pub fn bytes(&self) -> usize {
        self.elements.saturating_mul(self.dtype.bytes())
    }

    /// Whether its elements are floats: these may travel in another float type.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, DType::F32 | DType::F16)
    }

    /// The element type in which it travels, if floats travel as `float`.
    pub fn sent_as(&self, float: DType) -> DType {
        if self.is_float() { float } else { self.dtype }
    }

    /// Whether elements that were sent as `sent` can be used for it.
    pub fn takes(&self, sent: DType) -> bool {
        match self.dtype {
            DType::F32 | DType::F16 => matches!(sent, DType::F32 | DType::F16),
            DType::I64 => matches!(sent, DType::I32 | DType::I64),
            own => sent == own,
        }
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.name, self.shape, self.dtype)
    }
}

/// A cut point: the tensors that cross there. A request hands them over one after the other, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// At least one: inputs and outputs as the file lists them, others as it makes them.
    pub tensors: Vec<TensorSpec>,
}

impl Cut {
    /// Elements of one request, of all tensors.
    pub fn elements(&self) -> usize {
        self.tensors
            .iter()
            .fold(0, |n: usize, t| n.saturating_add(t.elements))
    }

    /// Bytes of one request in the model's own element types.
    pub fn bytes(&self) -> usize {
        self.tensors
            .iter()
            .fold(0, |n: usize, t| n.saturating_add(t.bytes()))
    }

    /// Bytes of one request, if floats travel as `float`.
    pub fn bytes_sent(&self, float: DType) -> usize {
        let each = self.tensors.iter();
        each.map(|t| t.elements.saturating_mul(t.sent_as(float).bytes()))
            .fold(0, usize::saturating_add)
    }

    /// The element types in which its tensors travel, if floats travel as `float`.
    pub fn types_sent(&self, float: DType) -> Vec<DType> {
        self.tensors.iter().map(|t| t.sent_as(float)).collect()
    }

    /// Names of its tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|t| t.name.as_str())
    }

    /// Place of a tensor by its name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names().position(|n| n == name)
    }

    /// The tensor, where only one crosses.
    pub fn only(&self) -> Option<&TensorSpec> {
        match self.tensors.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The bytes of each of one request's tensors, whose elements are of these types.
    pub fn apart<'b>(&self, types: &[DType], bytes: &'b [u8]) -> Result<Vec<&'b [u8]>, TensorError> {
        self.check(types, bytes.len())?;
        let mut rest = bytes;
        let pairs = self.tensors.iter().zip(types);
        let each = pairs.map(|(tensor, sent)| {
            let (own, others) = rest.split_at(tensor.elements * sent.bytes());
            rest = others;
            own
        });
        Ok(each.collect())
    }

    /// Checks that `bytes` bytes with elements of these types are one request's tensors.
    pub fn check(&self, types: &[DType], bytes: usize) -> Result<(), TensorError> {
        if types.len() != self.tensors.len() {
            return Err(TensorError::Count {
                got: types.len(),
                want: self.to_string(),
            });
        }
        let pairs = self.tensors.iter().zip(types);
        if let Some((tensor, &sent)) = pairs.clone().find(|(t, sent)| !t.takes(**sent)) {
            return Err(TensorError::Type {
                sent,
                wanted: tensor.dtype,
            });
        }
        let want = pairs.map(|(t, sent)| t.elements.saturating_mul(sent.bytes()));
        let want = want.fold(0, usize::saturating_add);
        if want != bytes {
            return Err(TensorError::Bytes {
                got: bytes,
                want,
                cut: self.to_string(),
            });
        }
        Ok(())
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, tensor) in self.tensors.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            tensor.fmt(f)?;
        }
        Ok(())
    }
}

/// A segment: what lies between two neighbouring cut points.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Segment {
    /// Operators, in the file's order.
    pub nodes: Vec<String>,
    /// Floating-point operations for one request (a multiply-add counts as two).
    pub flops: u64,
    /// Bytes of the weights that this segment reads.
    pub weights_bytes: u64,
}

/// A model's identity: SHA-256 of its content and of the numbering's version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ModelId(pub [u8; 32]);

impl ModelId {
    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelId({})", self.short())
    }
}

/// Error: the text is no model identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a model's identity is 64 hexadecimal digits, this has {0} characters or others among them")]
pub struct NotAModelId(usize);

impl FromStr for ModelId {
    type Err = NotAModelId;

    fn from_str(text: &str) -> Result<Self, NotAModelId> {
        let wrong = || NotAModelId(text.chars().count());
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut id = [0u8; 32];
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(ModelId(id))
    }
}

impl Serialize for ModelId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
