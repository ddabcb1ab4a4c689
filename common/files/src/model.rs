//! Models: an ONNX file, with the files of external weights beside it.

use std::path::Path;

use graft_model::{Model, ModelError, ModelErrorKind, ReadOptions};

use crate::bounded;

/// Longest model file, and longest file of external weights, that is read, in bytes (16 GiB).
const MOST_BYTES: u64 = 16 << 30;

/// Reads an ONNX file, with the files of external weights beside it.
pub fn read_model(file: &Path, options: &ReadOptions) -> Result<Model, ModelError> {
    let bytes = bounded::read(file, MOST_BYTES).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::FileTooLarge => "Such a model is not served",
            _ => "Check the path and its permissions",
        };
        ModelError::new(ModelErrorKind::Io, format!("can't be read: {e}"), hint).in_file(file)
    })?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let weights = |name: &Path| bounded::read(&folder.join(name), MOST_BYTES);
    Model::parse_with_weights(file, &bytes, &weights, options)
}
