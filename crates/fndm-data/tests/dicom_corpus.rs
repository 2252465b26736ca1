//! The inputs that fuzzing of the series reader kept, read again on every run of the tests.

use std::path::Path;

use fndm_data::{Limits, dicom};

/// A value or an error, and nothing in a volume that is no number.
#[test]
fn kept_inputs_give_a_value_or_an_error() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/dicom_series");
    let Ok(inputs) = std::fs::read_dir(&kept) else {
        eprintln!("skipped: {} is not there", kept.display());
        return;
    };
    let limits = Limits {
        voxels: 1 << 16,
        unpacked_bytes: 1 << 20,
        ..Limits::default()
    };
    let (mut values, mut errors) = (0, 0);
    for input in inputs {
        let bytes = std::fs::read(input.unwrap().path()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // As the fuzz target has it: files one after the other, each from 128 bytes before these letters.
        let marks = bytes.windows(4).enumerate().skip(128);
        let starts = marks.filter(|(_, w)| *w == b"DICM").map(|(n, _)| n - 128);
        let mut starts: Vec<usize> = starts.take(8).collect();
        if starts.is_empty() {
            let file = [&[0; 128], &b"DICM"[..], &bytes].concat();
            std::fs::write(folder.path().join("0"), file).unwrap();
        }
        starts.push(bytes.len());
        for (n, w) in starts.windows(2).enumerate() {
            // Two marks can stand closer than 128 bytes.
            let file = bytes.get(w[0]..w[1]).unwrap_or_default();
            std::fs::write(folder.path().join(n.to_string()), file).unwrap();
        }
        let study = dicom::read_study(folder.path(), &limits).unwrap();
        errors += study.unusable.len();
        for series in &study.series {
            match series.read(&limits) {
                Ok(volume) => {
                    assert_eq!(volume.shape()[2], series.len());
                    assert!(volume.data.iter().all(|v| v.is_finite()));
                    values += 1;
                }
                Err(_) => errors += 1,
            }
        }
    }
    println!("{values} values, {errors} errors");
    assert!(values > 20 && errors > 20, "{values}, {errors}");
}
