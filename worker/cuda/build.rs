//! Builds the trampolines to the driver, and sees that the embedded kernels belong to their sources.

use std::path::{Path, PathBuf};
use std::{env, fs};

use sha2::{Digest, Sha256};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo:rerun-if-changed=src/driver/trampolines.c");
    println!("cargo:rerun-if-changed=kernels");
    cc::Build::new()
        .file(root.join("src/driver/trampolines.c"))
        .warnings(true)
        .pic(true)
        .cargo_metadata(false)
        .compile("graft_libcuda");
    // The linker finds the library by way of the script `link/lib64/libcuda.so`, for which `cust` asks.
    println!(
        "cargo:rustc-link-search=native={}",
        env::var("OUT_DIR").unwrap_or_default()
    );
    println!(
        "cargo:rustc-env=GRAFT_KERNEL_SOURCES={}",
        hash_of_sources(&root.join("kernels"))
    );
}

/// SHA-256 over names and contents of all sources, in the order of their names; as `kernels/build.py` does it.
fn hash_of_sources(folder: &Path) -> String {
    let files = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let is_source = |path: &PathBuf| path.extension().is_some_and(|e| e == "cu" || e == "cuh");
    let mut files: Vec<PathBuf> = files.filter(is_source).collect();
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).unwrap_or_default();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        hash.update(format!("{name} {}\n", content.len()));
        hash.update(content);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
