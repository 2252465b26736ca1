//! What a program reads, and may not touch.

use std::collections::BTreeMap;
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

#[derive(Debug, Clone)]
struct Input {
    kind: Kind,
    given: PathBuf,
}

/// The inputs of a program, which no output may be, hold, or change. Paths are compared without links, `.` and `..`.
///
/// Inputs are found once, when they are added, and an output is looked up among them: ten thousand patients have as many outputs, and
/// several times as many inputs.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// In the order in which they were added; the rest are numbers of these.
    all: Vec<Input>,
    /// By where they lead. What lies below a path follows it.
    by_place: BTreeMap<PathBuf, Vec<usize>>,
    by_file: BTreeMap<FileId, usize>,
    /// Where these lead couldn't be said when they were added.
    unclear: Vec<usize>,
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
        let number = self.all.len();
        match resolve(given) {
            Ok(place) => {
                if let Some(file) = file_id(&place) {
                    self.by_file.entry(file).or_insert(number);
                }
                self.by_place.entry(place).or_default().push(number);
            }
            Err(_) => self.unclear.push(number),
        }
        self.all.push(Input {
            kind,
            given: given.into(),
        });
        self
    }

    fn check(&self, output: &Path, place: &Path, inside: impl Fn(Kind) -> bool) -> Result<()> {
        let mut found = Found::default();
        // Hard links and bind mounts are names of one file too.
        let same_file = file_id(place).and_then(|file| self.by_file.get(&file));
        let same_place = self.by_place.get(place).into_iter().flatten();
        same_place.chain(same_file).for_each(|&n| found.is(n));
        for (other, numbers) in self.by_place.range(place.to_path_buf()..) {
            if !other.starts_with(place) {
                break;
            }
            numbers.iter().for_each(|&n| found.holds(n));
        }
        for above in place.ancestors().skip(1) {
            let numbers = self.by_place.get(above).into_iter().flatten();
            let changed = numbers.filter(|&&n| !inside(self.all[n].kind));
            changed.for_each(|&n| found.inside(n));
        }
        for &n in &self.unclear {
            let input = resolve(&self.all[n].given)?;
            if place == input {
                found.is(n);
            } else if input.starts_with(place) {
                found.holds(n);
            } else if place.starts_with(&input) && !inside(self.all[n].kind) {
                found.inside(n);
            }
        }
        let output = output.to_path_buf();
        let input = |n: usize| self.all[n].given.clone();
        // The plainest reason first, whichever input it is of.
        Err(match found {
            Found { is: Some(n), .. } => Error::IsInput {
                output,
                input: input(n),
            },
            Found { holds: Some(n), .. } => Error::HoldsInput {
                output,
                input: input(n),
            },
            Found {
                inside: Some(n), ..
            } => Error::InsideInput {
                output,
                input: input(n),
            },
            Found { .. } => return Ok(()),
        })
    }
}

/// What an output is to the inputs: of each kind the one that is named, as a number.
#[derive(Default)]
struct Found {
    /// The first that it is.
    is: Option<usize>,
    /// The last that it holds.
    holds: Option<usize>,
    /// The first that it lies in.
    inside: Option<usize>,
}

impl Found {
    fn is(&mut self, n: usize) {
        self.is = Some(self.is.map_or(n, |is| is.min(n)));
    }

    fn holds(&mut self, n: usize) {
        self.holds = Some(self.holds.map_or(n, |holds| holds.max(n)));
    }

