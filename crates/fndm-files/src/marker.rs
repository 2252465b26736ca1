//! The file by which a folder of ours is known.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, sync_folder, write_json};

/// Name of the marker. Who reads data passes over folders that hold one.
pub const MARKER: &str = ".fndm.json";

/// Version of the marker's format.
const FORMAT: u32 = 1;
/// Files that are brought to the disk at a time.
const SYNCING: usize = 8;
/// What the names of folders begin with, behind their dot, that other writers fill with one file.
pub(crate) const FILLED: &str = "fndm.";
/// No marker of ours is longer.
const LONGEST: u64 = 16 << 20;

/// Who writes a folder, and what. A folder of another maker is not replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    program: String,
    version: String,
    what: String,
}

impl Maker {
    /// A maker: the program's name and version, and what the folder holds ("patient `HGG/Brats_001`").
    #[must_use]
    pub fn new(program: &str, version: &str, what: &str) -> Self {
        Self {
            program: program.into(),
            version: version.into(),
            what: what.into(),
        }
    }

    fn words(&self) -> String {
        format!("{} ({})", self.program, self.what)
    }
}

/// A file as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    bytes: u64,
    /// FNV-1a of 64 bits: tells a change by hand, not one by an enemy.
    fnv: u64,
}

impl Stamp {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut hash = FnvHasher::default();
        hash.write(bytes);
        Self {
            bytes: bytes.len() as u64,
            fnv: hash.finish(),
        }
    }

    fn of_file(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        let (mut bytes, mut hash) = (0, FnvHasher::default());
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    bytes += count as u64;
                    hash.write(&buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", path)(error)),
            }
        }
        let fnv = hash.finish();
        Ok(Self { bytes, fnv })
    }
}

/// What the marker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    fndm_marker: u32,
    #[serde(flatten)]
    pub(crate) maker: Maker,
    /// Whether the folder was finished.
    pub(crate) complete: bool,
    /// Every file but the marker by its path below the folder, with the states that are ours: one, or two while it is being replaced,
    /// or none while it is first written.
    pub(crate) files: BTreeMap<String, Vec<Stamp>>,
}

impl Marker {
    pub(crate) fn new(maker: &Maker) -> Self {
        Self {
            fndm_marker: FORMAT,
            maker: maker.clone(),
            complete: false,
            files: BTreeMap::new(),
        }
    }

    /// The marker of a folder; none where there is none that is ours.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MARKER);
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        if !found.is_file() || found.len() > LONGEST {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let marker: Self = serde_json::from_slice(&bytes).map_err(Error::json(&path, "marker"))?;
        // A newer format may mean something else by its list.
        Ok((marker.fndm_marker == FORMAT).then_some(marker))
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        write_json(folder.join(MARKER), self)
    }

    /// Lists the files of a folder that is ours alone.
    pub(crate) fn stamp(&mut self, folder: &Path) -> Result<()> {
        self.files.clear();
        for file in contents(folder)?.files {
            let path = folder.join(&file);
            let Some(name) = name_of(&file) else {
                return Err(foreign(folder, &file));
            };
            self.files.insert(name, vec![Stamp::of_file(&path)?]);
        }
        Ok(())
    }

