//! The kernels that are embedded: compiled for the devices that are most used, and as PTX, which drivers compile for all others.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::Read;

use flate2::read::GzDecoder;

use crate::driver::{CudaFault, Function, Library};

/// PTX of all kernels, compressed; the first line tells the hash of its sources.
const PTX: &[u8] = include_bytes!("../kernels/kernels.ptx.gz");

/// What the PTX compiles to for some devices, compressed. The first line tells the hash of the sources; then comes, for each device and
/// module, a line with the compute capability, the module's name and a number of bytes, and so many bytes.
const CUBINS: &[u8] = include_bytes!("../kernels/kernels.cubins.gz");

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

/// The modules that were compiled for devices of a compute capability, by name; none, where there are none for it. What is compiled for 8.0
/// runs on 8.6, too: the latest of the same generation is taken.
pub fn cubins(capability: u32) -> Result<HashMap<String, Vec<u8>>, KernelsError> {
    let mut all = vec![];
    GzDecoder::new(CUBINS)
        .read_to_end(&mut all)
        .map_err(KernelsError::Damaged)?;
    let mut rest = all.as_slice();
    let mut line = |wanted: usize| -> Option<(String, &[u8])> {
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let text = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 1..];
        let bytes = match wanted {
            0 => 0,
            place => text.split(' ').nth(place)?.parse().ok()?,
        };
        let content = rest.get(..bytes)?;
        rest = &rest[bytes..];
        Some((text, content))
    };
    let head = line(0).map(|(head, _)| head);
    if head.as_deref().and_then(|h| h.strip_prefix("graft cubins ")) != Some(SOURCES) {
        return Err(KernelsError::Stale);
    }
    let mut best: (u32, HashMap<String, Vec<u8>>) = Default::default();
    while let Some((text, content)) = line(2) {
        let mut words = text.split(' ');
        let of = words.next().and_then(|w| w.parse::<u32>().ok()).unwrap_or(0);
        if of / 10 != capability / 10 || of > capability || of < best.0 {
            continue;
        }
        if of > best.0 {
            best = (of, HashMap::new());
        }
        let name = words.next().unwrap_or_default();
        best.1.insert(name.to_owned(), content.to_vec());
    }
    Ok(best.1)
}

/// The kernels, loaded.
#[derive(Debug)]
pub struct Kernels {
    functions: HashMap<&'static str, Function>,
    /// Kept, so that the functions stay.
    _libraries: Vec<Library>,
}

impl Kernels {
    /// Loads all kernels, for devices of a compute capability. Where none were compiled for it, or the driver does not take what was
    /// compiled, it compiles them itself, or remembers that it did.
    pub fn load(capability: u32) -> Result<Self, KernelsError> {
        let (modules, cubins) = (modules()?, cubins(capability)?);
        let mut functions = HashMap::new();
        let mut libraries = vec![];
        for (module, kernels) in NAMES {
            let compiled = cubins.get(module).map(|cubin| Library::load(cubin));
            let library = match compiled {
                Some(Ok(library)) => library,
                refused => {
                    if let Some(Err(why)) = refused {
                        tracing::debug!(module, %why, "the driver compiles a module itself");
                    }
                    let ptx = modules.get(module).ok_or(KernelsError::Stale)?;
                    Library::load(CString::new(ptx.as_str()).unwrap_or_default().as_bytes_with_nul())?
                }
            };
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

    #[test]
    fn devices_get_what_was_compiled_for_the_latest_of_their_generation_before_them() {
        /// Place of the low byte of the compute capability in an ELF file of CUDA: `e_flags` bits 8 to 15.
        const CAPABILITY: usize = 0x31;
        for (capability, compiled) in [(80, 80), (86, 86), (87, 86), (89, 89), (90, 90)] {
            let cubins = cubins(capability).unwrap();
            assert_eq!(cubins.len(), NAMES.len(), "{capability}");
            for (name, cubin) in cubins {
                assert!(cubin.starts_with(b"\x7fELF"), "{name}");
                assert_eq!(cubin[CAPABILITY], compiled, "{name} for {capability}");
            }
        }
        for other in [75, 100, 120] {
            assert!(cubins(other).unwrap().is_empty(), "{other}");
        }
    }
}
