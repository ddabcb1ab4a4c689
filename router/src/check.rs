//! Whether a request is what its model takes.

use graft_files::CatalogEntry;
use graft_model::{DType, Tensor};
use graft_wire::{InferHeader, Refused, Status};

/// Holds a request against its model.
pub(crate) fn check(entry: &CatalogEntry, header: &InferHeader, payload: &[u8]) -> Result<(), Refused> {
    let point = header.partition_point;
    let bytes = payload.len();
    let info = &entry.info;
    let bad = |what: String| Err(Refused::new(Status::BadRequest, what));
    let Some(cut) = info.cut(point) else {
        return bad(format!(
            "cut point {point} is beyond the last one, {}",
            info.last()
        ));
    };
    if point == info.last() {
        return bad(format!("cut point {point} is the output: nothing is left to run"));
    }
    let dtype = header.dtype.dtype();
    let allowed = match cut.dtype {
        DType::F32 | DType::F16 => entry.manifest.wire.contains(&dtype) || dtype == DType::F32,
        DType::I64 => matches!(dtype, DType::I32 | DType::I64),
        _ => dtype == cut.dtype,
    };
    if !allowed {
        let what = format!(
            "elements of type {dtype} at cut point {point}, which holds {}",
            cut.dtype
        );
        return bad(format!(
            "{what}; the manifest allows {:?} on the way",
            entry.manifest.wire
        ));
    }
    let want = cut.elements.saturating_mul(header.dtype.dtype().bytes());
    if bytes != want {
        return bad(format!(
            "{bytes} bytes at cut point {point}: expected {want} ({:?} in {})",
            cut.shape,
            header.dtype.dtype()
        ));
    }
    // One request that no engine can take would spoil its batch.
    if dtype == DType::I64
        && let Err(error) = Tensor::from_requests(cut, &[(dtype, payload)])
    {
        return bad(error.to_string());
    }
    Ok(())
}
