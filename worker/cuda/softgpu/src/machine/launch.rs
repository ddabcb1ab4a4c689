//! A launch: all blocks of a grid.

use std::sync::Arc;

use graft_model::SplitMix;

use super::block::{memory_of, run_block};
use super::count::Counts;
use super::fault::Fault;
use super::memory::Memory;
use super::order::{Order, Seen};
use super::warp::Around;
use crate::ptx::Kernel;

/// A kernel's launch. Sizes are checked before: a grid of up to 2^31 blocks of up to 1024 threads.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub threads: [u32; 3],
    /// The parameters as they lie in memory.
    pub params: Vec<u8>,
    /// Bytes of shared memory beside what the kernel declares.
    pub dynamic_shared: u32,
}

/// Runs a launch to its end; the seed gives the order of blocks and warps.
pub fn run(launch: &Launch, memory: &mut Memory, seed: u64) -> Result<Counts, Box<Fault>> {
    let [x, y, z] = launch.grid;
    let blocks = x * y * z;
    memory.begin(blocks);
    let mut random = SplitMix(seed);
    let mut order: Vec<u32> = (0..blocks).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i + 1));
    }
    let mut counts = Counts::default();
    let mut ordered = Order::default();
    let mut shared = memory_of(&launch.kernel, launch.dynamic_shared);
    for block in order {
        let mut around = Around {
            kernel: &launch.kernel,
            params: &launch.params,
            block,
            block_place: [block % x, block / x % y, block / x / y],
            grid: launch.grid,
            threads: launch.threads,
            epoch: 0,
            shared: &mut shared,
            memory,
            order: &mut ordered,
            seen: &mut Seen::default(),
            counts: &mut counts,
        };
        run_block(&mut around, &mut random)?;
    }
    Ok(counts)
}
