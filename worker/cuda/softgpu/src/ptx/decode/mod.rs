//! From an instruction's text to an operation.
//!
//! After: NVIDIA, "Parallel Thread Execution ISA", version 9.0. What is not known is an error that names the instruction: it is never
//! left out.

mod memory;

use std::collections::HashMap;

use super::instruction::*;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Register(Reg),
    Predicate(Pred),
    /// Place of a variable in its space.
    Place(u64),
}

/// Names of registers and variables.
pub(super) type Names = HashMap<String, Value>;

/// The instruction of a text without guard and `;`.
pub(super) fn decode(text: &str, names: &Names, labels: &HashMap<String, usize>) -> Result<Op, String> {
    let (word, rest) = text
        .split_once(char::is_whitespace)
        .map_or((text, ""), |(word, rest)| (word, rest.trim()));
    let decoder = Decoder {
        parts: word.split('.').collect(),
        operands: operands(rest),
        names,
        labels,
    };
    decoder.op()
}

/// Splits operands at commas outside of brackets.
fn operands(text: &str) -> Vec<&str> {
    let mut out = vec![];
    let (mut depth, mut from) = (0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                out.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    if !text[from..].trim().is_empty() {
        out.push(text[from..].trim());
    }
    out
}

struct Decoder<'d> {
    parts: Vec<&'d str>,
    operands: Vec<&'d str>,
    names: &'d Names,
    labels: &'d HashMap<String, usize>,
}

type Decoded<T> = Result<T, String>;

