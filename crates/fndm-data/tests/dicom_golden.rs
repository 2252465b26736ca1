//! Series written by pydicom, SimpleITK, DCMTK and highdicom, against what those read: every transfer syntax,
//! kind of pixels and of frames. Made by `tests/python/dicom_golden.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fndm_data::{Limits, dicom};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    cases: BTreeMap<String, Case>,
    /// Values, columns fastest, then rows, then slices.
    arrays: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// Largest difference of two decoders of one lossy stream, in stored units.
    tolerance: f64,
    affine: [[f64; 4]; 4],
    shape: [usize; 3],
    /// Which of the arrays.
    values: usize,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dicom")
}

#[test]
fn other_programs_series_are_read_as_they_read_them() {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    let expected: Expected = serde_json::from_str(&text).unwrap();
    let mut failed = Vec::new();
    for (name, case) in &expected.cases {
        let volume = match dicom::read_series(folder().join(name), &Limits::default()) {
            Ok(volume) => volume,
            Err(error) => {
                failed.push(format!(
                    "{name}: {error}: {:?}",
                    std::error::Error::source(&error)
                ));
                continue;
            }
        };
        assert_eq!(volume.shape(), case.shape, "{name}");
        let off = volume
            .affine
            .iter()
            .flatten()
            .zip(case.affine.iter().flatten());
        let off = off.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 1e-6, "{name}: affine is off by {off}");
        let values = &expected.arrays[case.values];
        assert_eq!(values.len(), volume.data.len(), "{name}");
        let off = volume
            .data
            .t()
            .iter()
            .zip(values)
            .map(|(a, b)| (f64::from(*a) - b).abs())
            .fold(0.0, f64::max);
        if off > case.tolerance {
            failed.push(format!("{name}: values are off by {off}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(expected.cases.len() >= 28, "{}", expected.cases.len());
}

/// A frame that is cut short is an error that names it, in every way of packing.
#[test]
fn a_cut_frame_is_an_error() {
    for name in [
        "rle_16",
        "jpeg2000_16",
        "dcmtk_sv1_12",
        "dcmtk_sv4",
        "explicit",
        "deflated",
    ] {
        let file = std::fs::read(folder().join(name).join("IM1")).unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        for share in 1..8 {
            std::fs::write(&path, &file[..file.len() * share / 8]).unwrap();
            let read = dicom::read_series(root.path(), &Limits::default());
            assert!(read.is_err(), "{name}, {share} of 8");
        }
        std::fs::write(&path, &file).unwrap();
        dicom::read_series(root.path(), &Limits::default()).unwrap();
    }
}

/// Every byte of the packed pixels changed: a value or an error.
#[test]
fn damaged_pixels_are_taken_calmly() {
    for name in ["rle_8", "jpeg2000_8", "dcmtk_sv1_8", "enhanced_rle"] {
        let file = std::fs::read(folder().join(name).join("IM1")).unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        let (mut values, mut errors) = (0, 0);
        for place in (132..file.len()).step_by(7) {
            let mut changed = file.clone();
            changed[place] ^= 1 << (place % 8);
            std::fs::write(&path, &changed).unwrap();
            match dicom::read_series(root.path(), &Limits::default()) {
                Ok(volume) => {
                    assert!(volume.data.iter().all(|v| v.is_finite()));
                    values += 1;
                }
                Err(_) => errors += 1,
            }
        }
        println!("{name}: {values} values, {errors} errors");
        assert!(errors > 0, "{name}");
    }
}
