//! A warp: 32 lanes that go together, part at branches, and meet again.

use graft_model::SplitMix;

use super::arithmetic::{self as math, L32, L64};
use super::copies::{Copies, Copy};
use super::count::{Counts, Lanes};
use super::fault::{FaultKind, Where};
use super::matrix;
use super::memory::Memory;
use super::order::{Order, Seen};
use super::shared::{Shared, Toucher};
use crate::ptx::{
    Access, Address, AtomicKind, CompareAs, Kernel, Logic, Op, Pred, R32, R64, Reg, S32, S64, Shuffle, Space, Special,
};

/// First generic address of a block's memory.
const SHARED_WINDOW: u64 = 0x1_0000_0000_0000;

/// Lanes that go together, where they are and where they meet others.
#[derive(Debug, Clone, Copy)]
struct Way {
    at: usize,
    meets: usize,
    lanes: u32,
}

/// What a warp waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    AtBarrier,
    Ended,
}

/// What all warps of a block share.
pub(super) struct Around<'a> {
    pub kernel: &'a Kernel,
    pub params: &'a [u8],
    pub block: u32,
    pub block_place: [u32; 3],
    pub grid: [u32; 3],
    pub threads: [u32; 3],
    pub epoch: u32,
    pub shared: &'a mut Shared,
    pub memory: &'a mut Memory,
    pub order: &'a mut Order,
    pub seen: &'a mut Seen,
    pub counts: &'a mut Counts,
}

/// A warp.
pub(super) struct Warp {
    pub number: u32,
    pub state: State,
    /// Whether it wrote to global memory since its last fence.
    pub unfenced: bool,
    /// Whether its waiting at a barrier made what others wrote its own.
    r32: Vec<L32>,
    r64: Vec<L64>,
    predicates: Vec<u32>,
    ways: Vec<Way>,
    /// Lanes that have not ended.
    live: u32,
    barriers: u32,
    copies: Copies,
    /// The allocation that was touched last.
    hint: usize,
}

/// A fault, and the lane that made it.
type Step<T> = Result<T, (FaultKind, u32)>;

fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |lane| mask >> lane & 1 == 1)
}

fn first_lane(mask: u32) -> u32 {
    mask.trailing_zeros() % 32
}

impl Warp {
    pub(super) fn new(kernel: &Kernel, number: u32, threads: u32) -> Self {
        let count = (threads - number * 32).min(32);
        let live = if count == 32 { u32::MAX } else { (1 << count) - 1 };
        Warp {
            number,
            state: State::Running,
            unfenced: false,
            r32: vec![[0xffff_ffff; 32]; kernel.registers32],
            r64: vec![[u64::MAX; 32]; kernel.registers64],
            predicates: vec![0; kernel.predicates],
            ways: vec![Way {
                at: 0,
                meets: kernel.code.len(),
                lanes: live,
            }],
            live,
            barriers: 0,
            copies: Copies::default(),
            hint: 0,
        }
    }

    /// Where it is, for messages.
    pub(super) fn at(&self) -> usize {
        self.ways.last().map_or(0, |w| w.at)
    }

    fn get32(&self, source: S32) -> L32 {
        match source {
            S32::Reg(R32(r)) => self.r32[usize::from(r)],
            S32::Imm(n) => [n; 32],
        }
    }

    fn get64(&self, source: S64) -> L64 {
        match source {
            S64::Reg(R64(r)) => self.r64[usize::from(r)],
            S64::Imm(n) => [n; 32],
        }
    }

    fn put32(&mut self, R32(to): R32, value: &L32, mask: u32) {
        let register = &mut self.r32[usize::from(to)];
        if mask == u32::MAX {
            *register = *value;
        } else {
            lanes_of(mask).for_each(|lane| register[lane] = value[lane]);
        }
    }

    fn put64(&mut self, R64(to): R64, value: &L64, mask: u32) {
        let register = &mut self.r64[usize::from(to)];
        if mask == u32::MAX {
            *register = *value;
        } else {
            lanes_of(mask).for_each(|lane| register[lane] = value[lane]);
        }
    }

    fn predicate(&self, Pred(p): Pred) -> u32 {
        self.predicates[usize::from(p)]
    }

