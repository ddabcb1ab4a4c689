//! Products of matrices.

use super::{Op, Outcome, Ruling, broadcast, malformed, mixes_batch};
use crate::dim::{Dim, elements, show};

pub(super) fn gemm(op: &Op<'_>) -> Ruling {
    let (a, b) = (op.required(0)?, op.required(1)?);
    if a.dims.len() != 2 || b.dims.len() != 2 {
        return Err(malformed("Gemm takes two matrices"));
    }
    let pick = |dims: &[Dim], transposed: bool| {
        if transposed {
            (dims[1], dims[0])
        } else {
            (dims[0], dims[1])
        }
    };
    let (m, k) = pick(&a.dims, op.int("transA", 0) != 0);
    let (k2, n) = pick(&b.dims, op.int("transB", 0) != 0);
    if k.batch {
        return Err(mixes_batch("Gemm sums over the batch"));
    }
    if k2.batch {
        return Err(mixes_batch("Gemm sums over the batch"));
    }
    if k != k2 {
        return Err(malformed(format!(
            "Gemm of {} and {}",
            show(&a.dims),
            show(&b.dims)
        )));
    }
    let out = vec![m, n];
    let flops = 2 * elements(&out)? as u64 * k.coef as u64;
    Ok(Outcome::one(out, a.dtype).costing(flops))
}

pub(super) fn matmul(op: &Op<'_>) -> Ruling {
    let (a, b) = (op.required(0)?, op.required(1)?);
    if a.dims.is_empty() || b.dims.is_empty() {
        return Err(malformed("MatMul of a scalar"));
    }
    let mut left = a.dims.clone();
    let mut right = b.dims.clone();
    let (row, column) = (left.len() == 1, right.len() == 1);
    if row {
        left.insert(0, Dim::ONE);
    }
    if column {
        right.push(Dim::ONE);
    }
    let (k, k2) = (left[left.len() - 1], right[right.len() - 2]);
    if k.batch {
        return Err(mixes_batch("MatMul sums over the batch"));
    }
    if k2.batch {
        return Err(mixes_batch("MatMul sums over the batch"));
    }
    if k != k2 {
        return Err(malformed(format!(
            "MatMul of {} and {}",
            show(&a.dims),
            show(&b.dims)
        )));
    }
    let mut out = broadcast(&left[..left.len() - 2], &right[..right.len() - 2])?;
    out.push(left[left.len() - 2]);
    out.push(right[right.len() - 1]);
    let flops = (2 * elements(&out)? as u64).saturating_mul(k.coef as u64);
    if column {
        out.pop();
    }
    if row {
        out.remove(out.len() - if column { 1 } else { 2 });
    }
    Ok(Outcome::one(out, a.dtype).costing(flops))
}
