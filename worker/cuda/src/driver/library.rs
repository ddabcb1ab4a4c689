//! Kernels, for all contexts of a process.

use std::ffi::{CString, c_char, c_uint, c_void};

use cust::sys::CUfunction;

use super::error::{CudaFault, check};

unsafe extern "C" {
    fn cuLibraryLoadData(
        library: *mut *mut c_void,
        code: *const c_void,
        jit: *mut c_void,
        jit_values: *mut c_void,
        jit_count: c_uint,
        options: *mut c_void,
        option_values: *mut c_void,
        option_count: c_uint,
    ) -> c_uint;
    fn cuLibraryGetKernel(kernel: *mut CUfunction, library: *mut c_void, name: *const c_char) -> c_uint;
}

/// Kernels that were loaded. They stay until the process ends: launches may name them at any time.
#[derive(Debug)]
pub struct Library(*mut c_void);

// SAFETY: the driver's libraries may be used from any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// A kernel.
#[derive(Debug, Clone, Copy)]
pub struct Function(pub(super) CUfunction);

// SAFETY: as its library.
unsafe impl Send for Function {}
// SAFETY: as its library.
unsafe impl Sync for Function {}

impl Library {
    /// Loads PTX that ends with 0, which the driver compiles for its devices, or what was compiled for them.
    pub fn load(code: &[u8]) -> Result<Self, CudaFault> {
        assert!(
            code.starts_with(b"\x7fELF") || code.ends_with(&[0]),
            "neither compiled nor a text that ends"
        );
        let mut library = std::ptr::null_mut();
        let none = std::ptr::null_mut();
        // SAFETY: a text that ends with 0 or an ELF file of our own, which tells its length; and no options.
        let code =
            unsafe { cuLibraryLoadData(&mut library, code.as_ptr().cast(), none, none, 0, none, none, 0) };
        check("cuLibraryLoadData", code)?;
        Ok(Library(library))
    }

    /// A kernel by its name.
    pub fn function(&self, name: &str) -> Result<Function, CudaFault> {
        let text = CString::new(name).unwrap_or_default();
        let mut function = std::ptr::null_mut();
        // SAFETY: a text that ends with 0, and a place for a handle.
        let code = unsafe { cuLibraryGetKernel(&mut function, self.0, text.as_ptr()) };
        check("cuLibraryGetKernel", code)?;
        Ok(Function(function))
    }
}
