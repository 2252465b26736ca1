//! One process at a time for one output.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A lock on an output, by a file `.NAME.lock` beside it. The system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
    /// Whether the file system knows locks.
    pub(crate) held: bool,
}

impl Lock {
    /// Locks the output `place`, whose parent exists.
    pub(crate) fn take(place: &Path) -> Result<Self> {
        let path = beside(place, "lock");
        // A holder removes the file before it lets go: then ours is no longer the one by that name, and the next try finds out.
        for _ in 0..100 {
            // Through a link a file would be made elsewhere; a pipe would be waited at for ever.
            if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
                let error =
                    std::io::Error::new(ErrorKind::AlreadyExists, "expected a file or nothing");
                return Err(Error::io("lock", &path)(error));
            }
            let mut open = File::options();
            let file = open
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(Error::io("write", &path))?;
            let held = match file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Busy { path: place.into() });
                }
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => false,
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            };
            if !held || is_named(&file, &path) {
                return Ok(Self { path, file, held });
            }
        }
        Err(Error::Busy { path: place.into() })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Only what we made is removed: our lock files are empty.
        if self.held && self.file.metadata().is_ok_and(|m| m.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether `path` is still the name of this open file.
#[cfg(unix)]
fn is_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_named(_: &File, path: &Path) -> bool {
    path.exists()
}

/// `.NAME.END` in the folder of `place`.
pub(crate) fn beside(place: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(".");
    name.push(end);
    place.with_file_name(name)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Nothing is made where a link leads, and nothing but a file of ours is removed.
    #[test]
    fn what_lies_where_the_lock_would_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("p");
        let (lock, elsewhere) = (root.path().join(".p.lock"), root.path().join("elsewhere"));
        symlink(&elsewhere, &lock).unwrap();
        let error = Lock::take(&place).unwrap_err();
        assert!(crate::chain(&error).contains(".p.lock"), "{error}");
        assert!(lock.is_symlink() && !elsewhere.exists());
        fs::remove_file(&lock).unwrap();
        fs::create_dir(&lock).unwrap();
        assert!(Lock::take(&place).is_err());
        fs::remove_dir(&lock).unwrap();
        fs::write(&lock, "mine").unwrap();
        drop(Lock::take(&place).unwrap());
        assert_eq!(fs::read(&lock).unwrap(), b"mine");
        fs::remove_file(&lock).unwrap();
        drop(Lock::take(&place).unwrap());
        assert!(!lock.exists());
    }
}
