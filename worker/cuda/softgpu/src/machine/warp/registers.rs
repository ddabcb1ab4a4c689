//! What a warp does with registers and predicates beside arithmetic.

use super::{Around, Step, Warp, first_lane, lanes_of};
use crate::machine::arithmetic::{self as math, L32};
use crate::machine::fault::FaultKind;
use crate::ptx::{CompareAs, Logic, Op, Pred, R32, S32, Shuffle, Special};

impl Warp {
    /// Moves between registers and their parts, and what a lane knows of itself.
    pub(super) fn bits(&mut self, op: &Op, mask: u32, around: &Around<'_>) {
        match op {
            Op::Special(d, which) => {
                let value = self.special(*which, around);
                self.put32(*d, &value, mask);
            }
            Op::Bfi32(d, a, b, at, bits) => {
                let [a, b, at, bits] = [a, b, at, bits].map(|s| self.get32(*s));
                let value = std::array::from_fn(|i| {
                    math::bfi(u64::from(a[i]), u64::from(b[i]), at[i], bits[i], 32) as u32
                });
                self.put32(*d, &value, mask);
            }
            Op::Bfi64(d, a, b, at, bits) => {
                let (a, b, at, bits) = (self.get64(*a), self.get64(*b), self.get32(*at), self.get32(*bits));
                let value = std::array::from_fn(|i| math::bfi(a[i], b[i], at[i], bits[i], 64));
                self.put64(*d, &value, mask);
            }
            Op::Lop3(d, a, b, c, table) => {
                let [a, b, c] = [a, b, c].map(|s| self.get32(*s));
                let value = std::array::from_fn(|i| math::lop3(a[i], b[i], c[i], *table));
                self.put32(*d, &value, mask);
            }
            Op::Prmt(d, a, b, selector) => {
                let [a, b, selector] = [a, b, selector].map(|s| self.get32(*s));
                let value = std::array::from_fn(|i| math::prmt(a[i], b[i], selector[i]));
                self.put32(*d, &value, mask);
            }
            Op::Pack32(d, low, high) => {
                let (low, high) = (self.get32(*low), self.get32(*high));
                let value = std::array::from_fn(|i| low[i] & 0xffff | high[i] << 16);
                self.put32(*d, &value, mask);
            }
            Op::Unpack32(low, high, a) => {
                let a = self.get32(*a);
                self.put32(*low, &a.map(|x| x & 0xffff), mask);
                self.put32(*high, &a.map(|x| x >> 16), mask);
            }
            Op::Pack64(d, low, high) => {
                let (low, high) = (self.get32(*low), self.get32(*high));
                let value = std::array::from_fn(|i| u64::from(low[i]) | u64::from(high[i]) << 32);
                self.put64(*d, &value, mask);
            }
            Op::Unpack64(low, high, a) => {
                let a = self.get64(*a);
                self.put32(*low, &a.map(|x| x as u32), mask);
                self.put32(*high, &a.map(|x| (x >> 32) as u32), mask);
            }
            _ => {}
        }
    }

    pub(super) fn special(&self, which: Special, around: &Around<'_>) -> L32 {
        let [x, y, _] = around.threads;
        let axis = |of: &[u32; 3], axis: u8| [of[usize::from(axis) % 3]; 32];
        match which {
            Special::Tid(axis) => std::array::from_fn(|lane| {
                let thread = self.number * 32 + lane as u32;
                match axis {
                    0 => thread % x,
                    1 => thread / x % y,
                    _ => thread / x / y,
                }
            }),
            Special::Ntid(a) => axis(&around.threads, a),
            Special::Ctaid(a) => axis(&around.block_place, a),
            Special::Nctaid(a) => axis(&around.grid, a),
            Special::Lane => std::array::from_fn(|lane| lane as u32),
        }
    }

