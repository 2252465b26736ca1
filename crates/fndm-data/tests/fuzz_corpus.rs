//! The inputs that fuzzing kept, read again on every run of the tests.

use std::fs;
use std::path::{Path, PathBuf};

use fndm_data::{Limits, dicom, nifti};

/// Those of a fuzz target; none where the corpus is not there: it is part of the workspace, not of the packaged crate.
fn kept(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let Ok(files) = fs::read_dir(&folder) else {
        eprintln!("skipped: {} is not there", folder.display());
        return Vec::new();
    };
    files.map(|file| file.unwrap().path()).collect()
}

fn limits() -> Limits {
    Limits {
        voxels: 1 << 16,
        unpacked_bytes: 1 << 20,
        ..Limits::default()
    }
}

/// How many inputs gave a value, and how many an error. A corpus that is there has many of both.
#[derive(Default)]
struct Came {
    values: usize,
    errors: usize,
}

impl Came {
    fn is_of_both(&self, inputs: usize) {
        let Self { values, errors } = self;
        println!("{inputs} inputs: {values} values, {errors} errors");
        assert!(inputs == 0 || *values > 20 && *errors > 20);
    }
}

/// A value or an error, and the same of both for both types.
#[test]
fn volumes() {
    let limits = limits();
    let (inputs, mut came) = (kept("nifti_volume"), Came::default());
    for path in &inputs {
        let bytes = fs::read(path).unwrap();
        let single = nifti::read_bytes::<f32>(&bytes, "kept", &limits);
        let double = nifti::read_bytes::<f64>(&bytes, "kept", &limits);
        assert_eq!(single.is_ok(), double.is_ok(), "{}", path.display());
        // From the file itself as well: plain files are read another way.
        let file = nifti::read_image::<f32>(path, &limits);
        match (single, file) {
            (Ok(a), Ok(b)) => {
                assert_eq!(a.data.shape(), b.data.shape(), "{}", path.display());
                let same = a
                    .data
                    .iter()
                    .zip(&b.data)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{}", path.display());
                came.values += 1;
            }
            // A pair's header is refused where there are bytes alone, and its other file is not there.
            (Err(_), Err(_)) => came.errors += 1,
            (a, b) => panic!("{}: {a:?}, {b:?}", path.display()),
        }
    }
    came.is_of_both(inputs.len());
}

/// A value or an error, and nothing in a volume that is no number.
#[test]
fn series() {
    let limits = limits();
    let (inputs, mut came) = (kept("dicom_series"), Came::default());
    for path in &inputs {
        let bytes = fs::read(path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // As the fuzz target has it: files one after the other, each from 128 bytes before these letters.
        let marks = bytes.windows(4).enumerate().skip(128);
        let starts = marks.filter(|(_, w)| *w == b"DICM").map(|(n, _)| n - 128);
        let mut starts: Vec<usize> = starts.take(8).collect();
        if starts.is_empty() {
            let file = [&[0; 128], &b"DICM"[..], &bytes].concat();
            fs::write(folder.path().join("0"), file).unwrap();
        }
        starts.push(bytes.len());
        for (n, w) in starts.windows(2).enumerate() {
            // Two marks can stand closer than 128 bytes.
            let file = bytes.get(w[0]..w[1]).unwrap_or_default();
            fs::write(folder.path().join(n.to_string()), file).unwrap();
        }
        let study = dicom::read_study(folder.path(), &limits).unwrap();
        came.errors += study.unusable.len();
        for series in &study.series {
            match series.read(&limits) {
                Ok(volume) => {
                    assert_eq!(volume.shape()[2], series.len());
                    assert!(volume.data.iter().all(|v| v.is_finite()));
                    came.values += 1;
                }
                Err(_) => came.errors += 1,
            }
        }
    }
    came.is_of_both(inputs.len());
}
