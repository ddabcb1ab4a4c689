//! A warp: 32 lanes that go together, part at branches, and meet again.

mod registers;
mod touch;

use graft_model::SplitMix;

use super::arithmetic::{self as math, L32, L64};
use super::copies::Copies;
use super::count::Counts;
use super::fault::FaultKind;
use super::matrix;
use super::memory::Memory;
use super::order::{Order, Seen};
use super::shared::{Shared, Toucher};
use crate::ptx::{Address, Kernel, Op, Pred, R32, R64, Reg, S32, S64};

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
                if matches!(f, Bin32::DivU | Bin32::DivS | Bin32::RemU | Bin32::RemS)
                    && let Some(lane) = lanes_of(mask).find(|&lane| b[lane] == 0)
                {
                    return Err((FaultKind::DivisionByZero, lane as u32));
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
                if matches!(f, Bin64::DivU | Bin64::DivS | Bin64::RemU | Bin64::RemS)
                    && let Some(lane) = lanes_of(mask).find(|&lane| b[lane] == 0)
                {
                    return Err((FaultKind::DivisionByZero, lane as u32));
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
            Op::Atomic(kind, to, space, address, a, b) => {
                self.atomic(*kind, *to, *space, *address, (*a, *b), mask, around)?
            }
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
}
