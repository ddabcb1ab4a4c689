//! What instructions compute, lane by lane.

use half::f16;

use crate::ptx::{Bin32, Bin64, Compare, Narrow, Round, Shift64, Un32, Un64, Widen};

/// A register of a warp.
pub(super) type L32 = [u32; 32];
pub(super) type L64 = [u64; 32];

#[inline]
pub(super) fn float_of_half(h: u16) -> f32 {
    // Exponents move by a multiplication, which makes subnormal numbers right, too.
    let magnitude = u32::from(h & 0x7fff) << 13;
    let moved = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let bits = if magnitude >= 0x0f80_0000 {
        magnitude | 0x7f80_0000
    } else {
        moved.to_bits()
    };
    f32::from_bits(bits | u32::from(h & 0x8000) << 16)
}

fn half_of_float(x: u32) -> u32 {
    u32::from(f16::from_f32(f32::from_bits(x)).to_bits())
}

#[inline]
fn map(a: &L32, f: impl Fn(u32) -> u32) -> L32 {
    std::array::from_fn(|i| f(a[i]))
}

#[inline]
fn map2(a: &L32, b: &L32, f: impl Fn(u32, u32) -> u32) -> L32 {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline]
fn floats(a: &L32, b: &L32, f: impl Fn(f32, f32) -> f32) -> L32 {
    std::array::from_fn(|i| f(f32::from_bits(a[i]), f32::from_bits(b[i])).to_bits())
}

#[inline]
fn float(a: &L32, f: impl Fn(f32) -> f32) -> L32 {
    std::array::from_fn(|i| f(f32::from_bits(a[i])).to_bits())
}

/// A sum in 64 bits as 32 bits, rounded towards 0 or down.
fn rounded(exact: f64, down: bool) -> f32 {
    let near = exact as f32;
    let beyond = if down {
        f64::from(near) > exact
    } else {
        f64::from(near).abs() > exact.abs()
    };
    match (beyond && near.is_finite(), down) {
        (false, _) => near,
        (true, true) => near.next_down(),
        (true, false) if near > 0.0 => near.next_down(),
        (true, false) => near.next_up(),
    }
}

pub(super) fn bin32(f: Bin32, a: &L32, b: &L32) -> L32 {
    let signed = |f: fn(i32, i32) -> i32| map2(a, b, |x, y| f(x as i32, y as i32) as u32);
    match f {
        Bin32::Add => map2(a, b, u32::wrapping_add),
        Bin32::Sub => map2(a, b, u32::wrapping_sub),
        Bin32::MulLo => map2(a, b, u32::wrapping_mul),
        Bin32::MulHiU => map2(a, b, |x, y| ((u64::from(x) * u64::from(y)) >> 32) as u32),
        Bin32::MulHiS => signed(|x, y| ((i64::from(x) * i64::from(y)) >> 32) as i32),
        Bin32::DivU => map2(a, b, |x, y| x.checked_div(y).unwrap_or(u32::MAX)),
        Bin32::DivS => signed(|x, y| if y == 0 { -1 } else { x.wrapping_div(y) }),
        Bin32::RemU => map2(a, b, |x, y| x.checked_rem(y).unwrap_or(x)),
        Bin32::RemS => signed(|x, y| if y == 0 { x } else { x.wrapping_rem(y) }),
        Bin32::MinU => map2(a, b, u32::min),
        Bin32::MinS => signed(i32::min),
        Bin32::MaxU => map2(a, b, u32::max),
        Bin32::MaxS => signed(i32::max),
        Bin32::And => map2(a, b, |x, y| x & y),
        Bin32::Or => map2(a, b, |x, y| x | y),
        Bin32::Xor => map2(a, b, |x, y| x ^ y),
        Bin32::Shl => map2(a, b, |x, y| x.checked_shl(y).unwrap_or(0)),
        Bin32::ShrU => map2(a, b, |x, y| x.checked_shr(y).unwrap_or(0)),
        Bin32::ShrS => map2(a, b, |x, y| (x as i32 >> y.min(31)) as u32),
        Bin32::AddF => floats(a, b, |x, y| x + y),
        Bin32::AddFRz => floats(a, b, |x, y| rounded(f64::from(x) + f64::from(y), false)),
        Bin32::SubF => floats(a, b, |x, y| x - y),
        Bin32::MulF => floats(a, b, |x, y| x * y),
        Bin32::DivF => floats(a, b, |x, y| x / y),
        Bin32::MinF => floats(a, b, f32::min),
        Bin32::MaxF => floats(a, b, f32::max),
        // The sign of the first, the magnitude of the second.
        Bin32::CopySign => floats(a, b, |x, y| y.copysign(x)),
        Bin32::HalvesF => map2(a, b, |x, y| half_of_float(x) << 16 | half_of_float(y)),
    }
}

