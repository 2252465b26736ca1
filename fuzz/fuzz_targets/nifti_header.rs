//! A valid small file with some bytes of its header changed; what is read is
//! turned, written, and read again.
#![no_main]

use fndm_data::affine::{self, Orientation};
use fndm_data::nifti::DataType;
use fndm_data::{Limits, nifti};
use libfuzzer_sys::fuzz_target;

/// A NIfTI-1 file of 2 x 3 x 4 bytes.
fn valid() -> Vec<u8> {
    let mut file = vec![0u8; 352 + 24];
    file[..4].copy_from_slice(&348i32.to_le_bytes());
    for (n, size) in [3i16, 2, 3, 4, 1, 1, 1, 1].into_iter().enumerate() {
        file[40 + 2 * n..42 + 2 * n].copy_from_slice(&size.to_le_bytes());
    }
    file[70] = 2;
    file[72] = 8;
    for n in 0..8 {
        file[76 + 4 * n..80 + 4 * n].copy_from_slice(&1f32.to_le_bytes());
    }
    file[108..112].copy_from_slice(&352f32.to_le_bytes());
    file[344..347].copy_from_slice(b"n+1");
    file
}

fuzz_target!(|changes: Vec<(u16, u8)>| {
    let mut file = valid();
    for (place, byte) in changes {
        let place = usize::from(place) % 352;
        file[place] = byte;
    }
    let limits = Limits {
        voxels: 1 << 12,
        ..Limits::default()
    };
    let Ok(image) = nifti::read_bytes::<f32>(&file, "fuzz", &limits) else {
        return;
    };
    if let Some(matrix) = image.header.affine() {
        let _ = Orientation::of(&matrix).codes();
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.nii");
    std::fs::write(&path, &file).expect("a temporary file");
    let Ok(volume) = nifti::read(&path, &limits) else {
        return;
    };
    let turned = affine::reorient(&volume, ['R', 'A', 'S']).expect("valid codes");
    assert_eq!(turned.data.len(), volume.data.len());
    let again = folder.path().join("b.nii.gz");
    nifti::write(&again, &volume, DataType::F32).expect("a volume that was read can be written");
    let second = nifti::read(&again, &limits).expect("what was written can be read");
    assert_eq!(second.data.dim(), volume.data.dim());
});
