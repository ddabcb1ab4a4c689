//! GPUs of this machine: what is there, and whether it computes what it should.

pub(crate) mod check;
pub(crate) mod devices;
mod npy;
mod page;

use std::path::PathBuf;

use graft_cuda::use_library;

/// File name of the software GPU's library.
const SOFTGPU: &str = "libgraft_softgpu.so";

/// Has the software GPU stand in for the driver: the library that GRAFT_CUDA_LIBRARY names, else the one beside this program.
fn use_softgpu() -> anyhow::Result<()> {
    let named = std::env::var_os("GRAFT_CUDA_LIBRARY").map(PathBuf::from);
    let library = match named {
        Some(library) => library,
        None => {
            let beside = std::env::current_exe()?.with_file_name(SOFTGPU);
            anyhow::ensure!(
                beside.is_file(),
                "there is no software GPU: {} is not there (cargo build --release -p graft-softgpu makes it), and GRAFT_CUDA_LIBRARY names no other",
                beside.display()
            );
            beside
        }
    };
    Ok(use_library(&library)?)
}
