//! Bad input to the programs: one clear error that names the file and what was expected, a non-zero exit, and no
//! half-written output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fndm::data::{Volume, nifti, phantom::PhantomConfig};
use tempfile::TempDir;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom")
}

fn program(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fndm"));
    command.arg(name);
    command
}

/// A folder of phantom patients of three slices.
struct Data {
    folder: TempDir,
}

impl Data {
    fn new(patients: &[&str]) -> Self {
        let data = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let config = PhantomConfig {
            slices: 3,
            ..PhantomConfig::default()
        };
        for (seed, id) in patients.iter().enumerate() {
            let patient = config.patient(30_000 + seed as u64).unwrap();
            fs::create_dir_all(data.root().join(id)).unwrap();
            for (name, volume) in &patient.sequences {
                nifti::write_map(data.file(id, name), volume).unwrap();
            }
            nifti::write_mask(data.file(id, "seg"), patient.mask.as_ref().unwrap()).unwrap();
        }
        data
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn file(&self, id: &str, name: &str) -> PathBuf {
        self.root().join(id).join(format!("{id}_{name}.nii.gz"))
    }

    fn change(&self, id: &str, name: &str, change: impl FnOnce(&mut Volume)) {
        let path = self.file(id, name);
        let mut volume = nifti::read(&path, &fndm::data::Limits::default()).unwrap();
        volume.header = None;
        change(&mut volume);
        nifti::write_map(&path, &volume).unwrap();
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn detect(&self, model: &Path) -> Output {
        program("detect")
            .args(["--model".as_ref(), model.as_os_str()])
            .args(["--data".as_ref(), self.root().as_os_str()])
            .args(["--output".as_ref(), self.output().as_os_str()])
            .args(["--steps", "2"])
            .output()
            .unwrap()
    }

    fn evaluate(&self, split: &str) -> Output {
        program("evaluate")
            .args(["--model".as_ref(), model().as_os_str()])
            .args(["--data".as_ref(), self.root().as_os_str()])
            .args(["--output".as_ref(), self.output().as_os_str()])
            .args(["--steps", "2", "--split", split])
            .output()
            .unwrap()
    }

    /// What lies in the output folder, temporary files included; not the record of who is done and who failed.
    fn written(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.output()) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name != "_cohort")
            .collect();
        names.sort();
        names
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts a failure whose message has all of `words`, with no panic in it.
fn assert_fails(output: &Output, words: &[&str]) {
    let text = text(output);
    assert!(!output.status.success(), "expected a failure, got: {text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "expected {word:?} in: {text}");
    }
}

#[test]
fn a_missing_sequence_is_named() {
    let data = Data::new(&["a"]);
    fs::remove_file(data.file("a", "t1ce")).unwrap();
    assert_fails(&data.detect(&model()), &["a", "t1ce", "a_t1ce.nii.gz"]);
    assert!(data.written().is_empty());
}

#[test]
fn another_shape_is_named() {
    let data = Data::new(&["a"]);
    data.change("a", "t2", |volume| {
        volume.data = volume.data.slice(fndm::ndarray::s![1.., .., ..]).to_owned();
    });
    assert_fails(&data.detect(&model()), &["t2", "shape", "63", "64"]);
    assert!(data.written().is_empty());
}

#[test]
fn another_affine_is_named() {
    let data = Data::new(&["a"]);
    data.change("a", "t2", |volume| volume.affine[2][3] += 40.);
    assert_fails(&data.detect(&model()), &["t2", "affine"]);
    assert!(data.written().is_empty());
}

#[test]
fn a_truncated_and_a_corrupt_file_are_named() {
    for keep in [0.5, 0.01] {
        let data = Data::new(&["a"]);
        let path = data.file("a", "t1");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..(bytes.len() as f64 * keep) as usize]).unwrap();
        assert_fails(&data.detect(&model()), &["a_t1.nii.gz"]);
        assert!(data.written().is_empty());
    }
    let data = Data::new(&["a"]);
    fs::write(data.file("a", "flair"), b"this is not a volume at all").unwrap();
    assert_fails(&data.detect(&model()), &["a_flair.nii.gz"]);
}

#[test]
fn empty_and_nan_volumes_are_named() {
    let data = Data::new(&["a"]);
    data.change("a", "t1", |volume| volume.data.fill(0.));
    assert_fails(&data.detect(&model()), &["a", "t1", "empty"]);
    let data = Data::new(&["a"]);
    data.change("a", "flair", |volume| volume.data[[3, 4, 1]] = f32::NAN);
    assert_fails(&data.detect(&model()), &["a", "flair", "NaN"]);
    assert!(data.written().is_empty());
}

#[test]
fn one_bad_patient_does_not_stop_the_others() {
    let data = Data::new(&["a", "b", "c"]);
    fs::write(data.file("b", "t2"), b"broken").unwrap();
    let output = data.detect(&model());
    assert_fails(&output, &["b_t2.nii.gz", "failed:"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(data.written(), ["a", "c", "report.html"]);
    let record = data.output().join("_cohort/shard-1-of-1/shard.json");
    assert!(fs::read_to_string(record).unwrap().contains("b_t2.nii.gz"));
    for id in ["a", "c"] {
        assert!(
            data.output()
                .join(id)
                .join(format!("{id}_mask.nii.gz"))
                .is_file()
        );
    }
    fs::remove_dir_all(data.output()).unwrap();
    let output = data.evaluate("all");
    assert_fails(&output, &["left out b", "b_t2.nii.gz"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(data.output().join("report.json").is_file());
}

#[test]
fn a_model_folder_without_a_file_is_named() {
    let data = Data::new(&["a"]);
    for file in [
        "model.json",
        "unet.safetensors",
        "classifier.safetensors",
        "memory.safetensors",
    ] {
        let copy = copy_of_the_model();
        fs::remove_file(copy.path().join(file)).unwrap();
        assert_fails(&data.detect(copy.path()), &[file, "model folder"]);
    }
    let copy = copy_of_the_model();
    let path = copy.path().join("memory.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_fails(&data.detect(copy.path()), &["memory.safetensors"]);
    assert!(data.written().is_empty());
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named() {
    let data = Data::new(&["a"]);
    let copy = copy_of_the_model();
    let path = copy.path().join("model.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["unet"]["channel_mult"] = serde_json::json!([1.0, 2.0, 4.0, 4.0]);
    fs::write(&path, config.to_string()).unwrap();
    assert_fails(&data.detect(copy.path()), &["unet.safetensors", "shape"]);
    assert!(data.written().is_empty());
}

fn copy_of_the_model() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(model()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

#[test]
fn bad_splits_are_named() {
    let data = Data::new(&["a", "b"]);
    let split = data.root().join("splits.json");
    fs::write(&split, r#"{"train": ["a"], "val": [], "test": ["b"]}"#).unwrap();
    assert_fails(&data.evaluate("val"), &["val", "no patient"]);
    fs::write(&split, r#"{"train": ["a"], "val": ["b"], "test": ["a"]}"#).unwrap();
    assert_fails(&data.evaluate("val"), &["patient a", "train", "test"]);
    fs::write(&split, r#"{"train": ["a"], "val": ["z"]}"#).unwrap();
    assert_fails(&data.evaluate("val"), &["z", "no folder"]);
    fs::write(&split, r#"{"train": ["a""#).unwrap();
    assert_fails(&data.evaluate("val"), &["splits.json"]);
    assert_fails(&data.evaluate("everything"), &["--split", "everything"]);
    assert!(data.written().is_empty());
}
