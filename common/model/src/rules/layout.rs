//! Operators that move, pick or sum elements.

use super::{Op, Outcome, Ruling, SliceOf, axis, dynamic, malformed, mixes_batch};
use crate::dim::{DType, Dim, elements, product, show};
use crate::error::ModelError;
use crate::fact::{Fact, Num};

/// Error for shapes that don't fit: where one grows with the batch, the other has a batch baked in, or mixes it.
fn misfit(what: String, dims: &[Dim]) -> ModelError {
    match dims.iter().any(|d| d.batch) {
        true => mixes_batch(format!("{what} holds for one size of the batch only")),
        false => malformed(what),
    }
}

pub(super) fn reduce(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let rank = x.dims.len();
    let axes = match op.axes(1) {
        Some(axes) => axes,
        None if op.input(1).is_some() => return Err(dynamic("the list of axes", x)),
        None => vec![],
    };
    let mut reduced = vec![axes.is_empty() && op.int("noop_with_empty_axes", 0) == 0; rank];
    for a in axes {
        reduced[axis(a, rank)?] = true;
    }
    let keep = op.int("keepdims", 1) != 0;
    let mut dims = vec![];
    for (dim, gone) in x.dims.iter().zip(reduced) {
        match (gone, dim.batch) {
            (true, true) => return Err(mixes_batch("a reduction runs over the batch")),
            (true, false) if keep => dims.push(Dim::ONE),
            (true, false) => {}
            (false, _) => dims.push(*dim),
        }
    }
    Ok(Outcome::one(dims, x.dtype).costing(elements(&x.dims)? as u64))
}

pub(super) fn arg(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let at = axis(op.int("axis", 0), x.dims.len())?;
    if x.dims[at].batch {
        return Err(mixes_batch("the largest element is looked for over the batch"));
    }
    let mut dims = x.dims.clone();
    if op.int("keepdims", 1) != 0 {
        dims[at] = Dim::ONE;
    } else {
        dims.remove(at);
    }
    Ok(Outcome::one(dims, DType::I64).costing(elements(&x.dims)? as u64))
}

pub(super) fn flatten(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let rank = x.dims.len();
    let at = match op.int("axis", 1) {
        a if a == rank as i64 => rank,
        a => axis(a, rank)?,
    };
    let dims = vec![product(&x.dims[..at])?, product(&x.dims[at..])?];
    Ok(Outcome::one(dims, x.dtype).costing(0))
}

pub(super) fn transpose(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let rank = x.dims.len();
    let order = op
        .ints("perm")
        .unwrap_or_else(|| (0..rank as i64).rev().collect());
    let mut seen = vec![false; rank];
    let mut dims = vec![];
    for p in &order {
        let p = axis(*p, rank)?;
        if std::mem::replace(&mut seen[p], true) {
            return Err(malformed("perm names a dimension twice"));
        }
        dims.push(x.dims[p]);
    }
    if dims.len() != rank {
        return Err(malformed("perm does not fit the input"));
    }
    Ok(Outcome::one(dims, x.dtype).costing(0))
}

pub(super) fn unsqueeze(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let axes = op.axes(1).ok_or_else(|| dynamic("the list of axes", x))?;
    let rank = x.dims.len() + axes.len();
    let mut new = vec![false; rank];
    for a in axes {
        if std::mem::replace(&mut new[axis(a, rank)?], true) {
            return Err(malformed("an axis is named twice"));
        }
    }
    let mut old = x.dims.iter();
    let dims = new
        .into_iter()
        .map(|n| {
            if n {
                Dim::ONE
            } else {
                old.next().copied().unwrap_or(Dim::ONE)
            }
        })
        .collect();
    Ok(Outcome::one(dims, x.dtype).costing(0))
}

pub(super) fn squeeze(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let rank = x.dims.len();
    let gone: Vec<usize> = match op.axes(1) {
        Some(axes) => axes
            .into_iter()
            .map(|a| axis(a, rank))
            .collect::<Result<_, _>>()?,
        None => (0..rank).filter(|&i| x.dims[i] == Dim::ONE).collect(),
    };
    if gone.iter().any(|&i| x.dims[i] != Dim::ONE) {
        return Err(mixes_batch(format!(
            "Squeeze of a dimension of {} that is not 1",
            show(&x.dims)
        )));
    }
    let dims = (0..rank)
        .filter(|i| !gone.contains(i))
        .map(|i| x.dims[i])
        .collect();
    Ok(Outcome::one(dims, x.dtype).costing(0))
}

