//! The CUDA engine: layers on partitions of a GPU, by kernels of our own.
//!
//! [`Gpu::all`] finds the devices of a host; [`CudaEngine`] runs models on one of them. The kernels' sources are in `kernels/`, their PTX is
//! embedded. It knows tensors, layers and partitions; never requests, deadlines or plans.

mod driver;
mod engine;
mod graph;
mod held;
mod kernels;
mod lane;
mod lower;
mod params;
mod pool;
mod program;
mod run_error;
mod session;

pub mod check;
pub mod reference;

pub use driver::{CudaFault, Gpu, NoDriver, ask_for_connections, softgpu_plan, use_library};
pub use engine::CudaEngine;
pub use kernels::names as kernel_names;
pub use session::SetUpError;
