//! Cut points, segments, stages' ranges and a model's identity.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::dim::DType;

/// Version of the rules by which cut points are numbered; part of a model's identity.
///
/// Rules of version 1: nodes in the file's order, without those that depend on constants and shapes only
/// and without `Identity` and `Dropout`; a cut point after each prefix of them that leaves exactly one
/// tensor to be used later, which has the batch as its first dimension and nowhere else.
pub const NUMBERING: u32 = 1;

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

/// One cut point: the tensor that crosses there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cut {
    /// Name of the tensor in the ONNX file.
    pub tensor: String,
    /// Shape for one request, without the batch dimension.
    pub shape: Vec<usize>,
    /// Type of its elements.
    pub dtype: DType,
    /// Elements for one request.
    pub elements: usize,
}

impl Cut {
    /// Bytes of one request's tensor in the model's own element type.
    pub fn bytes(&self) -> usize {
        self.elements * self.dtype.bytes()
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