/// Constants among the inputs count as repeated along the batch; the caller sees to it that they are.
pub(super) fn concat(op: &Op<'_>) -> Ruling {
    let first = op.required(0)?;
    let rank = first.dims.len();
    let at = axis(op.int("axis", 0), rank)?;
    let mut dims = first.dims.clone();
    let batched = op
        .inputs
        .iter()
        .flatten()
        .any(|f| f.dims.first() == Some(&Dim::BATCH));
    if batched && at != 0 {
        dims[0] = Dim::BATCH;
    }
    let mut sum = Dim::fixed(0);
    for i in 0..op.inputs.len() {
        let part = op.required(i)?;
        if part.dims.len() != rank {
            return Err(malformed("Concat of tensors with different ranks"));
        }
        for (j, (a, b)) in dims.iter().zip(&part.dims).enumerate() {
            let repeated = j == 0 && batched && *b == Dim::ONE && !part.is_data();
            if j != at && a != b && !repeated {
                return Err(misfit(
                    format!("Concat of {} and {}", show(&first.dims), show(&part.dims)),
                    &dims,
                ));
            }
        }
        let size = part.dims[at];
        if size.batch {
            return Err(mixes_batch("Concat along the batch dimension"));
        }
        sum.coef = sum.coef.saturating_add(size.coef);
    }
    dims[at] = sum;
    Ok(Outcome::one(dims, first.dtype).costing(0))
}

pub(super) fn split(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let at = axis(op.int("axis", 0), x.dims.len())?;
    let size = x.dims[at]
        .known()
        .ok_or_else(|| mixes_batch("Split along the batch dimension"))?;
    let outputs = op.node.output.len().max(1);
    let parts = match op.ints("split") {
        Some(parts) => parts,
        None if op.input(1).is_some() => op.values(1, "the list of parts")?,
        None => {
            let each = size.div_ceil(outputs);
            (0..outputs)
                .map(|i| each.min(size.saturating_sub(i * each)) as i64)
                .collect()
        }
    };
    let total = parts.iter().fold(0i64, |n, &p| n.saturating_add(p));
    if parts.len() != outputs || total != size as i64 || parts.iter().any(|&p| p < 0) {
        return Err(malformed(format!("Split of {size} into {parts:?}")));
    }
    let outputs = parts
        .into_iter()
        .map(|part| {
            let mut dims = x.dims.clone();
            dims[at] = Dim::fixed(part as usize);
            (dims, x.dtype)
        })
        .collect();
    Ok(Outcome {
        outputs,
        flops: Some(0),
    })
}

/// End of a Slice from which on it takes the rest of an axis, however long (exporters write 10⁹, or the largest integer).
const WHOLE_AXIS: i64 = 1_000_000_000;

pub(super) fn slice(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let slices = op.slices().ok_or_else(|| dynamic("what Slice takes", x))?;
    let mut dims = x.dims.clone();
    for SliceOf {
        start,
        end,
        axis: at,
        step,
    } in slices
    {
        let at = axis(at, dims.len())?;
        let Some(size) = dims[at].known() else {
            if start == 0 && end >= WHOLE_AXIS && step == 1 {
                continue;
            }
            return Err(mixes_batch("Slice along the batch dimension"));
        };
        if size == 0 {
            continue;
        }
        let size = size as i64;
        let from_start = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
        let count = if step > 0 {
            let (start, end) = (from_start(start).clamp(0, size), from_start(end).clamp(0, size));
            (end - start).max(0).div_ceil_by(step)
        } else if step < 0 {
            let start = from_start(start).clamp(0, size - 1);
            let end = from_start(end).clamp(-1, size - 1);
            (start - end).max(0).div_ceil_by(step.saturating_neg())
        } else {
            return Err(malformed("Slice with step 0"));
        };
        dims[at] = Dim::fixed(count as usize);
    }
    Ok(Outcome::one(dims, x.dtype).costing(0))
}

trait DivCeilBy {
    fn div_ceil_by(self, by: i64) -> i64;
}

impl DivCeilBy for i64 {
    /// For `self ≥ 0`, `by > 0`.
    fn div_ceil_by(self, by: i64) -> i64 {
        self / by + i64::from(self % by != 0)
    }
}

pub(super) fn gather(op: &Op<'_>) -> Ruling {
    let (x, indices) = (op.required(0)?, op.required(1)?);
    let at = axis(op.int("axis", 0), x.dims.len())?;
    if x.dims[at].batch {
        return Err(mixes_batch("Gather along the batch dimension"));
    }
    let mut dims = x.dims[..at].to_vec();
    dims.extend_from_slice(&indices.dims);
    dims.extend_from_slice(&x.dims[at + 1..]);
    product(&dims)?;
    Ok(Outcome::one(dims, x.dtype).costing(0))
}

