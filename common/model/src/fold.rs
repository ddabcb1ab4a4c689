//! Evaluates the small integer and scalar arithmetic by which exporters compute shapes.

use crate::dim::DType;
use crate::fact::{Fact, MAX_SMALL, Num, Small};
use crate::rules::Op;

/// Magnitude above which a 64-bit float does not hold every integer (2^53): such numbers are left to engines.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A number as an element of a type holds it. `None`: the standard does not say what it would be, or it can't be
/// held here exactly.
pub(crate) fn held(value: f64, dtype: DType) -> Option<f64> {
    let fits = |low: f64, high: f64| (low..=high).contains(&value).then_some(value);
    match dtype {
        DType::F32 => Some(f64::from(value as f32)),
        DType::F16 => Some(f64::from(half::f16::from_f64(value).to_f32())),
        DType::F64 => Some(value),
        DType::I64 => fits(-EXACT, EXACT),
        DType::I32 => fits(f64::from(i32::MIN), f64::from(i32::MAX)),
        DType::U8 => fits(0.0, 255.0),
        DType::I8 => fits(-128.0, 127.0),
        DType::Bool => fits(0.0, 1.0),
    }
}

/// Every number as the type holds it.
fn all_held(mut value: Small, dtype: DType) -> Option<Small> {
    for n in &mut value.nums {
        n.coef = held(n.coef, dtype)?;
    }
    Some(value)
}

/// The values of `op`'s output, where all its inputs' values are known and the operator is one of those
/// that shape arithmetic uses. `None`: not one of them, or not computable (the caller says what is wrong).
pub(crate) fn fold(op: &Op<'_>) -> Option<(Small, DType)> {
    let input = |i: usize| -> Option<&Fact> { op.input(i) };
    let small = |i: usize| -> Option<&Small> { input(i)?.small.as_ref() };
    let dtype = input(0).map_or(DType::I64, |f| f.dtype);
    let out = match op.kind {
        "Gather" => {
            if op.int("axis", 0) != 0 {
                return None;
            }
            gather(small(0)?, small(1)?)?
        }
        "Concat" => {
            let mut nums = vec![];
            for i in 0..op.inputs.len() {
                let part = small(i)?;
                if part.dims.len() != 1 {
                    return None;
                }
                nums.extend_from_slice(&part.nums);
                if nums.len() > MAX_SMALL {
                    return None;
                }
            }
            Small::list(nums)
        }
        "Unsqueeze" | "Squeeze" | "Reshape" => {
            let value = small(0)?.clone();
            match op.kind {
                "Reshape" => reshaped(value, &small(1)?.ints()?)?,
                "Unsqueeze" => unsqueezed(value, &op.axes(1)?)?,
                "Squeeze" if value.nums.len() == 1 && value.dims.len() == 1 => Small::scalar(value.nums[0]),
                _ => return None,
            }
        }
        "Slice" => slice(op)?,
        "Transpose" => transposed(small(0)?)?,
        "Cast" => {
            let to = DType::from_onnx(i32::try_from(op.int("to", 0)).ok()?)?;
            let mut value = small(0)?.clone();
            let from_float = matches!(dtype, DType::F32 | DType::F16 | DType::F64);
            for n in &mut value.nums {
                n.coef = match to {
                    DType::Bool => f64::from(u8::from(n.coef != 0.0)),
                    DType::I32 | DType::I64 | DType::U8 | DType::I8 if from_float => n.coef.trunc(),
                    _ => n.coef,
                };
            }
            return Some((all_held(value, to)?, to));
        }
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Min" | "Max" => {
            let integer = matches!(dtype, DType::I32 | DType::I64);
            if !integer && !matches!(dtype, DType::F32 | DType::F16 | DType::F64) {
                return None;
            }
            if op.inputs.len() != 2 {
                return None;
            }
            let kind = if op.kind == "Mod" && op.int("fmod", 0) != 0 {
                "Fmod"
            } else {
                op.kind
            };
            let value = zip(small(0)?, small(1)?, |a, b| {
                let exact = |n: Num| !integer || n.coef.abs() <= EXACT;
                (exact(a) && exact(b)).then(|| arithmetic(kind, a, b, integer))?
            })?;
            all_held(value, dtype)?
        }
        "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" => {
            let value = zip(small(0)?, small(1)?, |a, b| compare(op.kind, a, b))?;
            return Some((value, DType::Bool));
        }
        "Where" => {
            let (condition, a, b) = (small(0)?, small(1)?, small(2)?);
            let picked = zip(a, b, |a, _| Some(a))?;
            let other = zip(a, b, |_, b| Some(b))?;
            if condition.nums.len() != picked.nums.len() {
                return None;
            }
            let nums = condition
                .nums
                .iter()
                .zip(picked.nums.iter().zip(&other.nums))
                .map(|(c, (a, b))| if c.coef != 0.0 { *a } else { *b })
                .collect();
            let dtype = input(1)?.dtype;
            return Some((
                Small {
                    dims: picked.dims,
                    nums,
                },
                dtype,
            ));
        }
        "Sqrt" | "Neg" | "Floor" | "Ceil" | "Reciprocal" | "Not" | "Abs" => {
            let mut value = small(0)?.clone();
            for n in &mut value.nums {
                if n.batch && op.kind != "Neg" {
                    return None;
                }
                n.coef = match op.kind {
                    "Sqrt" => n.coef.sqrt(),
                    "Neg" => -n.coef,
                    "Floor" => n.coef.floor(),
                    "Ceil" => n.coef.ceil(),
                    "Reciprocal" => 1.0 / n.coef,
                    "Abs" => n.coef.abs(),
                    _ => f64::from(u8::from(n.coef == 0.0)),
                };
            }
            all_held(value, dtype)?
        }
        "ReduceProd" => {
            if small(0)?.dims.len() > 1 || !matches!(dtype, DType::I32 | DType::I64) {
                return None;
            }
            let mut out = Num::fixed(1.0);
            for n in &small(0)?.nums {
                out = arithmetic("Mul", out, *n, true)?;
            }
            out.coef = held(out.coef, dtype)?;
            if op.int("keepdims", 1) == 0 {
                Small::scalar(out)
            } else {
                Small::list(vec![out])
            }
        }
        "Range" => {
            let (start, limit, delta) = (small(0)?, small(1)?, small(2)?);
            let one = |s: &Small| s.nums.first().filter(|n| !n.batch).map(|n| n.coef);
            let (start, limit, delta) = (one(start)?, one(limit)?, one(delta)?);
            let count = ((limit - start) / delta).ceil();
            if !(0.0..=MAX_SMALL as f64).contains(&count) {
                return None;
            }
            Small::list(
                (0..count as usize)
                    .map(|i| Some(Num::fixed(held(start + i as f64 * delta, dtype)?)))
                    .collect::<Option<_>>()?,
            )
        }
        "ConstantOfShape" => {
            let dims = positive(small(0)?)?;
            let (value, dtype) = op
                .tensor_attribute("value")
                .map_or(Some((Num::fixed(0.0), DType::F32)), |(small, dtype)| {
                    Some((*small?.nums.first()?, dtype))
                })?;
            return Some((filled(dims, value)?, dtype));
        }
        "Expand" => {
            let (value, target) = (small(0)?, positive(small(1)?)?);
            let ones = filled(target, Num::fixed(1.0))?;
            zip(value, &ones, |a, _| Some(a))?
        }
        _ => return None,
    };
    (out.nums.len() <= MAX_SMALL).then_some((out, dtype))
}

