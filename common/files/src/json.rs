//! The JSON formats: plans, profiles, workloads, devices, scenarios.

use std::path::Path;

use graft_plan::{FormatError, FormatFile};

use crate::bounded;

/// Longest file that is read, in bytes (1 GiB).
const MOST_BYTES: u64 = 1 << 30;

/// A format whose files can be read.
pub trait ReadFile: FormatFile {
    /// Reads and checks a file.
    fn read(path: &Path) -> Result<Self, FormatError> {
        let bytes = bounded::read(path, MOST_BYTES).map_err(|e| FormatError::unreadable(path, &e))?;
        Self::parse(path, &bytes)
    }
}

impl<T: FormatFile> ReadFile for T {}
