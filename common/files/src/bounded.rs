//! Reading whole files up to a length.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// A file's content. It is an error if the file has more than `most` bytes, however long it said that it is.
pub(crate) fn read(file: &Path, most: u64) -> Result<Vec<u8>> {
    let too_long = || {
        Error::new(
            ErrorKind::FileTooLarge,
            format!("it has more than {most} bytes, the most that are read"),
        )
    };
    let file = File::open(file)?;
    let length = file.metadata()?.len();
    if length > most {
        return Err(too_long());
    }
    // One byte more than there should be tells a file that grows, or a device that never ends.
    let mut content = vec![];
    content.try_reserve_exact(usize::try_from(length).map_err(|_| too_long())?.saturating_add(1))?;
    file.take(most.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(too_long());
    }
    Ok(content)
}

/// A text file's content.
pub(crate) fn read_text(file: &Path, most: u64) -> Result<String> {
    String::from_utf8(read(file, most)?).map_err(|e| Error::new(ErrorKind::InvalidData, e.utf8_error()))
}
