//! Standard output. A reader that stops early (`| head`) has read enough: that is no failure.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Prints a text and a line end.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(())
}

/// Whether an error says that the reader of standard output went away.
pub(crate) fn is_reader_gone(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}
