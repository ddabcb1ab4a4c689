//! The tree's rules: which crate may import which, what cores may not do, how long a file may grow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Layers: a crate may import Graft's crates of lower layers only.
const LAYERS: &[&[&str]] = &[
    &["graft-features", "graft-ort-ffi"],
    &["graft-model"],
    &["graft-plan", "graft-softgpu"],
    &["graft-wire", "graft-files"],
    &[
        "graft-transport",
        "graft-telemetry",
        "graft-worker-core",
        "graft-router-core",
        "graft-client-core",
        "graft-engine",
    ],
    &["graft-service", "graft-certify", "graft-cuda"],
    &["graft-planner-search"],
    &["graft-planner-steer"],
    &[
        "graft-router",
        "graft-planner",
        "graft-worker",
        "graft-client",
        "graft-simulator",
    ],
    &[
        "graft",
        "graft-bindings",
        "graft-bindings-generate",
        "graft-integration-tests",
        "graft-fuzz-targets",
    ],
];

/// Crates of values and of decisions: no I/O may be reachable from them.
const CORES: &[&str] = &[
    "graft-features",
    "graft-model",
    "graft-plan",
    "graft-wire",
    "graft-worker-core",
    "graft-router-core",
    "graft-planner-search",
    "graft-planner-steer",
    "graft-certify",
    "graft-client-core",
    "graft-simulator",
];
/// Crates that call C, and may hold unsafe code for it, each block with its reasons.
const FOREIGN: &[&str] = &["graft-ort-ffi", "graft-cuda", "graft-softgpu", "graft-bindings"];
/// What a core may import besides Graft's own.
const CORE_IMPORTS: &[&str] = &[
    "bincode",
    "bytemuck",
    "constriction",
    "half",
    "hdrhistogram",
    "rten-onnx",
    "rustc-hash",
    "serde",
    "serde_json",
    "serde_path_to_error",
    "sha2",
    "thiserror",
    "toml",
];
/// Parts of the standard library that a core names nowhere, tests apart. The linter knows single functions only.
const CORE_BANS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];
/// Longest file of code, in lines, tests apart: at most, of nine in ten files, and of half of them.
const LONGEST_FILE: usize = 600;
const LONGEST_OF_NINE_IN_TEN: usize = 400;
const LONGEST_OF_HALF: usize = 200;

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
            let allowed = CORES.contains(&import.as_str()) || CORE_IMPORTS.contains(&import.as_str());
            assert!(
                allowed,
                "{name} imports {import}: a core decides, it does nothing"
            );
        }
        // The linter bans clocks, threads, files and sockets there.
        let front = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap();
        let denies = front.contains("#![deny(clippy::disallowed_methods)]");
        assert!(denies, "{name} does not deny clippy::disallowed_methods");
        let mut files = vec![];
        rust_files(&folder.join("src"), &mut files);
        for file in files.iter().filter(|file| !is_test(file)) {
            let text = std::fs::read_to_string(file).unwrap();
            let named = banned(&code(&text));
            assert!(named.is_empty(), "{} names {named:?}", file.display());
        }
    }
}

/// The paths of an import: `a::{b, c::{d, e}}` are `a::b`, `a::c::d` and `a::c::e`.
fn paths(tree: &str, before: &str, out: &mut Vec<String>) {
    let Some((outer, group)) = tree.split_once('{') else {
        return out.push(format!("{before}{tree}"));
    };
    let before = format!("{before}{outer}");
    let group = group.strip_suffix('}').unwrap_or(group);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                paths(&group[start..at], &before, out);
                start = at + 1;
            }
            _ => {}
        }
    }
    paths(&group[start..], &before, out);
}

/// What a core must not name, in lines of code: in full, imported, or by way of an imported module.
fn banned(lines: &[&str]) -> Vec<&'static str> {
    let text = lines.join(" ");
    let mut imported = vec![];
    for import in text.split("use ").skip(1) {
        let tree = import.split(';').next().unwrap_or_default().replace(' ', "");
        paths(&tree, "", &mut imported);
    }
    let names = |ban: &&str| {
        text.contains(ban)
            || imported.iter().any(|path| {
                let within = path == ban || path.starts_with(&format!("{ban}::"));
                let all = path
                    .strip_suffix('*')
                    .is_some_and(|module| ban.starts_with(module));
                let inner = ban
                    .strip_prefix(path.as_str())
                    .and_then(|rest| rest.strip_prefix("::"));
                let by_module = inner.is_some_and(|inner| {
                    let module = path.rsplit("::").next().unwrap_or(path);
                    text.contains(&format!("{module}::{inner}"))
                });
                within || all || by_module
            })
    };
    CORE_BANS.iter().copied().filter(names).collect()
}

