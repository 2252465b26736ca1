//! A folder that is made whole under a temporary name, and then takes the place of the old one.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::filling::Filling;
use crate::lock::{Lock, beside};
use crate::marker::{Marker, is_empty};
use crate::{Error, Inputs, MARKER, Maker, Result, resolve, sync_folder, write_atomic, write_json};

/// A folder of results in the making. It is filled as `.NAME.PID.tmp` beside its place. [`OutputFolder::finish`] renames the old
/// folder to `.NAME.PID.old`, the new one to its name, and removes the old. Killed at any moment, the old result or the new one is there
/// whole; where that was between the two renames, the next run of the same output gives the old one its name back.
///
/// Nothing counts before the rename. So no file is brought to the disk by itself while the folder is filled: `finish` does it for all of
/// them at once, just before. A power cut in between may leave a folder under a temporary name whose files aren't known for ours any
/// more; it stays, and is in nobody's way.
///
/// Dropped unfinished, it removes what it wrote.
#[derive(Debug)]
pub struct OutputFolder {
    /// What the user named.
    given: PathBuf,
    /// Where that leads.
    place: PathBuf,
    partial: PathBuf,
    marker: Marker,
    finished: bool,
    _filling: Filling,
    // Dropped in this order: the lock's file lies in the last of the parents.
    lock: Option<Lock>,
    parents: Parents,
}

impl OutputFolder {
    /// Whether [`OutputFolder::create`] would be allowed: nothing is changed on the disk.
    ///
    /// # Errors
    /// As there.
    pub fn check(output: impl AsRef<Path>, maker: &Maker, inputs: &Inputs) -> Result<()> {
        let output = output.as_ref();
        inputs.check_folder(output)?;
        replaceable(&resolve(output)?, output, maker)
    }

    /// Checks the output and begins a new folder beside it. What an earlier run left there when it was killed is mended first.
    ///
    /// # Errors
    /// When the output touches an input, isn't ours to replace, is being written by another process, or can't be written.
    pub fn create(output: impl AsRef<Path>, maker: &Maker, inputs: &Inputs) -> Result<Self> {
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
        if lock.held {
            recover(&place)?;
        }
        replaceable(&place, output, maker)?;
        let partial = make_partial(&place)?;
        let marker = Marker::new(maker);
        // From here on it is removed when something fails.
        let folder = Self {
            given: output.into(),
            _filling: Filling::begin(&partial),
            place,
            partial,
            marker,
            finished: false,
            lock: Some(lock),
            parents,
        };
        folder.marker.write(&folder.partial)?;
        Ok(folder)
    }

    /// Whether a folder of this maker is there, whole and as it was written. What an earlier run left beside it when it was killed is
    /// mended first.
    ///
    /// # Errors
    /// As [`OutputFolder::create`].
    pub fn is_finished(output: impl AsRef<Path>, maker: &Maker, inputs: &Inputs) -> Result<bool> {
        let output = output.as_ref();
        inputs.check_folder(output)?;
        let place = resolve(output)?;
        if !place.parent().is_some_and(Path::is_dir) {
            return Ok(false);
        }
        let lock = Lock::take(&place)?;
        if lock.held {
            recover(&place)?;
        }
        replaceable(&place, output, maker)?;
        Ok(Marker::read(&place)?.is_some_and(|marker| marker.is_whole(&place)))
    }

