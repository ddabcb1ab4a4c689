//! Tensors on the host: elements of one tensor for some requests, and how they travel.

use crate::cut::TensorSpec;
use crate::dim::DType;
use crate::splitmix::SplitMix;
use crate::tensor_error::TensorError;

/// Elements of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Elements {
    /// Floats.
    F32(Vec<f32>),
    /// Integers of 32 bits; truth values are held as 0 and 1.
    I32(Vec<i32>),
    /// Integers of 64 bits.
    I64(Vec<i64>),
    /// 8-bit unsigned integers.
    U8(Vec<u8>),
    /// 8-bit signed integers.
    I8(Vec<i8>),
}

impl Elements {
    /// Numbers as elements of a type are held: 16-bit floats as 32-bit ones, truth values as 32-bit integers.
    pub fn of(dtype: DType, numbers: impl Iterator<Item = f64>) -> Self {
        match dtype {
            DType::F32 | DType::F16 | DType::F64 => Elements::F32(numbers.map(|v| v as f32).collect()),
            DType::U8 => Elements::U8(numbers.map(|v| v as u8).collect()),
            DType::I8 => Elements::I8(numbers.map(|v| v as i8).collect()),
            DType::I64 => Elements::I64(numbers.map(|v| v as i64).collect()),
            DType::I32 | DType::Bool => Elements::I32(numbers.map(|v| v as i32).collect()),
        }
    }
}

/// One tensor of a batch: `requests` rows of shape `shape`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    requests: usize,
    shape: Vec<usize>,
    elements: Elements,
}

/// Float nearest to zero that requests are computed with, 2^-100 (7.9e-31). Its products with weights of 2^-26 and more are numbers that processors
/// hold in full. What a softmax gives so near to zero is zero in 32 bits soon after (at e^-87).
pub const LEAST_FLOAT: f32 = 1.0 / (1u128 << 100) as f32;

impl Tensor {
    /// A tensor of elements in row-major order.
    pub fn new(requests: usize, shape: Vec<usize>, elements: Elements) -> Result<Self, TensorError> {
        let (got, dtype) = match &elements {
            Elements::F32(v) => (v.len(), DType::F32),
            Elements::I32(v) => (v.len(), DType::I32),
            Elements::I64(v) => (v.len(), DType::I64),
            Elements::U8(v) => (v.len(), DType::U8),
            Elements::I8(v) => (v.len(), DType::I8),
        };
        let want = count(requests, &shape);
        if want != Some(got) {
            return Err(TensorError::Size {
                got: got * dtype.bytes(),
                want: want.unwrap_or(usize::MAX).saturating_mul(dtype.bytes()),
                requests,
                shape,
                dtype,
            });
        }
        Ok(Tensor {
            requests,
            shape,
            elements,
        })
    }

    /// A tensor of a cut point, from the bytes of its requests as they were sent (little-endian).
    pub fn from_requests(spec: &TensorSpec, requests: &[(DType, &[u8])]) -> Result<Self, TensorError> {
        let want_float = matches!(spec.dtype, DType::F32 | DType::F16);
        let mut floats: Vec<f32> = vec![];
        let mut ints: Vec<i32> = vec![];
        let mut longs: Vec<i64> = vec![];
        let long = spec.dtype == DType::I64;
        let mut bytes_of: Vec<u8> = vec![];
        if want_float {
            floats.reserve_exact(spec.elements.saturating_mul(requests.len()));
        }
        for &(dtype, bytes) in requests {
            let want = spec.elements.saturating_mul(dtype.bytes());
            if bytes.len() != want {
                return Err(TensorError::Size {
                    got: bytes.len(),
                    want,
                    requests: 1,
                    shape: spec.shape.clone(),
                    dtype,
                });
            }
            match (want_float, dtype) {
                (false, DType::U8 | DType::I8) if dtype == spec.dtype => bytes_of.extend_from_slice(bytes),
                (false, _) if matches!(spec.dtype, DType::U8 | DType::I8) => {
                    return Err(TensorError::Type {
                        sent: dtype,
                        wanted: spec.dtype,
                    });
                }
                (true, DType::F32) => floats.extend(words(bytes).map(f32::from_le_bytes)),
                (true, DType::F16) => floats.extend(
                    bytes
                        .as_chunks::<2>()
                        .0
                        .iter()
                        .map(|&b| half::f16::from_le_bytes(b).to_f32()),
                ),
                (false, DType::I32) if long => {
                    longs.extend(words(bytes).map(i32::from_le_bytes).map(i64::from))
                }
                (false, DType::I32) => ints.extend(words(bytes).map(i32::from_le_bytes)),
                (false, DType::Bool) if spec.dtype == DType::Bool => {
                    ints.extend(bytes.iter().map(|&b| i32::from(b != 0)));
                }
                (false, DType::I64) if long => {
                    let all = bytes.as_chunks::<8>().0.iter();
                    longs.extend(all.map(|&b| i64::from_le_bytes(b)));
                }
                _ => {
                    return Err(TensorError::Type {
                        sent: dtype,
                        wanted: spec.dtype,
                    });
                }
            }
        }
        let elements = match spec.dtype {
            _ if want_float => Elements::F32(floats),
            DType::U8 => Elements::U8(bytes_of),
            DType::I8 => Elements::I8(bytes_of.into_iter().map(|b| b as i8).collect()),
            DType::I64 => Elements::I64(longs),
            _ => Elements::I32(ints),
        };
        Tensor::new(requests.len(), spec.shape.clone(), elements)
    }

