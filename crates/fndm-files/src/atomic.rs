//! One file: complete, or not there.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::filling::is_in_one_being_filled;
use crate::{Error, Result, resolve};

/// A file that is written under a temporary name (`.NAME.*.tmp`) in the same folder, and takes its own when it is complete. Dropped
/// before, it leaves nothing. Where the path is a link, the file at its end is written.
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
        let made = under_temporary_name(name, |builder| {
            // As any new file: what the umask leaves. tempfile's own default is the owner alone.
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            builder.tempfile_in(folder)
        });
        let file = made.map_err(|e| Error::io("write", &path)(plain(e)))?;
        Ok(Self { path, file })
    }

    /// Gives the file its name, once it is on the disk. In an [`OutputFolder`](crate::OutputFolder) that is being filled it needn't be:
    /// the folder is brought there as a whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit(self) -> Result<()> {
        let Self { path, file } = self;
        let at_once = !is_in_one_being_filled(&path);
        if at_once {
            let synced = file.as_file().sync_all();
            synced.map_err(Error::io("write", &path))?;
        }
        match file.persist(&path) {
            Ok(_) => {
                if at_once {
                    sync_parent(&path);
                }
                Ok(())
            }
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

/// Makes something as `.NAME.*.tmp`.
fn under_temporary_name<T>(
    name: &OsStr,
    mut make: impl FnMut(&mut tempfile::Builder<'_, '_>) -> io::Result<T>,
) -> io::Result<T> {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    match make(builder.prefix(&prefix).suffix(".tmp")) {
        // A name near the system's limit has no room for more.
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
            make(builder.prefix(".fndm."))
        }
        made => made,
    }
}

/// Brings renames and removals in a folder to the disk, in their order, as far as the system does that.
pub fn sync_folder(folder: impl AsRef<Path>) {
    // Not every system lets a folder be opened for that.
    if let Ok(open) = File::open(folder) {
        let _ = open.sync_all();
    }
}

fn sync_parent(path: &Path) {
    if let Some(folder) = path.parent() {
        sync_folder(folder);
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
/// returned, the file is brought to the disk and renamed. It has the permissions of any new file, whatever the writer gave it.
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
    let beside = under_temporary_name(name, |builder| builder.tempdir_in(folder));
    let beside = beside.map_err(|e| Error::io("write", &path)(plain(e)))?;
    let made = beside.path().join(name);
    let usual = usual_permissions(&made).map_err(Error::io("write", &path))?;
    let value = fill(&made)?;
    let at_once = !is_in_one_being_filled(&path);
    let renamed = || {
        fs::set_permissions(&made, usual)?;
        if at_once {
            // Through a handle for writing, which some systems need.
            File::options().write(true).open(&made)?.sync_all()?;
        }
        fs::rename(&made, &path)
    };
    renamed().map_err(Error::io("write", &path))?;
    if at_once {
        sync_parent(&path);
    }
    Ok(value)
}

/// Those of a new file at `path`, where nothing is or stays.
fn usual_permissions(path: &Path) -> io::Result<fs::Permissions> {
    let permissions = File::create(path)?.metadata()?.permissions();
    fs::remove_file(path)?;
    Ok(permissions)
}

/// Writes a value as JSON for people, with a line end: see [`write_atomic`].
///
/// # Errors
/// [`Error::Json`] for a value that has no JSON form; [`Error::Io`].
pub fn write_json(path: impl AsRef<Path>, value: &impl Serialize) -> Result<()> {
    let path = path.as_ref();
    write_atomic(path, json_text(path, value)?)
}

/// A value as JSON for people, with a line end; `path` is for the error.
pub(crate) fn json_text(path: &Path, value: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(Error::json(path, "JSON"))?;
    text.push('\n');
    Ok(text)
}

/// Reads a JSON file that we wrote; `what` says in the error what it should hold ("model config").
///
/// # Errors
/// [`Error::Io`]; [`Error::Json`] when it isn't valid.
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>, what: &'static str) -> Result<T> {
    let path = path.as_ref();
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    serde_json::from_str(&text).map_err(Error::json(path, what))
}
