//! What a launch did, as a profiler would count it.

use serde::Serialize;

/// Bytes of a sector, in which global memory is moved.
pub(super) const SECTOR: u64 = 32;

/// Counts of one launch or several. Instructions are those of warps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All instructions.
    pub instructions: u64,
    /// Products of matrices.
    pub matrix: u64,
    /// Multiplications and additions of floats in lanes.
    pub float_lanes: u64,
    /// Barriers, each counted for each warp.
    pub barriers: u64,
    /// Reads and writes of global memory.
    pub global_requests: u64,
    /// Sectors that they touch.
    pub global_sectors: u64,
    /// Bytes read from global memory.
    pub global_read: u64,
    /// Bytes written to it.
    pub global_written: u64,
    /// Reads and writes of shared memory.
    pub shared_requests: u64,
    /// Rounds beyond the first that they need, since lanes want different words of the same bank.
    pub shared_conflicts: u64,
    /// Branches at which lanes parted.
    pub parted: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.instructions += other.instructions;
        self.matrix += other.matrix;
        self.float_lanes += other.float_lanes;
        self.barriers += other.barriers;
        self.global_requests += other.global_requests;
        self.global_sectors += other.global_sectors;
        self.global_read += other.global_read;
        self.global_written += other.global_written;
        self.shared_requests += other.shared_requests;
        self.shared_conflicts += other.shared_conflicts;
        self.parted += other.parted;
    }
}

/// A warp's addresses in one request: lanes that take part, and where.
pub(super) struct Lanes<'a> {
    pub mask: u32,
    pub addresses: &'a [u64; 32],
    pub bytes: u64,
}

impl Lanes<'_> {
    fn active(&self) -> impl Iterator<Item = u64> {
        (0..32)
            .filter(|lane| self.mask >> lane & 1 == 1)
            .map(|lane| self.addresses[lane])
    }
}

impl Counts {
    /// Counts a request to global memory.
    pub(super) fn global(&mut self, lanes: &Lanes<'_>, write: bool) {
        let mut sectors = [u64::MAX; 64];
        let mut used = 0;
        for address in lanes.active() {
            for sector in [address / SECTOR, (address + lanes.bytes - 1) / SECTOR] {
                // Neighbouring lanes mostly touch the sector before.
                if used == 0 || (sectors[used - 1] != sector && !sectors[..used].contains(&sector)) {
                    sectors[used] = sector;
                    used += 1;
                }
            }
        }
        self.global_requests += 1;
        self.global_sectors += used as u64;
        let bytes = u64::from(lanes.mask.count_ones()) * lanes.bytes;
        if write {
            self.global_written += bytes;
        } else {
            self.global_read += bytes;
        }
    }

    /// Counts a request to shared memory: 32 banks of words of 4 bytes; lanes that touch the same word do so at once; requests
    /// of 8 and 16 bytes go in halves and quarters of a warp.
    pub(super) fn shared(&mut self, lanes: &Lanes<'_>) {
        self.shared_requests += 1;
        let at_once = (128 / lanes.bytes.max(4)) as usize;
        for group in (0..32).step_by(at_once) {
            let mut words: [[u64; 4]; 32] = [[u64::MAX; 4]; 32];
            let mut depth = [0usize; 32];
            for lane in group..group + at_once {
                if lanes.mask >> lane & 1 == 0 {
                    continue;
                }
                let first = lanes.addresses[lane] / 4;
                for word in first..first + lanes.bytes.div_ceil(4) {
                    let bank = (word % 32) as usize;
                    let known = depth[bank].min(4);
                    if !words[bank][..known].contains(&word) {
                        if known < 4 {
                            words[bank][known] = word;
                        }
                        depth[bank] += 1;
                    }
                }
            }
            let most = depth.into_iter().max().unwrap_or(0) as u64;
            self.shared_conflicts += most.saturating_sub(1);
        }
    }
}
