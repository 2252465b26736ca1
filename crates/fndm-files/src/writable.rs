//! Whether an output can be written, before hours are spent on it.

use std::fs;
use std::path::Path;

use crate::atomic::plain;
use crate::{Error, Result, resolve};

/// Tries the place of a file or folder that is still to be written: whether its deepest existing folder is one, and takes a new file.
/// The file is removed at once.
///
/// # Errors
/// [`Error::Io`], [`Error::NotAFolder`].
pub fn check_writable(output: impl AsRef<Path>) -> Result<()> {
    let output = output.as_ref();
    if fs::metadata(output).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        // A device or a pipe.
        return Ok(());
    }
    let place = resolve(output)?;
    let mut folders = place.ancestors().skip(1);
    let Some(folder) = folders.find(|path| fs::symlink_metadata(path).is_ok()) else {
        return Err(Error::io("write", output)(
            std::io::ErrorKind::NotFound.into(),
        ));
    };
    if !folder.is_dir() {
        return Err(Error::NotAFolder {
            path: folder.into(),
        });
    }
    let tried = tempfile::Builder::new()
        .prefix(".fndm.")
        .suffix(".tmp")
        .tempfile_in(folder);
    tried
        .map(|_| ())
        .map_err(|error| Error::io("write", output)(plain(error)))
}
