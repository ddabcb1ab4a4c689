//! The precision in which a device computes a model.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The precision in which a device computes a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As the file says: 32-bit floats, and integers where it has them.
    #[default]
    F32,
    /// Floats are kept in 16 bits, and summed up in 32.
    F16,
    /// Floats are kept in 8-bit integers with scales.
    Int8,
}

impl Precision {
    /// Difference that is allowed between two ways to compute the same, such as in parts and as a whole, as a part of the
    /// largest magnitude.
    pub fn between_ways(self) -> f64 {
        match self {
            Precision::F32 => 1e-5,
            Precision::F16 => 5e-3,
            Precision::Int8 => 2e-2,
        }
    }

    /// Difference from the right answer that is allowed, as a part of the largest magnitude.
    pub fn from_right(self) -> f64 {
        match self {
            Precision::F32 => 1e-4,
            Precision::F16 => 1e-2,
            Precision::Int8 => 5e-2,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Int8 => "int8",
        })
    }
}
