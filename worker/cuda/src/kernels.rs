//! The kernels that are embedded: their PTX, loaded into the process once.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::GzDecoder;

use crate::driver::{CudaFault, Function, Library};

/// PTX of all kernels, compressed; the first line tells the hash of its sources.
const PTX: &[u8] = include_bytes!("../kernels/kernels.ptx.gz");

/// Hash of the sources that lie beside it.
const SOURCES: &str = env!("GRAFT_KERNEL_SOURCES");

/// The kernels, by name: those of `kernels/`.
const NAMES: [(&str, &[&str]); 11] = [
    (
        "attention",
        &[
            "attention_32_v8",
            "attention_64_v8",
            "attention_96_v8",
            "attention_128_v8",
            "attention_32_v1",
            "attention_128_v1",
        ],
    ),
    (
        "conv",
        &[
            "conv_64x64_v8",
            "conv_64x64_v4",
            "conv_64x64_v2",
            "conv_64x64_v1",
            "conv_128x64_v8",
            "conv_128x128_v8",
        ],
    ),
    ("depthwise", &["depthwise_v8", "depthwise_v1"]),
    ("gather", &["gather"]),
    ("group_norm", &["group_norm"]),
    ("map", &["map_any", "map_flat"]),
    ("matmul", &["matmul_64x64"]),
    ("pool", &["pool_v8", "pool_v1"]),
    ("reduce", &["reduce_columns", "reduce_rows"]),
    ("resize", &["resize"]),
    ("rows", &["softmax", "layer_norm"]),
];

/// Names of all kernels.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().flat_map(|(_, kernels)| kernels.iter().copied())
}

/// Why the kernels are not there.
#[derive(Debug, thiserror::Error)]
pub enum KernelsError {
    /// What is embedded can't be unpacked.
    #[error("the embedded kernels can't be unpacked: {0}")]
    Damaged(std::io::Error),
    /// It was compiled from other sources.
    #[error("the embedded kernels are not what their sources compile to: run worker/cuda/kernels/build.sh")]
    Stale,
    /// The driver does not take them.
    #[error(transparent)]
    Cuda(#[from] CudaFault),
}

/// The text of all modules, by name.
pub fn modules() -> Result<HashMap<String, String>, KernelsError> {
    let mut text = String::new();
    GzDecoder::new(PTX)
        .read_to_string(&mut text)
        .map_err(KernelsError::Damaged)?;
    let mut parts = text.split("// module ");
    let hash = parts
        .next()
        .and_then(|head| head.trim().strip_prefix("// graft kernels "));
    if hash != Some(SOURCES) {
        return Err(KernelsError::Stale);
    }
    let named = parts.filter_map(|part| part.split_once('\n'));
    Ok(named
        .map(|(name, ptx)| (name.to_owned(), ptx.to_owned()))
        .collect())
}

/// The kernels, loaded.
#[derive(Debug)]
pub struct Kernels {
    functions: HashMap<&'static str, Function>,
    /// Kept, so that the functions stay.
    _libraries: Vec<Library>,
}

impl Kernels {
    /// Loads all kernels; the driver compiles them for its devices, or remembers that it did.
    pub fn load() -> Result<Self, KernelsError> {
        let modules = modules()?;
        let mut functions = HashMap::new();
        let mut libraries = vec![];
        for (module, kernels) in NAMES {
            let library = Library::load(modules.get(module).ok_or(KernelsError::Stale)?)?;
            for &kernel in kernels {
                functions.insert(kernel, library.function(kernel)?);
            }
            libraries.push(library);
        }
        Ok(Kernels {
            functions,
            _libraries: libraries,
        })
    }

    /// A kernel by its name. `None`: there is none of that name.
    pub fn get(&self, name: &str) -> Option<Function> {
        self.functions.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_kernels_belong_to_their_sources_and_each_has_its_text() {
        let modules = modules().unwrap();
        for (module, kernels) in NAMES {
            let text = &modules[module];
            for kernel in kernels {
                assert!(
                    text.contains(&format!(".entry {kernel}(")),
                    "{kernel} is not in {module}"
                );
            }
            assert_eq!(
                text.matches(".entry ").count(),
                kernels.len(),
                "{module} has kernels that are not listed"
            );
        }
        assert_eq!(modules.len(), NAMES.len());
    }
}
