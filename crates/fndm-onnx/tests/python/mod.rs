//! A Python that has the packages to compare with.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter named by `FNDM_COMPARE_PYTHON`, or `python3`, if it has the packages; else the test is skipped, out loud.
pub(crate) fn with(packages: &[&str]) -> Option<PathBuf> {
    let named = std::env::var_os("FNDM_COMPARE_PYTHON").map(PathBuf::from);
    let import = format!("import {}", packages.join(", "));
    for python in named.into_iter().chain([PathBuf::from("python3")]) {
        let found = Command::new(&python).args(["-c", &import]).output();
        if found.is_ok_and(|out| out.status.success()) {
            return Some(python);
        }
    }
    eprintln!(
        "skipped: no Python with {}; name one by FNDM_COMPARE_PYTHON",
        packages.join(" and ")
    );
    None
}

/// Runs a script, which must end well.
pub(crate) fn run(python: &Path, script: &Path, folder: &Path) {
    let out = Command::new(python)
        .arg(script)
        .arg(folder)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stdout);
    let error = String::from_utf8_lossy(&out.stderr);
    println!("{told}");
    assert!(out.status.success(), "{told}{error}");
}
