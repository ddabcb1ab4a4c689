//! A block: its warps take turns, and wait for each other at barriers.

use graft_model::SplitMix;

use super::fault::{Fault, FaultKind};
use super::shared::Shared;
use super::warp::{Around, State, Warp};
use crate::ptx::Kernel;

/// Instructions that a warp runs in one turn, at most.
const TURN: usize = 200;

/// Instructions of a block's warps at most: one that takes more is not going to end.
const MAX_INSTRUCTIONS: u64 = 2_000_000_000;

/// Runs a block to its end.
pub(super) fn run_block(around: &mut Around<'_>, random: &mut SplitMix) -> Result<(), Fault> {
    let [x, y, z] = around.threads;
    let threads = x * y * z;
    let kernel = around.kernel;
    let mut warps: Vec<Warp> = (0..threads.div_ceil(32))
        .map(|number| Warp::new(kernel, number, threads))
        .collect();
    around.epoch = 1;
    around.shared.reset();
    let before = around.counts.instructions;
    let mut ready: Vec<usize> = (0..warps.len()).collect();
    loop {
        while !ready.is_empty() {
            let turn = random.below(ready.len());
            let warp = &mut warps[ready[turn]];
            for _ in 0..=random.below(TURN) {
                let at = warp.at();
                let number = warp.number;
                warp.step(around, random)
                    .map_err(|(kind, lane)| fault(around, kernel, at, number * 32 + lane, kind))?;
                if warp.state != State::Running {
                    break;
                }
            }
            if warp.state != State::Running {
                ready.swap_remove(turn);
            }
            if around.counts.instructions - before > MAX_INSTRUCTIONS {
                let warp = &warps[0];
                return Err(fault(
                    around,
                    kernel,
                    warp.at(),
                    0,
                    FaultKind::TooLong(MAX_INSTRUCTIONS),
                ));
            }
        }
        if warps.iter().all(|w| w.state == State::Ended) {
            return Ok(());
        }
        if let Some(ended) = warps.iter().find(|w| w.state == State::Ended) {
            let waiting = warps.iter().find(|w| w.state == State::AtBarrier);
            let at = waiting.map_or(0, |w| w.at().saturating_sub(1));
            let thread = ended.number * 32;
            return Err(fault(around, kernel, at, thread, FaultKind::BarrierNeverReached));
        }
        // What any warp wrote and fenced before the barrier, all have fenced after it, and the other way round.
        let unfenced = warps.iter().any(|w| w.unfenced);
        for warp in &mut warps {
            warp.state = State::Running;
            warp.unfenced = unfenced;
        }
        around.epoch += 1;
        ready.extend(0..warps.len());
    }
}

fn fault(around: &Around<'_>, kernel: &Kernel, at: usize, thread: u32, kind: FaultKind) -> Fault {
    let (file, line) = kernel.code.get(at).map_or((0, 0), |i| i.source);
    let name = kernel.files.iter().find(|(number, _)| *number == file);
    Fault {
        kernel: kernel.name.clone(),
        source: name.filter(|_| line > 0).map(|(_, name)| (name.clone(), line)),
        instruction: at,
        block: around.block_place,
        thread,
        kind,
    }
}

/// Memory of a block, for all blocks of a launch in turn.
pub(super) fn memory_of(kernel: &Kernel, dynamic: u32) -> Shared {
    Shared::new(kernel.shared + dynamic as usize)
}
