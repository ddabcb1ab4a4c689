//! Checks that every engine makes before and while it runs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use graft_model::{Batch, CutPoint, ModelInfo};

use crate::error::{EngineError, Panicked};

/// Calls a function in which an engine may panic, and turns a panic into an error: a model is somebody's file, and must
/// not take the worker down.
pub fn guarded<T, E: From<Panicked>>(f: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Panicked(text.unwrap_or("without a message").to_owned()).into())
    })
}

/// Checks that a batch is what a cut point takes.
pub fn check_input(info: &ModelInfo, at: CutPoint, batch: &Batch) -> Result<(), EngineError> {
    let cut = &info.cuts[at.index()];
    if batch.fits(cut) {
        return Ok(());
    }
    Err(EngineError::Input {
        at,
        got: batch.to_string(),
        want: cut.to_string(),
    })
}
