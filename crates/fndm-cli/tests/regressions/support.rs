//! Small inputs, and the program run on them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fndm::data::{Limits, Volume, nifti, phantom::PhantomConfig};
use tempfile::TempDir;

/// The model that the programs run with: of the phantom, four sequences, 64 px.
pub(crate) fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom")
}

/// An input that is committed beside the tests.
pub(crate) fn committed(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    folder.join(name)
}

/// What a run came to.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ran = Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        };
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        ran
    }

    /// Asserts the exit code.
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }

    /// Asserts that standard error has all of these words.
    pub(crate) fn tells(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "{word:?} in: {}", self.err);
        }
        self
    }

    /// Asserts that standard output has all of these words.
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.out.contains(word), "{word:?} in: {}", self.out);
        }
        self
    }
}

/// The program `fndm`, to be run in a folder.
pub(crate) fn fndm(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fndm"));
    command.current_dir(folder).args(arguments);
    command
}

/// A folder of inputs, removed with the test.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    pub(crate) fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.root().join(Path::new(&name))
    }

    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A phantom patient of so many slices: four sequences `FOLDER/NAME_flair.nii.gz`, and the lesion mask `NAME_seg.nii.gz`.
    pub(crate) fn patient(&self, folder: impl AsRef<OsStr>, seed: u64, slices: usize) {
        let folder = self.path(folder);
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let config = PhantomConfig {
            slices,
            ..PhantomConfig::default()
        };
        let patient = config.patient(30_000 + seed).unwrap();
        fs::create_dir_all(&folder).unwrap();
        for (sequence, volume) in &patient.sequences {
            nifti::write_map(folder.join(format!("{name}_{sequence}.nii.gz")), volume).unwrap();
        }
        let mask = patient.mask.unwrap();
        nifti::write_mask(folder.join(format!("{name}_seg.nii.gz")), &mask).unwrap();
    }

    /// A patient without a lesion mask.
    pub(crate) fn scan(&self, folder: &str, seed: u64) {
        self.patient(folder, seed, 3);
        let name = Path::new(folder).file_name().unwrap().to_str().unwrap();
        fs::remove_file(self.path(folder).join(format!("{name}_seg.nii.gz"))).unwrap();
    }

    /// Changes a volume.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Volume)) {
        let mut volume = read(&self.path(name));
        volume.header = None;
        change(&mut volume);
        nifti::write_map(self.path(name), &volume).unwrap();
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&fndm(&self.root(), arguments).output().unwrap())
    }

    /// `detect` with the phantom's model and two steps.
    pub(crate) fn detect(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.detect_command(arguments).output().unwrap())
    }

    pub(crate) fn detect_command(&self, arguments: &[&str]) -> Command {
        let mut command = fndm(&self.root(), &["detect", "--steps", "2", "--model"]);
        command.arg(model()).args(arguments);
        command
    }

    /// `evaluate` of the whole method on all patients, in two steps.
    pub(crate) fn evaluate(&self, data: &str, output: &str) -> Ran {
        let output = self.evaluate_command(data, output).output().unwrap();
        Ran::of(&output)
    }

    pub(crate) fn evaluate_command(&self, data: &str, output: &str) -> Command {
        let mut command = fndm(
            &self.root(),
            &["evaluate", "--steps", "2", "--split", "all"],
        );
        command.args(["--methods", "fndm", "--data", data, "--output", output]);
        command.arg("--model").arg(model());
        command
    }

    /// Every file below the folder with its bytes, but for the folders of these names.
    pub(crate) fn snapshot(&self, without: &[&str]) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = files(&self.root());
        all.retain(|path, _| {
            let below = path.strip_prefix(self.root()).unwrap();
            !without.iter().any(|name| below.starts_with(name))
        });
        all
    }

    /// Names in a folder, hidden ones too; none where there is no folder.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

pub(crate) fn read(path: &Path) -> Volume {
    nifti::read(path, &Limits::default()).unwrap()
}

/// Every file below a folder with its bytes.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else {
                all.insert(path.clone(), fs::read(&path).unwrap_or_default());
            }
        }
    }
    all
}
