//! `FNDM_LOG`: what the libraries report, on standard error; without it not a byte more.

use std::path::Path;
use std::process::{Command, Output};

use fndm::data::{nifti, phantom::PhantomConfig};

/// `fndm inspect`, with this value of `FNDM_LOG`.
fn inspect(data: &Path, filter: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fndm"));
    command.arg("inspect").arg(data).env_remove("FNDM_LOG");
    if let Some(filter) = filter {
        command.env("FNDM_LOG", filter);
    }
    command.output().unwrap()
}

#[test]
fn what_the_libraries_report_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let patient = folder.path().join("p1");
    std::fs::create_dir(&patient).unwrap();
    let config = PhantomConfig {
        slices: 3,
        ..PhantomConfig::default()
    };
    for (name, volume) in &config.patient(30_000).unwrap().sequences {
        nifti::write_map(patient.join(format!("p1_{name}.nii.gz")), volume).unwrap();
    }
    let plain = inspect(folder.path(), None);
    let silent = inspect(folder.path(), Some(""));
    let other = inspect(folder.path(), Some("fndm_train=trace"));
    let told = inspect(folder.path(), Some("fndm_data=debug"));
    for run in [&silent, &other] {
        assert_eq!(run.stderr, plain.stderr);
    }
    for run in [&silent, &other, &told] {
        assert_eq!(run.status.code(), plain.status.code());
        assert_eq!(run.stdout, plain.stdout);
    }
    let text = String::from_utf8(told.stderr).unwrap();
    assert!(text.contains("DEBUG fndm_data"), "{text}");
    assert!(text.contains("patients listed"), "{text}");
}

#[test]
fn a_filter_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ran = inspect(folder.path(), Some("fndm_data=loud"));
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stdout.is_empty());
    let text = String::from_utf8(ran.stderr).unwrap();
    assert!(text.starts_with("error: FNDM_LOG: expected"), "{text}");
}