    fn inside(&mut self, n: usize) {
        self.inside = Some(self.inside.map_or(n, |inside| inside.min(n)));
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

#[cfg(all(test, unix))]
mod tests {
    use std::time::Instant;

    use super::*;

    /// As it was before inputs were looked up: the output beside each of them, in turn.
    fn slow(inputs: &[(Kind, PathBuf)], output: &Path, inside: bool) -> Result<()> {
        let place = resolve(output)?;
        let own = file_id(&place);
        let mut worse = None;
        for (kind, given) in inputs {
            let input = resolve(given)?;
            let (output, given) = (output.to_path_buf(), given.clone());
            if place == input || (own.is_some() && own == file_id(&input)) {
                return Err(Error::IsInput {
                    output,
                    input: given,
                });
            }
            if input.starts_with(&place) {
                worse = Some(Error::HoldsInput {
                    output,
                    input: given,
                });
            } else if place.starts_with(&input) && !(inside && *kind == Kind::Folder) {
                worse.get_or_insert(Error::InsideInput {
                    output,
                    input: given,
                });
            }
        }
        worse.map_or(Ok(()), Err)
    }

    /// Every output beside every few inputs, among them links, hard links, paths that aren't there, and names that begin alike.
    #[test]
    fn a_lookup_refuses_what_a_comparison_with_each_does() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for inner in ["a/b/c", "a/bb", "ab", "d"] {
            fs::create_dir_all(root.join(inner)).unwrap();
        }
        fs::write(root.join("a/b/file"), "x").unwrap();
        fs::write(root.join("d/other"), "y").unwrap();
        fs::hard_link(root.join("a/b/file"), root.join("d/same")).unwrap();
        std::os::unix::fs::symlink("../a/b", root.join("d/link")).unwrap();
        let names = [
            "a",
            "a/b",
            "a/b/c",
            "a/bb",
            "ab",
            "d",
            "a/b/file",
            "d/other",
            "d/same",
            "d/link",
            "d/link/c",
            "a/b/new",
            "a/b/new/er",
            "a/b/../bb",
            "new",
        ];
        let kinds = [Kind::File, Kind::Folder, Kind::Whole];
        let words = |result: Result<()>| result.err().map(|error| error.to_string());
        let mut state = 7usize;
        let mut any = |count: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % count
        };
        let mut refused = 0;
        for _ in 0..400 {
            let count = any(5);
            let given: Vec<(Kind, PathBuf)> = (0..count)
                .map(|_| (kinds[any(3)], root.join(names[any(names.len())])))
                .collect();
            let of = |all: Inputs, (kind, path): &(Kind, PathBuf)| all.and(*kind, path);
            let inputs = given.iter().fold(Inputs::new(), of);
            for name in names {
                let output = root.join(name);
                for inside in [false, true] {
                    let place = resolve(&output).unwrap();
                    let found =
                        words(inputs.check(&output, &place, |kind| inside && kind == Kind::Folder));
                    refused += usize::from(found.is_some());
                    assert_eq!(
                        found,
                        words(slow(&given, &output, inside)),
                        "{name}: {given:?}"
                    );
                }
            }
        }
        assert!(refused > 1000, "{refused}");
    }

    /// An input that can't be looked for when it is added stops the check, as it did.
    #[test]
    fn what_leads_round_in_a_circle_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::os::unix::fs::symlink("y", root.join("x")).unwrap();
        std::os::unix::fs::symlink("x", root.join("y")).unwrap();
        let inputs = Inputs::new().file(root.join("x"));
        assert!(matches!(
            inputs.check_folder(root.join("out")),
            Err(Error::Io { .. })
        ));
    }

    /// Ten thousand patients of four files each. How long it takes is printed: compared with each input it was 20 s and more.
    #[test]
    fn ten_thousand_outputs_beside_forty_thousand_inputs() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let start = Instant::now();
        let mut inputs = Inputs::new().folder(root.join("data"));
        for n in 0..10_000 {
            for name in ["flair", "t1", "t1ce", "t2"] {
                inputs = inputs.file(root.join(format!("data/sub-{n:05}/anat/{name}.nii.gz")));
            }
        }
        let added = start.elapsed();
        for n in 0..10_000 {
            inputs
                .check_folder(root.join(format!("out/sub-{n:05}")))
                .unwrap();
        }
        let all = start.elapsed();
        println!("added in {added:.2?}, all in {all:.2?}");
        let file = root.join("data/sub-09999/anat/t2.nii.gz");
        assert!(matches!(
            inputs.check_file(&file, true),
            Err(Error::IsInput { .. })
        ));
    }
}
