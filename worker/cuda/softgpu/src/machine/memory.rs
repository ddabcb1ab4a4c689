//! Memory of the device, with what is known of each place: who wrote it, who read it.

use super::fault::{FaultKind, Where};

/// Address of the first allocation.
const FIRST: u64 = 0x7f00_0000_0000;

/// Bytes between two allocations, which belong to nobody.
const GAP: u64 = 4096;

/// Alignment of allocations, in bytes: as the driver's.
const ALIGNMENT: u64 = 256;

/// Byte that fresh memory is filled with: halves and floats of it are NaN.
const POISON: u8 = 0xff;

/// Bytes of a granule: what is known of memory is known of so much at once.
const GRANULE: usize = 2;

/// Nobody wrote a granule.
const NOBODY: u32 = 0;
/// The host wrote it, or an earlier launch's number is no longer needed.
const HOST: u32 = 1;
/// The first number of a block.
const FIRST_BLOCK: u32 = 2;

/// Why memory is not given, or not taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The device has no more.
    #[error("{wanted} bytes are wanted, {free} are free")]
    Full {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Nothing was allocated there.
    #[error("nothing was allocated at {0:#x}")]
    Unknown(u64),
    /// The host reads or writes beyond an allocation.
    #[error("{1} bytes at {0:#x} are outside of what was allocated")]
    Outside(u64, usize),
    /// The host reads what nobody wrote.
    #[error("nobody wrote what is read at {0:#x}")]
    Unwritten(u64),
}

struct Allocation {
    base: u64,
    bytes: Vec<u8>,
    writers: Vec<u32>,
    readers: Vec<u32>,
}

/// Memory of a device.
pub struct Memory {
    /// In the order of their addresses.
    allocations: Vec<Allocation>,
    next: u64,
    limit: u64,
    used: u64,
    /// Number of the first block of the launch that runs.
    first_block: u32,
    next_block: u32,
}

/// A place that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    allocation: usize,
    offset: usize,
}

/// What a block may know of others.
pub(super) trait Sees {
    /// Whether what a block of this launch wrote before is seen.
    fn sees(&self, block: u32) -> bool;
}

impl Memory {
    /// Memory of so many bytes.
    pub fn new(limit: u64) -> Self {
        Memory {
            allocations: vec![],
            next: FIRST,
            limit,
            used: 0,
            first_block: FIRST_BLOCK,
            next_block: FIRST_BLOCK,
        }
    }

    /// Bytes of the device, and those that are free.
    pub fn total_and_free(&self) -> (u64, u64) {
        (self.limit, self.limit - self.used)
    }

    /// Gives fresh, poisoned memory.
    pub fn allocate(&mut self, bytes: u64) -> Result<u64, MemoryError> {
        let taken = bytes.max(1).next_multiple_of(ALIGNMENT);
        let free = self.limit - self.used;
        if taken > free {
            return Err(MemoryError::Full { wanted: bytes, free });
        }
        let base = self.next;
        self.next += taken + GAP;
        self.used += taken;
        let granules = (bytes as usize).div_ceil(GRANULE);
        self.allocations.push(Allocation {
            base,
            bytes: vec![POISON; bytes as usize],
            writers: vec![NOBODY; granules],
            readers: vec![NOBODY; granules],
        });
        Ok(base)
    }

    /// Takes memory back.
    pub fn free(&mut self, base: u64) -> Result<(), MemoryError> {
        let place = self.allocations.binary_search_by_key(&base, |a| a.base);
        let place = place.map_err(|_| MemoryError::Unknown(base))?;
        let gone = self.allocations.remove(place);
        self.used -= (gone.bytes.len() as u64).max(1).next_multiple_of(ALIGNMENT);
        Ok(())
    }

    /// Takes all memory back. Its addresses are not given again, so that who names them is found.
    pub fn free_all(&mut self) {
        self.allocations.clear();
        self.used = 0;
    }

    /// Forgets what lies in a range, as if it were fresh.
    pub fn poison(&mut self, address: u64, bytes: usize) -> Result<(), MemoryError> {
        let found = self.outside(address, bytes)?;
        let allocation = &mut self.allocations[found.allocation];
        allocation.bytes[found.offset..found.offset + bytes].fill(POISON);
        allocation.writers[granules(found.offset, bytes)].fill(NOBODY);
        allocation.readers[granules(found.offset, bytes)].fill(NOBODY);
        Ok(())
    }

    fn outside(&self, address: u64, bytes: usize) -> Result<Found, MemoryError> {
        let found = self.find(address, bytes, &mut 0);
        found.ok_or(MemoryError::Outside(address, bytes))
    }

    /// Writes from the host.
    pub fn write(&mut self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        let found = self.outside(address, from.len())?;
        let allocation = &mut self.allocations[found.allocation];
        allocation.bytes[found.offset..found.offset + from.len()].copy_from_slice(from);
        allocation.writers[granules(found.offset, from.len())].fill(HOST);
        Ok(())
    }