    fn put_predicate(&mut self, Pred(to): Pred, value: u32, mask: u32) {
        let predicate = &mut self.predicates[usize::from(to)];
        *predicate = *predicate & !mask | value & mask;
    }

    fn addresses(&self, address: Address) -> L64 {
        let offset = address.offset as u64;
        match address.base {
            None => [offset; 32],
            Some(Reg::R32(R32(r))) => {
                let base = &self.r32[usize::from(r)];
                std::array::from_fn(|i| u64::from(base[i]).wrapping_add(offset) & 0xffff_ffff)
            }
            Some(Reg::R64(R64(r))) => {
                let base = &self.r64[usize::from(r)];
                std::array::from_fn(|i| base[i].wrapping_add(offset))
            }
        }
    }

    fn toucher(&self, around: &Around<'_>, lane: usize) -> Toucher {
        Toucher {
            thread: self.number * 32 + lane as u32,
            epoch: around.epoch,
            warp_epoch: self.barriers,
        }
    }

    fn all_there(&self, what: &'static str, lanes: u32) -> Step<()> {
        if lanes == self.live {
            return Ok(());
        }
        let kind = FaultKind::Diverged {
            what,
            there: lanes,
            live: self.live,
        };
        Err((kind, first_lane(lanes)))
    }

    /// Runs one instruction.
    pub(super) fn step(&mut self, around: &mut Around<'_>, random: &mut SplitMix) -> Step<()> {
        let Some(&way) = self.ways.last() else {
            self.state = State::Ended;
            return Ok(());
        };
        if way.lanes == 0 || way.at == way.meets && self.ways.len() > 1 {
            self.ways.pop();
            return Ok(());
        }
        let kernel = around.kernel;
        let instruction = &kernel.code[way.at];
        let mut mask = way.lanes;
        if let Some((p, wanted)) = instruction.guard {
            let holds = self.predicate(p);
            mask &= if wanted { holds } else { !holds };
        }
        around.counts.instructions += 1;
        match instruction.op {
            Op::Branch(to) => {
                self.branch(way, to, mask, kernel.meets[way.at], around, random);
                return Ok(());
            }
            Op::Return => {
                self.live &= !mask;
                for way in &mut self.ways {
                    way.lanes &= !mask;
                }
                if self.live == 0 {
                    self.ways.clear();
                    self.state = State::Ended;
                    return Ok(());
                }
            }
            Op::Barrier => {
                self.all_there("a barrier", mask)?;
                around.counts.barriers += 1;
                self.barriers += 1;
                self.state = State::AtBarrier;
            }
            _ if mask == 0 => {}
            _ => self.execute(&instruction.op, mask, around)?,
        }
        if let Some(way) = self.ways.last_mut() {
            way.at += 1;
        }
        Ok(())
    }

    fn branch(
        &mut self,
        way: Way,
        to: usize,
        mask: u32,
        meets: usize,
        around: &mut Around<'_>,
        random: &mut SplitMix,
    ) {
        let stays = way.lanes & !mask;
        let Some(top) = self.ways.last_mut() else { return };
        if stays == 0 {
            top.at = to;
            return;
        }
        if mask == 0 {
            top.at += 1;
            return;
        }
        around.counts.parted += 1;
        if way.meets == meets {
            // All of them go on where they were to go anyway.
            self.ways.pop();
        } else {
            top.at = meets;
        }
        let mut sides = [
            Way {
                at: to,
                meets,
                lanes: mask,
            },
            Way {
                at: way.at + 1,
                meets,
                lanes: stays,
            },
        ];
        if random.below(2) == 0 {
            sides.swap(0, 1);
        }
        self.ways.extend(sides);
    }

