//! `fndm-slicer` as 3D Slicer calls it. The script reads the description by Python's own XML reader, holds it to the rules of Slicer's
//! execution model, and builds the command line from it.

use std::fs;
use std::path::Path;
use std::process::Command;

use fndm::data::nifti;

use crate::common::{model, patient, plain_mask, read, text, told};

#[test]
fn slicer_calls_it() {
    let place = tempfile::tempdir().unwrap();
    let phantom = patient(50_000);
    let mut volumes = Vec::new();
    for (name, volume) in &phantom.sequences {
        let path = place.path().join(format!("Slicer_{name}.nii.gz"));
        nifti::write_map(&path, volume).unwrap();
        volumes.push(format!("{name}={}", text(&path)));
    }
    let mask = place.path().join("Slicer_mask.nii.gz");
    let anomaly = place.path().join("Slicer_anomaly.nii.gz");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/slicer.py");
    let out = Command::new("python3")
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_fndm-slicer"))
        .arg(place.path().join("values.txt"))
        .arg(format!("model={}", text(&model())))
        .arg(format!("mask={}", text(&mask)))
        .arg(format!("anomaly={}", text(&anomaly)))
        .args(&volumes)
        .output()
        .unwrap();
    println!("{}", told(&out));
    assert!(out.status.success(), "{}", told(&out));
    let found = read(&mask);
    assert_eq!(found.data, plain_mask(place.path(), &phantom).data);
    assert_eq!(read(&anomaly).shape(), found.shape());
    let voxels = found.data.iter().filter(|v| **v > 0.0).count() as f64;
    let expected = voxels * found.spacing().iter().product::<f64>();
    let values = fs::read_to_string(place.path().join("values.txt")).unwrap();
    assert_eq!(values, format!("lesionVolume = {expected:.1}\n"));
}

/// What is read is never written over, and results don't replace each other.
#[test]
fn an_input_is_no_output() {
    let place = tempfile::tempdir().unwrap();
    let mut volumes = Vec::new();
    for (name, volume) in &patient(50_000).sequences {
        let path = place.path().join(format!("{name}.nii.gz"));
        nifti::write_map(&path, volume).unwrap();
        volumes.extend([format!("--{name}"), text(&path).to_owned()]);
    }
    let flair = place.path().join("flair.nii.gz");
    let before = fs::read(&flair).unwrap();
    let new = place.path().join("new.nii.gz");
    let model = model();
    for (mask, anomaly, told_of) in [
        (&flair, &new, "flair.nii.gz"),
        (&new, &flair, "flair.nii.gz"),
        (&new, &new, "another file for each result"),
        (&model.join("model.nii.gz"), &new, "model"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fndm-slicer"));
        command.args(["--model", text(&model)]).args(&volumes);
        command.args(["--mask", text(mask), "--anomaly", text(anomaly)]);
        let out = command.output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{}", told(&out));
        assert!(told(&out).contains(told_of), "{}", told(&out));
        assert_eq!(fs::read(&flair).unwrap(), before);
        assert!(!new.exists());
    }
}

#[test]
fn what_is_missing_is_told() {
    let place = tempfile::tempdir().unwrap();
    let call = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fndm-slicer"));
        let out = command.args(arguments).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{}", told(&out));
        told(&out)
    };
    let model = model();
    let model = text(&model);
    let mask = place.path().join("mask.nii.gz");
    let mask = text(&mask);
    assert!(call(&[]).contains("expected --model"));
    assert!(call(&["--model", model]).contains("expected --mask"));
    assert!(call(&["--model", model, "--mask", "mask.nrrd"]).contains(".nii.gz"));
    let none = call(&["--model", model, "--mask", mask]);
    assert!(none.contains("choose a volume for flair"), "{none}");
    let wrong = call(&["--model", "nowhere", "--mask", mask]);
    assert!(wrong.contains("model.json"), "{wrong}");
    assert!(!Path::new(mask).exists());
}
