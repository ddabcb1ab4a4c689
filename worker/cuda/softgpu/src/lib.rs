//! A software GPU for tests: the part of NVIDIA's driver API that Graft's engine uses, as a shared library in the place of
//! `libcuda.so.1`. It executes the PTX that it is given and stops at what a GPU would let pass: addresses outside of what was
//! allocated, reads of what nobody wrote, races, barriers that not all reach.
//!
//! [`ptx`] reads kernels, [`machine`] runs them. It never pretends to be a GPU: its device is called `softgpu`, it is found only
//! where its path is named, and times that it tells are modelled.

mod driver;
pub mod machine;
pub mod ptx;

pub use driver::{Plan, PlanError};