#[test]
fn the_script_that_builds_cores_for_wasm_names_all_of_them() {
    let script = std::fs::read_to_string(root().join("integration-tests/wasm.sh")).unwrap();
    let (_, list) = script.split_once("cores=(").expect("a list");
    let (list, _) = list.split_once(')').expect("its end");
    let named: BTreeSet<&str> = list.split_whitespace().collect();
    assert_eq!(named, CORES.iter().copied().collect());
}

#[test]
fn a_core_that_names_a_file_or_a_clock_is_found() {
    assert_eq!(banned(&["use std::fs::File;"]), ["std::fs"]);
    assert_eq!(banned(&["use std::{", "    fmt, fs::File,", "};"]), ["std::fs"]);
    assert_eq!(
        banned(&["use std::time::{Duration, Instant};"]),
        ["std::time::Instant"]
    );
    for lines in [
        &["let now = std::time::Instant::now();"][..],
        &["use std::{fmt, time::{Duration, Instant}};"],
        &["use std::time;", "let now = time::Instant::now();"],
    ] {
        assert_eq!(banned(lines), ["std::time::Instant"], "{lines:?}");
    }
    assert_eq!(
        banned(&["use std::time::*;"]),
        ["std::time::Instant", "std::time::SystemTime"]
    );
    assert!(
        banned(&[
            "use std::time::Duration;",
            "use std::collections::{BTreeMap, HashMap};"
        ])
        .is_empty()
    );
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for item in std::fs::read_dir(folder).into_iter().flatten() {
        let path = item.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// A file's lines of code: no comments, no tests beside the code.
fn code(text: &str) -> Vec<&str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let code = text[..end].lines();
    code.map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with("//"))
        .collect()
}

fn is_test(file: &Path) -> bool {
    let name = file.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
    ["tests", "pair", "rollout_model"].contains(&name)
}

/// What is wrong with the lengths of files, in lines of code.
fn too_long(mut lengths: Vec<(usize, String)>) -> Vec<String> {
    lengths.sort();
    let at = |part: f64| lengths[((lengths.len() - 1) as f64 * part) as usize].0;
    let mut wrong: Vec<String> = lengths
        .iter()
        .filter(|(lines, _)| *lines > LONGEST_FILE)
        .map(|(lines, file)| format!("{file} has {lines} lines of code"))
        .collect();
    for (part, most) in [(0.5, LONGEST_OF_HALF), (0.9, LONGEST_OF_NINE_IN_TEN)] {
        if at(part) > most {
            let percent = part * 100.0;
            wrong.push(format!(
                "{percent} of 100 files have up to {} lines of code, more than {most}",
                at(part)
            ));
        }
    }
    wrong
}

#[test]
fn files_stay_short() {
    let mut lengths = vec![];
    for (folder, _) in manifests().values() {
        let mut files = vec![];
        rust_files(&folder.join("src"), &mut files);
        for file in files.iter().filter(|f| !is_test(f)) {
            let text = std::fs::read_to_string(file).unwrap();
            lengths.push((code(&text).len(), file.display().to_string()));
        }
    }
    assert_eq!(too_long(lengths), Vec::<String>::new());
}

#[test]
fn a_file_that_is_too_long_is_found() {
    let short = |n: usize| (100, format!("{n}.rs"));
    let mut lengths: Vec<(usize, String)> = (0..20).map(short).collect();
    assert!(too_long(lengths.clone()).is_empty());
    lengths.push((LONGEST_FILE + 1, "long.rs".to_owned()));
    assert_eq!(too_long(lengths.clone()).len(), 1);
    lengths.extend((0..4).map(|n| (LONGEST_OF_NINE_IN_TEN + 1, format!("rather-long-{n}.rs"))));
    assert_eq!(too_long(lengths).len(), 2);
}

#[test]
fn crates_forbid_unsafe_code_and_say_what_they_are_for() {
    for (name, (folder, manifest)) in manifests() {
        let lints = &manifest["lints"];
        if FOREIGN.contains(&name.as_str()) {
            let documented = lints["clippy"]["undocumented_unsafe_blocks"].as_str();
            assert_eq!(documented, Some("deny"), "{name} need not say why it is sound");
        } else {
            let shared = lints["workspace"].as_bool();
            assert_eq!(shared, Some(true), "{name} has lints of its own");
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

/// Which of a crate's modules import which; modules below one of these count as that one.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Modules that code names by their path from the crate's root.
fn named(code: &[&str]) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for line in code {
        for (at, _) in line.match_indices("crate::") {
            let is_own = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
            let rest = &line[at + "crate::".len()..];
            let list = rest
                .strip_prefix('{')
                .map(|l| l.split('}').next().unwrap_or_default());
            let first = |path: &str| {
                let end = path.find(|c: char| !c.is_alphanumeric() && c != '_');
                path.trim()[..end.unwrap_or(path.trim().len())].to_owned()
            };
            if is_own {
                named.extend(list.map_or_else(
                    || vec![first(rest)],
                    |l| l.split(',').map(|p| first(p.trim())).collect(),
                ));
            }
        }
    }
    named
}

fn imports_of(folder: &Path) -> Imports {
    let mut files = vec![];
    rust_files(folder, &mut files);
    let mut imports = Imports::new();
    for file in files.iter().filter(|f| !is_test(f)) {
        let path = file.strip_prefix(folder).unwrap();
        let module = path
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs");
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        imports
            .entry(module.to_owned())
            .or_default()
            .extend(named(&code(&text)));
    }
    let modules: BTreeSet<String> = imports.keys().cloned().collect();
    for (module, of) in &mut imports {
        of.retain(|other| other != module && modules.contains(other));
    }
    imports
}

/// Modules that import each other, over others or not.
fn circles(imports: &Imports) -> Vec<String> {
    let reached = |from: &String| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = imports[from].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module.clone()) {
                next.extend(&imports[module]);
            }
        }
        reached
    };
    imports
        .keys()
        .filter(|module| reached(module).contains(*module))
        .cloned()
        .collect()
}

