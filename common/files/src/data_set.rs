//! Test data sets.

use std::path::Path;

use graft_model::{Cut, DataSet, ModelError};

use crate::bounded;

/// Longest tensor file that is read, in bytes (1 GiB).
const MOST_BYTES: u64 = 1 << 30;

/// Reads `input_0.pb` and `output_0.pb` of a folder, for a model whose input is `cut`.
pub fn read_data_set(folder: &Path, cut: &Cut) -> Result<DataSet, ModelError> {
    let content = |name: &str| {
        let file = folder.join(name);
        bounded::read(&file, MOST_BYTES)
            .map_err(|e| ModelError::data(&file, format!("can't be read: {e}"), DataSet::HINT))
    };
    DataSet::parse(&content("input_0.pb")?, &content("output_0.pb")?, cut).map_err(|e| e.in_file(folder))
}
