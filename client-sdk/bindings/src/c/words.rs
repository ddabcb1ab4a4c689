//! Words for C.

use std::cell::RefCell;
use std::ffi::{CString, c_char};

/// A text that ends with a zero byte; zero bytes in it are left out.
pub(super) fn c_text(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().filter(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

thread_local! {
    /// What failed last on this thread.
    static KEPT: RefCell<CString> = RefCell::default();
}

/// Keeps what failed.
pub(super) fn keep(what: &str) {
    KEPT.with(|kept| *kept.borrow_mut() = c_text(what));
}

/// What was kept last.
pub(super) fn kept() -> *const c_char {
    KEPT.with(|kept| kept.borrow().as_ptr())
}
