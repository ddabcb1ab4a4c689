//! Manifests.

use std::path::Path;

use graft_model::{Manifest, ModelError, ModelErrorKind};

use crate::bounded;

/// Longest manifest that is read, in bytes (1 MiB).
const MOST_BYTES: u64 = 1 << 20;

/// Reads and checks a manifest.
pub fn read_manifest(path: &Path) -> Result<Manifest, ModelError> {
    let text = bounded::read_text(path, MOST_BYTES).map_err(|e| {
        let hint = "models/README.md says what a manifest is";
        ModelError::new(ModelErrorKind::Manifest, format!("can't be read: {e}"), hint).in_file(path)
    })?;
    Manifest::parse(path, &text)
}
