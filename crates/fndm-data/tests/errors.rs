//! Messages as a user sees them: each cause told, and told once.

use std::path::Path;

use fndm_data::{Error, Limits, Splits, Volume, affine, list_patients, nifti, read_patient};
use ndarray::Array3;

/// The messages of an error and of its sources.
fn chain(error: &Error) -> Vec<String> {
    let mut parts = vec![error.to_string()];
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        parts.push(inner.to_string());
        cause = inner.source();
    }
    parts
}

/// The chain, as programs print it, has the path, `reason` once, and each of its parts once.
fn told_once(error: &Error, path: &Path, reason: &str) {
    let parts = chain(error);
    let text = parts.join(": ");
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert_eq!(text.matches(reason).count(), 1, "{text}");
    for part in &parts {
        assert_eq!(text.matches(part.as_str()).count(), 1, "{part} in {text}");
    }
}

#[test]
fn the_systems_message_is_told_once() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits::default();
    let missing = root.path().join("missing.nii.gz");
    // What this system says for a file that is not there.
    let system = std::fs::read(&missing).unwrap_err().to_string();
    let error = nifti::read(&missing, &limits).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    told_once(&error, &missing, &system);
    told_once(
        &Splits::read(&missing, &limits).unwrap_err(),
        &missing,
        &system,
    );
    told_once(&list_patients(&missing).unwrap_err(), &missing, &system);

    let volume = Volume::new(Array3::ones((2, 2, 2)), affine::diagonal([1.0; 3]));
    let nowhere = missing.join("a.nii");
    told_once(
        &nifti::write_map(&nowhere, &volume).unwrap_err(),
        &nowhere,
        &system,
    );

    let error = read_patient(&missing, &["t1"], &limits).unwrap_err();
    told_once(&error, &missing, "does not exist");
}

#[test]
fn a_broken_gzip_stream_is_told_once() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("v.nii.gz");
    let volume = Volume::new(Array3::ones((2, 2, 2)), affine::diagonal([1.0; 3]));
    nifti::write_map(&path, &volume).unwrap();
    let mut packed = std::fs::read(&path).unwrap();
    // The last eight bytes are checksum and length.
    let place = packed.len() - 8;
    packed[place] ^= 0xff;
    std::fs::write(&path, &packed).unwrap();
    let error = nifti::read(&path, &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Gzip { .. }), "{error:?}");
    told_once(&error, &path, "broken gzip stream");
    assert!(chain(&error).len() > 1, "{error:?}");
}

/// What the parser of JSON says, with the line, is the source.
#[test]
fn json_is_told_once() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("splits.json");
    std::fs::write(&path, "{\"train\": [],\n\"trian\": []}").unwrap();
    let error = Splits::read(&path, &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Json { .. }), "{error:?}");
    told_once(&error, &path, "trian");
    told_once(&error, &path, "line 2");
}

/// A folder under the name of a file, and, where there are some, a pipe that nobody writes to.
#[test]
fn what_is_no_file_is_refused_at_once() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("folder.nii");
    std::fs::create_dir(&folder).unwrap();
    let error = nifti::read(&folder, &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    let pipe = root.path().join("pipe.nii");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("no pipe can be made here: not tested");
        return;
    }
    for error in [
        nifti::read(&pipe, &Limits::default()).unwrap_err(),
        Splits::read(&pipe, &Limits::default()).unwrap_err(),
    ] {
        told_once(&error, &pipe, "expected a file, got a pipe");
    }
}
