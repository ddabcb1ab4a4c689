//! Calls of onnxruntime that the crate `ort` does not wrap: a library's version, and one arena for the activations of all
//! sessions of this process.
//!
//! Without an arena, large activations come from the system anew with every run, which costs a quarter of the speed of large
//! batches; with an arena a session, memory grows with the number of sessions. The calls are `CreateArenaCfg` and
//! `CreateAndRegisterAllocator` of <https://onnxruntime.ai/docs/api/c/struct_ort_api.html>.

use std::ffi::CStr;
use std::path::Path;
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

/// Why a file is no onnxruntime of this machine.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// It can't be loaded, or lacks onnxruntime's function.
    #[error(transparent)]
    Load(#[from] libloading::Error),
    /// Its function gives nothing.
    #[error("it has no API")]
    NoApi,
}

/// The version that a library says it has, like `1.32.0`. The library stays loaded.
pub fn version(library: &Path) -> Result<String, VersionError> {
    // SAFETY: loading runs the library's initialisers. Whoever runs this program chose the file, and would have it loaded
    // by `ort` next.
    let loaded = unsafe { libloading::Library::new(library) }?;
    // SAFETY: this is the function's type in onnxruntime_c_api.h, whose only promise to all versions it is.
    let get: libloading::Symbol<'_, unsafe extern "C" fn() -> *const ort::sys::OrtApiBase> =
        unsafe { loaded.get(b"OrtGetApiBase") }?;
    // SAFETY: it takes nothing, and gives a pointer to a constant of the library, or null.
    let base = unsafe { get().as_ref() }.ok_or(VersionError::NoApi)?;
    // SAFETY: it takes nothing, and gives a constant text of the library that ends with 0.
    let text = unsafe { CStr::from_ptr((base.GetVersionString)()) };
    let text = text.to_string_lossy().into_owned();
    // Code of it may run in threads of its own by now.
    std::mem::forget(loaded);
    Ok(text)
}
