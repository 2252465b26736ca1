//! Which folders of results this process is filling. A file in one of them isn't brought to the disk by itself, whichever writer makes it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn folders() -> MutexGuard<'static, Vec<PathBuf>> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder that is being filled, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Filling(PathBuf);

impl Filling {
    /// `folder` as [`resolve`](crate::resolve) has it.
    pub(crate) fn begin(folder: &Path) -> Self {
        folders().push(folder.to_owned());
        Self(folder.to_owned())
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        folders().retain(|folder| *folder != self.0);
    }
}

/// Whether a file lies in one of them; its path as [`resolve`](crate::resolve) has it.
pub(crate) fn is_in_one_being_filled(file: &Path) -> bool {
    folders().iter().any(|folder| file.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_long_as_it_is_filled() {
        let within = |path: &str| is_in_one_being_filled(Path::new(path));
        let first = Filling::begin(Path::new("/nowhere/.p1.1.tmp"));
        let second = Filling::begin(Path::new("/nowhere/.p2.1.tmp"));
        assert!(within("/nowhere/.p1.1.tmp/deep/a.txt"));
        assert!(!within("/nowhere/.p1.1.tmp.txt"));
        assert!(!within("/nowhere/p1/a.txt"));
        drop(first);
        assert!(!within("/nowhere/.p1.1.tmp/a.txt"));
        assert!(within("/nowhere/.p2.1.tmp/a.txt"));
        drop(second);
        assert!(!within("/nowhere/.p2.1.tmp/a.txt"));
    }
}
