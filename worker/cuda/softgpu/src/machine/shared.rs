//! Memory of a block, with what its threads did to each place since the last barrier.

use super::fault::{FaultKind, Where};

/// Bytes of a granule.
const GRANULE: usize = 2;

/// Several threads.
const SEVERAL: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Fresh,
    Written,
    /// A copy may write it at any time.
    UnderWay,
}

#[derive(Debug, Clone, Copy, Default)]
struct Granule {
    state: State,
    writer: u32,
    reader: u32,
    /// When it was written and read: barriers of the block so far, and those of the warp.
    written: (u32, u32),
    read: (u32, u32),
}

/// Who touches memory, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Toucher {
    pub thread: u32,
    /// Barriers of the block so far, from 1.
    pub epoch: u32,
    /// Barriers of the warp so far.
    pub warp_epoch: u32,
}

impl Toucher {
    /// Whether what another did then may happen at the same time as what this one does.
    fn beside(&self, other: u32, when: (u32, u32)) -> bool {
        if when.0 != self.epoch || other == self.thread {
            return false;
        }
        other == SEVERAL || other / 32 != self.thread / 32 || when.1 == self.warp_epoch
    }
}

/// Memory of a block.
pub(super) struct Shared {
    bytes: Vec<u8>,
    granules: Vec<Granule>,
}

impl Shared {
    pub(super) fn new(bytes: usize) -> Self {
        Shared {
            bytes: vec![0xff; bytes],
            granules: vec![Granule::default(); bytes.div_ceil(GRANULE)],
        }
    }

    /// Makes it fresh for another block.
    pub(super) fn reset(&mut self) {
        self.bytes.fill(0xff);
        self.granules.fill(Granule::default());
    }

    fn touch(&self, address: u64, bytes: usize) -> Result<std::ops::Range<usize>, FaultKind> {
        let space = Where::Shared;
        if !address.is_multiple_of(bytes as u64) {
            return Err(FaultKind::Misaligned {
                space,
                address,
                bytes,
            });
        }
        match address.checked_add(bytes as u64) {
            Some(end) if end <= self.bytes.len() as u64 => Ok(address as usize..end as usize),
            _ => Err(FaultKind::OutOfBounds {
                space,
                address,
                bytes,
            }),
        }
    }

    pub(super) fn load(&mut self, address: u64, to: &mut [u8], who: Toucher) -> Result<(), FaultKind> {
        let range = self.touch(address, to.len())?;
        for granule in &mut self.granules[range.start / GRANULE..range.end.div_ceil(GRANULE)] {
            match granule.state {
                State::Written => {}
                State::Fresh => {
                    return Err(FaultKind::Unwritten {
                        space: Where::Shared,
                        address,
                    });
                }
                State::UnderWay => return Err(FaultKind::UnderWay { address }),
            }
            if who.beside(granule.writer, granule.written) {
                return Err(FaultKind::Race {
                    address,
                    other: Some(granule.writer),
                    other_wrote: true,
                });
            }
            let now = (who.epoch, who.warp_epoch);
            granule.reader = if granule.read == now && granule.reader != who.thread {
                SEVERAL
            } else {
                who.thread
            };
            granule.read = now;
        }
        to.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn check_write(
        &self,
        address: u64,
        range: &std::ops::Range<usize>,
        who: Toucher,
    ) -> Result<(), FaultKind> {
        for granule in &self.granules[range.start / GRANULE..range.end.div_ceil(GRANULE)] {
            if granule.state == State::UnderWay {
                return Err(FaultKind::UnderWay { address });
            }
            if range.len() < GRANULE {
                continue;
            }
            if granule.state == State::Written && who.beside(granule.writer, granule.written) {
                return Err(FaultKind::Race {
                    address,
                    other: Some(granule.writer),
                    other_wrote: true,
                });
            }
            if who.beside(granule.reader, granule.read) {
                return Err(FaultKind::Race {
                    address,
                    other: Some(granule.reader).filter(|t| *t != SEVERAL),
                    other_wrote: false,
                });
            }
        }
        Ok(())
    }

    fn put(&mut self, range: std::ops::Range<usize>, from: &[u8], who: Toucher) {
        for granule in &mut self.granules[range.start / GRANULE..range.end.div_ceil(GRANULE)] {
            granule.state = State::Written;
            granule.writer = who.thread;
            granule.written = (who.epoch, who.warp_epoch);
        }
        self.bytes[range].copy_from_slice(from);
    }

    pub(super) fn store(&mut self, address: u64, from: &[u8], who: Toucher) -> Result<(), FaultKind> {
        let range = self.touch(address, from.len())?;
        self.check_write(address, &range, who)?;
        self.put(range, from, who);
        Ok(())
    }

    /// A copy starts: from now on it may write at any time.
    pub(super) fn copy_begins(&mut self, address: u64, bytes: usize, who: Toucher) -> Result<(), FaultKind> {
        let range = self.touch(address, bytes)?;
        self.check_write(address, &range, who)?;
        for granule in &mut self.granules[range.start / GRANULE..range.end.div_ceil(GRANULE)] {
            granule.state = State::UnderWay;
        }
        Ok(())
    }

    /// A copy is done.
    pub(super) fn copy_lands(&mut self, address: u64, from: &[u8], who: Toucher) -> Result<(), FaultKind> {
        let range = self.touch(address, from.len())?;
        self.put(range, from, who);
        Ok(())
    }
}
