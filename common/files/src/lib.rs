//! Reading Graft's files from a disk: the edge that the crates of values and decisions leave to programs.
//!
//! [`Catalog`] is a folder of models with their manifests; [`read_model`], [`read_manifest`] and [`read_data_set`] read
//! one of each. [`ReadFile`] reads the JSON formats. No file is read that is longer than its kind may be.

mod bounded;
mod catalog;
mod data_set;
mod json;
mod manifest;
mod model;
#[cfg(test)]
mod tests;

pub use catalog::{Catalog, CatalogEntry};
pub use data_set::read_data_set;
pub use json::ReadFile;
pub use manifest::read_manifest;
pub use model::read_model;