    /// The folder as it is being filled.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// A place for a file that another writer fills: its path for now. Folders in `name` (separated by `/`) are made.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn file(&mut self, name: &str) -> Result<PathBuf> {
        // Listed before it is there, so that a later run knows it for ours.
        self.marker.files.insert(name.into(), Vec::new());
        self.marker.write(&self.partial)?;
        let path = self.partial.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        }
        Ok(path)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, name: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        write_atomic(self.file(name)?, bytes)
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`].
    pub fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        write_json(self.file(name)?, value)
    }

    /// Puts the folder in its place.
    ///
    /// # Errors
    /// When a file can't be brought to the disk, the old folder was changed meanwhile, or a folder can't be renamed; the old folder is
    /// then where it was.
    pub fn finish(mut self) -> Result<()> {
        self.marker.stamp(&self.partial)?;
        self.marker.complete = true;
        self.marker.write(&self.partial)?;
        self.marker.sync(&self.partial)?;
        replaceable(&self.place, &self.given, &self.marker.maker)?;
        let old = self.partial.with_extension("old");
        let aside = match fs::rename(&self.place, &old) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io("rename", &self.place)(error)),
        };
        if let Err(error) = fs::rename(&self.partial, &self.place) {
            if aside {
                // The error that matters is the first one.
                let _ = fs::rename(&old, &self.place);
            }
            return Err(Error::io("write", &self.place)(error));
        }
        self.finished = true;
        self.parents.keep();
        if let Some(parent) = self.place.parent() {
            sync_folder(parent);
        }
        if aside {
            // The new result is whole and in its place; what can't be removed now is by the next run.
            let _ = remove(&old);
        }
        Ok(())
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.marker.remove(&self.partial);
        }
        self.lock = None;
    }
}

/// Whether a folder may be replaced: it isn't there, is empty, or is ours.
fn replaceable(place: &Path, given: &Path, maker: &Maker) -> Result<()> {
    let found = match fs::symlink_metadata(place) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", given)(error)),
    };
    if !found.is_dir() {
        return Err(Error::NotAFolder { path: given.into() });
    }
    if is_mount(place, &found) {
        return Err(Error::MountPoint { path: given.into() });
    }
    match Marker::read(place)? {
        Some(marker) => marker.check(given, maker),
        None if is_empty(place)? => Ok(()),
        None => Err(Error::NotOurs {
            folder: given.into(),
        }),
    }
}

#[cfg(unix)]
fn is_mount(place: &Path, found: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let parent = place.parent().map(fs::metadata);
    match parent {
        Some(Ok(parent)) => parent.dev() != found.dev(),
        _ => true,
    }
}

#[cfg(not(unix))]
fn is_mount(place: &Path, _: &fs::Metadata) -> bool {
    place.parent().is_none()
}

/// A new folder `.NAME.PID.tmp`.
fn make_partial(place: &Path) -> Result<PathBuf> {
    let id = std::process::id();
    // Processes of two machines, or containers, may have one number.
    let names = (0..100).map(|n| match n {
        0 => format!("{id}.tmp"),
        n => format!("{id}{n:02}.tmp"),
    });
    for name in names {
        let path = beside(place, &name);
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("write", place)(error)),
        }
    }
    Err(Error::io("write", place)(ErrorKind::AlreadyExists.into()))
}

/// Mends what killed runs of this output left: an old folder gets its name back where no new one took its place; what else is ours and
/// under a temporary name is removed. Called under the lock.
pub(crate) fn recover(place: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
        return Ok(());
    };
    let entries = fs::read_dir(parent).map_err(Error::io("read", parent))?;
    let (mut old, mut partial) = (Vec::new(), Vec::new());
    for entry in entries {
        let entry = entry.map_err(Error::io("read", parent))?;
        match temporary(name, &entry.file_name()) {
            Some("old") => old.push(entry.path()),
            Some("tmp") => partial.push(entry.path()),
            _ => {}
        }
    }
    for path in old {
        let missing = fs::symlink_metadata(place).is_err();
        // Whole or not: a user may have taken a file away.
        if missing && Marker::read(&path)?.is_some() {
            fs::rename(&path, place).map_err(Error::io("rename", &path))?;
        } else {
            remove(&path)?;
        }
    }
    for path in partial {
        remove(&path)?;
    }
    Ok(())
}

/// The end of a temporary name `.NAME.DIGITS.tmp` or `.NAME.DIGITS.old` of the folder `name`.
fn temporary(name: &OsStr, entry: &OsStr) -> Option<&'static str> {
    let rest = entry.as_encoded_bytes().strip_prefix(b".")?;
    let rest = rest.strip_prefix(name.as_encoded_bytes())?;
    let rest = rest.strip_prefix(b".")?;
    let (number, end) = if let Some(number) = rest.strip_suffix(b".tmp") {
        (number, "tmp")
    } else {
        (rest.strip_suffix(b".old")?, "old")
    };
    let digits = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    digits.then_some(end)
}

/// Removes a folder under a temporary name: what is ours of it.
fn remove(path: &Path) -> Result<()> {
    if !fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
        return Ok(());
    }
    match Marker::read(path) {
        Ok(Some(marker)) => marker.remove(path),
        // The last step of a removal, or the first of a making, was cut off.
        Ok(None) if remove_half_markers(path)? => {
            fs::remove_dir(path).map_err(Error::io("remove", path))
        }
        // Not ours, or not known for ours any more.
        _ => Ok(()),
    }
}

/// Whether nothing lies in a folder but markers that were being written; these are removed.
fn remove_half_markers(folder: &Path) -> Result<bool> {
    let prefix = format!(".{MARKER}.");
    let mut half = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(&prefix) || entry.path().is_dir() {
            return Ok(false);
        }
        half.push(entry.path());
    }
    for path in half {
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(true)
}

/// Folders made on the way to an output. They are removed again, being empty, where nothing comes of it.
#[derive(Debug)]
pub(crate) struct Parents(Vec<PathBuf>);

impl Parents {
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let missing = folder
            .ancestors()
            .take_while(|path| fs::symlink_metadata(path).is_err());
        // The deepest first.
        let made: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
        fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        Ok(Self(made))
    }

    pub(crate) fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Parents {
    fn drop(&mut self) {
        for path in &self.0 {
            // Not one that is in use by now.
            let _ = fs::remove_dir(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker() -> Maker {
        Maker::new("test", "0", "patient p")
    }

    fn fill(place: &Path, text: &str) -> OutputFolder {
        let mut out = OutputFolder::create(place, &maker(), &Inputs::new()).unwrap();
        out.write("a.txt", text).unwrap();
        out.write("deep/b.txt", text).unwrap();
        out
    }

    fn holds(place: &Path, text: &str) {
        for name in ["a.txt", "deep/b.txt"] {
            assert_eq!(fs::read_to_string(place.join(name)).unwrap(), text);
        }
    }

    /// Nothing but `names` lies in a folder.
    fn only(folder: &Path, names: &[&str]) {
        let mut found: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        found.sort();
        assert_eq!(found, names);
    }

    /// The steps of `finish`, each the last one before a kill. The old result or the new one is whole, and the next run goes through.
    #[test]
    fn killed_at_every_step() {
        for step in 0..6 {
            let root = tempfile::tempdir().unwrap();
            let place = root.path().join("p1");
            fill(&place, "old").finish().unwrap();
            let mut new = fill(&place, "new");
            let old = new.partial.with_extension("old");
            // A writer's own temporary file.
            fs::write(new.partial.join(".a.txt.xyz.tmp"), "ne").unwrap();
            if step >= 1 {
                fs::remove_file(new.partial.join(".a.txt.xyz.tmp")).unwrap();
                new.marker.stamp(&new.partial).unwrap();
                new.marker.complete = true;
                new.marker.write(&new.partial).unwrap();
            }
            if step >= 2 {
                fs::rename(&place, &old).unwrap();
            }
            if step >= 3 {
                fs::rename(&new.partial, &place).unwrap();
            }
            if step >= 4 {
                fs::remove_file(old.join("a.txt")).unwrap();
            }
            if step >= 5 {
                fs::remove_dir_all(&old).unwrap();
                fs::create_dir(&old).unwrap();
            }
            // Killed: the lock is let go of by the system, its file stays, and nothing else is cleaned up.
            let lock = new.lock.take().unwrap();
            let file = root.path().join(".p1.lock");
            new.finished = true;
            drop(new);
            drop(lock);
            fs::write(&file, "").unwrap();

            recover(&place).unwrap();
            holds(&place, if step >= 3 { "new" } else { "old" });
            only(root.path(), &[".p1.lock", "p1"]);
            fill(&place, "newest").finish().unwrap();
            holds(&place, "newest");
            only(root.path(), &["p1"]);
        }
    }

    #[test]
    fn only_temporary_names_of_this_folder() {
        let is = |entry: &str| temporary(OsStr::new("p1"), OsStr::new(entry));
        assert_eq!(is(".p1.12.tmp"), Some("tmp"));
        assert_eq!(is(".p1.12.old"), Some("old"));
        for other in [
            "p1",
            ".p1..tmp",
            ".p1.v2.12.tmp",
            ".p2.12.tmp",
            ".p1.12.lock",
            ".p1.12",
        ] {
            assert_eq!(is(other), None, "{other}");
        }
    }

    /// Killed before the new folder had its marker.
    #[test]
    fn killed_at_the_first_step() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("p1");
        for half in [None, Some("..fndm.json.abc.tmp")] {
            let partial = root.path().join(".p1.9.tmp");
            fs::create_dir(&partial).unwrap();
            if let Some(name) = half {
                fs::write(partial.join(name), "{").unwrap();
            }
            fill(&place, "x").finish().unwrap();
            only(root.path(), &["p1"]);
        }
    }

    /// A folder under a temporary name that isn't ours, and one of ours with a file of the user's in it.
    #[test]
    fn what_is_not_ours_survives_the_cleaning() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("p1");
        let theirs = root.path().join(".p1.7.tmp");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("a.txt"), "mine").unwrap();
        let mut out = fill(&place, "x");
        fs::write(out.partial.join("notes.txt"), "mine").unwrap();
        out.finished = true;
        let ours = out.partial.clone();
        drop(out);
        recover(&place).unwrap();
        assert_eq!(fs::read(theirs.join("a.txt")).unwrap(), b"mine");
        assert_eq!(fs::read(ours.join("notes.txt")).unwrap(), b"mine");
        assert!(!ours.join("a.txt").exists());
        // And the next run isn't stopped by them.
        fill(&place, "y").finish().unwrap();
        holds(&place, "y");
    }
}
