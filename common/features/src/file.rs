//! The file that says how a model's features are coded.

use std::collections::BTreeMap;

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};

use crate::coding::{CutCoding, Unsound};

/// Longest file that is read, in bytes (64 MiB).
pub const MOST_FILE_BYTES: u64 = 64 << 20;
/// First bytes of a file.
const MAGIC: &[u8; 8] = b"graftft1";

/// How a model's tensors are coded at its cut points, by their numbers: not at all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Features(pub BTreeMap<u16, CutCoding>);

/// A file that is none of features.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeaturesError {
    /// It begins otherwise.
    #[error("is no file of `graft model features`")]
    Foreign,
    /// It is cut off, or damaged.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// What it says makes no sense.
    #[error("at cut point {0}: {1}")]
    Unsound(u16, Unsound),
}

type Format = Configuration<LittleEndian, Varint, Limit<{ MOST_FILE_BYTES as usize }>>;

fn format() -> Format {
    config::standard().with_limit()
}

impl Features {
    /// From a file's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FeaturesError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(FeaturesError::Foreign)?;
        let (cuts, read): (BTreeMap<u16, CutCoding>, usize) =
            bincode::decode_from_slice(rest, format()).map_err(|e| FeaturesError::Damaged(e.to_string()))?;
        if read != rest.len() {
            return Err(FeaturesError::Damaged("bytes are left over".to_owned()));
        }
        for (point, coding) in &cuts {
            for tensor in &coding.tensors {
                tensor.check().map_err(|e| FeaturesError::Unsound(*point, e))?;
            }
        }
        Ok(Features(cuts))
    }

    /// A file's bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FeaturesError> {
        let mut bytes = MAGIC.to_vec();
        let cuts =
            bincode::encode_to_vec(&self.0, format()).map_err(|e| FeaturesError::Damaged(e.to_string()))?;
        bytes.extend(cuts);
        Ok(bytes)
    }
}
