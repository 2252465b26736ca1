//! The whole method on the layouts of public data sets, with the sequences that these have: trained for an iteration, and patients
//! examined by it. It tells whether channels, grids and files fit; one or five patients tell nothing of the masks.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "regressions/support.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use fndm::data::phantom::PhantomConfig;
use fndm::data::{Limits, Volume, layout, nifti};
use fndm::ndarray::Axis;
use serde_json::{Value, json};
use support::{Place, Ran, fndm};

/// The pack of real patients, or none where it isn't there.
fn pack(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("FNDM_DATA").map_or(root, PathBuf::from);
    let folder = root.join(name);
    folder.is_dir().then_some(folder)
}

/// Patients of the phantom with these file names, where the real ones aren't there.
fn made(place: &Place, ids: &[&str], names: &[&str]) -> PathBuf {
    let config = PhantomConfig {
        slices: 24,
        ..PhantomConfig::default()
    };
    // Small lesions leave too few slices to learn from.
    let large = (1..).map(|seed| config.patient(seed).unwrap()).filter(|p| {
        let mask = p.mask.as_ref().unwrap().data.axis_iter(Axis(2));
        let used = mask.skip(7).take(12);
        let diseased = used.filter(|slice| slice.iter().any(|&v| v > 0.)).count();
        (4..=8).contains(&diseased)
    });
    for (id, patient) in ids.iter().zip(large) {
        let file = |what: &str| place.path(format!("data/{id}/{id}_{what}.nii.gz"));
        fs::create_dir_all(file("seg").parent().unwrap()).unwrap();
        for (name, (_, volume)) in names.iter().zip(&patient.sequences) {
            nifti::write_map(file(name), volume).unwrap();
        }
        nifti::write_mask(file("seg"), &patient.mask.unwrap()).unwrap();
    }
    place.path("data")
}

/// Trains on all patients of the pack and examines them by each of the rows.
fn trains_and_detects(name: &str, ids: &[&str], sequences: &[&str], rows: &[&str]) {
    let place = Place::new();
    let data = pack(name).unwrap_or_else(|| {
        eprintln!("{name} is not there: phantoms with its names take its place");
        made(&place, ids, sequences)
    });
    let split = json!({ "train": ids, "val": [], "test": [] });
    place.put("split.json", split.to_string());
    let of_student = rows.contains(&"student");
    let mut command = fndm(&place.root(), &["train", "--output", "model"]);
    command.arg("--data").arg(&data);
    command.args(["--split-file", "split.json", "--image-size", "32"]);
    command.args(["--sequences", &sequences.join(",")]);
    command.args(["--z-low", "0.3", "--z-high", "0.8", "--batch", "2"]);
    command.args(["--iterations", "1", "--classifier-iterations", "1"]);
    command.args(["--memory-bytes", "20000"]);
    if of_student {
        command.args(["--student", "--student-iterations", "1"]);
        command.args(["--student-plan", r#"{"apart": 0}"#]);
    }
    Ran::of(&command.output().unwrap()).ends_with(0);
    let text = fs::read_to_string(place.path("model/model.json")).unwrap();
    let model: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(model["sequences"], json!(sequences));
    // State and condition, each of all sequences.
    assert_eq!(model["unet"]["in_channels"], 2 * sequences.len());
    assert_eq!(model["unet"]["out_channels"], sequences.len());
    assert_eq!(model["classifier"]["in_channels"], sequences.len());

    for row in rows {
        let mut command = fndm(&place.root(), &["detect", "--model", "model"]);
        command.args(["--method", row, "--output", row]);
        command.arg("--data").arg(&data);
        Ran::of(&command.output().unwrap()).ends_with(0);
        for id in ids {
            let path = layout::find_sequence(data.join(id), sequences[0]).unwrap();
            let input = read(&path);
            for what in ["mask", "anomaly"] {
                let result = read(&place.path(format!("{row}/{id}/{id}_{what}.nii.gz")));
                assert_eq!(result.shape(), input.shape(), "{row} {id} {what}");
                let entries = result.affine.iter().flatten();
                let pairs = entries.zip(input.affine.iter().flatten());
                assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-4));
                assert!(result.data.iter().all(|v| v.is_finite() && *v >= 0.));
                let is_bit = |v: &f32| *v == 0. || *v == 1.;
                assert!(what != "mask" || result.data.iter().all(is_bit));
                // A map says something of the slices that were used, and nothing of the others.
                let (mut used, mut unused) = (0, 0);
                let top = (result.shape()[2] - 1) as f64;
                for ((_, _, k), &value) in result.data.indexed_iter() {
                    let place = k as f64 / top;
                    match (0.3..=0.8).contains(&place) {
                        true => used += usize::from(value > 0.),
                        false => unused += usize::from(value > 0.),
                    }
                }
                assert!(unused == 0 && (what == "mask" || used > 0), "{row} {id}");
            }
        }
    }
}

fn read(path: &Path) -> Volume {
    nifti::read(path, &Limits::default()).unwrap()
}

#[test]
fn strokes_of_isles_in_dwi_and_adc() {
    let ids = ["sub-strokecase0009"];
    trains_and_detects("isles1", &ids, &["dwi", "adc"], &["fndm", "cg_nm"]);
    let ids = ["sub-strokecase0001"];
    trains_and_detects("isles_0001", &ids, &["dwi", "adc"], &["fndm"]);
}

#[test]
fn gliomas_of_brats_in_four_sequences() {
    let ids = ["BraTS-GLI-00000-000"];
    let sequences = ["flair", "t1", "t1ce", "t2"];
    trains_and_detects("brats_gli1", &ids, &sequences, &["fndm", "cg_nm"]);
}

#[test]
fn gliomas_of_brats_2013_in_two_sequences() {
    let ids = [1, 3, 4, 5, 6].map(|n| format!("brats_2013_pat000{n}_1"));
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    trains_and_detects("brats_mini", &ids, &["flair", "t1ce"], &["fndm", "student"]);
}