pub(super) fn bin64(f: Bin64, a: &L64, b: &L64) -> L64 {
    let map = |f: fn(u64, u64) -> u64| -> L64 { std::array::from_fn(|i| f(a[i], b[i])) };
    match f {
        Bin64::Add => map(u64::wrapping_add),
        Bin64::Sub => map(u64::wrapping_sub),
        Bin64::MulLo => map(u64::wrapping_mul),
        Bin64::MulHiU => map(|x, y| ((u128::from(x) * u128::from(y)) >> 64) as u64),
        Bin64::DivU => map(|x, y| x.checked_div(y).unwrap_or(u64::MAX)),
        Bin64::DivS => map(|x, y| {
            if y == 0 {
                u64::MAX
            } else {
                (x as i64).wrapping_div(y as i64) as u64
            }
        }),
        Bin64::RemU => map(|x, y| x.checked_rem(y).unwrap_or(x)),
        Bin64::RemS => map(|x, y| {
            if y == 0 {
                x
            } else {
                (x as i64).wrapping_rem(y as i64) as u64
            }
        }),
        Bin64::MinU => map(u64::min),
        Bin64::MinS => map(|x, y| (x as i64).min(y as i64) as u64),
        Bin64::MaxU => map(u64::max),
        Bin64::MaxS => map(|x, y| (x as i64).max(y as i64) as u64),
        Bin64::And => map(|x, y| x & y),
        Bin64::Or => map(|x, y| x | y),
        Bin64::Xor => map(|x, y| x ^ y),
    }
}

pub(super) fn shift64(f: Shift64, a: &L64, b: &L32) -> L64 {
    std::array::from_fn(|i| match f {
        Shift64::Left => a[i].checked_shl(b[i]).unwrap_or(0),
        Shift64::RightU => a[i].checked_shr(b[i]).unwrap_or(0),
        Shift64::RightS => (a[i] as i64 >> b[i].min(63)) as u64,
    })
}

