//! What stops a launch.

use std::fmt;

/// Where memory was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// Memory of the device.
    Global,
    /// Memory of a block.
    Shared,
    /// A kernel's parameters.
    Param,
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Where::Global => "global memory",
            Where::Shared => "shared memory",
            Where::Param => "parameters",
        })
    }
}

/// What a kernel did that it must not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// Outside of what was allocated.
    #[error("{bytes} bytes at {address:#x} are outside of {space}")]
    OutOfBounds {
        /// The memory.
        space: Where,
        /// The address.
        address: u64,
        /// Bytes that were touched.
        bytes: usize,
    },
    /// An address that is no multiple of the bytes that are touched at once.
    #[error("{bytes} bytes at {address:#x} in {space} are not aligned")]
    Misaligned {
        /// The memory.
        space: Where,
        /// The address.
        address: u64,
        /// Bytes that were touched.
        bytes: usize,
    },
    /// Nobody wrote what is read.
    #[error("nobody wrote what is read at {address:#x} in {space}")]
    Unwritten {
        /// The memory.
        space: Where,
        /// The address.
        address: u64,
    },
    /// A copy may still be writing what is touched.
    #[error("a copy on its way may still be writing {address:#x} in shared memory")]
    UnderWay {
        /// The address.
        address: u64,
    },
    /// Two threads of a block touch the same place between two barriers, and one of them writes.
    #[error("a race at {address:#x} in shared memory: {} {} it since the last barrier",
        other.map_or_else(|| "several threads".to_owned(), |t| format!("thread {t}")), if *other_wrote { "wrote" } else { "read" })]
    Race {
        /// The address.
        address: u64,
        /// The other thread; `None`: several.
        other: Option<u32>,
        /// Whether the other wrote.
        other_wrote: bool,
    },
    /// Two blocks of a launch touch the same place, one of them writes, and nothing orders them.
    #[error("a race at {address:#x} in global memory: block {other} {} it, and nothing orders the two", if *other_wrote { "wrote" } else { "read" })]
    BlocksRace {
        /// The address.
        address: u64,
        /// The other block.
        other: u32,
        /// Whether the other wrote.
        other_wrote: bool,
    },
    /// Not all lanes of a warp are there where all must be.
    #[error("{what} with lanes {there:#010x} of {live:#010x}")]
    Diverged {
        /// What needs all.
        what: &'static str,
        /// Lanes that are there.
        there: u32,
        /// Lanes that have not ended.
        live: u32,
    },
    /// Warps ended while others wait for them.
    #[error("a barrier that some warps never reach, since they ended")]
    BarrierNeverReached,
    /// A lane takes a value from one that does not give one.
    #[error("a shuffle from lane {0}, which takes no part")]
    AbsentLane(u32),
    /// An integer is divided by 0.
    #[error("an integer is divided by 0")]
    DivisionByZero,
    /// The kernel says that it can't go on.
    #[error("a trap")]
    Trap,
    /// The block does not come to an end.
    #[error("more than {0} instructions of one block's warps")]
    TooLong(u64),
}

/// A launch that was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The kernel.
    pub kernel: String,
    /// Source file and line, where they are known.
    pub source: Option<(String, u32)>,
    /// The instruction's place in the kernel.
    pub instruction: usize,
    /// The block.
    pub block: [u32; 3],
    /// The thread in the block, counted along x, then y, then z.
    pub thread: u32,
    /// What it did.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}", self.kernel)?;
        match &self.source {
            Some((file, line)) => write!(f, ", {file}:{line}")?,
            None => write!(f, ", instruction {}", self.instruction)?,
        }
        let [x, y, z] = self.block;
        write!(
            f,
            ", block ({x}, {y}, {z}), thread {}: {}",
            self.thread, self.kind
        )
    }
}

impl std::error::Error for Fault {}