    fn execute(&mut self, op: &Op, mask: u32, around: &mut Around<'_>) -> Step<()> {
        match op {
            Op::Un32(f, d, a) => {
                let value = math::un32(*f, &self.get32(*a));
                self.put32(*d, &value, mask);
            }
            Op::Bin32(f, d, a, b) => {
                use crate::ptx::Bin32;
                let (a, b) = (self.get32(*a), self.get32(*b));
                if matches!(f, Bin32::DivU | Bin32::DivS | Bin32::RemU | Bin32::RemS) {
                    if let Some(lane) = lanes_of(mask).find(|&lane| b[lane] == 0) {
                        return Err((FaultKind::DivisionByZero, lane as u32));
                    }
                }
                if matches!(f, Bin32::AddF | Bin32::SubF | Bin32::MulF) {
                    around.counts.float_lanes += u64::from(mask.count_ones());
                }
                let value = math::bin32(*f, &a, &b);
                self.put32(*d, &value, mask);
            }
            Op::Bin64(f, d, a, b) => {
                use crate::ptx::Bin64;
                let (a, b) = (self.get64(*a), self.get64(*b));
                if matches!(f, Bin64::DivU | Bin64::DivS | Bin64::RemU | Bin64::RemS) {
                    if let Some(lane) = lanes_of(mask).find(|&lane| b[lane] == 0) {
                        return Err((FaultKind::DivisionByZero, lane as u32));
                    }
                }
                let value = math::bin64(*f, &a, &b);
                self.put64(*d, &value, mask);
            }
            Op::Fma(d, a, b, c) | Op::FmaRm(d, a, b, c) => {
                around.counts.float_lanes += 2 * u64::from(mask.count_ones());
                let down = matches!(op, Op::FmaRm(..));
                let value = math::fma(&self.get32(*a), &self.get32(*b), &self.get32(*c), down);
                self.put32(*d, &value, mask);
            }
            Op::Mad32(d, a, b, c) => {
                let (a, b, c) = (self.get32(*a), self.get32(*b), self.get32(*c));
                let value = std::array::from_fn(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i]));
                self.put32(*d, &value, mask);
            }
            Op::Mad64(d, a, b, c) => {
                let (a, b, c) = (self.get64(*a), self.get64(*b), self.get64(*c));
                let value = std::array::from_fn(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i]));
                self.put64(*d, &value, mask);
            }
            Op::MulWide(signed, d, a, b) => {
                let value = math::mul_wide(*signed, &self.get32(*a), &self.get32(*b));
                self.put64(*d, &value, mask);
            }
            Op::MadWide(signed, d, a, b, c) => {
                let product = math::mul_wide(*signed, &self.get32(*a), &self.get32(*b));
                let c = self.get64(*c);
                let value = std::array::from_fn(|i| product[i].wrapping_add(c[i]));
                self.put64(*d, &value, mask);
            }
            Op::Un64(f, d, a) => {
                let value = math::un64(*f, &self.get64(*a));
                self.put64(*d, &value, mask);
            }
            Op::Shift64(f, d, a, b) => {
                let value = math::shift64(*f, &self.get64(*a), &self.get32(*b));
                self.put64(*d, &value, mask);
            }
            Op::Widen(f, d, a) => {
                let value = math::widen(*f, &self.get32(*a));
                self.put64(*d, &value, mask);
            }
            Op::Narrow(f, d, a) => {
                let value = math::narrow(*f, &self.get64(*a));
                self.put32(*d, &value, mask);
            }
            Op::Load(access) => self.load(access, mask, around)?,
            Op::Store(access) => self.store(access, mask, around)?,
            Op::MultiplyAdd { to, a, b, c } => {
                self.all_there("a product of matrices", mask)?;
                around.counts.matrix += 1;
                let value = matrix::multiply_add(
                    &a.map(|r| self.get32(r)),
                    &b.map(|r| self.get32(r)),
                    &c.map(|r| self.get32(r)),
                );
                for (to, value) in to.iter().zip(&value) {
                    self.put32(*to, value, mask);
                }
            }
            Op::LoadMatrices { to, from, transposed } => {
                self.all_there("a load of matrices", mask)?;
                self.load_matrices(to, *from, *transposed, around)?;
            }
            Op::CopyAsync {
                to,
                from,
                bytes,
                taken,
            } => self.copy(*to, *from, *bytes, *taken, mask, around)?,
            Op::CommitCopies => {
                self.all_there("the end of a group of copies", mask)?;
                self.copies.close_group();
            }
            Op::WaitCopies(pending) => {
                self.all_there("a wait for copies", mask)?;
                self.land(*pending, around)?;
            }
            Op::Set32(..) | Op::Set64(..) | Op::Logic(..) | Op::NotPred(..) | Op::MovePred(..) => {
                self.set_predicate(op, mask);
            }
            Op::Select32(d, a, b, p) => {
                let (a, b, holds) = (self.get32(*a), self.get32(*b), self.predicate(*p));
                let value = std::array::from_fn(|i| if holds >> i & 1 == 1 { a[i] } else { b[i] });
                self.put32(*d, &value, mask);
            }
            Op::Select64(d, a, b, p) => {
                let (a, b, holds) = (self.get64(*a), self.get64(*b), self.predicate(*p));
                let value = std::array::from_fn(|i| if holds >> i & 1 == 1 { a[i] } else { b[i] });
                self.put64(*d, &value, mask);
            }
            Op::Shuffle {
                how,
                to,
                valid,
                from,
                lane,
                clamp,
                members,
            } => self.shuffle(*how, *to, *valid, [*from, *lane, *clamp, *members], mask)?,
            Op::Atomic(kind, to, space, address, a, b) => self.atomic(*kind, *to, *space, *address, (*a, *b), mask, around)?,
            Op::WarpBarrier(members) => {
                let members = self.get32(*members)[first_lane(mask) as usize] & self.live;
                if members != mask {
                    let kind = FaultKind::Diverged {
                        what: "a barrier of a warp",
                        there: mask,
                        live: members,
                    };
                    return Err((kind, first_lane(mask)));
                }
                self.barriers += 1;
            }
            Op::Fence => self.unfenced = false,
            Op::Trap => return Err((FaultKind::Trap, first_lane(mask))),
            Op::Nothing | Op::Branch(_) | Op::Return | Op::Barrier => {}
            other => self.bits(other, mask, around),
        }
        Ok(())
    }

    /// Moves between registers and their parts, and what a lane knows of itself.
    fn bits(&mut self, op: &Op, mask: u32, around: &Around<'_>) {
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

    fn special(&self, which: Special, around: &Around<'_>) -> L32 {
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

    fn set_predicate(&mut self, op: &Op, mask: u32) {
        let bits = |f: &dyn Fn(usize) -> bool| (0..32).fold(0, |all, lane| all | u32::from(f(lane)) << lane);
        match op {
            Op::Set32(compare, how, d, a, b) => {
                let (a, b) = (self.get32(*a), self.get32(*b));
                let value = match how {
                    CompareAs::U32 => bits(&|i| math::holds(*compare, a[i], b[i])),
                    CompareAs::S32 => bits(&|i| math::holds(*compare, a[i] as i32, b[i] as i32)),
                    CompareAs::U16 => bits(&|i| math::holds(*compare, a[i] as u16, b[i] as u16)),
                    CompareAs::S16 => bits(&|i| math::holds(*compare, a[i] as i16, b[i] as i16)),
                    CompareAs::F32 => bits(&|i| math::holds(*compare, f32::from_bits(a[i]), f32::from_bits(b[i]))),
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

    fn shuffle(&mut self, how: Shuffle, to: R32, valid: Option<Pred>, sources: [S32; 4], mask: u32) -> Step<()> {
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
                Shuffle::Up => (i as i64 - i64::from(b), i as i64 - i64::from(b) >= i64::from(most)),
                Shuffle::Down => (i as i64 + i64::from(b), i as i64 + i64::from(b) <= i64::from(most)),
                Shuffle::Butterfly => (i64::from(i as u32 ^ b), i64::from(i as u32 ^ b) <= i64::from(most)),
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

    /// The space of generic addresses, which all lanes share.
    fn resolve(space: Space, addresses: &mut L64, mask: u32) -> Space {
        if space != Space::Generic {
            return space;
        }
        let first = addresses[first_lane(mask) as usize];
        if (SHARED_WINDOW..SHARED_WINDOW + (1 << 32)).contains(&first) {
            addresses.iter_mut().for_each(|a| *a = a.wrapping_sub(SHARED_WINDOW));
            return Space::Shared;
        }
        Space::Global
    }

    fn count(space: Space, addresses: &L64, bytes: usize, mask: u32, write: bool, around: &mut Around<'_>) {
        let lanes = Lanes {
            mask,
            addresses,
            bytes: bytes as u64,
        };
        match space {
            Space::Shared => around.counts.shared(&lanes),
            Space::Param => {}
            _ => around.counts.global(&lanes, write),
        }
    }

    fn load(&mut self, access: &Access, mask: u32, around: &mut Around<'_>) -> Step<()> {
        let mut addresses = self.addresses(access.address);
        let space = Self::resolve(access.space, &mut addresses, mask);
        let each = usize::from(access.bytes);
        let all = each * access.registers.len();
        Self::count(space, &addresses, all, mask, false, around);
        let mut buffer = [0u8; 32];
        for lane in lanes_of(mask) {
            let to = &mut buffer[..all];
            let address = addresses[lane];
            self.read(space, address, to, lane, around)
                .map_err(|kind| (kind, lane as u32))?;
            for (i, register) in access.registers.iter().enumerate() {
                let mut word = [0u8; 8];
                word[..each].copy_from_slice(&buffer[i * each..(i + 1) * each]);
                let mut value = u64::from_le_bytes(word);
                if access.signed {
                    let unused = 64 - each as u32 * 8;
                    value = ((value << unused) as i64 >> unused) as u64;
                }
                match *register {
                    Reg::R32(R32(r)) => self.r32[usize::from(r)][lane] = value as u32,
                    Reg::R64(R64(r)) => self.r64[usize::from(r)][lane] = value,
                }
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        space: Space,
        address: u64,
        to: &mut [u8],
        lane: usize,
        around: &mut Around<'_>,
    ) -> Result<(), FaultKind> {
        match space {
            Space::Shared => {
                let who = self.toucher(around, lane);
                around.shared.load(address, to, who)
            }
            Space::Param => {
                let inside = usize::try_from(address)
                    .ok()
                    .and_then(|a| around.params.get(a..a.checked_add(to.len())?));
                let from = inside.ok_or(FaultKind::OutOfBounds {
                    space: Where::Param,
                    address,
                    bytes: to.len(),
                })?;
                to.copy_from_slice(from);
                Ok(())
            }
            Space::Global | Space::Generic => {
                let found = around.memory.touch(address, to.len(), &mut self.hint)?;
                around.memory.load(found, to, around.block, around.seen)
            }
        }
    }

    fn store(&mut self, access: &Access, mask: u32, around: &mut Around<'_>) -> Step<()> {
        let mut addresses = self.addresses(access.address);
        let space = Self::resolve(access.space, &mut addresses, mask);
        let each = usize::from(access.bytes);
        let all = each * access.registers.len();
        Self::count(space, &addresses, all, mask, true, around);
        let mut buffer = [0u8; 32];
        for lane in lanes_of(mask) {
            for (i, register) in access.registers.iter().enumerate() {
                let value = match (access.numbers.get(i).copied().flatten(), *register) {
                    (Some(n), _) => n,
                    (None, Reg::R32(R32(r))) => u64::from(self.r32[usize::from(r)][lane]),
                    (None, Reg::R64(R64(r))) => self.r64[usize::from(r)][lane],
                };
                buffer[i * each..(i + 1) * each].copy_from_slice(&value.to_le_bytes()[..each]);
            }
            let from = &buffer[..all];
            let address = addresses[lane];
            let done = match space {
                Space::Shared => {
                    let who = self.toucher(around, lane);
                    around.shared.store(address, from, who)
                }
                Space::Param => Err(FaultKind::OutOfBounds {
                    space: Where::Param,
                    address,
                    bytes: all,
                }),
                Space::Global | Space::Generic => {
                    self.unfenced = true;
                    let found = around.memory.touch(address, all, &mut self.hint);
                    found.and_then(|found| around.memory.store(found, from, around.block, around.seen))
                }
            };
            done.map_err(|kind| (kind, lane as u32))?;
        }
        Ok(())
    }

    fn load_matrices(&mut self, to: &[R32], from: Address, transposed: bool, around: &mut Around<'_>) -> Step<()> {
        let addresses = self.addresses(from);
        for (matrix, register) in to.iter().enumerate() {
            let lanes = matrix * 8..matrix * 8 + 8;
            let mask = 0xff << (matrix * 8);
            Self::count(Space::Shared, &addresses, 16, mask, false, around);
            let mut rows = [[0u16; 8]; 8];
            for (row, lane) in rows.iter_mut().zip(lanes) {
                let mut bytes = [0u8; 16];
                let who = self.toucher(around, lane);
                let read = around.shared.load(addresses[lane], &mut bytes, who);
                read.map_err(|kind| (kind, lane as u32))?;
                for (half, pair) in row.iter_mut().zip(bytes.chunks_exact(2)) {
                    *half = u16::from_le_bytes([pair[0], pair[1]]);
                }
            }
            let value = matrix::fragment(&rows, transposed);
            self.put32(*register, &value, u32::MAX);
        }
        Ok(())
    }

    fn copy(
        &mut self,
        to: Address,
        from: Address,
        bytes: u8,
        taken: Option<S32>,
        mask: u32,
        around: &mut Around<'_>,
    ) -> Step<()> {
        let (to, from) = (self.addresses(to), self.addresses(from));
        let taken = taken.map_or([u32::from(bytes); 32], |t| self.get32(t));
        let reading = lanes_of(mask).fold(0, |all, lane| all | u32::from(taken[lane] > 0) << lane);
        if reading != 0 {
            Self::count(Space::Global, &from, usize::from(bytes), reading, false, around);
        }
        Self::count(Space::Shared, &to, usize::from(bytes), mask, true, around);
        for lane in lanes_of(mask) {
            let at_lane = |kind| (kind, lane as u32);
            let copy = Copy {
                lane: lane as u32,
                to: to[lane],
                from: from[lane],
                bytes,
                taken: taken[lane].min(u32::from(bytes)) as u8,
            };
            if copy.taken > 0 {
                let touched = around.memory.touch(copy.from, usize::from(bytes), &mut self.hint);
                touched.map_err(at_lane)?;
            }
            let who = self.toucher(around, lane);
            let begun = around.shared.copy_begins(copy.to, usize::from(bytes), who);
            begun.map_err(at_lane)?;
            self.copies.add(copy);
        }
        Ok(())
    }

    fn land(&mut self, pending: u32, around: &mut Around<'_>) -> Step<()> {
        for copy in self.copies.land(pending) {
            let at_lane = |kind| (kind, copy.lane);
            let mut bytes = [0u8; 16];
            if copy.taken > 0 {
                let taken = &mut bytes[..usize::from(copy.taken)];
                let found = around.memory.find(copy.from, taken.len(), &mut self.hint);
                let found = found.ok_or((
                    FaultKind::OutOfBounds {
                        space: Where::Global,
                        address: copy.from,
                        bytes: taken.len(),
                    },
                    copy.lane,
                ))?;
                let loaded = around.memory.load(found, taken, around.block, around.seen);
                loaded.map_err(at_lane)?;
            }
            let who = self.toucher(around, copy.lane as usize);
            let landed = around.shared.copy_lands(copy.to, &bytes[..usize::from(copy.bytes)], who);
            landed.map_err(at_lane)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn atomic(
        &mut self,
        kind: AtomicKind,
        to: Option<R32>,
        space: Space,
        address: Address,
        (a, b): (S32, Option<S32>),
        mask: u32,
        around: &mut Around<'_>,
    ) -> Step<()> {
        let mut addresses = self.addresses(address);
        let space = Self::resolve(space, &mut addresses, mask);
        Self::count(space, &addresses, 4, mask, true, around);
        let a = self.get32(a);
        let b = b.map(|b| self.get32(b));
        for lane in lanes_of(mask) {
            let at_lane = |kind| (kind, lane as u32);
            if space == Space::Shared {
                return Err((FaultKind::Trap, lane as u32));
            }
            let change = |before: u32| match kind {
                AtomicKind::AddU32 => before.wrapping_add(a[lane]),
                AtomicKind::AddF32 => (f32::from_bits(before) + f32::from_bits(a[lane])).to_bits(),
                AtomicKind::MaxU32 => before.max(a[lane]),
                AtomicKind::MinU32 => before.min(a[lane]),
                AtomicKind::Exchange => a[lane],
                AtomicKind::CompareExchange if before == a[lane] => b.map_or(before, |b| b[lane]),
                AtomicKind::CompareExchange => before,
            };
            let found = around.memory.touch(addresses[lane], 4, &mut self.hint).map_err(at_lane)?;
            let before = around.memory.change(found, change).map_err(at_lane)?;
            around
                .order
                .changed(addresses[lane], around.block, !self.unfenced, around.seen);
            if let Some(R32(to)) = to {
                self.r32[usize::from(to)][lane] = before;
            }
        }
        Ok(())
    }
}
