//! What the driver refuses.

use std::ffi::{CStr, c_char, c_uint};

use cust::error::CudaError;

/// A call that the driver refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {why}")]
pub struct CudaFault {
    /// The driver's function.
    pub call: &'static str,
    /// The driver's number of the error.
    pub code: u32,
    /// The driver's words.
    pub why: String,
}

/// Errors after which a context is of no use, by the driver's numbers: the device works again in a fresh one.
const SPOILED: [u32; 11] = [700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999];
/// Errors after which the device is lost to this process.
const LOST: [u32; 6] = [100, 101, 214, 220, 226, 802];

impl CudaFault {
    /// What was made on a device is gone, since the device was set up anew.
    pub fn gone() -> Self {
        CudaFault {
            call: "the device",
            code: 709,
            why: "it was set up anew, and what was on it is gone".to_owned(),
        }
    }

    /// A device was split, and there are no parts.
    pub fn no_parts() -> Self {
        CudaFault {
            call: "cuDevSmResourceSplitByCount",
            code: 914,
            why: "it gives no parts".to_owned(),
        }
    }

    /// Whether memory is full.
    pub fn is_full(&self) -> bool {
        self.code == 2
    }

    /// Whether all contexts of the device are of no use.
    pub fn is_spoiled(&self) -> bool {
        SPOILED.contains(&self.code)
    }

    /// Whether the device is lost.
    pub fn is_lost(&self) -> bool {
        LOST.contains(&self.code)
    }
}

unsafe extern "C" {
    fn cuGetErrorString(code: c_uint, text: *mut *const c_char) -> c_uint;
}

/// The driver's words for a code.
fn words(code: u32) -> String {
    let mut text = std::ptr::null();
    // SAFETY: a place for a pointer; the driver keeps the text.
    unsafe {
        if cuGetErrorString(code, &mut text) != 0 || text.is_null() {
            return format!("error {code}");
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// A call's result, from its number.
pub(super) fn check(call: &'static str, code: u32) -> Result<(), CudaFault> {
    if code == 0 {
        return Ok(());
    }
    Err(CudaFault {
        call,
        code,
        why: words(code),
    })
}

/// An error of `cust`, with the call that gave it.
pub(super) fn of_cust(call: &'static str, error: CudaError) -> CudaFault {
    CudaFault {
        call,
        code: error as u32,
        why: error.to_string(),
    }
}
