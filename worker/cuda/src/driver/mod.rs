//! The CUDA driver: found at run time, and spoken to through `cust`.
//!
//! All that takes or gives pointers is here; what it promises is safe to use but for [`Stream::launch`], whose parameters name memory
//! that a kernel reads and writes.

#![allow(unsafe_code)]

mod error;
mod green;
mod library;
mod memory;
mod open;
mod stream;

pub use error::CudaFault;
pub use green::{Atoms, Green};
pub use library::{Function, Library};
pub use memory::{DeviceMemory, Pinned};
pub use open::{Gpu, NoDriver, Primary, ask_for_connections, softgpu_plan, softgpu_report, use_library};
pub use stream::{Event, Graph, Stream};
