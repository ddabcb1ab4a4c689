//! The software GPU, as tests open it.

use graft_cuda::{CudaEngine, Gpu, use_library};

/// An engine on the software GPU, whose library lies beside the test.
pub fn softgpu() -> CudaEngine {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join("libgraft_softgpu.so");
    assert!(library.exists(), "{} is not built", library.display());
    use_library(&library).unwrap();
    let gpu = Gpu::find(0).unwrap();
    assert!(gpu.is_softgpu());
    CudaEngine::open(&gpu).unwrap()
}
