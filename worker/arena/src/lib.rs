//! One arena for the activations of all sessions of onnxruntime in this process.
//!
//! Without an arena, large activations come from the system anew with every run, which costs a quarter of the speed of large
//! batches; with an arena a session, memory grows with the number of sessions. `ort` wraps no call that makes one
//! for all, so this crate calls the library itself: `CreateArenaCfg` and `CreateAndRegisterAllocator` of
//! <https://onnxruntime.ai/docs/api/c/struct_ort_api.html>.

use std::ptr;

use ort::AsPointer;
use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

/// No bound on the arena's size, in bytes: what runs is bounded already.
const NO_BOUND: usize = 0;
/// The library's own choice.
const DEFAULT: i32 = -1;

/// Makes an arena that sessions use which are built with `with_env_allocators`. Once for an environment.
pub fn share(environment: &Environment) -> ort::Result<()> {
    let memory = MemoryInfo::new(
        AllocationDevice::CPU,
        0,
        AllocatorType::Arena,
        MemoryType::Default,
    )?;
    let api = ort::api();
    let mut settings = ptr::null_mut();
    // SAFETY: the function pointer is the loaded library's; `settings` is a place for the pointer that it gives.
    let status = unsafe { (api.CreateArenaCfg)(NO_BOUND, DEFAULT, DEFAULT, DEFAULT, &mut settings) };
    // SAFETY: the status comes from the call just made, and is looked at once.
    unsafe { ort::Error::result_from_status(status) }?;
    // SAFETY: environment and memory are alive as long as their owners, which outlive the call; `settings` was just
    // made. The library guards its list of allocators with a lock, and copies what it needs of memory and settings.
    let status =
        unsafe { (api.CreateAndRegisterAllocator)(environment.ptr().cast_mut(), memory.ptr(), settings) };
    // SAFETY: `settings` was made above, and is not used after this.
    unsafe { (api.ReleaseArenaCfg)(settings) };
    // SAFETY: as above.
    unsafe { ort::Error::result_from_status(status) }
}
