//! What tells inputs and models from others: hashes of their contents.
//!
//! Contents and not times: copying, checking out and unpacking change a file's time and keep its contents, and clocks of several
//! machines differ. A patient's files are read once more for it, which takes seconds per thousand patients from a disk's cache.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use fndm::{ModelConfig, model_folder};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Most files of a series in a folder.
const MOST: usize = 1 << 20;

/// A file, or a folder of files, by its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    bytes: u64,
    /// xxh3 of 128 bits, in hexadecimal digits.
    xxh3: String,
}

/// What is hashed so far.
#[derive(Default)]
struct Sum {
    bytes: u64,
    hash: Xxh3,
    /// The files, and what the system said of them before they were read.
    seen: Vec<(PathBuf, Seen)>,
}

/// What changes when a file is written or replaced: its length and the time of its last change.
type Seen = (u64, Option<SystemTime>);

fn seen(found: &fs::Metadata) -> Seen {
    (found.len(), found.modified().ok())
}

/// A patient's files, as they were when they were hashed.
pub(crate) struct Hashed {
    /// By sequence.
    pub(crate) contents: BTreeMap<String, Contents>,
    seen: Vec<(PathBuf, Seen)>,
}

impl Hashed {
    /// Of what was made and lies in no file.
    pub(crate) fn made(contents: BTreeMap<String, Contents>) -> Self {
        let seen = Vec::new();
        Self { contents, seen }
    }

    /// Hashes the files of a patient, by sequence.
    pub(crate) fn of(files: &[(String, PathBuf)]) -> Result<Self> {
        let (mut contents, mut seen) = (BTreeMap::new(), Vec::new());
        for (name, path) in files {
            let mut sum = Sum::default();
            sum.add_all(path)?;
            contents.insert(name.clone(), sum.end());
            seen.append(&mut sum.seen);
        }
        Ok(Self { contents, seen })
    }

    /// An error where one of them was written to or replaced since: what was read after that isn't what was hashed.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        for (path, before) in &self.seen {
            let now = fs::metadata(path).with_context(|| path.display().to_string())?;
            ensure!(
                seen(&now) == *before,
                "{}: was changed while it was read; run the same command again",
                path.display()
            );
        }
        Ok(())
    }
}

impl Sum {
    fn add_file(&mut self, path: &Path) -> Result<()> {
        let found = fs::metadata(path).with_context(|| path.display().to_string())?;
        ensure!(found.is_file(), "{}: expected a file", path.display());
        self.seen.push((path.to_owned(), seen(&found)));
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.add(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
    }

    /// A file, with the other half of a pair of header and image; or all files of a folder, by their names.
    fn add_all(&mut self, path: &Path) -> Result<()> {
        if path.is_dir() {
            for file in files_below(path)? {
                self.hash.update(file.as_os_str().as_encoded_bytes());
                self.hash.update(&[0]);
                self.add_file(&path.join(file))?;
            }
            return Ok(());
        }
        self.add_file(path)?;
        match other_half(path) {
            Some(other) => self.add_file(&other),
            None => Ok(()),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    fn end(&self) -> Contents {
        Contents {
            bytes: self.bytes,
            xxh3: format!("{:032x}", self.hash.digest128()),
        }
    }
}

impl Contents {
    /// Of a file, with the other half of a pair of header and image; or of all files of a folder, by their names.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let mut sum = Sum::default();
        sum.add_all(path)?;
        Ok(sum.end())
    }

    /// Of a value, by its JSON.
    pub(crate) fn of_json(value: &impl Serialize) -> Result<Self> {
        let mut sum = Sum::default();
        sum.add(&serde_json::to_vec(value)?);
        Ok(sum.end())
    }
}

/// Of a model: of all that inference reads.
pub(crate) fn of_model(folder: &Path, config: &ModelConfig) -> Result<String> {
    let mut sum = Sum::default();
    sum.add(&serde_json::to_vec(config)?);
    for name in model_folder::names_of(config) {
        sum.add(name.as_bytes());
        sum.add_file(&model_folder::file(folder, &name)?)?;
    }
    Ok(sum.end().xxh3)
}

/// Files below a folder, by their paths below it, sorted.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inner) = open.pop() {
        let path = folder.join(&inner);
        for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
            let entry = entry.with_context(|| path.display().to_string())?;
            let kind = entry.file_type()?;
            let below = inner.join(entry.file_name());
            match kind.is_dir() {
                true => open.push(below),
                false => files.push(below),
            }
            ensure!(files.len() <= MOST, "{}: too many files", folder.display());
        }
    }
    files.sort();
    Ok(files)
}

/// The image of a header, or the header of an image.
fn other_half(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (stem, ends) =
        [(".hdr", ".img"), (".img", ".hdr")]
            .into_iter()
            .find_map(|(own, other)| {
                let bare = name.strip_suffix(".gz").unwrap_or(name);
                Some((
                    bare.strip_suffix(own)?,
                    [other.to_owned(), format!("{other}.gz")],
                ))
            })?;
    let others = ends.map(|end| path.with_file_name(format!("{stem}{end}")));
    others.into_iter().find(|other| other.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By xxhsum -H2 of the public tool, on a file of three letters.
    #[test]
    fn a_file_that_changes_while_it_is_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nii");
        fs::write(&path, "one").unwrap();
        let files = [("flair".to_owned(), path.clone())];
        let hashed = Hashed::of(&files).unwrap();
        hashed.check_unchanged().unwrap();
        // Another file by the same name, of another time or length.
        let other = folder.path().join("b.nii");
        fs::write(&other, "longer").unwrap();
        fs::rename(&other, &path).unwrap();
        let error = hashed.check_unchanged().unwrap_err().to_string();
        assert!(
            error.contains("a.nii") && error.contains("changed"),
            "{error}"
        );
        fs::remove_file(&path).unwrap();
        assert!(hashed.check_unchanged().is_err());
    }

    #[test]
    fn contents_are_xxh3_of_128_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nii");
        fs::write(&path, "abc").unwrap();
        let found = Contents::of(&path).unwrap();
        assert_eq!(found.bytes, 3);
        assert_eq!(found.xxh3, "06b05ab6733a618578af5f94892f3950");
    }

    #[test]
    fn contents_count_and_not_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, text) in [("a.nii", "one"), ("b.nii", "one"), ("c.nii", "two")] {
            fs::write(path(name), text).unwrap();
        }
        let of = |name: &str| Contents::of(&path(name)).unwrap();
        assert_eq!(of("a.nii"), of("b.nii"));
        assert_ne!(of("a.nii"), of("c.nii"));
        // A header's image counts.
        fs::write(path("p.hdr"), "head").unwrap();
        fs::write(path("p.img"), "one").unwrap();
        let before = of("p.hdr");
        fs::write(path("p.img"), "two").unwrap();
        assert_ne!(of("p.hdr"), before);
        // A folder counts by names and contents.
        fs::create_dir_all(path("series/inner")).unwrap();
        fs::write(path("series/inner/1.dcm"), "one").unwrap();
        let before = of("series");
        fs::rename(path("series/inner/1.dcm"), path("series/inner/2.dcm")).unwrap();
        assert_ne!(of("series"), before);
        assert!(Contents::of(&path("nothing")).is_err());
    }
}
