//! A Python that has the package to compare with.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter named by `FNDM_COMPARE_PYTHON`, that of `benches/compare`, or `python3`, if it has the
/// package; else the test is skipped, out loud.
pub(crate) fn with(package: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let own = root.join("target/compare/venv/bin/python");
    let named = std::env::var_os("FNDM_COMPARE_PYTHON").map(PathBuf::from);
    let candidates = named.into_iter().chain([own, PathBuf::from("python3")]);
    for python in candidates {
        let found = Command::new(&python)
            .args(["-c", &format!("import {package}")])
            .output();
        if found.is_ok_and(|out| out.status.success()) {
            return Some(python);
        }
    }
    eprintln!("skipped: no Python with {package}; name one by FNDM_COMPARE_PYTHON");
    None
}

/// Runs a script, which must end well.
pub(crate) fn run(python: &Path, arguments: &[&OsStr]) {
    let out = Command::new(python).args(arguments).output().unwrap();
    let (told, error) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    println!("{told}");
    assert!(out.status.success(), "{told}{error}");
}