/// The target that Reshape is to be given instead of its own, so that it holds for every batch, and the shape.
pub(crate) fn reshape(op: &Op<'_>) -> Result<(Vec<i64>, Outcome), ModelError> {
    let x = op.required(0)?;
    let asked = op.required(1)?;
    let target = &asked
        .small
        .as_ref()
        .ok_or_else(|| dynamic("the target shape", asked))?
        .nums;
    let zero_copies = op.int("allowzero", 0) == 0;
    let misfit = || {
        let list: Vec<String> = target
            .iter()
            .map(|n| format!("{}{}", n.coef, if n.batch { "N" } else { "" }))
            .collect();
        misfit(
            format!("Reshape of {} to [{}]", show(&x.dims), list.join(", ")),
            &x.dims,
        )
    };
    // Sizes as asked for with a batch of one; `None` where the size is to be inferred.
    let mut sizes: Vec<Option<Dim>> = vec![];
    for (i, n) in target.iter().enumerate() {
        sizes.push(match n {
            Num { coef, batch: true } if *coef >= 1.0 => Some(merged(*coef as usize, 1)),
            Num { coef: -1.0, .. } => None,
            Num { coef: 0.0, .. } if zero_copies => Some(*x.dims.get(i).ok_or_else(misfit)?),
            Num { coef, .. } if *coef >= 0.0 => Some(Dim::fixed(*coef as usize)),
            _ => return Err(misfit()),
        });
    }
    let total = product(&x.dims)?;
    if !total.batch {
        // A constant stands for every request of a batch: it is repeated where it meets data.
        for size in sizes.iter_mut().flatten() {
            size.batch = false;
        }
    }
    let given: Vec<Dim> = sizes.iter().flatten().copied().collect();
    let known = product(&given)?;
    let mut dims: Vec<Dim> = match sizes.iter().filter(|s| s.is_none()).count() {
        0 => given,
        1 if known.coef > 0 && total.coef.is_multiple_of(known.coef) => {
            let missing = Dim::fixed(total.coef / known.coef);
            sizes.iter().map(|s| s.unwrap_or(missing)).collect()
        }
        _ => return Err(misfit()),
    };
    if elements(&dims)? != total.coef {
        return Err(misfit());
    }
    if total.batch && dims.iter().any(|d| d.batch) {
        keep_order(&x.dims, &mut dims);
    } else if total.batch {
        let asked = show(&dims);
        if !place_batch(&x.dims, &mut dims) {
            return Err(mixes_batch(format!(
                "Reshape of {} to {asked} mixes the batch with other dimensions",
                show(&x.dims)
            )));
        }
    }
    let new_target = dims
        .iter()
        .map(|d| if d.batch { -1 } else { d.coef as i64 })
        .collect();
    Ok((new_target, Outcome::one(dims, x.dtype).costing(0)))
}

/// Puts the batch into the new dimensions of a Reshape, where it stands in memory. `false`: it would be torn.
///
/// With a batch of one baked in, a file does not say whether `[197, 1, 768]` became `[197 N, 768]` or
/// `[197, 768 N]`: both are the same memory. A dimension of 1 at the place is the batch itself. Else, where the
/// dimensions behind it are kept or merged, the batch joins the dimension before it (rows of a matrix), and
/// where they are split, the one after it (heads of an attention).
fn place_batch(old: &[Dim], new: &mut [Dim]) -> bool {
    let Some(at) = old.iter().position(|d| d.batch) else {
        return false;
    };
    // Elements outside of the batch.
    let before: usize = old[..at].iter().map(|d| d.coef).product::<usize>() * old[at].outer;
    let mut prefix = 1;
    let mut boundary = None;
    for (i, dim) in new.iter_mut().enumerate() {
        let size = dim.coef;
        if prefix == before {
            if size == 1 {
                *dim = Dim::BATCH;
                return true;
            }
            boundary = boundary.or(Some(i));
        } else if prefix < before && before < prefix * size {
            let outer = before / prefix;
            if !before.is_multiple_of(prefix) || !size.is_multiple_of(outer) {
                return false;
            }
            *dim = merged(size, outer);
            return true;
        }
        prefix *= size;
    }
    let Some(k) = boundary else { return false };
    let inner_of_old = old[at].coef / old[at].outer.max(1);
    let kept_or_merged = inner_of_old == 1 && new.len() - k <= old.len() - (at + 1);
    match k.checked_sub(1).filter(|_| kept_or_merged) {
        Some(left) => new[left] = merged(new[left].coef, new[left].coef),
        None => new[k] = merged(new[k].coef, 1),
    }
    true
}

fn merged(coef: usize, outer: usize) -> Dim {
    Dim {
        coef,
        batch: true,
        outer,
    }
}

