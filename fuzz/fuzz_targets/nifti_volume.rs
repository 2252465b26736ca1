//! A whole file from memory, packed or not.
#![no_main]

use fndm_data::{Limits, nifti};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits {
        voxels: 1 << 16,
        unpacked_bytes: 1 << 20,
        ..Limits::default()
    };
    let single = nifti::read_bytes::<f32>(bytes, "fuzz", &limits);
    let double = nifti::read_bytes::<f64>(bytes, "fuzz", &limits);
    assert_eq!(single.is_ok(), double.is_ok());
});
