//! Operators that pick elements by numbers that come from data.

use super::{Op, Outcome, Ruling, axis, dynamic, malformed, mixes_batch};
use crate::dim::{DType, Dim, elements, product, show};
use crate::error::{ModelError, ModelErrorKind};

/// The largest elements along an axis, and their places.
pub(super) fn top(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let at = axis(op.int("axis", -1), x.dims.len())?;
    let size = x.dims[at]
        .known()
        .ok_or_else(|| mixes_batch("TopK looks along the batch"))?;
    let count = if op.opset < 10 {
        op.int("k", -1)
    } else {
        let list = op.values(1, "the number of elements that TopK takes")?;
        list.first().copied().unwrap_or(-1)
    };
    let count = usize::try_from(count).ok().filter(|&k| k <= size);
    let count =
        count.ok_or_else(|| malformed(format!("TopK of {size} elements takes more, or fewer than none")))?;
    let mut dims = x.dims.clone();
    dims[at] = Dim::fixed(count);
    Ok(Outcome {
        outputs: vec![(dims.clone(), x.dtype), (dims, DType::I64)],
        flops: Some((elements(&x.dims)? as u64).saturating_mul(4)),
    })
}

/// GatherElements and ScatterElements: tensors of one rank, alike in all dimensions but the axis.
fn check_aligned(op: &Op<'_>, dims: &[Dim], others: &[Dim]) -> Result<(), ModelError> {
    if dims.len() != others.len() {
        return Err(malformed(format!(
            "{} of {} and {}",
            op.kind,
            show(dims),
            show(others)
        )));
    }
    let at = axis(op.int("axis", 0), dims.len())?;
    let shapes = || format!("{} of {} and {}", op.kind, show(dims), show(others));
    let off = dims.iter().zip(others).enumerate().filter(|(i, _)| *i != at);
    let differ: Vec<(&Dim, &Dim)> = off.map(|(_, pair)| pair).filter(|(a, b)| a != b).collect();
    if dims[at].batch || others[at].batch || differ.iter().any(|(a, b)| a.batch || b.batch) {
        return Err(mixes_batch(format!(
            "{} takes elements of other requests",
            shapes()
        )));
    }
    if !differ.is_empty() {
        return Err(ModelError::new(
            ModelErrorKind::UnknownOperator,
            format!("{}, which differ beside the axis, is not served", shapes()),
            "Export it with indices as large as the data in all other dimensions",
        ));
    }
    Ok(())
}

pub(super) fn gather_elements(op: &Op<'_>) -> Ruling {
    let (x, places) = (op.required(0)?, op.required(1)?);
    check_aligned(op, &x.dims, &places.dims)?;
    Ok(Outcome::one(places.dims.clone(), x.dtype).costing(0))
}

pub(super) fn scatter_elements(op: &Op<'_>) -> Ruling {
    let (x, places, updates) = (op.required(0)?, op.required(1)?, op.required(2)?);
    check_aligned(op, &x.dims, &places.dims)?;
    if updates.dims != places.dims {
        return Err(malformed(format!(
            "{} puts {} at places {}",
            op.kind,
            show(&updates.dims),
            show(&places.dims)
        )));
    }
    Ok(Outcome::one(x.dims.clone(), x.dtype).costing(0))
}

/// GatherND: the last dimension of the places names elements of the first dimensions.
pub(super) fn gather_nd(op: &Op<'_>) -> Ruling {
    let (x, places) = (op.required(0)?, op.required(1)?);
    let shared = usize::try_from(op.int("batch_dims", 0)).unwrap_or(usize::MAX);
    let named = places.dims.last().and_then(|d| d.known());
    let (Some(named), Some((_, outer))) = (named, places.dims.split_last()) else {
        return Err(malformed("GatherND without places"));
    };
    let end = shared.saturating_add(named);
    if end > x.dims.len() || shared > outer.len() {
        return Err(malformed(format!(
            "GatherND of {} by {}",
            show(&x.dims),
            show(&places.dims)
        )));
    }
    let misaligned = (0..shared).any(|i| x.dims[i] != outer[i]);
    if misaligned || x.dims[shared..end].iter().any(|d| d.batch) {
        return Err(mixes_batch("GatherND takes elements of other requests"));
    }
    let mut dims = outer.to_vec();
    dims.extend_from_slice(&x.dims[end..]);
    product(&dims)?;
    Ok(Outcome::one(dims, x.dtype).costing(0))
}

pub(super) fn one_hot(op: &Op<'_>) -> Ruling {
    let (x, values) = (op.required(0)?, op.required(2)?);
    let depth = op.numbers(1, "the depth of OneHot")?;
    let depth = depth
        .and_then(|d| d.first().copied())
        .filter(|d| (1.0..1e9).contains(d));
    let depth = depth.ok_or_else(|| malformed("OneHot without a depth"))?;
    let at = axis(op.int("axis", -1), x.dims.len() + 1)?;
    let mut dims = x.dims.clone();
    dims.insert(at, Dim::fixed(depth as usize));
    product(&dims)?;
    Ok(Outcome::one(dims, values.dtype).costing(0))
}

/// GridSample: elements of an image at places between its pixels, an own list of places for each request.
pub(super) fn grid_sample(op: &Op<'_>) -> Ruling {
    let (x, grid) = (op.required(0)?, op.required(1)?);
    let ([batch, channels, space @ ..], [other, places @ .., _]) = (x.dims.as_slice(), grid.dims.as_slice())
    else {
        return Err(malformed("GridSample without an image or a grid"));
    };
    if batch != other || channels.batch || space.iter().chain(places).any(|d| d.batch) {
        return Err(mixes_batch(format!(
            "GridSample of {} by {} holds for one size of the batch only",
            show(&x.dims),
            show(&grid.dims)
        )));
    }
    let mut dims = vec![*batch, *channels];
    dims.extend_from_slice(places);
    let flops = (elements(&dims)? as u64).saturating_mul(8);
    Ok(Outcome::one(dims, x.dtype).costing(flops))
}

/// Operators that give as many elements as they happen to find.
pub(super) fn found_while_running(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    if x.dims.iter().any(|d| d.batch) {
        return Err(ModelError::new(
            ModelErrorKind::DynamicShape,
            format!("how many elements {} gives is found while it runs", op.kind),
            "Graft needs every shape but the batch to be known: cut the network before it, and run the rest in the app",
        ));
    }
    Err(dynamic("the number of elements that are found", x))
}