    /// Number of rows, one for each request.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Shape of one row.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All elements, row after row.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// Takes the elements out of the tensor.
    pub fn into_elements(self) -> Elements {
        self.elements
    }

    /// Type of the elements as held.
    pub fn dtype(&self) -> DType {
        match self.elements {
            Elements::F32(_) => DType::F32,
            Elements::I32(_) => DType::I32,
            Elements::I64(_) => DType::I64,
            Elements::U8(_) => DType::U8,
            Elements::I8(_) => DType::I8,
        }
    }

    /// The elements as floats; `None` for integers.
    pub fn floats(&self) -> Option<&[f32]> {
        match &self.elements {
            Elements::F32(v) => Some(v),
            _ => None,
        }
    }

    /// Whether there is neither NaN nor an infinite number among the elements.
    pub fn is_finite(&self) -> bool {
        // An exponent of ones means NaN or infinity. Without an early end the loop is a few instructions for eight
        // elements, and what is looked for is seldom there.
        const EXPONENT: u32 = 0x7f80_0000;
        let found = |v: &[f32]| {
            v.iter()
                .fold(false, |any, x| any | (x.to_bits() & EXPONENT == EXPONENT))
        };
        self.floats().is_none_or(|v| !found(v))
    }

    /// Makes floats that are nearer to zero than [`LEAST_FLOAT`] zeros. Processors take a hundred times as long for what they can't hold in
    /// full (subnormal numbers, IEEE 754), and a few of those among a batch's would slow down all of it.
    pub fn flush_tiny(&mut self) {
        if let Elements::F32(values) = &mut self.elements {
            for value in values {
                // Not a number stays what it is.
                *value = if value.abs() < LEAST_FLOAT { 0.0 } else { *value };
            }
        }
    }

    /// One row, as a batch of one. `None`: there is no such row.
    pub fn row(&self, row: usize) -> Option<Tensor> {
        let width = count(1, &self.shape)?;
        let range = row.checked_mul(width)?..(row + 1).checked_mul(width)?;
        let elements = match &self.elements {
            Elements::F32(v) => Elements::F32(v.get(range)?.to_vec()),
            Elements::I32(v) => Elements::I32(v.get(range)?.to_vec()),
            Elements::I64(v) => Elements::I64(v.get(range)?.to_vec()),
            Elements::U8(v) => Elements::U8(v.get(range)?.to_vec()),
            Elements::I8(v) => Elements::I8(v.get(range)?.to_vec()),
        };
        Some(Tensor {
            requests: 1,
            shape: self.shape.clone(),
            elements,
        })
    }

