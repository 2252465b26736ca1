//! A folder that is filled piece by piece, and gone on with later.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::atomic::{json_text, plain};
use crate::lock::Lock;
use crate::marker::{FILLED, MARKER, Marker, Stamp, is_empty};
use crate::output::Parents;
use crate::{Error, Inputs, Maker, Result, resolve, write_atomic};

/// A folder that a run writes into as it goes and a later run goes on with: a training, or a figure that grows point by point. It is never
/// replaced or emptied as a whole; a file in it is replaced only as we left it. One that was made and got nothing is gone again when the
/// run ends.
#[derive(Debug)]
pub struct WorkFolder {
    given: PathBuf,
    place: PathBuf,
    marker: Marker,
    /// Whether this run made it.
    made: bool,
    // Held until the run ends.
    _lock: Lock,
    // After the lock, whose file lies in the last of them.
    parents: Parents,
}

impl WorkFolder {
    /// Whether [`WorkFolder::open`] would be allowed: nothing is changed on the disk.
    ///
    /// # Errors
    /// As there.
    pub fn check(output: impl AsRef<Path>, maker: &Maker, inputs: &Inputs) -> Result<()> {
        let output = output.as_ref();
        inputs.check_folder(output)?;
        usable(&resolve(output)?, output, maker).map(|_| ())
    }

    /// Opens a folder of the same maker, or makes one. An existing folder without our marker must be empty.
    ///
    /// # Errors
    /// When the output touches an input, isn't ours, is being written by another process, or can't be written.
    pub fn open(output: impl AsRef<Path>, maker: &Maker, inputs: &Inputs) -> Result<Self> {
        let output = output.as_ref();
        inputs.check_folder(output)?;
        let place = resolve(output)?;
        let Some(parent) = place.parent() else {
            return Err(Error::NotOurs {
                folder: output.into(),
            });
        };
        let parents = Parents::create(parent)?;
        let lock = Lock::take(&place)?;
        let (marker, made) = match usable(&place, output, maker)? {
            Some(marker) => {
                if lock.held {
                    marker.remove_temporary(&place)?;
                }
                (marker, false)
            }
            None => {
                let made = match fs::create_dir(&place) {
                    Ok(()) => true,
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                    Err(error) => return Err(Error::io("write", &place)(error)),
                };
                let marker = Marker::new(maker);
                marker.write(&place)?;
                (marker, made)
            }
        };
        Ok(Self {
            given: output.into(),
            place,
            marker,
            made,
            _lock: lock,
            parents,
        })
    }

    /// Removes a folder of the same maker: the files that are as we left them, and the folder where nothing else is in it.
    ///
    /// # Errors
    /// When it isn't ours, a file in it was changed or isn't ours, it is being written by another process, or can't be removed.
    pub fn remove(output: impl AsRef<Path>, maker: &Maker) -> Result<()> {
        let output = output.as_ref();
        let place = resolve(output)?;
        let _lock = Lock::take(&place)?;
        match usable(&place, output, maker)? {
            Some(marker) => {
                marker.check(output, maker)?;
                marker.remove(&place)
            }
            None => Ok(()),
        }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// Writes a file. One that is there already is replaced if it is as an earlier run left it.
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::Changed`], [`Error::Io`].
    pub fn write(&mut self, name: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        self.marker
            .check_file(&self.place, name)
            .map_err(|e| self.named(e))?;
        // Both states are ours while the one is replaced by the other, also for a later run if this one is killed in between.
        let stamp = Stamp::of(bytes);
        let states = self.marker.files.entry(name.into()).or_default();
        states.push(stamp);
        self.marker.write(&self.place)?;
        write_atomic(self.place.join(name), bytes)?;
        self.marker.files.insert(name.into(), vec![stamp]);
        self.marker.write(&self.place)
    }

    /// Removes a file that an earlier run wrote, so that nothing of that run stands beside what this one writes. One that was never ours is left.
    ///
    /// # Errors
    /// [`Error::Changed`] when it isn't as that run left it, [`Error::Io`].
    pub fn discard(&mut self, name: &str) -> Result<()> {
        if !self.marker.files.contains_key(name) {
            return Ok(());
        }
        self.marker
            .check_file(&self.place, name)
            .map_err(|e| self.named(e))?;
        let path = self.place.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io("remove", &path)(error));
            }
            _ => {}
        }
        self.marker.files.remove(name);
        self.marker.write(&self.place)
    }

    /// Writes a value as JSON: see [`WorkFolder::write`].
    ///
    /// # Errors
    /// As there, and [`Error::Json`].
    pub fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.place.join(name);
        self.write(name, json_text(&path, value)?)
    }

    /// Writes a file that another writer makes at the path it is given: see [`WorkFolder::write`].
    ///
    /// # Errors
    /// As there, and those of `fill`.
    pub fn write_by<E: From<Error>>(
        &mut self,
        name: &str,
        fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.marker
            .check_file(&self.place, name)
            .map_err(|e| self.named(e))?;
        // What is left of it if this run is killed is known for ours by its name.
        if !self.marker.files.contains_key(name) {
            self.marker.files.insert(name.into(), Vec::new());
            self.marker.write(&self.place)?;
        }
        let beside = tempfile::Builder::new()
            .prefix(&format!(".{FILLED}"))
            .suffix(".tmp")
            .tempdir_in(&self.place)
            .map_err(|e| Error::io("write", &self.place)(plain(e)))?;
        let made = beside.path().join(name);
        fill(&made)?;
        let bytes = fs::read(&made).map_err(Error::io("read", &made))?;
        Ok(self.write(name, bytes)?)
    }

    /// The error by the folder's name as the user gave it.
    fn named(&self, error: Error) -> Error {
        let folder = self.given.clone();
        match error {
            Error::Foreign { file, .. } => Error::Foreign { folder, file },
            Error::Changed { file, .. } => Error::Changed { folder, file },
            other => other,
        }
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        let names = || {
            fs::read_dir(&self.place)?
                .map(|entry| Ok(entry?.file_name()))
                .collect()
        };
        let names: std::io::Result<Vec<_>> = names();
        let unused = self.made && names.is_ok_and(|names| names == [MARKER]);
        if !unused || self.marker.remove(&self.place).is_err() {
            self.parents.keep();
        }
    }
}

/// The marker of a folder of the same maker; none where the folder is still to be made, or empty.
fn usable(place: &Path, given: &Path, maker: &Maker) -> Result<Option<Marker>> {
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", given)(error)),
        Ok(found) if !found.is_dir() => {
            return Err(Error::NotAFolder { path: given.into() });
        }
        Ok(_) => {}
    }
    match Marker::read(place)? {
        Some(marker) => {
            marker.check_maker(given, maker)?;
            Ok(Some(marker))
        }
        None if is_empty(place)? => Ok(None),
        None => Err(Error::NotOurs {
            folder: given.into(),
        }),
    }
}
