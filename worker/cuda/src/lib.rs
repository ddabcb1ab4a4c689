//! The CUDA engine: layers on partitions of a GPU, by kernels of our own.
//!
//! [`Gpu::all`] finds the devices of a host; [`CudaEngine`] runs models on one of them. The kernels' sources are in `kernels/`, their PTX is
//! embedded. It knows tensors, layers and partitions; never requests, deadlines or plans.

mod driver;
mod kernels;
mod params;

pub mod reference;

pub use driver::{Gpu, NoDriver};
