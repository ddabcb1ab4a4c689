//! Writes the sources that Kotlin, Swift, Python and C need of `libgraft_sdk`: `graft-bindings-generate LIBRARY BINDINGS OUT`.
//!
//! `LIBRARY`: the built library, in which UniFFI finds what it exports. `BINDINGS`: the folder of the crate. `OUT`: a folder laid out as
//! `BINDINGS` is, which may be `BINDINGS` itself.

use std::path::Path;

use anyhow::{Context, Result, bail};
use uniffi_bindgen::bindings::{
    GenerateOptions, SwiftBindingsOptions, TargetLanguage, generate, generate_swift_bindings,
};

/// Where Kotlin's source goes.
const KOTLIN: &str = "kotlin/src/main/kotlin";
/// Where Swift's source goes.
const SWIFT: &str = "swift/Sources/Graft";
/// Where the header that Swift imports goes.
const SWIFT_HEADER: &str = "swift/Sources/GraftFFI/include";
/// Where Python's source goes.
const PYTHON: &str = "python/graft";
/// C's header.
const HEADER: &str = "c/include/graft.h";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, bindings, out] = arguments.as_slice() else {
        bail!("usage: graft-bindings-generate LIBRARY BINDINGS OUT");
    };
    let (bindings, out) = (Path::new(bindings), Path::new(out));
    let config = bindings.join("uniffi.toml").display().to_string();
    let made = tempfile::tempdir().context("a temporary folder can't be made")?;
    let write = |languages: Vec<TargetLanguage>| -> Result<()> {
        let options = GenerateOptions {
            languages,
            source: library.into(),
            out_dir: made.path().display().to_string().into(),
            config_override: Some(config.clone().into()),
            ..GenerateOptions::default()
        };
        generate(options)
    };
    write(vec![TargetLanguage::Kotlin, TargetLanguage::Python])?;
    let swift = |sources: bool| SwiftBindingsOptions {
        generate_swift_sources: sources,
        generate_headers: !sources,
        generate_modulemap: !sources,
        source: library.into(),
        out_dir: made.path().display().to_string().into(),
        xcframework: false,
        module_name: Some("GraftFFI".to_owned()),
        modulemap_filename: Some("module.modulemap".to_owned()),
        metadata_no_deps: true,
        link_frameworks: vec![],
        config: Some(config.clone().into()),
    };
    generate_swift_bindings(swift(true))?;
    generate_swift_bindings(swift(false))?;
    let place = |made_as: &str, to: String| -> Result<()> {
        let to = out.join(to);
        let folder = to.parent().context("a file is in a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let text = std::fs::read_to_string(made.path().join(made_as))
            .with_context(|| format!("UniFFI wrote no {made_as}"))?;
        std::fs::write(&to, tidy(&text)).with_context(|| format!("{} can't be written", to.display()))
    };
    place("graft/sdk/graft.kt", format!("{KOTLIN}/graft/sdk/graft.kt"))?;
    place("graft.py", format!("{PYTHON}/_sdk.py"))?;
    place("Graft.swift", format!("{SWIFT}/Graft.swift"))?;
    place("GraftFFI.h", format!("{SWIFT_HEADER}/GraftFFI.h"))?;
    place("module.modulemap", format!("{SWIFT_HEADER}/module.modulemap"))?;
    header(bindings, &out.join(HEADER))
}

/// Without spaces at the ends of lines.
fn tidy(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

/// C's header, from the sources.
fn header(bindings: &Path, to: &Path) -> Result<()> {
    let config = cbindgen::Config::from_file(bindings.join("cbindgen.toml"))
        .map_err(|error| anyhow::anyhow!("cbindgen.toml: {error}"))?;
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in ["c.rs", "c/given.rs", "c/answer.rs"] {
        builder = builder.with_src(bindings.join("src").join(file));
    }
    let folder = to.parent().context("a file is in a folder")?;
    std::fs::create_dir_all(folder)?;
    let mut text = vec![];
    builder
        .generate()
        .context("the C interface can't be read")?
        .write(&mut text);
    std::fs::write(to, tidy(&String::from_utf8(text)?))
        .with_context(|| format!("{} can't be written", to.display()))
}
