//! The library, called from another crate, gives the mask that the program writes.

use std::path::{Path, PathBuf};
use std::process::Command;

use fndm::data::{Limits, nifti, phantom::PhantomConfig};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `cargo test` builds the program beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("fndm");
    assert!(
        path.is_file(),
        "{} isn't built: run cargo test --workspace",
        path.display()
    );
    path
}

#[test]
fn the_library_gives_the_mask_that_the_program_writes() {
    let model = root().join("assets/phantom");
    let config = PhantomConfig {
        slices: 3,
        ..PhantomConfig::default()
    };
    let patient = config.patient(20_001).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("p");
    std::fs::create_dir(&input).unwrap();
    for (name, volume) in &patient.sequences {
        nifti::write_map(input.join(format!("p_{name}.nii.gz")), volume).unwrap();
    }

    let output = folder.path().join("out");
    let run = Command::new(program())
        .arg("detect")
        .args(["--model".as_ref(), model.as_os_str()])
        .args(["--patient".as_ref(), input.as_os_str()])
        .args(["--output".as_ref(), output.as_os_str()])
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let written = nifti::read(output.join("p/p_mask.nii.gz"), &Limits::default()).unwrap();

    // What the program read, stored as 32-bit floats, are the phantom's own values.
    let affine = patient.sequences[0].1.affine;
    let volumes = patient
        .sequences
        .iter()
        .map(|(name, volume)| (name.clone(), volume.data.clone()))
        .collect();
    let mask = downstream::mask(&model, volumes, affine).unwrap();
    assert_eq!(written.data.mapv(|v| v > 0.), mask);
    assert_eq!(written.affine, affine);
    assert!(mask.iter().any(|&m| m), "a diseased patient has a mask");
}
