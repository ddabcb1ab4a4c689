//! Whether kernels and networks compute on a device what they should.

mod cases;
mod kernels;
mod models;

pub use kernels::{KernelReport, kernels};
pub use models::{ModelReport, Networks, model};