/// A number as PTX writes it: `-12`, `0x1f`, `0f3F800000`, `0d3FF0000000000000`.
fn number(text: &str) -> Option<u64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d));
    let digits = digits.trim_end_matches('U');
    let value = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16).ok()?
    } else if let Some(bits) = digits.strip_prefix("0f").or_else(|| digits.strip_prefix("0F")) {
        u64::from_str_radix(bits, 16).ok()?
    } else if let Some(bits) = digits.strip_prefix("0d").or_else(|| digits.strip_prefix("0D")) {
        u64::from_str_radix(bits, 16).ok()?
    } else {
        digits.parse::<u64>().ok()?
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

fn special(name: &str) -> Option<Special> {
    let (stem, axis) = match name.split_once('.') {
        Some((stem, "x")) => (stem, 0),
        Some((stem, "y")) => (stem, 1),
        Some((stem, "z")) => (stem, 2),
        Some(_) => return None,
        None => (name, 0),
    };
    Some(match stem {
        "%tid" => Special::Tid(axis),
        "%ntid" => Special::Ntid(axis),
        "%ctaid" => Special::Ctaid(axis),
        "%nctaid" => Special::Nctaid(axis),
        "%laneid" => Special::Lane,
        _ => return None,
    })
}

impl<'d> Decoder<'d> {
    fn has(&self, part: &str) -> bool {
        self.parts[1..].contains(&part)
    }

    /// The instruction's last type.
    fn kind(&self) -> &'d str {
        self.parts[self.parts.len() - 1]
    }

    fn unknown<T>(&self) -> Decoded<T> {
        Err("an instruction that is not known here".to_owned())
    }

    fn operand(&self, index: usize) -> Decoded<&'d str> {
        let operand = self.operands.get(index).copied();
        operand.ok_or_else(|| format!("operand {index} is missing"))
    }

    fn value(&self, text: &str) -> Decoded<Value> {
        let value = self.names.get(text).copied();
        value.ok_or_else(|| format!("{text} is not declared"))
    }

    fn register32(&self, text: &str) -> Decoded<R32> {
        match self.value(text)? {
            Value::Register(Reg::R32(r)) => Ok(r),
            _ => Err(format!("{text} is no register of 32 bits")),
        }
    }

    fn r32(&self, index: usize) -> Decoded<R32> {
        self.register32(self.operand(index)?)
    }

    fn r64(&self, index: usize) -> Decoded<R64> {
        let text = self.operand(index)?;
        match self.value(text)? {
            Value::Register(Reg::R64(r)) => Ok(r),
            _ => Err(format!("{text} is no register of 64 bits")),
        }
    }

    fn source32(&self, text: &str) -> Decoded<S32> {
        if let Some(n) = number(text) {
            return Ok(S32::Imm(n as u32));
        }
        match self.value(text)? {
            Value::Register(Reg::R32(r)) => Ok(S32::Reg(r)),
            Value::Place(at) => Ok(S32::Imm(at as u32)),
            _ => Err(format!("{text} has no 32 bits")),
        }
    }

    fn s32(&self, index: usize) -> Decoded<S32> {
        self.source32(self.operand(index)?)
    }

    fn s64(&self, index: usize) -> Decoded<S64> {
        let text = self.operand(index)?;
        if let Some(n) = number(text) {
            return Ok(S64::Imm(n));
        }
        match self.value(text)? {
            Value::Register(Reg::R64(r)) => Ok(S64::Reg(r)),
            Value::Place(at) => Ok(S64::Imm(at)),
            _ => Err(format!("{text} has no 64 bits")),
        }
    }

    fn predicate(&self, text: &str) -> Decoded<Pred> {
        match self.value(text)? {
            Value::Predicate(p) => Ok(p),
            _ => Err(format!("{text} is no predicate")),
        }
    }

    fn pred(&self, index: usize) -> Decoded<Pred> {
        self.predicate(self.operand(index)?)
    }

    /// `{a, b}`: its parts; `a`: itself.
    fn list(&self, index: usize) -> Decoded<Vec<&'d str>> {
        let text = self.operand(index)?;
        Ok(match text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            Some(inside) => inside.split(',').map(str::trim).collect(),
            None => vec![text],
        })
    }

    fn is_list(&self, index: usize) -> bool {
        self.operands.get(index).is_some_and(|o| o.starts_with('{'))
    }

    /// `[%rd1+8]`
    fn address(&self, index: usize) -> Decoded<Address> {
        let text = self.operand(index)?;
        let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let inside = inside.ok_or_else(|| format!("{text} is no address"))?.trim();
        let (name, offset) = match inside.split_once('+') {
            Some((name, offset)) => (
                name.trim(),
                number(offset.trim()).ok_or("an offset that is no number")? as i64,
            ),
            None => (inside, 0),
        };
        if let Some(place) = number(name) {
            return Ok(Address {
                base: None,
                offset: offset.wrapping_add(place as i64),
            });
        }
        match self.value(name)? {
            Value::Register(register) => Ok(Address {
                base: Some(register),
                offset,
            }),
            Value::Place(place) => Ok(Address {
                base: None,
                offset: offset.wrapping_add(place as i64),
            }),
            Value::Predicate(_) => Err(format!("{name} is no address")),
        }
    }

    fn op(&self) -> Decoded<Op> {
        match self.parts[0] {
            "mov" => self.mov(),
            "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "and" | "or" | "xor" | "copysign" => {
                self.binary()
            }
            "mul24" => self.unknown(),
            "mad" => self.mad(),
            "fma" => self.fma(),
            "shl" | "shr" => self.shift(),
            "neg" | "abs" | "not" | "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "tanh" | "sin" | "cos" => {
                self.unary()
            }
            "bfi" => self.bfi(),
            "lop3" => self.lop3(),
            "prmt" if self.kind() == "b32" && self.parts.len() == 2 => {
                Ok(Op::Prmt(self.r32(0)?, self.s32(1)?, self.s32(2)?, self.s32(3)?))
            }
            "cvt" => self.cvt(),
            "cvta" => Ok(Op::Un64(Un64::Move, self.r64(0)?, self.s64(1)?)),
            "setp" => self.setp(),
            "selp" => match self.kind() {
                "b64" | "u64" | "s64" => Ok(Op::Select64(
                    self.r64(0)?,
                    self.s64(1)?,
                    self.s64(2)?,
                    self.pred(3)?,
                )),
                "f64" => self.unknown(),
                _ => Ok(Op::Select32(
                    self.r32(0)?,
                    self.s32(1)?,
                    self.s32(2)?,
                    self.pred(3)?,
                )),
            },
            "ld" => self.access(true).map(Op::Load),
            "st" => self.access(false).map(Op::Store),
            "atom" | "red" => self.atomic(),
            "cp" => self.copy_async(),
            "ldmatrix" => self.load_matrices(),
            "mma" => self.multiply_add(),
            "shfl" => self.shuffle(),
            "bar" | "barrier" => self.barrier(),
            "membar" | "fence" => Ok(Op::Fence),
            "bra" => {
                let name = self.operand(0)?;
                let label = self.labels.get(name);
                label
                    .map(|&at| Op::Branch(at))
                    .ok_or_else(|| format!("there is no label {name}"))
            }
            "ret" | "exit" => Ok(Op::Return),
            "trap" => Ok(Op::Trap),
            _ => self.unknown(),
        }
    }

    fn mov(&self) -> Decoded<Op> {
        match self.kind() {
            "pred" => {
                let from = self.operand(1)?;
                Ok(match number(from) {
                    Some(n) => Op::MovePred(self.pred(0)?, None, n != 0),
                    None => Op::MovePred(self.pred(0)?, Some(self.predicate(from)?), false),
                })
            }
            "b64" | "u64" | "s64" if self.is_list(0) => {
                let to = self.list(0)?;
                match to.as_slice() {
                    [low, high] => Ok(Op::Unpack64(
                        self.register32(low)?,
                        self.register32(high)?,
                        self.s64(1)?,
                    )),
                    _ => self.unknown(),
                }
            }
            "b64" | "u64" | "s64" if self.is_list(1) => {
                let from = self.list(1)?;
                match from.as_slice() {
                    [low, high] => Ok(Op::Pack64(
                        self.r64(0)?,
                        self.source32(low)?,
                        self.source32(high)?,
                    )),
                    _ => self.unknown(),
                }
            }
            "b64" | "u64" | "s64" => Ok(Op::Un64(Un64::Move, self.r64(0)?, self.s64(1)?)),
            "b32" | "u32" if self.is_list(0) => {
                let to = self.list(0)?;
                match to.as_slice() {
                    [low, high] => Ok(Op::Unpack32(
                        self.register32(low)?,
                        self.register32(high)?,
                        self.s32(1)?,
                    )),
                    _ => self.unknown(),
                }
            }
            "b32" | "u32" if self.is_list(1) => {
                let from = self.list(1)?;
                match from.as_slice() {
                    [low, high] => Ok(Op::Pack32(
                        self.r32(0)?,
                        self.source32(low)?,
                        self.source32(high)?,
                    )),
                    _ => self.unknown(),
                }
            }
            "f64" => self.unknown(),
            _ => match special(self.operand(1)?) {
                Some(which) => Ok(Op::Special(self.r32(0)?, which)),
                None => Ok(Op::Un32(Un32::Move, self.r32(0)?, self.s32(1)?)),
            },
        }
    }

    fn binary(&self) -> Decoded<Op> {
        let name = self.parts[0];
        let kind = self.kind();
        let modes = &self.parts[1..self.parts.len() - 1];
        if kind == "pred" {
            let logic = match name {
                "and" => Logic::And,
                "or" => Logic::Or,
                "xor" => Logic::Xor,
                _ => return self.unknown(),
            };
            return Ok(Op::Logic(logic, self.pred(0)?, self.pred(1)?, self.pred(2)?));
        }
        if name == "mul" && modes == ["wide"] {
            return match kind {
                "u32" | "s32" => Ok(Op::MulWide(
                    kind == "s32",
                    self.r64(0)?,
                    self.s32(1)?,
                    self.s32(2)?,
                )),
                _ => self.unknown(),
            };
        }
        if matches!(kind, "u64" | "s64" | "b64") {
            let f = match (name, modes, kind) {
                ("add", [], _) => Bin64::Add,
                ("sub", [], _) => Bin64::Sub,
                ("mul", ["lo"], _) => Bin64::MulLo,
                ("mul", ["hi"], "u64") => Bin64::MulHiU,
                ("div", [], "u64") => Bin64::DivU,
                ("div", [], _) => Bin64::DivS,
                ("rem", [], "u64") => Bin64::RemU,
                ("rem", [], _) => Bin64::RemS,
                ("min", [], "u64") => Bin64::MinU,
                ("min", [], _) => Bin64::MinS,
                ("max", [], "u64") => Bin64::MaxU,
                ("max", [], _) => Bin64::MaxS,
                ("and", [], _) => Bin64::And,
                ("or", [], _) => Bin64::Or,
                ("xor", [], _) => Bin64::Xor,
                _ => return self.unknown(),
            };
            return Ok(Op::Bin64(f, self.r64(0)?, self.s64(1)?, self.s64(2)?));
        }
        let signed = kind == "s32";
        let f = match (name, modes, kind) {
            ("add", [] | ["rn"], "f32") => Bin32::AddF,
            ("add", ["rz"], "f32") => Bin32::AddFRz,
            ("sub", [] | ["rn"], "f32") => Bin32::SubF,
            ("mul", [] | ["rn"], "f32") => Bin32::MulF,
            ("div", ["rn" | "full" | "approx"], "f32") => Bin32::DivF,
            ("min", [], "f32") => Bin32::MinF,
            ("max", [], "f32") => Bin32::MaxF,
            ("copysign", [], "f32") => Bin32::CopySign,
            ("and", [], "b32" | "b16") => Bin32::And,
            ("or", [], "b32" | "b16") => Bin32::Or,
            ("xor", [], "b32" | "b16") => Bin32::Xor,
            (_, _, "f32" | "b32" | "b16" | "u16" | "s16" | "f16" | "f16x2" | "f64") => return self.unknown(),
            ("add", [], _) => Bin32::Add,
            ("sub", [], _) => Bin32::Sub,
            ("mul", ["lo"], _) => Bin32::MulLo,
            ("mul", ["hi"], _) if signed => Bin32::MulHiS,
            ("mul", ["hi"], _) => Bin32::MulHiU,
            ("div", [], _) if signed => Bin32::DivS,
            ("div", [], _) => Bin32::DivU,
            ("rem", [], _) if signed => Bin32::RemS,
            ("rem", [], _) => Bin32::RemU,
            ("min", [], _) if signed => Bin32::MinS,
            ("min", [], _) => Bin32::MinU,
            ("max", [], _) if signed => Bin32::MaxS,
            ("max", [], _) => Bin32::MaxU,
            _ => return self.unknown(),
        };
        Ok(Op::Bin32(f, self.r32(0)?, self.s32(1)?, self.s32(2)?))
    }

    fn mad(&self) -> Decoded<Op> {
        let mode = self.parts.get(1).copied().unwrap_or("");
        match (mode, self.kind()) {
            ("lo", "u32" | "s32") => Ok(Op::Mad32(self.r32(0)?, self.s32(1)?, self.s32(2)?, self.s32(3)?)),
            ("lo", "u64" | "s64") => Ok(Op::Mad64(self.r64(0)?, self.s64(1)?, self.s64(2)?, self.s64(3)?)),
            ("wide", kind @ ("u32" | "s32")) => Ok(Op::MadWide(
                kind == "s32",
                self.r64(0)?,
                self.s32(1)?,
                self.s32(2)?,
                self.s64(3)?,
            )),
            _ => self.unknown(),
        }
    }

    fn fma(&self) -> Decoded<Op> {
        let (d, a, b, c) = (self.r32(0)?, self.s32(1)?, self.s32(2)?, self.s32(3)?);
        match &self.parts[1..] {
            ["rn", "f32"] => Ok(Op::Fma(d, a, b, c)),
            ["rm", "f32"] => Ok(Op::FmaRm(d, a, b, c)),
            _ => self.unknown(),
        }
    }

    fn shift(&self) -> Decoded<Op> {
        let left = self.parts[0] == "shl";
        match self.kind() {
            "b64" | "u64" | "s64" => {
                let f = match (left, self.kind()) {
                    (true, _) => Shift64::Left,
                    (false, "s64") => Shift64::RightS,
                    (false, _) => Shift64::RightU,
                };
                Ok(Op::Shift64(f, self.r64(0)?, self.s64(1)?, self.s32(2)?))
            }
            "b32" | "u32" | "s32" => {
                let f = match (left, self.kind()) {
                    (true, _) => Bin32::Shl,
                    (false, "s32") => Bin32::ShrS,
                    (false, _) => Bin32::ShrU,
                };
                Ok(Op::Bin32(f, self.r32(0)?, self.s32(1)?, self.s32(2)?))
            }
            _ => self.unknown(),
        }
    }

    fn unary(&self) -> Decoded<Op> {
        if self.kind() == "pred" {
            return Ok(Op::NotPred(self.pred(0)?, self.pred(1)?));
        }
        let f = match (self.parts[0], self.kind()) {
            ("neg", "s64") => return Ok(Op::Un64(Un64::NegS, self.r64(0)?, self.s64(1)?)),
            ("abs", "s64") => return Ok(Op::Un64(Un64::AbsS, self.r64(0)?, self.s64(1)?)),
            ("not", "b64") => return Ok(Op::Un64(Un64::Not, self.r64(0)?, self.s64(1)?)),
            ("neg", "s32") => Un32::NegS,
            ("abs", "s32") => Un32::AbsS,
            ("not", "b32") => Un32::Not,
            ("not", "b16") => Un32::Not16,
            ("neg", "f32") => Un32::NegF,
            ("abs", "f32") => Un32::AbsF,
            ("ex2", "f32") => Un32::Ex2,
            ("lg2", "f32") => Un32::Lg2,
            ("rcp", "f32") => Un32::Rcp,
            ("rsqrt", "f32") => Un32::Rsqrt,
            ("sqrt", "f32") => Un32::Sqrt,
            ("tanh", "f32") => Un32::Tanh,
            ("sin", "f32") => Un32::Sin,
            ("cos", "f32") => Un32::Cos,
            _ => return self.unknown(),
        };
        Ok(Op::Un32(f, self.r32(0)?, self.s32(1)?))
    }

    fn bfi(&self) -> Decoded<Op> {
        match self.kind() {
            "b32" => Ok(Op::Bfi32(
                self.r32(0)?,
                self.s32(1)?,
                self.s32(2)?,
                self.s32(3)?,
                self.s32(4)?,
            )),
            "b64" => Ok(Op::Bfi64(
                self.r64(0)?,
                self.s64(1)?,
                self.s64(2)?,
                self.s32(3)?,
                self.s32(4)?,
            )),
            _ => self.unknown(),
        }
    }

    fn lop3(&self) -> Decoded<Op> {
        let table = number(self.operand(4)?).and_then(|n| u8::try_from(n).ok());
        match (self.parts.as_slice(), table) {
            (["lop3", "b32"], Some(table)) => Ok(Op::Lop3(
                self.r32(0)?,
                self.s32(1)?,
                self.s32(2)?,
                self.s32(3)?,
                table,
            )),
            _ => self.unknown(),
        }
    }

    fn cvt(&self) -> Decoded<Op> {
        let mut modes = self.parts[1..].iter().copied().filter(|p| *p != "ftz");
        let mut modes: Vec<&str> = modes.by_ref().collect();
        if modes == ["rn", "f16x2", "f32"] {
            return Ok(Op::Bin32(
                Bin32::HalvesF,
                self.r32(0)?,
                self.s32(1)?,
                self.s32(2)?,
            ));
        }
        let from = modes.pop().unwrap_or("");
        let to = modes.pop().unwrap_or("");
        let round = match modes.as_slice() {
            ["rni"] => Some(Round::Nearest),
            ["rzi"] => Some(Round::Zero),
            ["rmi"] => Some(Round::Down),
            ["rpi"] => Some(Round::Up),
            _ => None,
        };
        let plain = modes.is_empty();
        let nearest = modes == ["rn"];
        let un = |f| Ok(Op::Un32(f, self.r32(0)?, self.s32(1)?));
        let widen = |f| Ok(Op::Widen(f, self.r64(0)?, self.s32(1)?));
        let narrow = |f| Ok(Op::Narrow(f, self.r32(0)?, self.s64(1)?));
        match (to, from) {
            ("f32", "f32") if modes == ["sat"] => un(Un32::Sat),
            ("f32", "f32") => round.map_or_else(|| self.unknown(), |r| un(Un32::Whole(r))),
            ("f16", "f32") if nearest => un(Un32::HalfOfFloat),
            ("f32", "f16") if plain => un(Un32::FloatOfHalf),
            ("f32", "u16") if nearest => un(Un32::FloatOfU16),
            ("f32", "s16") if nearest => un(Un32::FloatOfS16),
            ("f32", "u32") if nearest => un(Un32::FloatOfU32),
            ("f32", "s32") if nearest => un(Un32::FloatOfS32),
            ("f32", "s64") if nearest => narrow(Narrow::FloatOfS64),
            ("f32", "u64") if nearest => narrow(Narrow::FloatOfU64),
            ("u32", "f32") => round.map_or_else(|| self.unknown(), |r| un(Un32::U32OfFloat(r))),
            ("s32", "f32") => round.map_or_else(|| self.unknown(), |r| un(Un32::S32OfFloat(r))),
            ("u64", "f32") => round.map_or_else(|| self.unknown(), |r| widen(Widen::U64OfFloat(r))),
            ("s64", "f32") => round.map_or_else(|| self.unknown(), |r| widen(Widen::S64OfFloat(r))),
            ("u64" | "s64", "u32") if plain => widen(Widen::Zero),
            ("u64" | "s64", "s32") if plain => widen(Widen::Sign),
            ("u32" | "s32", "u64" | "s64") if plain => narrow(Narrow::Low),
            ("u16" | "s16", "u64" | "s64") if plain => narrow(Narrow::Low16),
            ("u32" | "s32", "u16" | "b16") if plain => un(Un32::ZeroExtend16),
            ("u32" | "s32", "s16") if plain => un(Un32::SignExtend16),
            ("u16" | "s16", "u32" | "s32") if plain => un(Un32::ZeroExtend16),
            ("u32" | "s32" | "u16" | "s16", "u8") if plain => un(Un32::ZeroExtend8),
            ("u32" | "s32" | "u16" | "s16", "s8") if plain => un(Un32::SignExtend8),
            ("u8", "u16" | "u32" | "s16" | "s32") if plain => un(Un32::ZeroExtend8),
            ("s8", "u16" | "u32" | "s16" | "s32") if plain => un(Un32::SignExtend8),
            _ => self.unknown(),
        }
    }

    fn setp(&self) -> Decoded<Op> {
        let compare = match self.parts.get(1).copied().unwrap_or("") {
            "eq" => Compare::Eq,
            "ne" => Compare::Ne,
            "lt" | "lo" => Compare::Lt,
            "le" | "ls" => Compare::Le,
            "gt" | "hi" => Compare::Gt,
            "ge" | "hs" => Compare::Ge,
            "equ" => Compare::EqUnordered,
            "neu" => Compare::NeUnordered,
            "ltu" => Compare::LtUnordered,
            "leu" => Compare::LeUnordered,
            "gtu" => Compare::GtUnordered,
            "geu" => Compare::GeUnordered,
            "nan" => Compare::Nan,
            "num" => Compare::Ordered,
            _ => return self.unknown(),
        };
        let plain = self.parts.len() == 3 || (self.parts.len() == 4 && self.has("ftz"));
        if !plain || self.operands.len() != 3 || self.operand(0)?.contains('|') {
            return self.unknown();
        }
        // `ne` of floats does not hold for NaN.
        let how = match self.kind() {
            "b64" | "u64" => {
                return Ok(Op::Set64(
                    compare,
                    false,
                    self.pred(0)?,
                    self.s64(1)?,
                    self.s64(2)?,
                ));
            }
            "s64" => {
                return Ok(Op::Set64(
                    compare,
                    true,
                    self.pred(0)?,
                    self.s64(1)?,
                    self.s64(2)?,
                ));
            }
            "b16" | "u16" => CompareAs::U16,
            "s16" => CompareAs::S16,
            "b32" | "u32" => CompareAs::U32,
            "s32" => CompareAs::S32,
            "f32" => CompareAs::F32,
            _ => return self.unknown(),
        };
        Ok(Op::Set32(compare, how, self.pred(0)?, self.s32(1)?, self.s32(2)?))
    }
}