    /// Reads to the host.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), MemoryError> {
        let found = self.outside(address, to.len())?;
        let allocation = &self.allocations[found.allocation];
        let all = granules(found.offset, to.len());
        if let Some(place) = allocation.writers[all.clone()].iter().position(|w| *w == NOBODY) {
            let offset = (all.start + place) * GRANULE;
            return Err(MemoryError::Unwritten(allocation.base + offset as u64));
        }
        to.copy_from_slice(&allocation.bytes[found.offset..found.offset + to.len()]);
        Ok(())
    }

    /// Copies within the device, with what is known of each place.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), MemoryError> {
        let mut all = vec![0; bytes];
        self.read(from, &mut all)?;
        self.write(to, &all)
    }

    /// Fills with a value, from the host.
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: usize) -> Result<(), MemoryError> {
        self.write(address, &pattern.repeat(count))
    }

    /// Numbers the blocks of a launch.
    pub(super) fn begin(&mut self, blocks: u32) {
        if u32::MAX - self.next_block < blocks {
            for allocation in &mut self.allocations {
                let known = allocation.writers.iter_mut().filter(|w| **w >= FIRST_BLOCK);
                known.for_each(|w| *w = HOST);
                allocation.readers.fill(NOBODY);
            }
            self.next_block = FIRST_BLOCK;
        }
        self.first_block = self.next_block;
        self.next_block += blocks;
    }

    pub(super) fn find(&self, address: u64, bytes: usize, hint: &mut usize) -> Option<Found> {
        let inside = |a: &Allocation| {
            let offset = address.checked_sub(a.base)?;
            let end = offset.checked_add(bytes as u64)?;
            (end <= a.bytes.len() as u64).then_some(offset as usize)
        };
        if let Some(offset) = self.allocations.get(*hint).and_then(inside) {
            return Some(Found {
                allocation: *hint,
                offset,
            });
        }
        let place = self
            .allocations
            .partition_point(|a| a.base <= address)
            .checked_sub(1)?;
        let offset = inside(&self.allocations[place])?;
        *hint = place;
        Some(Found {
            allocation: place,
            offset,
        })
    }

    /// Looks up what a thread touches.
    pub(super) fn touch(&self, address: u64, bytes: usize, hint: &mut usize) -> Result<Found, FaultKind> {
        if !address.is_multiple_of(bytes as u64) {
            return Err(FaultKind::Misaligned {
                space: Where::Global,
                address,
                bytes,
            });
        }
        self.find(address, bytes, hint).ok_or(FaultKind::OutOfBounds {
            space: Where::Global,
            address,
            bytes,
        })
    }

    /// Reads for a block's thread, into `to`.
    pub(super) fn load(
        &mut self,
        found: Found,
        to: &mut [u8],
        block: u32,
        seen: &impl Sees,
    ) -> Result<(), FaultKind> {
        let first = self.first_block;
        let mine = first + block;
        let allocation = &mut self.allocations[found.allocation];
        let address = allocation.base + found.offset as u64;
        let all = granules(found.offset, to.len());
        for &writer in &allocation.writers[all.clone()] {
            if writer == NOBODY {
                return Err(FaultKind::Unwritten {
                    space: Where::Global,
                    address,
                });
            }
            if writer >= first && writer != mine && !seen.sees(writer - first) && to.len() >= GRANULE {
                return Err(FaultKind::BlocksRace {
                    address,
                    other: writer - first,
                    other_wrote: true,
                });
            }
        }
        allocation.readers[all].fill(mine);
        to.copy_from_slice(&allocation.bytes[found.offset..found.offset + to.len()]);
        Ok(())
    }

    /// Writes for a block's thread.
    pub(super) fn store(
        &mut self,
        found: Found,
        from: &[u8],
        block: u32,
        seen: &impl Sees,
    ) -> Result<(), FaultKind> {
        let first = self.first_block;
        let mine = first + block;
        let allocation = &mut self.allocations[found.allocation];
        let address = allocation.base + found.offset as u64;
        let all = granules(found.offset, from.len());
        let strange = |other: u32| other >= first && other != mine && !seen.sees(other - first);
        let race = |other: u32, other_wrote| FaultKind::BlocksRace {
            address,
            other: other - first,
            other_wrote,
        };
        // Neighbouring bytes share a granule, so that of single bytes nothing is known.
        if from.len() >= GRANULE {
            if let Some(&other) = allocation.writers[all.clone()].iter().find(|w| strange(**w)) {
                return Err(race(other, true));
            }
            if let Some(&other) = allocation.readers[all.clone()].iter().find(|r| strange(**r)) {
                return Err(race(other, false));
            }
        }
        allocation.writers[all].fill(mine);
        allocation.bytes[found.offset..found.offset + from.len()].copy_from_slice(from);
        Ok(())
    }

    /// Changes a word at once; gives what was there.
    pub(super) fn change(&mut self, found: Found, f: impl FnOnce(u32) -> u32) -> Result<u32, FaultKind> {
        let allocation = &mut self.allocations[found.allocation];
        let all = granules(found.offset, 4);
        let address = allocation.base + found.offset as u64;
        if allocation.writers[all.clone()].contains(&NOBODY) {
            return Err(FaultKind::Unwritten {
                space: Where::Global,
                address,
            });
        }
        allocation.writers[all].fill(HOST);
        let word = &mut allocation.bytes[found.offset..found.offset + 4];
        let before = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        word.copy_from_slice(&f(before).to_le_bytes());
        Ok(before)
    }
}

fn granules(offset: usize, bytes: usize) -> std::ops::Range<usize> {
    offset / GRANULE..(offset + bytes).div_ceil(GRANULE)
}