#[test]
fn modules_import_one_another_in_no_circle() {
    let mut found = BTreeMap::new();
    for (name, (folder, _)) in manifests() {
        let circle = circles(&imports_of(&folder.join("src")));
        if !circle.is_empty() {
            found.insert(name, circle);
        }
    }
    assert_eq!(found, BTreeMap::new());
}

#[test]
fn a_circle_of_imports_is_found() {
    let imports = |list: &[(&str, &[&str])]| -> Imports {
        let of = |(from, to): &(&str, &[&str])| {
            let to = to
                .iter()
                .map(|t| format!("use crate::{t}::Thing;"))
                .collect::<Vec<_>>();
            let lines: Vec<&str> = to.iter().map(String::as_str).collect();
            ((*from).to_owned(), named(&lines))
        };
        list.iter().map(of).collect()
    };
    let planted = imports(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"]), ("d", &["a"])]);
    assert_eq!(circles(&planted), ["a", "b", "c"]);
    assert!(circles(&imports(&[("a", &["b"]), ("b", &["c"]), ("c", &[])])).is_empty());
    let listed = named(&[
        "use crate::{first, second::Two};",
        "let x = graft_other_crate::third();",
    ]);
    assert_eq!(listed.into_iter().collect::<Vec<_>>(), ["first", "second"]);
}

/// Dependencies that a manifest's section names and no code of these folders does.
fn unused(folder: &Path, manifest: &toml::Table, section: &str, places: &[&str]) -> Vec<String> {
    let mut files: Vec<PathBuf> = vec![folder.join("build.rs")];
    places
        .iter()
        .for_each(|place| rust_files(&folder.join(place), &mut files));
    let texts: Vec<String> = files
        .iter()
        .filter_map(|f| std::fs::read_to_string(f).ok())
        .collect();
    let table = manifest.get(section).and_then(toml::Value::as_table);
    let names = table.into_iter().flat_map(|t| t.keys());
    let is_used = |name: &String| {
        // The name of a library where it is not the package's.
        let name = if name == "rustls-webpki" { "webpki" } else { name };
        let name = name.replace('-', "_");
        let named = |text: &String| {
            let mut lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
            lines.any(|l| l.contains(&format!("{name}::")) || l.contains(&format!("use {name}")))
        };
        texts.iter().any(named)
    };
    names.filter(|name| !is_used(name)).cloned().collect()
}

#[test]
fn every_dependency_is_used() {
    let mut found = BTreeMap::new();
    for (name, (folder, manifest)) in manifests() {
        let mut list = unused(&folder, &manifest, "dependencies", &["src"]);
        list.extend(unused(
            &folder,
            &manifest,
            "dev-dependencies",
            &["src", "tests", "benches"],
        ));
        // Cargo's own way to turn on a feature for tests.
        list.retain(|dependency| !dependency.starts_with("graft-"));
        if !list.is_empty() {
            found.insert(name, list);
        }
    }
    assert_eq!(found, BTreeMap::new());
}

/// What a core must not reach, over however many crates: sockets, event loops, threads of their own.
const IO: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "quinn",
    "actix",
    "actix-rt",
    "actix-web",
    "rayon",
    "libloading",
    "redb",
];

#[test]
fn cores_reach_nothing_that_does_io() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    for core in CORES {
        let output = std::process::Command::new(&cargo)
            .args([
                "tree",
                "--offline",
                "--edges",
                "normal",
                "--prefix",
                "none",
                "--package",
                core,
            ])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let tree = String::from_utf8_lossy(&output.stdout).into_owned();
        let reached: Vec<&str> = tree.lines().filter_map(|l| l.split(' ').next()).collect();
        assert!(reached.contains(core), "{tree}");
        let io: Vec<&&str> = IO.iter().filter(|io| reached.contains(io)).collect();
        assert!(io.is_empty(), "{core} reaches {io:?}");
    }
}
