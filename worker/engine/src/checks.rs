//! Checks that every engine makes before and while it runs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use graft_model::{CutPoint, DType, ModelInfo, Tensor};

use crate::engine::{EngineError, Panicked};

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
pub(crate) fn check_input(info: &ModelInfo, at: CutPoint, batch: &Tensor) -> Result<(), EngineError> {
    let cut = &info.cuts[at.index()];
    let float = matches!(cut.dtype, DType::F32 | DType::F16);
    if batch.shape() != cut.shape || !held_as(batch, cut.dtype, float) || batch.requests() == 0 {
        return Err(EngineError::Input {
            at,
            got: batch.shape().to_vec(),
            want: cut.shape.clone(),
        });
    }
    Ok(())
}

/// Whether a batch holds a type as it should: 16-bit floats as 32-bit ones, truth values as 32-bit integers.
fn held_as(batch: &Tensor, dtype: DType, float: bool) -> bool {
    match batch.dtype() {
        DType::F32 => float,
        DType::I32 => matches!(dtype, DType::I32 | DType::Bool),
        held => held == dtype,
    }
}
