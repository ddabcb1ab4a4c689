//! How the tensors between a network's layers travel in few bytes: each channel's elements are rounded to multiples of a step and
//! clipped, and what comes out is entropy-coded.
//!
//! A [`Coding`] says how for one tensor; [`fit`] makes one from tensors that a network gave; [`CutCoding`] has those of a cut point. They are part of a
//! model: whoever decodes has the same.

#![deny(clippy::disallowed_methods)]

mod code;
mod coding;
mod file;
pub mod fit;
mod table;

pub use coding::{Channel, Coding, CutCoding, Damaged, NotCoded, Unsound};
pub use file::{Features, FeaturesError, MOST_FILE_BYTES};
pub use table::{MOST_SYMBOLS, Table, WHOLE};
