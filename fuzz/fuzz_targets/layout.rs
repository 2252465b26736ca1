//! Names of files in a data set's folder, and the text files beside them.
#![no_main]

use std::path::{Component, Path};

use fndm_data::layout::{self, Manifest};
use fndm_data::{Limits, Splits, list_patients};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = folder.path().join("text");
    std::fs::write(&text, bytes).expect("a temporary file");
    let limits = Limits::default();
    let _ = Splits::read(&text, &limits).map(|s| s.check_folders(folder.path()));
    if let Ok(manifest) = Manifest::read(&text, &limits) {
        for id in manifest.ids() {
            let _ = manifest.files(id, &["flair", "t1"]);
        }
    }

    let root = folder.path().join("data");
    std::fs::create_dir(&root).expect("a temporary folder");
    let Ok(names) = std::str::from_utf8(bytes) else {
        return;
    };
    for name in names.lines().take(16) {
        let path = Path::new(name);
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !inside || path.components().count() > 4 {
            continue;
        }
        // Names that the file system refuses are passed over.
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            let _ = std::fs::create_dir_all(parent);
        }
        let _ = std::fs::write(path, b"");
    }
    for id in list_patients(&root).unwrap_or_default().ids {
        let patient = root.join(&id);
        for sequence in ["flair", "t1", "t1ce", "t2", ""] {
            let _ = layout::find_sequence(&patient, sequence);
        }
        let _ = layout::find_mask(&patient);
        let _ = layout::list_sequences(&patient);
        let read = layout::read_patient_below(&root, &id, &["t1"], &limits);
        assert!(read.is_err(), "empty files hold no image");
    }
});
