//! Whether kernels and networks compute on a device what they should.

mod cases;
mod faults;
mod kernels;
mod latency;
mod models;
mod replay;
mod together;

pub use faults::{FaultReport, faults};
pub use kernels::{KernelReport, kernels};
pub use latency::{Latency, latency};
pub use models::{ModelReport, Networks, model};
pub use replay::{Recording, Replay};
pub use together::{Together, together};
