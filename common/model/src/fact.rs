//! Facts: what is known of a tensor before the model runs.

use rten_onnx::onnx::{DataType, TensorProto};

use crate::dim::{DType, Dim};

/// Limits of magnitude that are tried for values from outside.
pub(crate) const LIMITS: [f64; 4] = [2_147_483_647.0, 16_777_216.0, 1_048_576.0, 65_536.0];

/// The largest magnitude of a tensor's elements under each of [`LIMITS`].
pub(crate) type Bound = [f64; LIMITS.len()];

/// Longest tensor whose values are followed (position numbers, shapes, scalars).
pub(crate) const MAX_SMALL: usize = 65_536;

/// A number: `coef`, or `coef` times the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Num {
    pub coef: f64,
    pub batch: bool,
}

impl Num {
    pub fn fixed(coef: f64) -> Self {
        Num { coef, batch: false }
    }

    pub fn int(self) -> Option<i64> {
        (!self.batch && self.coef.fract() == 0.0).then_some(self.coef as i64)
    }
}

impl From<Dim> for Num {
    fn from(dim: Dim) -> Self {
        Num {
            coef: dim.coef as f64,
            batch: dim.batch,
        }
    }
}

/// The values of a small tensor, in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Small {
    pub dims: Vec<usize>,
    pub nums: Vec<Num>,
}

impl Small {
    pub fn scalar(num: Num) -> Self {
        Small {
            dims: vec![],
            nums: vec![num],
        }
    }

    pub fn list(nums: Vec<Num>) -> Self {
        Small {
            dims: vec![nums.len()],
            nums,
        }
    }

    pub fn ints(&self) -> Option<Vec<i64>> {
        self.nums.iter().map(|n| n.int()).collect()
    }

    pub fn depends_on_batch(&self) -> bool {
        self.nums.iter().any(|n| n.batch)
    }
}

/// Origin of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Weights and what is computed from them alone.
    Constant,
    /// Shapes that name the batch, and what is computed from them.
    Sizes,
    /// The model's input, and what is computed from it.
    Data,
}

/// What is known of a tensor.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub dims: Vec<Dim>,
    pub dtype: DType,
    pub origin: Origin,
    /// Its values, where they are small and known.
    pub small: Option<Small>,
    /// How large its elements can get, where they are 64-bit integers that were computed.
    pub bound: Option<Bound>,
}

impl Fact {
    pub fn data(dims: Vec<Dim>, dtype: DType) -> Self {
        Fact {
            dims,
            dtype,
            origin: Origin::Data,
            small: None,
            bound: None,
        }
    }

    pub fn from_small(small: Small, dtype: DType) -> Self {
        Fact {
            dims: small.dims.iter().map(|&d| Dim::fixed(d)).collect(),
            dtype,
            origin: if small.depends_on_batch() {
                Origin::Sizes
            } else {
                Origin::Constant
            },
            small: Some(small),
            bound: None,
        }
    }

    pub fn is_data(&self) -> bool {
        self.origin == Origin::Data
    }
}

/// The values of a small tensor of the file. `None`: large, or of a type that is not followed.
pub(crate) fn small_of(tensor: &TensorProto, dims: &[usize], dtype: DType) -> Option<Small> {
    let len = dims
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= MAX_SMALL)?;
    let nums: Vec<f64> = match &tensor.raw_data {
        Some(raw) => {
            let raw = raw.borrow();
            if raw.len() != len * dtype.bytes() {
                return None;
            }
            let chunks = raw.chunks_exact(dtype.bytes());
            match dtype {
                DType::I64 => chunks
                    .map(|c| i64::from_le_bytes(c.try_into().unwrap_or_default()) as f64)
                    .collect(),
                DType::I32 => chunks
                    .map(|c| f64::from(i32::from_le_bytes(c.try_into().unwrap_or_default())))
                    .collect(),
                DType::F32 => chunks
                    .map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap_or_default())))
                    .collect(),
                DType::F64 => chunks
                    .map(|c| f64::from_le_bytes(c.try_into().unwrap_or_default()))
                    .collect(),
                DType::Bool | DType::U8 => raw.iter().map(|&b| f64::from(b)).collect(),
                DType::I8 | DType::F16 => return None,
            }
        }
        None => match dtype {
            DType::I64 => tensor.int64_data.iter().map(|&v| v as f64).collect(),
            DType::F32 => tensor.float_data.iter().map(|&v| f64::from(v)).collect(),
            DType::F64 => tensor.double_data.clone(),
            DType::I32 | DType::Bool | DType::U8 | DType::I8 => {
                tensor.int32_data.iter().map(|&v| f64::from(v)).collect()
            }
            DType::F16 => return None,
        },
    };
    // A 64-bit integer that a 64-bit float does not hold is not followed, but for the one next to the least: exporters write
    // it for "down to the first" where Slice goes backwards, and the least means the same there.
    let raw: Vec<i64> = match (&tensor.raw_data, dtype) {
        (Some(raw), DType::I64) => raw
            .borrow()
            .chunks_exact(8)
            .map(|c| i64::from_le_bytes(c.try_into().unwrap_or_default()))
            .collect(),
        _ => tensor.int64_data.clone(),
    };
    let is_held = |(&v, &n): (&i64, &f64)| n as i64 == v || v == i64::MIN + 1;
    if dtype == DType::I64 && !raw.iter().zip(&nums).all(is_held) {
        return None;
    }
    (nums.len() == len).then(|| Small {
        dims: dims.to_vec(),
        nums: nums.into_iter().map(Num::fixed).collect(),
    })
}

/// A tensor of the file with these values, which must not depend on the batch.
pub(crate) fn tensor_of(name: &str, small: &Small, dtype: DType) -> TensorProto {
    let mut tensor = TensorProto {
        name: Some(name.to_owned()),
        dims: small.dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(DataType(dtype.to_onnx())),
        ..TensorProto::default()
    };
    let values = small.nums.iter().map(|n| n.coef);
    match dtype {
        DType::F32 => tensor.float_data = values.map(|v| v as f32).collect(),
        DType::F16 => {
            let halves = values.flat_map(|v| half::f16::from_f64(v).to_le_bytes());
            tensor.raw_data = Some(halves.collect::<Vec<u8>>().into());
        }
        DType::F64 => tensor.double_data = values.collect(),
        DType::I64 => tensor.int64_data = values.map(|v| v as i64).collect(),
        DType::I32 | DType::Bool | DType::U8 | DType::I8 => {
            tensor.int32_data = values.map(|v| v as i32).collect();
        }
    }
    tensor
}
