//! The content of the files, read and written, with errors that name the file and the place in it.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file, or a text, that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {place}: {what}")]
pub struct FormatError {
    file: String,
    place: String,
    what: String,
}

impl FormatError {
    /// A file that can't be read.
    pub fn unreadable(file: &Path, why: &std::io::Error) -> Self {
        Self::new(file, "file", format!("can't be read: {why}"))
    }

    fn new(file: &Path, place: impl Into<String>, what: impl Into<String>) -> Self {
        FormatError {
            file: file.display().to_string(),
            place: place.into(),
            what: what.into(),
        }
    }
}

pub(crate) fn wrong<T>(place: impl Into<String>, what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong(place.into(), what.into()))
}

/// `value` must be finite and above zero.
pub(crate) fn positive(place: impl FnOnce() -> String, value: f64, unit: &str) -> Result<(), Wrong> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    wrong(
        place(),
        format!("is {value}; expected a number of {unit} above 0"),
    )
}

/// `value` must be finite and not below zero.
pub(crate) fn not_negative(place: impl FnOnce() -> String, value: f64, unit: &str) -> Result<(), Wrong> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    wrong(
        place(),
        format!("is {value}; expected a number of {unit}, 0 or more"),
    )
}

pub(crate) fn version(version: u32) -> Result<(), Wrong> {
    if version == 1 {
        return Ok(());
    }
    wrong("version", format!("is {version}; this program reads version 1"))
}

mod sealed {
    /// Error inside a file: the path of the place, and what was expected there.
    pub struct Wrong(pub String, pub String);

    pub trait Checked {
        fn verify(&self) -> Result<(), Wrong>;
    }
}
pub(crate) use sealed::{Checked, Wrong};

/// One of the JSON files.
pub trait FormatFile: sealed::Checked + Serialize + DeserializeOwned {
    /// Reads and checks a text; `name` stands in messages for the file.
    fn parse(name: &Path, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let value: Self = serde_path_to_error::deserialize(&mut reader)
            .map_err(|e| FormatError::new(name, e.path().to_string(), e.inner().to_string()))?;
        reader
            .end()
            .map_err(|e| FormatError::new(name, "after the object", e.to_string()))?;
        value
            .verify()
            .map_err(|Wrong(place, what)| FormatError::new(name, place, what))?;
        Ok(value)
    }

    /// Checks a value that was made in memory.
    fn verified(self) -> Result<Self, FormatError> {
        match self.verify() {
            Ok(()) => Ok(self),
            Err(Wrong(place, what)) => Err(FormatError {
                file: "in memory".to_owned(),
                place,
                what,
            }),
        }
    }

    /// Text of the value as a file has it.
    fn to_json(&self) -> Result<String, FormatError> {
        serde_json::to_string(self)
            .map_err(|e| FormatError::new(&PathBuf::from("in memory"), "object", e.to_string()))
    }
}

impl<T: sealed::Checked + Serialize + DeserializeOwned> FormatFile for T {}
