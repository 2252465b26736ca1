//! What a program reads, and may not touch.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, MARKER, Result, resolve};

/// What an output may be to an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A file.
    File,
    /// A folder of data. A marked folder inside it is passed over by the readers, so it changes nothing.
    Folder,
    /// A folder that belongs together, as a model: nothing may be put into it.
    Whole,
}

/// One input, found once: with many patients every output is compared with every input.
#[derive(Debug, Clone)]
struct Input {
    kind: Kind,
    given: PathBuf,
    /// Where it leads; none where that can't be said.
    place: Option<PathBuf>,
    file: Option<FileId>,
}

/// The inputs of a program, which no output may be, hold, or change. Paths are compared without links, `.` and `..`.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    all: Vec<Input>,
}

impl Inputs {
    /// No inputs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// And a file.
    #[must_use]
    pub fn file(self, path: impl AsRef<Path>) -> Self {
        self.and(Kind::File, path.as_ref())
    }

    /// And a folder of data. A new folder of results may lie inside it, a single file may not.
    #[must_use]
    pub fn folder(self, path: impl AsRef<Path>) -> Self {
        self.and(Kind::Folder, path.as_ref())
    }

    /// And a folder that belongs together, as a model does: nothing may be put into it.
    #[must_use]
    pub fn whole(self, path: impl AsRef<Path>) -> Self {
        self.and(Kind::Whole, path.as_ref())
    }

    /// Whether a folder of results may be made, or replaced, at `output`.
    ///
    /// # Errors
    /// [`Error::IsInput`], [`Error::HoldsInput`], [`Error::InsideInput`], [`Error::InsideResult`], [`Error::Io`].
    pub fn check_folder(&self, output: impl AsRef<Path>) -> Result<()> {
        let output = output.as_ref();
        let place = resolve(output)?;
        self.check(output, &place, |kind| kind == Kind::Folder)?;
        let above = place.ancestors().skip(1);
        for folder in above {
            if fs::symlink_metadata(folder.join(MARKER)).is_ok() {
                return Err(Error::InsideResult {
                    output: output.into(),
                    result: folder.into(),
                });
            }
        }
        Ok(())
    }

    /// Whether a file may be written at `output`: an existing one only where `overwrite` is asked for, and never an input.
    ///
    /// # Errors
    /// [`Error::IsInput`], [`Error::InsideInput`], [`Error::Exists`], [`Error::NotAFile`] for a folder, [`Error::Io`].
    pub fn check_file(&self, output: impl AsRef<Path>, overwrite: bool) -> Result<()> {
        let output = output.as_ref();
        let found = fs::metadata(output);
        if found.as_ref().is_ok_and(|m| !m.is_file() && !m.is_dir()) {
            // A pipe or a device: nothing is lost there.
            return Ok(());
        }
        let place = resolve(output)?;
        self.check(output, &place, |_| false)?;
        match found {
            Ok(m) if m.is_dir() => Err(Error::NotAFile {
                path: output.into(),
            }),
            Ok(_) if !overwrite => Err(Error::Exists {
                path: output.into(),
            }),
            _ => Ok(()),
        }
    }

    fn and(mut self, kind: Kind, given: &Path) -> Self {
        let place = resolve(given).ok();
        let file = place.as_deref().and_then(file_id);
        self.all.push(Input {
            kind,
            given: given.into(),
            place,
            file,
        });
        self
    }

    fn check(&self, output: &Path, place: &Path, inside: impl Fn(Kind) -> bool) -> Result<()> {
        let own = file_id(place);
        // The plainest reason first, whichever input it is of.
        let mut worse = None;
        for other in &self.all {
            let input = match &other.place {
                Some(input) => input.clone(),
                None => resolve(&other.given)?,
            };
            let (output, given) = (output.to_path_buf(), other.given.clone());
            // Hard links and bind mounts are names of one file too.
            if place == input || (own.is_some() && own == other.file) {
                return Err(Error::IsInput {
                    output,
                    input: given,
                });
            }
            if input.starts_with(place) {
                worse = Some(Error::HoldsInput {
                    output,
                    input: given,
                });
            } else if place.starts_with(&input) && !inside(other.kind) {
                worse.get_or_insert(Error::InsideInput {
                    output,
                    input: given,
                });
            }
        }
        worse.map_or(Ok(()), Err)
    }
}

/// What is the same for all names of one file or folder.
type FileId = (u64, u64);

#[cfg(unix)]
fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn file_id(_: &Path) -> Option<FileId> {
    None
}
