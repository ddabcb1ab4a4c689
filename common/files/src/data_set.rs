//! Test data sets.

use std::path::Path;

use graft_model::{Cut, DataSet, ModelError, ModelInfo};

use crate::bounded;

/// Longest tensor file that is read, in bytes (1 GiB).
const MOST_BYTES: u64 = 1 << 30;

/// Reads `input_0.pb`, `output_0.pb` and so on of a folder, for a model.
pub fn read_data_set(folder: &Path, info: &ModelInfo) -> Result<DataSet, ModelError> {
    let content = |name: String| {
        let file = folder.join(name);
        bounded::read(&file, MOST_BYTES)
            .map_err(|e| ModelError::data(&file, format!("can't be read: {e}"), DataSet::HINT))
    };
    // Files are numbered as the model's file lists its inputs and outputs, of which Graft may serve a part.
    let all = |kind: &str, cut: &Cut, listed: &[String]| {
        let number = |(i, name): (usize, &str)| listed.iter().position(|n| n == name).unwrap_or(i);
        let files = cut.names().enumerate().map(number);
        files
            .map(|number| content(format!("{kind}_{number}.pb")))
            .collect::<Result<Vec<_>, _>>()
    };
    let inputs = all("input", info.inputs(), &info.listed.inputs)?;
    let outputs = all("output", info.outputs(), &info.listed.outputs)?;
    DataSet::parse(&inputs, &outputs, info).map_err(|e| e.in_file(folder))
}