/// A batch that the file itself names keeps the place in memory that it had.
fn keep_order(old: &[Dim], new: &mut [Dim]) {
    let Some(at) = old.iter().position(|d| d.batch) else {
        return;
    };
    let before: usize = old[..at].iter().map(|d| d.coef).product::<usize>() * old[at].outer;
    let mut prefix = 1;
    for dim in new {
        if dim.batch && before.is_multiple_of(prefix) && dim.coef.is_multiple_of(before / prefix) {
            dim.outer = before / prefix;
        }
        prefix *= dim.coef.max(1);
    }
}

/// The target that Expand is to be given instead of its own, and the shape. The batch is left to the input.
pub(crate) fn expand(op: &Op<'_>) -> Result<(Vec<i64>, Outcome), ModelError> {
    let x = op.required(0)?;
    let asked: &Fact = op.required(1)?;
    let target = &asked
        .small
        .as_ref()
        .ok_or_else(|| dynamic("the target shape", asked))?
        .nums;
    let mut new_target = vec![];
    for n in target {
        new_target.push(match n {
            Num {
                coef: 1.0,
                batch: true,
            } => 1,
            Num { batch: true, .. } => {
                return Err(mixes_batch("Expand to a multiple of the batch"));
            }
            Num { coef, .. } if *coef >= 1.0 => *coef as i64,
            Num { coef, .. } => return Err(malformed(format!("Expand to a size of {coef}"))),
        });
    }
    let shape: Vec<Dim> = new_target.iter().map(|&d| Dim::fixed(d as usize)).collect();
    let dims = super::broadcast(&x.dims, &shape)?;
    Ok((new_target, Outcome::one(dims, x.dtype).costing(0)))
}

/// ConstantOfShape whose values are too many to be followed: weights that are filled in rather than stored.
pub(super) fn constant_of_shape(op: &Op<'_>) -> Ruling {
    let sizes = op.values(0, "the shape of a constant")?;
    let dtype = op
        .tensor_attribute("value")
        .map_or(DType::F32, |(_, dtype)| dtype);
    let dims: Vec<Dim> = sizes
        .iter()
        .map(|&d| {
            usize::try_from(d)
                .map(Dim::fixed)
                .map_err(|_| malformed("a negative size"))
        })
        .collect::<Result<_, _>>()?;
    product(&dims)?;
    Ok(Outcome::one(dims, dtype).costing(0))
}

pub(super) fn tile(op: &Op<'_>) -> Ruling {
    let x = op.required(0)?;
    let repeats = op.values(1, "the number of repeats")?;
    if repeats.len() != x.dims.len() || repeats.iter().any(|r| !(0..1 << 20).contains(r)) {
        return Err(malformed("repeats does not fit the input"));
    }
    let mut dims = x.dims.clone();
    for (dim, &repeat) in dims.iter_mut().zip(&repeats) {
        if dim.batch && repeat != 1 {
            return Err(mixes_batch("Tile along the batch dimension"));
        }
        dim.coef = dim.coef.saturating_mul(repeat as usize);
    }
    product(&dims)?;
    Ok(Outcome::one(dims, x.dtype).costing(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes `new` as text, with the batch where it is placed. `None`: it would be torn.
    fn placed(old: &[Dim], new: &[usize]) -> Option<String> {
        let mut dims: Vec<Dim> = new.iter().map(|&d| Dim::fixed(d)).collect();
        place_batch(old, &mut dims).then(|| show(&dims))
    }

    const L: Dim = Dim::fixed(197);
    const C: Dim = Dim::fixed(768);

    #[test]
    fn a_baked_batch_goes_where_it_stood_in_memory() {
        let n = Dim::BATCH;
        let cases: &[(&[Dim], &[usize], &str)] = &[
            // Rows of a matrix, and back.
            (&[L, n, C], &[197, 768], "[197N, 768]"),
            (&[merged(197, 197), C], &[197, 1, 768], "[197, N, 768]"),
            // Heads of an attention, and back.
            (&[L, n, C], &[197, 12, 64], "[197, 12N, 64]"),
            (
                &[merged(12, 1), L, Dim::fixed(64)],
                &[1, 12, 197, 64],
                "[N, 12, 197, 64]",
            ),
            (
                &[L, n, Dim::fixed(12), Dim::fixed(64)],
                &[197, 768],
                "[197N, 768]",
            ),
            // Batch first.
            (
                &[n, C, Dim::fixed(14), Dim::fixed(14)],
                &[1, 768, 196],
                "[N, 768, 196]",
            ),
            (&[n, C, Dim::ONE, Dim::ONE], &[1, 768], "[N, 768]"),
        ];
        for (old, new, want) in cases {
            assert_eq!(
                placed(old, new).as_deref(),
                Some(*want),
                "{} to {new:?}",
                show(old)
            );
        }
    }

    #[test]
    fn a_batch_that_would_be_torn_is_refused() {
        assert_eq!(placed(&[L, Dim::BATCH, C], &[2, 75648]), None);
    }
}
