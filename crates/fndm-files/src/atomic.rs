//! One file: complete, or not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::{Error, Result, resolve};

/// A file that is written under a temporary name in the same folder, and takes its own when it is complete. Dropped before, it leaves
/// nothing. Where the path is a link, the file at its end is written.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl AtomicFile {
    /// Begins a file.
    ///
    /// # Errors
    /// [`Error::NotAFile`] for a folder or a device; [`Error::Io`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            return Err(Error::NotAFile { path: path.into() });
        }
        let path = resolve(path)?;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::NotAFile { path });
        };
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        // As any new file: what the umask leaves. tempfile's own default is the owner alone.
        #[cfg(unix)]
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        #[cfg(unix)]
        builder.permissions(mode);
        let made = builder.tempfile_in(folder);
        // A name near the system's limit has no room for more.
        let file = match made {
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                builder.prefix(".fndm.").tempfile_in(folder)
            }
            made => made,
        };
        let file = file.map_err(|e| Error::io("write", &path)(plain(e)))?;
        Ok(Self { path, file })
    }

    /// Gives the file its name, once it is on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit(self) -> Result<()> {
        let Self { path, file } = self;
        file.as_file()
            .sync_all()
            .map_err(Error::io("write", &path))?;
        match file.persist(&path) {
            Ok(_) => Ok(()),
            Err(failed) => Err(Error::io("write", &path)(failed.error)),
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Of the file itself: `NamedTempFile` would put the temporary name into the error.
        self.file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

impl io::Seek for AtomicFile {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.as_file_mut().seek(to)
    }
}

/// The system's error without the temporary name that tempfile adds.
pub(crate) fn plain(error: io::Error) -> io::Error {
    let words = error.to_string();
    match words.split_once(" at path ") {
        Some((own, _)) => io::Error::new(error.kind(), own),
        None => error,
    }
}

/// Writes a file under a temporary name, synced and renamed. What isn't a file on a disk (`/dev/null`, a pipe) is written to directly.
///
/// # Errors
/// [`Error::Io`], [`Error::NotAFile`] for a folder.
pub fn write_atomic(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    let path = path.as_ref();
    let device = fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir());
    if device {
        // Renamed over, it would be gone.
        let mut open = File::options();
        return open
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(bytes.as_ref()))
            .map_err(Error::io("write", path));
    }
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes.as_ref())
        .map_err(Error::io("write", path))?;
    file.commit()
}

/// A file that another writer makes: `fill` gets the path of a file of the same name in a new folder beside the target. When it has
/// returned, the file is brought to the disk and renamed.
///
/// # Errors
/// Those of `fill`; [`Error::Io`], [`Error::NotAFile`] for a folder or a device.
pub fn write_by<T, E: From<Error>>(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&Path) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let path = path.as_ref();
    if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(Error::NotAFile { path: path.into() }.into());
    }
    let path = resolve(path)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::NotAFile { path }.into());
    };
    let beside = tempfile::Builder::new()
        .prefix(".fndm.")
        .suffix(".tmp")
        .tempdir_in(folder)
        .map_err(|e| Error::io("write", &path)(plain(e)))?;
    let made = beside.path().join(name);
    let value = fill(&made)?;
    File::open(&made)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&made, &path))
        .map_err(Error::io("write", &path))?;
    Ok(value)
}

/// Writes a value as JSON for people, with a line end: see [`write_atomic`].
///
/// # Errors
/// [`Error::Json`] for a value that has no JSON form; [`Error::Io`].
pub fn write_json(path: impl AsRef<Path>, value: &impl Serialize) -> Result<()> {
    let path = path.as_ref();
    let mut text = serde_json::to_string_pretty(value).map_err(Error::json(path))?;
    text.push('\n');
    write_atomic(path, text)
}
