//! Sizes that may grow with the batch, and element types.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, ModelErrorKind};

/// Elements at most that a tensor of a model has for one request (4 Gi).
const MAX_ELEMENTS: u64 = 1 << 32;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte: 0 or 1.
    Bool,
    /// 64-bit IEEE float.
    F64,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::I8 | DType::U8 | DType::Bool => 1,
            DType::F16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::I64 | DType::F64 => 8,
        }
    }

    /// The type of a number of ONNX' `TensorProto.DataType`.
    pub(crate) fn from_onnx(code: i32) -> Option<Self> {
        Some(match code {
            1 => DType::F32,
            2 => DType::U8,
            3 => DType::I8,
            6 => DType::I32,
            7 => DType::I64,
            9 => DType::Bool,
            10 => DType::F16,
            11 => DType::F64,
            _ => return None,
        })
    }

    pub(crate) fn to_onnx(self) -> i32 {
        match self {
            DType::F32 => 1,
            DType::U8 => 2,
            DType::I8 => 3,
            DType::I32 => 6,
            DType::I64 => 7,
            DType::Bool => 9,
            DType::F16 => 10,
            DType::F64 => 11,
        }
    }

    /// Name used in manifests, JSON and messages: `f32`, `i64`, …
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::Bool => "bool",
            DType::F64 => "f64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A size: `coef`, or `coef` times the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dim {
    pub coef: usize,
    pub batch: bool,
    /// For a size that was merged with the batch, the elements that run outside of the batch in memory: a divisor of
    /// `coef`.
    pub outer: usize,
}

impl Dim {
    pub const ONE: Dim = Dim::fixed(1);
    pub const BATCH: Dim = Dim {
        coef: 1,
        batch: true,
        outer: 1,
    };

    pub const fn fixed(coef: usize) -> Self {
        Dim {
            coef,
            batch: false,
            outer: 1,
        }
    }

    /// The size, when it does not depend on the batch.
    pub fn known(self) -> Option<usize> {
        (!self.batch).then_some(self.coef)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.batch, self.coef) {
            (false, c) => write!(f, "{c}"),
            (true, 1) => f.write_str("N"),
            (true, c) => write!(f, "{c}N"),
        }
    }
}

/// Product of sizes; the batch may occur once.
pub(crate) fn product(dims: &[Dim]) -> Result<Dim, ModelError> {
    let mut out = Dim::ONE;
    for dim in dims {
        if dim.batch && out.batch {
            return Err(ModelError::new(
                ModelErrorKind::Batch,
                "the batch occurs in two dimensions of one tensor",
                "Graft needs every tensor to grow in one dimension with the batch",
            ));
        }
        if dim.batch {
            out.outer = out.coef.saturating_mul(dim.outer);
        }
        out.coef = checked(out.coef.checked_mul(dim.coef))?;
        out.batch |= dim.batch;
    }
    Ok(out)
}

/// Number of elements for one request.
pub(crate) fn elements(dims: &[Dim]) -> Result<usize, ModelError> {
    Ok(product(dims)?.coef)
}

fn checked(size: Option<usize>) -> Result<usize, ModelError> {
    match size {
        Some(n) if n as u64 <= MAX_ELEMENTS => Ok(n),
        _ => Err(ModelError::new(
            ModelErrorKind::Malformed,
            format!("a tensor has more than {MAX_ELEMENTS} elements"),
            "is the file damaged?",
        )),
    }
}

pub(crate) fn show(dims: &[Dim]) -> String {
    let list: Vec<String> = dims.iter().map(Dim::to_string).collect();
    format!("[{}]", list.join(", "))
}
