//! Standard output. A reader that stops early (`| head`) has read enough: that is no failure.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;

/// Prints a text and a line end.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").context("standard output can't be written")?;
    Ok(())
}

/// Whether an error says that the reader of standard output went away.
pub(crate) fn is_reader_gone(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// A file that is to be written after long work can be: its folder is there, and takes files.
pub(crate) fn can_be_written(file: &Path) -> anyhow::Result<()> {
    let folder = file.parent().filter(|f| !f.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let there = folder.is_dir();
    anyhow::ensure!(
        there,
        "{}: there is no folder {}",
        file.display(),
        folder.display()
    );
    anyhow::ensure!(!file.is_dir(), "{} is a folder; expected a file", file.display());
    if file.exists() {
        let opened = OpenOptions::new().append(true).open(file);
        return opened
            .map(drop)
            .with_context(|| format!("{}: can't be written", file.display()));
    }
    let probe = folder.join(format!(".graft-{}", std::process::id()));
    let tried = std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe));
    tried.with_context(|| {
        format!(
            "{}: nothing can be written to {}",
            file.display(),
            folder.display()
        )
    })
}