    /// Brings a folder to the disk: the files of the list and the marker, then the folders that name them. The files side by side, for a
    /// file system takes several of them in one go.
    pub(crate) fn sync(&self, folder: &Path) -> Result<()> {
        let names = self.files.keys().map(String::as_str);
        let files: Vec<PathBuf> = names
            .chain([MARKER])
            .map(|name| folder.join(name))
            .collect();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let sync = || -> Result<()> {
                while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Through a handle for writing, which some systems need.
                    let open = File::options()
                        .write(true)
                        .open(path)
                        .or_else(|_| File::open(path));
                    let synced = open.and_then(|file| file.sync_all());
                    synced.map_err(Error::io("write", path))?;
                }
                Ok(())
            };
            let side_by_side: Vec<_> = (1..files.len().min(SYNCING))
                .filter_map(|_| thread::Builder::new().spawn_scoped(scope, sync).ok())
                .collect();
            let mut all = vec![sync()];
            all.extend(side_by_side.into_iter().map(|thread| match thread.join() {
                Ok(synced) => synced,
                Err(panic) => std::panic::resume_unwind(panic),
            }));
            all.into_iter().collect::<Result<()>>()
        })?;
        // The deepest first: none is named before it is whole.
        for inner in contents(folder)?.folders.iter().rev() {
            sync_folder(folder.join(inner));
        }
        sync_folder(folder);
        Ok(())
    }

    /// Whether `maker` may replace the folder, by who wrote it and by what it holds.
    pub(crate) fn check(&self, folder: &Path, maker: &Maker) -> Result<()> {
        self.check_maker(folder, maker)?;
        let found = contents(folder)?;
        if let Some(file) = found.others.first() {
            return Err(foreign(folder, file));
        }
        for file in &found.files {
            let Some(stamps) = name_of(file).and_then(|name| self.files.get(&name)) else {
                return Err(foreign(folder, file));
            };
            self.check_stamp(folder, file, stamps)?;
        }
        Ok(())
    }

    pub(crate) fn check_maker(&self, folder: &Path, maker: &Maker) -> Result<()> {
        if (&self.maker.program, &self.maker.what) == (&maker.program, &maker.what) {
            return Ok(());
        }
        Err(Error::OtherResult {
            folder: folder.into(),
            holds: self.maker.words(),
            wanted: maker.words(),
        })
    }

    /// Whether one file of the folder may be written: it isn't there, or is as we left it.
    pub(crate) fn check_file(&self, folder: &Path, name: &str) -> Result<()> {
        let path = folder.join(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("read", &path)(error)),
            Ok(found) => match self.files.get(name) {
                Some(stamps) if found.is_file() => {
                    self.check_stamp(folder, Path::new(name), stamps)
                }
                _ => Err(foreign(folder, Path::new(name))),
            },
        }
    }

    fn check_stamp(&self, folder: &Path, file: &Path, stamps: &[Stamp]) -> Result<()> {
        let path = folder.join(file);
        let length = fs::symlink_metadata(&path)
            .map_err(Error::io("read", &path))?
            .len();
        let possible = stamps.iter().any(|stamp| stamp.bytes == length);
        if possible && stamps.contains(&Stamp::of_file(&path)?) {
            return Ok(());
        }
        Err(Error::Changed {
            folder: folder.into(),
            file: file.display().to_string(),
        })
    }

    /// Whether every file of the list is there, and as it was written.
    pub(crate) fn is_whole(&self, folder: &Path) -> bool {
        let mut files = self.files.iter();
        self.complete
            && files.all(|(name, stamps)| {
                folder.join(name).is_file()
                    && self.check_stamp(folder, Path::new(name), stamps).is_ok()
            })
    }

    /// Removes what a killed run left of a file that it was writing: `.NAME.*.tmp` of the marker, or of a file of the list that lies
    /// in the folder itself; and the folder `.fndm.*.tmp` that another writer was filling with such a file.
    pub(crate) fn remove_temporary(&self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let middle = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp"));
            let of = |ours: &str| {
                let rest = middle.and_then(|middle| middle.strip_prefix(ours));
                rest.is_some_and(|rest| rest.starts_with('.'))
            };
            if (of(MARKER) || self.files.keys().any(|ours| of(ours))) && entry.path().is_file() {
                let path = entry.path();
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if middle.is_some_and(|middle| middle.starts_with(FILLED)) && is_folder {
                self.remove_filled(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes a folder beside the files where no more than files of the list are in it.
    fn remove_filled(&self, folder: &Path) -> Result<()> {
        let found = contents(folder)?;
        let ours = found
            .files
            .iter()
            .all(|file| name_of(file).is_some_and(|name| self.files.contains_key(&name)));
        if !ours || !found.folders.is_empty() || !found.others.is_empty() {
            return Ok(());
        }
        for file in &found.files {
            let path = folder.join(file);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        fs::remove_dir(folder).map_err(Error::io("remove", folder))
    }

    /// Removes our files, then the marker, then the folder if nothing else is in it. Killed on the way, it can be gone on with.
    pub(crate) fn remove(&self, folder: &Path) -> Result<()> {
        let found = contents(folder)?;
        for file in &found.files {
            if self.is_ours(file) {
                let path = folder.join(file);
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        // The deepest first. One that isn't empty holds something that isn't ours, and stays.
        for inner in found.folders.iter().rev() {
            let _ = fs::remove_dir(folder.join(inner));
        }
        let left = contents(folder)?;
        if left.files.is_empty() && left.folders.is_empty() && left.others.is_empty() {
            let path = folder.join(MARKER);
            match fs::remove_file(&path) {
                // A disk that was full had no place for it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed.map_err(Error::io("remove", &path))?,
            }
            fs::remove_dir(folder).map_err(Error::io("remove", folder))?;
        }
        Ok(())
    }

    /// Whether a file is one of the list, or, in a folder that was never finished, a temporary form of one.
    fn is_ours(&self, file: &Path) -> bool {
        let Some(name) = name_of(file) else {
            return false;
        };
        if self.files.contains_key(&name) {
            return true;
        }
        let folder = file.parent();
        let last = file.file_name().unwrap_or_default().to_string_lossy();
        let mut listed = self.files.keys().map(Path::new);
        !self.complete
            && (last.starts_with('.') || last.ends_with("tmp"))
            && (last.starts_with(&format!(".{MARKER}."))
                || listed.any(|ours| {
                    let own = ours.file_name().unwrap_or_default().to_string_lossy();
                    ours.parent() == folder && last.contains(&*own)
                }))
    }
}

fn foreign(folder: &Path, file: &Path) -> Error {
    Error::Foreign {
        folder: folder.into(),
        file: file.display().to_string(),
    }
}

/// A path below a folder as the marker has it: with `/` everywhere; none where it isn't UTF-8.
fn name_of(file: &Path) -> Option<String> {
    let parts = file.iter().map(|part| part.to_str());
    Some(parts.collect::<Option<Vec<_>>>()?.join("/"))
}

/// Whether a folder of results was finished and has all its files, by their names and lengths. Nothing is changed, and no lock taken:
/// for those who read results while others are written.
#[must_use]
pub fn is_complete(folder: impl AsRef<Path>) -> bool {
    let folder = folder.as_ref();
    let Ok(Some(marker)) = Marker::read(folder) else {
        return false;
    };
    let mut files = marker.files.iter();
    marker.complete
        && files.all(|(name, stamps)| {
            let found = fs::symlink_metadata(folder.join(name));
            let length = found.ok().filter(fs::Metadata::is_file).map(|m| m.len());
            stamps.iter().any(|stamp| Some(stamp.bytes) == length)
        })
}

/// What lies below a folder, but for its marker; links aren't followed.
#[derive(Debug, Default)]
struct Contents {
    files: Vec<PathBuf>,
    /// Each after the one that it lies in.
    folders: Vec<PathBuf>,
    /// Links, pipes and the like.
    others: Vec<PathBuf>,
}

fn contents(folder: &Path) -> Result<Contents> {
    let mut found = Contents::default();
    let mut open = vec![PathBuf::new()];
    while let Some(inner) = open.pop() {
        let path = folder.join(&inner);
        let read = fs::read_dir(&path).map_err(Error::io("read", &path))?;
        for entry in read {
            let entry = entry.map_err(Error::io("read", &path))?;
            let kind = entry
                .file_type()
                .map_err(Error::io("read", &entry.path()))?;
            let below = inner.join(entry.file_name());
            if kind.is_dir() {
                open.push(below.clone());
                found.folders.push(below);
            } else if below == Path::new(MARKER) && kind.is_file() {
            } else if kind.is_file() {
                found.files.push(below);
            } else {
                found.others.push(below);
            }
        }
    }
    found.files.sort();
    found.folders.sort();
    Ok(found)
}

/// Whether nothing at all lies in a folder.
pub(crate) fn is_empty(folder: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    Ok(entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the page of FNV's authors: <http://www.isthe.com/chongo/tech/comp/fnv/>.
    /// A disk that is full has place for a folder, and none for its marker.
    #[test]
    fn a_folder_without_its_marker_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("new");
        fs::create_dir(&folder).unwrap();
        let marker = Marker::new(&Maker::new("test", "0", "patient p"));
        marker.remove(&folder).unwrap();
        assert!(!folder.exists());
        // With something of another's in it, it stays.
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("notes"), "mine").unwrap();
        marker.remove(&folder).unwrap();
        assert_eq!(fs::read(folder.join("notes")).unwrap(), b"mine");
    }

    #[test]
    fn checksums_are_fnv_1a() {
        assert_eq!(Stamp::of(b"").fnv, 0xcbf2_9ce4_8422_2325);
        assert_eq!(Stamp::of(b"a").fnv, 0xaf63_dc4c_8601_ec8c);
        assert_eq!(Stamp::of(b"foobar").fnv, 0x8594_4171_f739_67e8);
    }
}
