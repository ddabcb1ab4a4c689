//! GPUs of this machine: what is there, and whether it computes what it should.

mod beside;
pub(crate) mod check;
pub(crate) mod devices;
mod networks;
mod npy;
mod page;
mod text;

use std::path::PathBuf;

use graft_cuda::use_library;

/// File name of the software GPU's library.
const SOFTGPU: &str = "libgraft_softgpu.so";

/// The software GPU's library beside this program.
fn softgpu_library() -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name(SOFTGPU);
    anyhow::ensure!(
        beside.is_file(),
        "there is no software GPU: {} is not there (cargo build --release -p graft-softgpu makes it), and GRAFT_CUDA_LIBRARY names no other",
        beside.display()
    );
    Ok(beside)
}

/// Has the software GPU stand in for the driver: the library that GRAFT_CUDA_LIBRARY names, else the one beside this program. Gives it.
fn use_softgpu() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("GRAFT_CUDA_LIBRARY").map(PathBuf::from);
    let library = named.map_or_else(softgpu_library, Ok)?;
    use_library(&library)?;
    Ok(library)
}