/// Sizes of a shape; the batch, which a constant repeats along, counts as 1.
fn positive(shape: &Small) -> Option<Vec<usize>> {
    shape
        .nums
        .iter()
        .map(|n| match (n.batch, n.coef) {
            (true, 1.0) => Some(1),
            (true, _) => None,
            (false, c) if c >= 0.0 && c <= MAX_SMALL as f64 => Some(c as usize),
            _ => None,
        })
        .collect()
}

fn filled(dims: Vec<usize>, value: Num) -> Option<Small> {
    let len = dims
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= MAX_SMALL)?;
    Some(Small {
        dims,
        nums: vec![value; len],
    })
}

fn gather(data: &Small, indices: &Small) -> Option<Small> {
    let rows = *data.dims.first()?;
    let width: usize = data.dims[1..].iter().product();
    let mut nums = vec![];
    for index in indices.ints()? {
        let index = usize::try_from(if index < 0 { index + rows as i64 } else { index }).ok()?;
        nums.extend_from_slice(data.nums.get(index * width..(index + 1) * width)?);
        if nums.len() > MAX_SMALL {
            return None;
        }
    }
    let mut dims = indices.dims.clone();
    dims.extend_from_slice(&data.dims[1..]);
    Some(Small { dims, nums })
}

fn reshaped(value: Small, target: &[i64]) -> Option<Small> {
    let known: i64 = target.iter().filter(|&&d| d > 0).product();
    let len = value.nums.len() as i64;
    let dims: Vec<usize> = target
        .iter()
        .map(|&d| match d {
            -1 if known > 0 => usize::try_from(len / known).ok(),
            d if d > 0 => usize::try_from(d).ok(),
            _ => None,
        })
        .collect::<Option<_>>()?;
    (dims.iter().product::<usize>() == value.nums.len()).then_some(Small {
        dims,
        nums: value.nums,
    })
}

fn unsqueezed(value: Small, axes: &[i64]) -> Option<Small> {
    let rank = value.dims.len() + axes.len();
    let at: Vec<usize> = axes
        .iter()
        .map(|&a| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok())
        .collect::<Option<_>>()?;
    let mut rest = value.dims.iter();
    let dims = (0..rank)
        .map(|i| {
            if at.contains(&i) {
                Some(1)
            } else {
                rest.next().copied()
            }
        })
        .collect::<Option<_>>()?;
    Some(Small {
        dims,
        nums: value.nums,
    })
}

