//! What a warp does with memory.

use super::first_lane;
use super::{Around, Step, Warp, lanes_of};
use crate::machine::arithmetic::L64;
use crate::machine::copies::Copy;
use crate::machine::count::Lanes;
use crate::machine::fault::{FaultKind, Where};
use crate::machine::matrix;
use crate::ptx::{Access, Address, AtomicKind, R32, R64, Reg, S32, Space};

/// First generic address of a block's memory.
const SHARED_WINDOW: u64 = 0x1_0000_0000_0000;

impl Warp {
    /// The space of generic addresses, which all lanes share.
    pub(super) fn resolve(space: Space, addresses: &mut L64, mask: u32) -> Space {
        if space != Space::Generic {
            return space;
        }
        let first = addresses[first_lane(mask) as usize];
        if (SHARED_WINDOW..SHARED_WINDOW + (1 << 32)).contains(&first) {
            addresses
                .iter_mut()
                .for_each(|a| *a = a.wrapping_sub(SHARED_WINDOW));
            return Space::Shared;
        }
        Space::Global
    }

    pub(super) fn count(
        space: Space,
        addresses: &L64,
        bytes: usize,
        mask: u32,
        write: bool,
        around: &mut Around<'_>,
    ) {
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

    pub(super) fn load(&mut self, access: &Access, mask: u32, around: &mut Around<'_>) -> Step<()> {
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

    pub(super) fn read(
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

    pub(super) fn store(&mut self, access: &Access, mask: u32, around: &mut Around<'_>) -> Step<()> {
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

    pub(super) fn load_matrices(
        &mut self,
        to: &[R32],
        from: Address,
        transposed: bool,
        around: &mut Around<'_>,
    ) -> Step<()> {
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

    pub(super) fn copy(
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

    pub(super) fn land(&mut self, pending: u32, around: &mut Around<'_>) -> Step<()> {
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
            let landed = around
                .shared
                .copy_lands(copy.to, &bytes[..usize::from(copy.bytes)], who);
            landed.map_err(at_lane)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn atomic(
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
            let found = around
                .memory
                .touch(addresses[lane], 4, &mut self.hint)
                .map_err(at_lane)?;
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
