//! Instructions that touch memory, and those that lanes do together.

use super::{Decoded, Decoder, Value, number};
use crate::ptx::instruction::*;

impl Decoder<'_> {
    pub(super) fn space(&self) -> Decoded<Space> {
        let spaces = self.parts[1..]
            .iter()
            .filter_map(|part| match part.split("::").next() {
                Some("global") => Some(Space::Global),
                Some("shared") => Some(Space::Shared),
                Some("param") => Some(Space::Param),
                Some("local" | "const") => None,
                _ => None,
            });
        if self.has("local") || self.has("const") {
            return self.unknown();
        }
        Ok(spaces.into_iter().next().unwrap_or(Space::Generic))
    }

    pub(super) fn access(&self, load: bool) -> Decoded<Access> {
        let (bytes, signed) = match self.kind() {
            "b8" | "u8" => (1, false),
            "s8" => (1, true),
            "b16" | "u16" | "f16" => (2, false),
            "s16" => (2, true),
            "b32" | "u32" | "f32" => (4, false),
            "s32" => (4, true),
            "b64" | "u64" | "s64" | "f64" => (8, false),
            _ => return self.unknown(),
        };
        let (address, list) = if load { (1, 0) } else { (0, 1) };
        let wanted = if self.has("v2") {
            2
        } else if self.has("v4") {
            4
        } else {
            1
        };
        let mut registers = vec![];
        let mut numbers = vec![];
        for text in self.list(list)? {
            match number(text).filter(|_| !load) {
                Some(n) => {
                    registers.push(Reg::R32(R32(0)));
                    numbers.push(Some(n));
                }
                None => match self.value(text)? {
                    Value::Register(r) => {
                        registers.push(r);
                        numbers.push(None);
                    }
                    _ => return Err(format!("{text} is no register")),
                },
            }
        }
        if registers.len() != wanted {
            return Err(format!("{} registers for {wanted} elements", registers.len()));
        }
        Ok(Access {
            space: self.space()?,
            bytes,
            signed,
            address: self.address(address)?,
            registers,
            numbers,
        })
    }

    pub(super) fn atomic(&self) -> Decoded<Op> {
        let returns = self.parts[0] == "atom";
        let kind = match (self.parts.iter().rev().nth(1).copied().unwrap_or(""), self.kind()) {
            ("add", "u32" | "s32") => AtomicKind::AddU32,
            ("add", "f32") => AtomicKind::AddF32,
            ("max", "u32") => AtomicKind::MaxU32,
            ("min", "u32") => AtomicKind::MinU32,
            ("exch", "b32") => AtomicKind::Exchange,
            ("cas", "b32") => AtomicKind::CompareExchange,
            _ => return self.unknown(),
        };
        let first = usize::from(returns);
        let result = returns.then(|| self.r32(0)).transpose()?;
        let second = (kind == AtomicKind::CompareExchange)
            .then(|| self.s32(first + 2))
            .transpose()?;
        Ok(Op::Atomic(
            kind,
            result,
            self.space()?,
            self.address(first)?,
            self.s32(first + 1)?,
            second,
        ))
    }

    pub(super) fn copy_async(&self) -> Decoded<Op> {
        if self.has("commit_group") {
            return Ok(Op::CommitCopies);
        }
        if self.has("wait_all") {
            return Ok(Op::WaitCopies(0));
        }
        if self.has("wait_group") {
            let pending = number(self.operand(0)?).ok_or("a number of groups is missing")?;
            return Ok(Op::WaitCopies(pending as u32));
        }
        let known = matches!(
            self.parts.as_slice(),
            ["cp", "async", "ca" | "cg", "shared", "global"]
        );
        let bytes = number(self.operand(2)?).filter(|n| matches!(n, 4 | 8 | 16));
        match (known, bytes) {
            (true, Some(bytes)) => Ok(Op::CopyAsync {
                to: self.address(0)?,
                from: self.address(1)?,
                bytes: bytes as u8,
                taken: (self.operands.len() > 3).then(|| self.s32(3)).transpose()?,
            }),
            _ => self.unknown(),
        }
    }

    pub(super) fn load_matrices(&self) -> Decoded<Op> {
        let to = self.list(0)?;
        let count = match self.parts.get(4).copied() {
            Some("x1") => 1,
            Some("x2") => 2,
            Some("x4") => 4,
            _ => return self.unknown(),
        };
        let known = self.has("sync") && self.has("m8n8") && self.has("shared") && self.kind() == "b16";
        if !known || to.len() != count {
            return self.unknown();
        }
        Ok(Op::LoadMatrices {
            to: to
                .into_iter()
                .map(|r| self.register32(r))
                .collect::<Decoded<_>>()?,
            from: self.address(1)?,
            transposed: self.has("trans"),
        })
    }

    pub(super) fn multiply_add(&self) -> Decoded<Op> {
        let known = [
            "mma", "sync", "aligned", "m16n8k16", "row", "col", "f32", "f16", "f16", "f32",
        ];
        if self.parts != known {
            return self.unknown();
        }
        fn all<T, const N: usize>(list: Vec<T>) -> Decoded<[T; N]> {
            let got = list.len();
            list.try_into()
                .map_err(|_| format!("{got} registers in the place of {N}"))
        }
        let sources = |index| -> Decoded<Vec<S32>> {
            self.list(index)?.into_iter().map(|t| self.source32(t)).collect()
        };
        let to: Decoded<Vec<R32>> = self.list(0)?.into_iter().map(|t| self.register32(t)).collect();
        Ok(Op::MultiplyAdd {
            to: all(to?)?,
            a: all(sources(1)?)?,
            b: all(sources(2)?)?,
            c: all(sources(3)?)?,
        })
    }

    pub(super) fn shuffle(&self) -> Decoded<Op> {
        let how = match self.parts.as_slice() {
            ["shfl", "sync", "up", "b32"] => Shuffle::Up,
            ["shfl", "sync", "down", "b32"] => Shuffle::Down,
            ["shfl", "sync", "bfly", "b32"] => Shuffle::Butterfly,
            ["shfl", "sync", "idx", "b32"] => Shuffle::Index,
            _ => return self.unknown(),
        };
        let (to, valid) = match self.operand(0)?.split_once('|') {
            Some((to, valid)) => (to, Some(self.predicate(valid)?)),
            None => (self.operand(0)?, None),
        };
        Ok(Op::Shuffle {
            how,
            to: self.register32(to)?,
            valid,
            from: self.s32(1)?,
            lane: self.s32(2)?,
            clamp: self.s32(3)?,
            members: self.s32(4)?,
        })
    }

    pub(super) fn barrier(&self) -> Decoded<Op> {
        if self.has("warp") {
            return Ok(Op::WarpBarrier(self.s32(0)?));
        }
        match (self.has("sync"), self.operands.as_slice()) {
            (true, ["0"]) => Ok(Op::Barrier),
            _ => self.unknown(),
        }
    }
}