fn whole(how: Round, x: f32) -> f32 {
    match how {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

pub(super) fn un32(f: Un32, a: &L32) -> L32 {
    match f {
        Un32::Move => *a,
        Un32::NegS => map(a, u32::wrapping_neg),
        Un32::AbsS => map(a, |x| (x as i32).wrapping_abs() as u32),
        Un32::Not => map(a, |x| !x),
        Un32::Not16 => map(a, |x| !x & 0xffff),
        Un32::NegF => map(a, |x| x ^ 0x8000_0000),
        Un32::AbsF => map(a, |x| x & 0x7fff_ffff),
        Un32::Ex2 => float(a, f32::exp2),
        Un32::Lg2 => float(a, f32::log2),
        Un32::Rcp => float(a, f32::recip),
        Un32::Rsqrt => float(a, |x| x.sqrt().recip()),
        Un32::Sqrt => float(a, f32::sqrt),
        Un32::Tanh => float(a, f32::tanh),
        Un32::Sin => float(a, f32::sin),
        Un32::Cos => float(a, f32::cos),
        Un32::Sat => float(a, |x| if x > 0.0 { x.min(1.0) } else { 0.0 }),
        Un32::Whole(how) => float(a, |x| whole(how, x)),
        Un32::ZeroExtend8 => map(a, |x| x & 0xff),
        Un32::ZeroExtend16 => map(a, |x| x & 0xffff),
        Un32::SignExtend8 => map(a, |x| x as u8 as i8 as u32),
        Un32::SignExtend16 => map(a, |x| x as u16 as i16 as u32),
        Un32::FloatOfU32 => map(a, |x| (x as f32).to_bits()),
        Un32::FloatOfS32 => map(a, |x| (x as i32 as f32).to_bits()),
        Un32::FloatOfU16 => map(a, |x| f32::from(x as u16).to_bits()),
        Un32::FloatOfS16 => map(a, |x| f32::from(x as u16 as i16).to_bits()),
        Un32::U32OfFloat(how) => map(a, |x| whole(how, f32::from_bits(x)) as u32),
        Un32::S32OfFloat(how) => map(a, |x| whole(how, f32::from_bits(x)) as i32 as u32),
        Un32::HalfOfFloat => map(a, half_of_float),
        Un32::FloatOfHalf => map(a, |x| float_of_half(x as u16).to_bits()),
    }
}

pub(super) fn un64(f: Un64, a: &L64) -> L64 {
    match f {
        Un64::Move => *a,
        Un64::NegS => std::array::from_fn(|i| a[i].wrapping_neg()),
        Un64::AbsS => std::array::from_fn(|i| (a[i] as i64).wrapping_abs() as u64),
        Un64::Not => std::array::from_fn(|i| !a[i]),
    }
}

pub(super) fn widen(f: Widen, a: &L32) -> L64 {
    std::array::from_fn(|i| match f {
        Widen::Zero => u64::from(a[i]),
        Widen::Sign => i64::from(a[i] as i32) as u64,
        Widen::S64OfFloat(how) => whole(how, f32::from_bits(a[i])) as i64 as u64,
        Widen::U64OfFloat(how) => whole(how, f32::from_bits(a[i])) as u64,
    })
}

pub(super) fn narrow(f: Narrow, a: &L64) -> L32 {
    std::array::from_fn(|i| match f {
        Narrow::Low => a[i] as u32,
        Narrow::Low16 => a[i] as u32 & 0xffff,
        Narrow::FloatOfS64 => (a[i] as i64 as f32).to_bits(),
        Narrow::FloatOfU64 => (a[i] as f32).to_bits(),
    })
}

pub(super) fn mul_wide(signed: bool, a: &L32, b: &L32) -> L64 {
    std::array::from_fn(|i| {
        if signed {
            (i64::from(a[i] as i32) * i64::from(b[i] as i32)) as u64
        } else {
            u64::from(a[i]) * u64::from(b[i])
        }
    })
}

/// a * b + c, rounded once; `down`: towards minus infinity.
pub(super) fn fma(a: &L32, b: &L32, c: &L32, down: bool) -> L32 {
    let f = f32::from_bits;
    if down {
        let exact = |i: usize| f64::from(f(a[i])) * f64::from(f(b[i])) + f64::from(f(c[i]));
        return std::array::from_fn(|i| rounded(exact(i), true).to_bits());
    }
    std::array::from_fn(|i| f(a[i]).mul_add(f(b[i]), f(c[i])).to_bits())
}

pub(super) fn bfi(a: u64, b: u64, at: u32, bits: u32, width: u32) -> u64 {
    let (at, bits) = (at & 0xff, bits & 0xff);
    let mut out = b;
    for i in 0..bits.min(width) {
        let to = at + i;
        if to >= width {
            break;
        }
        out = out & !(1 << to) | (a >> i & 1) << to;
    }
    out
}

pub(super) fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut out = 0;
    for row in 0..8 {
        if table >> row & 1 == 1 {
            let pick = |x: u32, bit: u32| if row >> bit & 1 == 1 { x } else { !x };
            out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    out
}

pub(super) fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let all = u64::from(a) | u64::from(b) << 32;
    let mut out = 0;
    for i in 0..4 {
        let pick = selector >> (i * 4) & 0xf;
        let byte = (all >> ((pick & 7) * 8)) as u8;
        let byte = match pick & 8 {
            0 => byte,
            _ if byte & 0x80 == 0 => 0,
            _ => 0xff,
        };
        out |= u32::from(byte) << (i * 8);
    }
    out
}

/// Whether a comparison holds, of numbers and of floats.
pub(super) fn holds<T: PartialOrd>(compare: Compare, x: T, y: T) -> bool {
    let order = x.partial_cmp(&y);
    use std::cmp::Ordering::{Equal, Greater, Less};
    match compare {
        Compare::Eq => order == Some(Equal),
        Compare::Ne => matches!(order, Some(Less | Greater)),
        Compare::Lt => order == Some(Less),
        Compare::Le => matches!(order, Some(Less | Equal)),
        Compare::Gt => order == Some(Greater),
        Compare::Ge => matches!(order, Some(Greater | Equal)),
        Compare::EqUnordered => matches!(order, Some(Equal) | None),
        Compare::NeUnordered => order != Some(Equal),
        Compare::LtUnordered => matches!(order, Some(Less) | None),
        Compare::LeUnordered => order != Some(Greater),
        Compare::GtUnordered => matches!(order, Some(Greater) | None),
        Compare::GeUnordered => order != Some(Less),
        Compare::Nan => order.is_none(),
        Compare::Ordered => order.is_some(),
    }
}
