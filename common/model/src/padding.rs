//! Tensors filled up to a larger shape.

use crate::batch::Batch;
use crate::cut::Cut;
use crate::dim::DType;
use crate::tensor_error::TensorError;

/// One element of a type, little-endian; numbers that the type does not hold become the nearest that it does.
fn element(dtype: DType, value: f64) -> Vec<u8> {
    match dtype {
        DType::F32 => (value as f32).to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
        DType::F64 => value.to_le_bytes().to_vec(),
        DType::I64 => (value as i64).to_le_bytes().to_vec(),
        DType::I32 => (value as i32).to_le_bytes().to_vec(),
        DType::U8 => vec![value as u8],
        DType::I8 => (value as i8).to_le_bytes().to_vec(),
        DType::Bool => vec![u8::from(value != 0.0)],
    }
}

/// Elements of so many rows of shape `from`, in row-major order and little-endian, filled up with `fill` at the ends of
/// their dimensions so that each row has shape `to`. `None`: `to` is smaller somewhere, has another rank, or the bytes are
/// not those of the rows.
pub fn padded(
    bytes: &[u8],
    rows: usize,
    (from, to): (&[usize], &[usize]),
    dtype: DType,
    fill: f64,
) -> Option<Vec<u8>> {
    let larger = from.len() == to.len() && from.iter().zip(to).all(|(from, to)| from <= to);
    let of = |shape: &[usize]| shape.iter().try_fold(rows, |n, &d| n.checked_mul(d));
    let (given, wanted) = (of(from)?, of(to)?);
    let width = dtype.bytes();
    if !larger || bytes.len() != given.checked_mul(width)? {
        return None;
    }
    let mut out = element(dtype, fill).repeat(wanted);
    // Elements of the last dimension lie side by side, before and after.
    let (lines, line) = match from.split_last() {
        Some((&last, outer)) => (rows * outer.iter().product::<usize>(), last * width),
        None => (rows, width),
    };
    let outer = from.len().saturating_sub(1);
    for number in 0..lines {
        // Where the line stands in the larger shape: its place in each outer dimension, from the last to the first.
        let (mut rest, mut at, mut stride) = (number, 0, to.last().copied().unwrap_or(1));
        for d in (0..outer).rev() {
            at += rest % from[d] * stride;
            rest /= from[d];
            stride *= to[d];
        }
        let at = (at + rest * stride) * width;
        out[at..at + line].copy_from_slice(&bytes[number * line..(number + 1) * line]);
    }
    Some(out)
}

impl Batch {
    /// The batch filled up to what crosses at a cut point: `fill` gives, by a tensor's name, with what. `Ok(None)`: a tensor
    /// is too large, has another rank, or may not be filled up.
    pub fn padded_to(
        &self,
        cut: &Cut,
        fill: impl Fn(&str) -> Option<f64>,
    ) -> Result<Option<Batch>, TensorError> {
        if self.fits(cut) {
            return Ok(Some(self.clone()));
        }
        if self.tensors().len() != cut.tensors.len() {
            return Ok(None);
        }
        let mut sent = vec![];
        for (tensor, spec) in self.tensors().iter().zip(&cut.tensors) {
            let dtype = tensor.dtype();
            let bytes = tensor.to_bytes(dtype)?;
            let with = if tensor.shape() == spec.shape {
                Some(0.0)
            } else {
                fill(&spec.name)
            };
            let shapes = (tensor.shape(), spec.shape.as_slice());
            let Some(bytes) = with.and_then(|with| padded(&bytes, self.requests(), shapes, dtype, with))
            else {
                return Ok(None);
            };
            sent.push((dtype, bytes));
        }
        let tensors = cut.tensors.iter().zip(&sent).map(|(spec, (dtype, bytes))| {
            let width = spec.elements * dtype.bytes();
            let rows: Vec<(DType, &[u8])> = bytes.chunks(width.max(1)).map(|row| (*dtype, row)).collect();
            crate::tensor::Tensor::from_requests(spec, &rows)
        });
        Batch::new(tensors.collect::<Result<_, _>>()?).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_filled_up_at_the_ends_of_their_dimensions() {
        // Two rows of 2 × 2 become two of 3 × 3.
        let bytes: Vec<u8> = (1..=8).collect();
        let out = padded(&bytes, 2, (&[2, 2], &[3, 3]), DType::U8, 9.0).unwrap();
        assert_eq!(out, [1, 2, 9, 3, 4, 9, 9, 9, 9, 5, 6, 9, 7, 8, 9, 9, 9, 9]);
        let halves = padded(&[0, 60], 1, (&[1], &[2]), DType::F16, 1.0).unwrap();
        assert_eq!(halves, [0, 60, 0, 60]);
        assert_eq!(
            padded(&bytes, 2, (&[2, 2], &[2, 2]), DType::U8, 9.0).unwrap(),
            bytes
        );
        assert_eq!(padded(&bytes, 2, (&[4], &[3]), DType::U8, 0.0), None);
        assert_eq!(padded(&bytes, 2, (&[4], &[2, 2]), DType::U8, 0.0), None);
        assert_eq!(padded(&bytes, 3, (&[2], &[3]), DType::U8, 0.0), None);
        assert_eq!(padded(&[7], 1, (&[], &[]), DType::I8, 0.0).unwrap(), [7]);
    }
}