    /// Batches of one shape joined. `None`: none, or of different shapes or types.
    pub fn join<'t>(parts: impl IntoIterator<Item = &'t Tensor>) -> Option<Tensor> {
        let mut parts = parts.into_iter();
        let mut out = parts.next()?.clone();
        for part in parts {
            if part.shape != out.shape {
                return None;
            }
            match (&mut out.elements, &part.elements) {
                (Elements::F32(a), Elements::F32(b)) => a.extend_from_slice(b),
                (Elements::I32(a), Elements::I32(b)) => a.extend_from_slice(b),
                (Elements::I64(a), Elements::I64(b)) => a.extend_from_slice(b),
                (Elements::U8(a), Elements::U8(b)) => a.extend_from_slice(b),
                (Elements::I8(a), Elements::I8(b)) => a.extend_from_slice(b),
                _ => return None,
            }
            out.requests += part.requests;
        }
        Some(out)
    }

    /// The bytes to send, little-endian. Floats may travel as [`DType::F16`].
    pub fn to_bytes(&self, dtype: DType) -> Result<Vec<u8>, TensorError> {
        match (&self.elements, dtype) {
            (Elements::F32(v), DType::F32) if cfg!(target_endian = "little") => {
                Ok(bytemuck::cast_slice(v).to_vec())
            }
            (Elements::F32(v), DType::F32) => Ok(v.iter().flat_map(|x| x.to_le_bytes()).collect()),
            (Elements::F32(v), DType::F16) => Ok(v
                .iter()
                .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
                .collect()),
            (Elements::U8(v), DType::U8) => Ok(v.clone()),
            (Elements::I8(v), DType::I8) => Ok(v.iter().map(|&x| x as u8).collect()),
            (Elements::I32(v), DType::Bool) => Ok(v.iter().map(|&x| u8::from(x != 0)).collect()),
            (Elements::I32(v), DType::I32) => Ok(v.iter().flat_map(|x| x.to_le_bytes()).collect()),
            (Elements::I64(v), DType::I64) => Ok(v.iter().flat_map(|x| x.to_le_bytes()).collect()),
            _ => Err(TensorError::Type {
                sent: dtype,
                wanted: self.dtype(),
            }),
        }
    }

    /// Largest difference of two tensors, element by element, and the largest magnitude in `self`.
    /// `None`: shapes or types differ. A NaN in one of them alone gives an infinite difference.
    pub fn difference(&self, other: &Tensor) -> Option<(f64, f64)> {
        if self.shape != other.shape || self.requests != other.requests {
            return None;
        }
        if self.dtype() != other.dtype() {
            return None;
        }
        Some(largest_difference(self.numbers(), other.numbers()))
    }

    /// The elements as numbers.
    pub fn numbers(&self) -> Box<dyn Iterator<Item = f64> + '_> {
        match &self.elements {
            Elements::F32(v) => Box::new(v.iter().map(|&x| f64::from(x))),
            Elements::I32(v) => Box::new(v.iter().map(|&x| f64::from(x))),
            Elements::I64(v) => Box::new(v.iter().map(|&x| x as f64)),
            Elements::U8(v) => Box::new(v.iter().map(|&x| f64::from(x))),
            Elements::I8(v) => Box::new(v.iter().map(|&x| f64::from(x))),
        }
    }

    /// A reproducible tensor for checks and measurements: floats in [-1, 1), integers 0 or 1.
    pub fn pseudo_random(spec: &TensorSpec, requests: usize, seed: u64) -> Tensor {
        let mut numbers = SplitMix(seed ^ 0x9e37_79b9_7f4a_7c15);
        let mut next = move || numbers.bits();
        let len = spec.elements * requests;
        let elements = if matches!(spec.dtype, DType::F32 | DType::F16) {
            Elements::F32(
                (0..len)
                    .map(|_| (next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
                    .collect(),
            )
        } else {
            match spec.dtype {
                DType::U8 => Elements::U8((0..len).map(|_| next() as u8).collect()),
                DType::I8 => Elements::I8((0..len).map(|_| next() as i8).collect()),
                DType::I64 => Elements::I64((0..len).map(|_| (next() & 1) as i64).collect()),
                _ => Elements::I32((0..len).map(|_| (next() & 1) as i32).collect()),
            }
        };
        Tensor {
            requests,
            shape: spec.shape.clone(),
            elements,
        }
    }

    /// A tensor whose elements are all 0.
    pub fn zeros(spec: &TensorSpec, requests: usize) -> Tensor {
        let len = spec.elements.saturating_mul(requests);
        let elements = Elements::of(spec.dtype, std::iter::repeat_n(0.0, len));
        Tensor {
            requests,
            shape: spec.shape.clone(),
            elements,
        }
    }

    /// Whether it holds what crosses as `spec`: 16-bit floats are held as 32-bit ones, truth values as 32-bit integers.
    pub fn fits(&self, spec: &TensorSpec) -> bool {
        let held_as = match self.dtype() {
            DType::F32 => spec.is_float(),
            DType::I32 => matches!(spec.dtype, DType::I32 | DType::Bool),
            held => held == spec.dtype,
        };
        held_as && self.shape == spec.shape
    }
}

/// Largest difference of two lists of numbers, one by one, and the largest finite magnitude in the first.
///
/// Equal infinities, and NaN in the same place, differ by nothing; NaN in one place alone differs infinitely.
pub fn largest_difference(first: impl Iterator<Item = f64>, second: impl Iterator<Item = f64>) -> (f64, f64) {
    first.zip(second).fold((0.0f64, 0.0f64), |(worst, top), (a, b)| {
        let difference = if a == b || a.is_nan() && b.is_nan() {
            0.0
        } else if a.is_nan() || b.is_nan() {
            f64::INFINITY
        } else {
            (a - b).abs()
        };
        let magnitude = if a.is_finite() { a.abs() } else { 0.0 };
        (worst.max(difference), top.max(magnitude))
    })
}

fn count(requests: usize, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(requests, |n, &d| n.checked_mul(d))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.as_chunks::<4>().0.iter().copied()
}
