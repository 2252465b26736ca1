//! The inputs that fuzzing kept, read again on every run of the tests.

use std::path::Path;

use fndm_data::{Limits, nifti};

/// A value or an error, and the same of both for both types.
#[test]
fn kept_inputs_give_a_value_or_an_error() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/nifti_volume");
    let Ok(files) = std::fs::read_dir(&folder) else {
        // The corpus is part of the workspace, not of the packaged crate.
        eprintln!("skipped: {} is not there", folder.display());
        return;
    };
    let limits = Limits {
        voxels: 1 << 16,
        unpacked_bytes: 1 << 20,
        ..Limits::default()
    };
    let (mut values, mut errors) = (0, 0);
    for file in files {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let single = nifti::read_bytes::<f32>(&bytes, "kept", &limits);
        let double = nifti::read_bytes::<f64>(&bytes, "kept", &limits);
        assert_eq!(single.is_ok(), double.is_ok(), "{}", path.display());
        // From the file itself as well: plain files are read another way.
        let file = nifti::read_image::<f32>(&path, &limits);
        match (single, file) {
            (Ok(a), Ok(b)) => {
                assert_eq!(a.data.shape(), b.data.shape(), "{}", path.display());
                let same = a
                    .data
                    .iter()
                    .zip(&b.data)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{}", path.display());
                values += 1;
            }
            // A pair's header is refused where there are bytes alone, and its other file is not there.
            (Err(_), Err(_)) => errors += 1,
            (a, b) => panic!("{}: {a:?}, {b:?}", path.display()),
        }
    }
    println!("{values} values, {errors} errors");
    assert!(values > 20 && errors > 20, "{values}, {errors}");
}
