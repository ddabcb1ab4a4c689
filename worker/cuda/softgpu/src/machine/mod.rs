//! The machine: runs a kernel's blocks, and stops at what a GPU would let pass.
//!
//! Blocks run one after the other in an order that a seed gives; the warps of a block take turns of random length. Lanes of a
//! warp go together, and part and meet again at branches. So a launch with the same seed gives the same result, to the bit.

mod arithmetic;
mod block;
mod copies;
mod count;
mod fault;
mod launch;
mod matrix;
mod memory;
mod order;
mod shared;
mod warp;

pub use count::Counts;
pub use fault::{Fault, FaultKind, Where};
pub use launch::{Launch, run};
pub use memory::{Memory, MemoryError};