/// Slices along the first axis, forwards or backwards.
fn slice(op: &Op<'_>) -> Option<Small> {
    let value = op.input(0)?.small.as_ref()?;
    let slices = op.slices()?;
    let [one] = slices.as_slice() else { return None };
    if value.dims.is_empty() || one.axis != 0 || one.step == 0 {
        return None;
    }
    let rows = value.dims[0] as i64;
    let width: usize = value.dims[1..].iter().product();
    let from_start = |v: i64| if v < 0 { v.saturating_add(rows) } else { v };
    let (low, high) = if one.step > 0 { (0, rows) } else { (-1, rows - 1) };
    let (start, end) = (
        from_start(one.start).clamp(low, high),
        from_start(one.end).clamp(low, high),
    );
    let mut nums = vec![];
    let mut taken = 0;
    let mut row = start;
    while (one.step > 0 && row < end) || (one.step < 0 && row > end) {
        let at = usize::try_from(row).ok()? * width;
        nums.extend_from_slice(value.nums.get(at..at + width)?);
        taken += 1;
        row = row.checked_add(one.step)?;
    }
    let mut dims = value.dims.clone();
    dims[0] = taken;
    Some(Small { dims, nums })
}

/// Transposes a matrix.
fn transposed(value: &Small) -> Option<Small> {
    let [rows, columns] = value.dims.as_slice() else {
        return None;
    };
    let order = (0..*columns).flat_map(|c| (0..*rows).map(move |r| r * columns + c));
    let nums = order.map(|i| value.nums.get(i).copied()).collect::<Option<_>>()?;
    Some(Small {
        dims: vec![*columns, *rows],
        nums,
    })
}

fn arithmetic(kind: &str, a: Num, b: Num, integer: bool) -> Option<Num> {
    let (batch, coef) = match kind {
        "Mul" if !(a.batch && b.batch) => (a.batch || b.batch, a.coef * b.coef),
        "Div" if b.coef == 0.0 => return None,
        "Div" if a.batch && !b.batch => {
            let exact = a.coef / b.coef;
            if integer && exact.fract() != 0.0 {
                return None;
            }
            (true, exact)
        }
        "Div" if a.batch && b.batch && a.coef % b.coef == 0.0 => (false, a.coef / b.coef),
        "Add" if a.batch && b == Num::fixed(0.0) => (true, a.coef),
        "Add" | "Sub" if b.batch && a.batch && kind == "Sub" && a.coef == b.coef => (false, 0.0),
        _ if a.batch || b.batch => return None,
        "Add" => (false, a.coef + b.coef),
        "Sub" => (false, a.coef - b.coef),
        "Div" if integer => (false, (a.coef / b.coef).trunc()),
        "Div" => (false, a.coef / b.coef),
        "Pow" if integer && b.coef < 0.0 => return None,
        "Pow" => (false, a.coef.powf(b.coef)),
        // The sign is that of the divisor, or with `fmod` that of what is divided.
        "Mod" if b.coef != 0.0 && integer => (false, a.coef - b.coef * (a.coef / b.coef).floor()),
        "Fmod" if b.coef != 0.0 => (false, a.coef % b.coef),
        "Min" => (false, a.coef.min(b.coef)),
        "Max" => (false, a.coef.max(b.coef)),
        _ => return None,
    };
    Some(Num { coef, batch })
}

fn compare(kind: &str, a: Num, b: Num) -> Option<Num> {
    let yes = if a.batch || b.batch {
        // A batch is never -1 or 0, which is what exporters compare it with.
        let (batch, other) = if a.batch { (a, b) } else { (b, a) };
        match kind {
            "Equal" if !other.batch && other.coef <= 0.0 => false,
            "Equal" if other.batch && batch.coef == other.coef => true,
            _ => return None,
        }
    } else {
        match kind {
            "Equal" => a.coef == b.coef,
            "Greater" => a.coef > b.coef,
            "Less" => a.coef < b.coef,
            "GreaterOrEqual" => a.coef >= b.coef,
            _ => a.coef <= b.coef,
        }
    };
    Some(Num::fixed(f64::from(u8::from(yes))))
}

/// Combines two tensors element by element, with broadcasting.
fn zip(a: &Small, b: &Small, f: impl Fn(Num, Num) -> Option<Num>) -> Option<Small> {
    let rank = a.dims.len().max(b.dims.len());
    let at = |s: &Small, i: usize| -> usize { (i + s.dims.len()).checked_sub(rank).map_or(1, |i| s.dims[i]) };
    let mut dims = vec![];
    for i in 0..rank {
        let (x, y) = (at(a, i), at(b, i));
        dims.push(match (x, y) {
            _ if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return None,
        });
    }
    let len = dims
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= MAX_SMALL)?;
    let index = |s: &Small, mut flat: usize| -> usize {
        let mut stride = 1;
        let mut index = 0;
        for i in (0..rank).rev() {
            let position = flat % dims[i];
            flat /= dims[i];
            let size = at(s, i);
            if size > 1 {
                index += position * stride;
            }
            stride *= size;
        }
        index
    };
    let nums = (0..len)
        .map(|flat| f(*a.nums.get(index(a, flat))?, *b.nums.get(index(b, flat))?))
        .collect::<Option<Vec<_>>>()?;
    Some(Small { dims, nums })
}
