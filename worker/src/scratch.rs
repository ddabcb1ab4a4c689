//! A folder for what engines keep on the disk while a worker runs.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The file whose lock says that a folder is in use.
const LOCK: &str = "lock";

/// A folder of this process alone. It is removed at the end; what a process that was killed left is removed by the next.
pub(crate) struct Scratch {
    folder: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes a folder in `parent`, which several workers may share.
    pub fn open(parent: &Path) -> anyhow::Result<Self> {
        let described = || parent.display().to_string();
        std::fs::create_dir_all(parent).with_context(described)?;
        for entry in std::fs::read_dir(parent).with_context(described)?.flatten() {
            if is_left(&entry.path())
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, folder = %entry.path().display(), "what another process left can't be removed");
            }
        }
        let folder = parent.join(format!("{}-{:08x}", std::process::id(), fastrand::u32(..)));
        // Locked before it has the name that others look at.
        let draft = parent.join(format!(".{}", fastrand::u64(..)));
        std::fs::create_dir(&draft).with_context(described)?;
        let lock = File::create(draft.join(LOCK)).with_context(described)?;
        lock.lock().with_context(described)?;
        std::fs::rename(&draft, &folder).with_context(described)?;
        Ok(Scratch { folder, _lock: lock })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Models that are still loaded have their files there: what can't be removed now the next worker removes.
        let _rest = std::fs::remove_dir_all(&self.folder);
    }
}

/// A folder whose process is gone.
fn is_left(folder: &Path) -> bool {
    let hidden = folder
        .file_name()
        .is_none_or(|n| n.to_string_lossy().starts_with('.'));
    if hidden || !folder.is_dir() {
        return false;
    }
    match File::open(folder.join(LOCK)) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays_and_what_was_left_goes() {
        let parent = tempfile::tempdir().unwrap();
        let first = Scratch::open(parent.path()).unwrap();
        let left = parent.path().join("1-00000000");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join(LOCK), "").unwrap();
        let second = Scratch::open(parent.path()).unwrap();
        assert!(first.folder().is_dir() && second.folder().is_dir());
        assert!(!left.exists());
        let folder = first.folder().to_owned();
        drop(first);
        assert!(!folder.exists() && second.folder().is_dir());
    }
}
