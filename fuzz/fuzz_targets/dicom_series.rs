//! A folder of up to eight files, which stand in the input one after the other: listed, read, and read again.
#![no_main]

use fndm_data::{Limits, dicom};
use libfuzzer_sys::fuzz_target;

/// Where each file begins: 128 bytes before the letters DICM. An input without them is one file's elements.
fn files(bytes: &[u8]) -> Vec<Vec<u8>> {
    let marks = bytes.windows(4).enumerate().skip(128);
    let starts = marks.filter(|(_, w)| *w == b"DICM").map(|(n, _)| n - 128);
    let mut starts: Vec<usize> = starts.take(8).collect();
    if starts.is_empty() {
        let mut file = vec![0u8; 128];
        file.extend(b"DICM");
        file.extend(bytes);
        return vec![file];
    }
    starts.push(bytes.len());
    let pieces = starts.windows(2).filter_map(|w| bytes.get(w[0]..w[1]));
    pieces.map(<[u8]>::to_vec).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (n, file) in files(bytes).iter().enumerate() {
        std::fs::write(folder.path().join(n.to_string()), file).expect("a temporary file");
    }
    let limits = Limits {
        voxels: 1 << 16,
        unpacked_bytes: 1 << 20,
        ..Limits::default()
    };
    let study = dicom::read_study(folder.path(), &limits).expect("the folder can be read");
    for series in &study.series {
        let Ok(volume) = series.read(&limits) else {
            continue;
        };
        assert_eq!(volume.shape()[2], series.len());
        assert!(volume.data.len() as u64 <= limits.voxels);
        assert!(volume.data.iter().all(|v| v.is_finite()));
        assert!(volume.affine.iter().flatten().all(|v| v.is_finite()));
        let again = series.read(&limits).expect("what was read can be read again");
        assert_eq!(volume, again);
    }
    let whole = dicom::read_series(folder.path(), &limits);
    let strict = dicom::list_series(folder.path(), &limits);
    if whole.is_ok() {
        assert_eq!(strict.expect("a series that was read can be listed").len(), 1);
    }
});
