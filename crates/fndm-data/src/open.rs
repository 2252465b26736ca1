//! Opening a file that a user named.

use std::fs::File;
use std::io::{Error as IoError, ErrorKind};
use std::path::Path;

use crate::{Error, Result};

/// Opens a regular file to read; also its size in bytes.
///
/// Folders, pipes and devices are refused before they are opened: opening a pipe would wait for its
/// writer, and a device may never end.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    if path.as_os_str().is_empty() {
        return Err(Error::config(
            "path of a file to read",
            "a path",
            "an empty one",
        ));
    }
    let meta = std::fs::metadata(path).map_err(Error::io(path))?;
    if meta.is_dir() {
        return Err(Error::io(path)(IoError::from(ErrorKind::IsADirectory)));
    }
    if !meta.is_file() {
        let error = IoError::other("expected a file, got a pipe, socket or device");
        return Err(Error::io(path)(error));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    Ok((file, meta.len()))
}
