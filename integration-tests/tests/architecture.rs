//! The tree's rules: which crate may import which, what cores may not do, how long a file may grow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Layers: a crate may import Graft's crates of lower layers only.
const LAYERS: &[&[&str]] = &[
    &["graft-model", "graft-ort-ffi"],
    &["graft-plan"],
    &["graft-wire"],
    &[
        "graft-transport",
        "graft-telemetry",
        "graft-worker-core",
        "graft-router-core",
        "graft-client-core",
        "graft-engine",
    ],
    &["graft-service", "graft-certify"],
    &["graft-planner-search"],
    &["graft-planner-steer"],
    &[
        "graft-router",
        "graft-planner",
        "graft-worker",
        "graft-client",
        "graft-simulator",
    ],
    &["graft", "graft-integration-tests"],
];

/// Crates that decide: no I/O may be reachable from them.
const CORES: &[&str] = &[
    "graft-worker-core",
    "graft-router-core",
    "graft-planner-search",
    "graft-planner-steer",
    "graft-certify",
    "graft-client-core",
    "graft-simulator",
];
/// Crates that call C, and may hold unsafe code for it, each block with its reasons.
const FOREIGN: &[&str] = &["graft-ort-ffi"];
/// What a core may import besides Graft's own.
const CORE_IMPORTS: &[&str] = &["hdrhistogram", "rustc-hash", "thiserror", "serde"];
/// Longest file of code, in lines, tests apart.
const LONGEST_FILE: usize = 800;

fn manifests() -> BTreeMap<String, (PathBuf, toml::Table)> {
    let workspace: toml::Table = std::fs::read_to_string(root().join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    members
        .iter()
        .map(|m| {
            let folder = root().join(m.as_str().unwrap());
            let manifest: toml::Table = std::fs::read_to_string(folder.join("Cargo.toml"))
                .unwrap()
                .parse()
                .unwrap();
            let name = manifest["package"]["name"].as_str().unwrap().to_owned();
            (name, (folder, manifest))
        })
        .collect()
}

fn imports(manifest: &toml::Table) -> Vec<String> {
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.map(|t| t.keys().cloned().collect()).unwrap_or_default()
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&name))
}

#[test]
fn imports_point_downwards() {
    for (name, (_, manifest)) in manifests() {
        let own = layer(&name).unwrap_or_else(|| panic!("{name} has no layer: add it to LAYERS"));
        for import in imports(&manifest).iter().filter(|i| i.starts_with("graft-")) {
            let other = layer(import).unwrap_or_else(|| panic!("{import} has no layer"));
            assert!(other < own, "{name} imports {import}, which is not below it");
        }
    }
}

#[test]
fn cores_import_nothing_that_does_io() {
    for (name, (folder, manifest)) in manifests() {
        if !CORES.contains(&name.as_str()) {
            continue;
        }
        for import in imports(&manifest) {
            let allowed = CORES.contains(&import.as_str())
                || ["graft-model", "graft-plan", "graft-wire"].contains(&import.as_str())
                || CORE_IMPORTS.contains(&import.as_str());
            assert!(
                allowed,
                "{name} imports {import}: a core decides, it does nothing"
            );
        }
        // The linter bans clocks, threads, files and sockets there.
        assert!(folder.join("clippy.toml").is_file(), "{name} has no clippy.toml");
    }
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn files_stay_readable_and_crates_forbid_unsafe_code() {
    for (name, (folder, manifest)) in manifests() {
        let lints = &manifest["lints"];
        if FOREIGN.contains(&name.as_str()) {
            let documented = lints["clippy"]["undocumented_unsafe_blocks"].as_str();
            assert_eq!(documented, Some("deny"), "{name} need not say why it is sound");
        } else {
            let shared = lints["workspace"].as_bool();
            assert_eq!(shared, Some(true), "{name} has lints of its own");
        }
        let mut files = vec![];
        rust_files(&folder.join("src"), &mut files);
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let lines = text.lines().take_while(|l| *l != "#[cfg(test)]").count();
            assert!(lines <= LONGEST_FILE, "{} has {lines} lines", file.display());
        }
        let front = folder.join("src/lib.rs");
        if front.is_file() {
            let text = std::fs::read_to_string(&front).unwrap();
            assert!(
                text.starts_with("//!"),
                "{} does not say what it is for",
                front.display()
            );
        }
    }
}
