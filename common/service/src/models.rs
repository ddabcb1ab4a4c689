//! The folder of models of a server program.

use std::path::Path;

use graft_files::Catalog;
use graft_model::ModelError;

/// Reads a folder of models; logs which of them can't be served, and goes on with the others.
pub fn read_catalog(folder: &Path) -> Result<Catalog, ModelError> {
    let catalog = Catalog::read(folder)?;
    for error in catalog.left_out() {
        tracing::warn!(%error, "a model of the folder is not served");
    }
    Ok(catalog)
}