    pub(super) fn set_predicate(&mut self, op: &Op, mask: u32) {
        let bits = |f: &dyn Fn(usize) -> bool| (0..32).fold(0, |all, lane| all | u32::from(f(lane)) << lane);
        match op {
            Op::Set32(compare, how, d, a, b) => {
                let (a, b) = (self.get32(*a), self.get32(*b));
                let value = match how {
                    CompareAs::U32 => bits(&|i| math::holds(*compare, a[i], b[i])),
                    CompareAs::S32 => bits(&|i| math::holds(*compare, a[i] as i32, b[i] as i32)),
                    CompareAs::U16 => bits(&|i| math::holds(*compare, a[i] as u16, b[i] as u16)),
                    CompareAs::S16 => bits(&|i| math::holds(*compare, a[i] as i16, b[i] as i16)),
                    CompareAs::F32 => {
                        bits(&|i| math::holds(*compare, f32::from_bits(a[i]), f32::from_bits(b[i])))
                    }
                };
                self.put_predicate(*d, value, mask);
            }
            Op::Set64(compare, signed, d, a, b) => {
                let (a, b) = (self.get64(*a), self.get64(*b));
                let value = match signed {
                    true => bits(&|i| math::holds(*compare, a[i] as i64, b[i] as i64)),
                    false => bits(&|i| math::holds(*compare, a[i], b[i])),
                };
                self.put_predicate(*d, value, mask);
            }
            Op::Logic(logic, d, a, b) => {
                let (a, b) = (self.predicate(*a), self.predicate(*b));
                let value = match logic {
                    Logic::And => a & b,
                    Logic::Or => a | b,
                    Logic::Xor => a ^ b,
                };
                self.put_predicate(*d, value, mask);
            }
            Op::NotPred(d, a) => self.put_predicate(*d, !self.predicate(*a), mask),
            Op::MovePred(d, a, all) => {
                let value = a.map_or(if *all { u32::MAX } else { 0 }, |a| self.predicate(a));
                self.put_predicate(*d, value, mask);
            }
            _ => {}
        }
    }

    pub(super) fn shuffle(
        &mut self,
        how: Shuffle,
        to: R32,
        valid: Option<Pred>,
        sources: [S32; 4],
        mask: u32,
    ) -> Step<()> {
        let [from, lane, clamp, members] = sources.map(|s| self.get32(s));
        let first = first_lane(mask) as usize;
        let wanted = members[first] & self.live;
        if lanes_of(mask).any(|i| members[i] & self.live != wanted) || wanted != mask {
            let kind = FaultKind::Diverged {
                what: "a shuffle",
                there: mask,
                live: wanted,
            };
            return Err((kind, first as u32));
        }
        let mut value = [0; 32];
        let mut holds = 0;
        for i in lanes_of(mask) {
            let segment = clamp[i] >> 8 & 0x1f;
            let most = (i as u32 & segment) | (clamp[i] & 0x1f & !segment);
            let b = lane[i] & 0x1f;
            let (source, inside) = match how {
                Shuffle::Up => (
                    i as i64 - i64::from(b),
                    i as i64 - i64::from(b) >= i64::from(most),
                ),
                Shuffle::Down => (
                    i as i64 + i64::from(b),
                    i as i64 + i64::from(b) <= i64::from(most),
                ),
                Shuffle::Butterfly => (
                    i64::from(i as u32 ^ b),
                    i64::from(i as u32 ^ b) <= i64::from(most),
                ),
                Shuffle::Index => {
                    let j = (i as u32 & segment) | (b & !segment);
                    (i64::from(j), j <= most)
                }
            };
            let source = if inside { source as usize } else { i };
            if mask >> source & 1 == 0 {
                return Err((FaultKind::AbsentLane(source as u32), i as u32));
            }
            value[i] = from[source];
            holds |= u32::from(inside) << i;
        }
        self.put32(to, &value, mask);
        if let Some(valid) = valid {
            self.put_predicate(valid, holds, mask);
        }
        Ok(())
    }
}
