//! A phantom patient, and the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fndm::data::phantom::PhantomConfig;
use fndm::data::{Limits, Patient, Volume, nifti};

pub(crate) fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom")
}

pub(crate) fn patient(seed: u64) -> Patient {
    let config = PhantomConfig {
        slices: 6,
        ..PhantomConfig::default()
    };
    config.patient(seed).unwrap()
}

pub(crate) fn fndm(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fndm"));
    command.args(arguments).output().unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn told(out: &Output) -> String {
    let (a, b) = (&out.stdout, &out.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(a),
        String::from_utf8_lossy(b)
    )
}

pub(crate) fn read(path: &Path) -> Volume {
    nifti::read(path, &Limits::default()).unwrap()
}

/// A patient's plain files `<id>_<sequence>.nii.gz`.
pub(crate) fn write_plain(folder: &Path, id: &str, patient: &Patient) {
    std::fs::create_dir_all(folder).unwrap();
    for (name, volume) in &patient.sequences {
        nifti::write_map(folder.join(format!("{id}_{name}.nii.gz")), volume).unwrap();
    }
}

/// The mask that `detect` gives of plain files.
pub(crate) fn plain_mask(place: &Path, patient: &Patient) -> Volume {
    let folder = place.join("plain");
    write_plain(&folder, "plain", patient);
    let output = place.join("plain_out");
    let out = fndm(&[
        "detect",
        "--model",
        text(&model()),
        "--patient",
        text(&folder),
        "--output",
        text(&output),
    ]);
    assert!(out.status.success(), "{}", told(&out));
    read(&output.join("plain/plain_mask.nii.gz"))
}
