//! Whether a request is what its model takes.

use graft_files::CatalogEntry;
use graft_model::DType;
use graft_wire::{InferHeader, Refused, Status, WireType};

/// Holds a request against its model. `bytes`: the length of its payload.
pub(crate) fn check(entry: &CatalogEntry, header: &InferHeader, bytes: usize) -> Result<(), Refused> {
    let point = header.partition_point;
    let info = &entry.info;
    let bad = |what: String| Refused::new(Status::BadRequest, what);
    let last = info.last();
    let cut = info
        .cut(point)
        .ok_or_else(|| bad(format!("cut point {point} is beyond the last one, {last}")))?;
    if point == last {
        return Err(bad(format!(
            "cut point {point} is the output: nothing is left to run"
        )));
    }
    let types = WireType::dtypes(&header.dtypes);
    match header.coded {
        true => info.check_coded(point, &types, bytes),
        false => cut.check(&types, bytes),
    }
    .map_err(|error| bad(format!("at cut point {point}: {error}")))?;
    if types.contains(&DType::F16) && !entry.manifest.wire.contains(&DType::F16) {
        let allowed = &entry.manifest.wire;
        return Err(bad(format!(
            "elements of type f16 at cut point {point}; the manifest allows {allowed:?} on the way"
        )));
    }
    Ok(())
}
