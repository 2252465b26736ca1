//! What is written is read again, whatever the shape, type, place and byte order; and
//! the independent `nifti` crate reads it the same.

use std::io::Write;

use ::nifti::{NiftiObject, NiftiVolume, RandomAccessNiftiVolume, ReaderOptions};
use fndm_data::nifti::{self, DataType};
use fndm_data::{Error, Limits, Volume, affine};
use ndarray::Array3;
use proptest::prelude::*;

const TYPES: [DataType; 10] = [
    DataType::U8,
    DataType::I8,
    DataType::U16,
    DataType::I16,
    DataType::U32,
    DataType::I32,
    DataType::U64,
    DataType::I64,
    DataType::F32,
    DataType::F64,
];

/// Values that every type holds, with the extremes of 7 bits.
fn volume() -> impl Strategy<Value = Volume> {
    let shape = (1usize..7, 1usize..7, 1usize..7);
    let entry = -1000i32..1000;
    (shape, prop::array::uniform12(entry)).prop_flat_map(|((i, j, k), entries)| {
        prop::collection::vec(0u8..=127, i * j * k).prop_map(move |values| {
            let values = values.into_iter().map(f32::from).collect();
            let data = Array3::from_shape_vec((i, j, k), values).unwrap();
            let mut matrix = affine::diagonal([1.0, 2.0, 3.0]);
            for (n, entry) in entries.iter().enumerate() {
                // Eighths: exact in the 32 bits of a NIfTI-1 header.
                matrix[n / 4][n % 4] += f64::from(*entry) / 8.0;
            }
            Volume::new(data, matrix)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn written_volumes_are_read_again(volume in volume(), kind in 0usize..10, packed: bool) {
        prop_assume!(affine::is_invertible(&volume.affine));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(if packed { "v.nii.gz" } else { "v.nii" });
        nifti::write(&path, &volume, TYPES[kind]).unwrap();
        let again = nifti::read(&path, &Limits::default()).unwrap();
        prop_assert_eq!(&again.data, &volume.data);
        prop_assert_eq!(again.affine, volume.affine);
        let header = again.header.as_ref().unwrap();
        prop_assert_eq!(header.datatype, TYPES[kind]);
        // A second time, now with a header to keep.
        let second = folder.path().join("second.nii");
        nifti::write_map(&second, &again).unwrap();
        let third = nifti::read(&second, &Limits::default()).unwrap();
        prop_assert_eq!(&third.data, &volume.data);
        prop_assert_eq!(third.affine, volume.affine);
        // No temporary file is left.
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        // Another reader agrees.
        let other = ReaderOptions::new().read_file(&path).unwrap();
        prop_assert_eq!(f64::from(other.header().srow_x[3]), volume.affine[0][3]);
        let other = other.into_volume();
        for ((i, j, k), value) in volume.data.indexed_iter() {
            let place = [i as u16, j as u16, k as u16];
            // It drops trailing axes of size 1 from what it takes as coordinates.
            let found = other.get_f64(&place[..other.dimensionality()]).unwrap();
            prop_assert_eq!(found, f64::from(*value));
        }
    }

    #[test]
    fn reorienting_and_back_changes_nothing(volume in volume(), order in 0usize..6, flips in 0usize..8) {
        prop_assume!(affine::is_invertible(&volume.affine));
        const ORDERS: [[usize; 3]; 6] =
            [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        const LETTERS: [[char; 2]; 3] = [['R', 'L'], ['A', 'P'], ['S', 'I']];
        let codes: [char; 3] =
            std::array::from_fn(|n| LETTERS[ORDERS[order][n]][(flips >> n) & 1]);
        let turned = affine::reorient(&volume, codes).unwrap();
        prop_assert_eq!(turned.axis_codes(), codes);
        let back = affine::reorient(&turned, volume.axis_codes()).unwrap();
        prop_assert_eq!(&back.data, &volume.data);
        for (a, b) in back.affine.iter().flatten().zip(volume.affine.iter().flatten()) {
            prop_assert!((a - b).abs() < 1e-9);
        }
        // The corner voxel is where it was in the world.
        prop_assert!((affine::determinant(&turned.affine).abs()
            - affine::determinant(&volume.affine).abs()).abs() < 1e-6);
    }

    /// Any bytes are an error or an image, never a panic.
    #[test]
    fn any_bytes_are_taken_calmly(bytes in prop::collection::vec(any::<u8>(), 0..600), size in 0usize..3, at in 0usize..348) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nii");
        nifti::write_map(&path, &Volume::new(Array3::ones((2, 3, 4)), affine::diagonal([1.0; 3]))).unwrap();
        let mut valid = std::fs::read(&path).unwrap();
        let content = match size {
            0 => bytes,
            // A valid file with some bytes changed.
            _ => {
                for (n, byte) in bytes.iter().take(8).enumerate() {
                    let place = (at + n) % valid.len();
                    valid[place] = *byte;
                }
                valid
            }
        };
        std::fs::write(&path, content).unwrap();
        let limits = Limits { voxels: 1 << 16, ..Limits::default() };
        let _ = nifti::read(&path, &limits);
        let _ = nifti::read_image::<f64>(&path, &limits);
    }
}

fn ones() -> Volume {
    Volume::new(Array3::ones((4, 5, 6)), affine::diagonal([1.0; 3]))
}

#[test]
fn gzip_members_padding_and_junk() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("v.nii");
    nifti::write_map(&plain, &ones()).unwrap();
    let bytes = std::fs::read(&plain).unwrap();
    let member = |part: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    };
    let mut packed = member(&bytes[..200]);
    packed.extend(member(&bytes[200..]));
    // The name does not matter; zeros after the end are padding.
    let path = folder.path().join("members.nii");
    std::fs::write(&path, &packed).unwrap();
    assert_eq!(
        nifti::read(&path, &Limits::default()).unwrap().data,
        ones().data
    );
    packed.extend([0; 100]);
    std::fs::write(&path, &packed).unwrap();
    assert_eq!(
        nifti::read(&path, &Limits::default()).unwrap().data,
        ones().data
    );
    packed.extend(b"junk");
    std::fs::write(&path, &packed).unwrap();
    let error = nifti::read(&path, &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Gzip { .. }), "{error}");
    // A damaged checksum is found although all voxels came through.
    let mut damaged = member(&bytes);
    let place = damaged.len() - 6;
    damaged[place] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let error = nifti::read(&path, &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Gzip { .. }), "{error}");
}

#[test]
fn limits_are_told_apart_from_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.nii.gz");
    nifti::write_map(&path, &ones()).unwrap();
    for limits in [
        Limits {
            voxels: 119,
            ..Limits::default()
        },
        Limits {
            file_bytes: 50,
            ..Limits::default()
        },
        Limits {
            unpacked_bytes: 400,
            ..Limits::default()
        },
    ] {
        let error = nifti::read(&path, &limits).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
    let exact = Limits {
        voxels: 120,
        ..Limits::default()
    };
    assert!(nifti::read(&path, &exact).is_ok());
}

#[test]
fn the_header_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.nii");
    nifti::write_map(&path, &ones()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[148..155].copy_from_slice(b"scanner");
    bytes[123] = 10;
    std::fs::write(&path, bytes).unwrap();
    let volume = nifti::read(&path, &Limits::default()).unwrap();
    let mask = folder.path().join("mask.nii.gz");
    nifti::write_mask(&mask, &volume).unwrap();
    let header = nifti::read_header(&mask, &Limits::default()).unwrap();
    assert_eq!(&header.description[..7], b"scanner");
    assert_eq!(header.xyzt_units, 10);
    assert_eq!(header.datatype, DataType::U8);
}

#[test]
fn what_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: f32, kind| {
        let volume = Volume::new(
            Array3::from_elem((1, 1, 1), value),
            affine::diagonal([1.0; 3]),
        );
        nifti::write(folder.path().join(name), &volume, kind)
    };
    for (name, value, kind) in [
        ("a.nii", 256.0, DataType::U8),
        ("a.nii", -1.0, DataType::U16),
        ("a.nii", 0.5, DataType::I16),
        ("a.nii", f32::NAN, DataType::I16),
        ("a.img", 1.0, DataType::U8),
        ("a", 1.0, DataType::U8),
    ] {
        let error = write(name, value, kind).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
    // The name is kept whole.
    write("a.b.nii", 1.0, DataType::U8).unwrap();
    assert!(folder.path().join("a.b.nii").is_file());
    let error = write("no/such/folder.nii", 1.0, DataType::U8).unwrap_err();
    assert!(matches!(error, Error::Files(_)), "{error}");
    let empty = Volume::new(Array3::zeros((0, 1, 1)), affine::diagonal([1.0; 3]));
    let error = nifti::write_map(folder.path().join("e.nii"), &empty).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}

/// Large files are read by all threads, and in pieces on a thread of the pool: with the same result.
#[test]
fn large_files_are_read_as_small_ones_are() {
    let folder = tempfile::tempdir().unwrap();
    let value = |(i, j, k): (usize, usize, usize)| ((i * 7 + j * 31 + k * 3) % 120) as f32;
    // No number of voxels that anything is done at a time with.
    let data = Array3::from_shape_fn((109, 111, 103), value);
    let volume = Volume::new(data, affine::diagonal([1.0; 3]));
    let limits = Limits::default();
    for (n, kind) in TYPES.into_iter().enumerate() {
        let path = folder.path().join(format!("{n}.nii"));
        nifti::write(&path, &volume, kind).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        // Scaled by 2 and -3, and with other bytes before the voxels.
        bytes[112..116].copy_from_slice(&2f32.to_le_bytes());
        bytes[116..120].copy_from_slice(&(-3f32).to_le_bytes());
        bytes[108..112].copy_from_slice(&360f32.to_le_bytes());
        bytes.splice(352..352, [9; 8]);
        let scaled = folder.path().join(format!("{n}_scaled.nii"));
        std::fs::write(&scaled, &bytes).unwrap();
        let expected = volume.data.mapv(|v| 2.0 * v - 3.0);
        for (path, expected) in [(&path, &volume.data), (&scaled, &expected)] {
            let read = nifti::read(path, &limits).unwrap().data;
            assert!(read == expected, "{kind:?}");
            let inside = rayon::join(|| nifti::read(path, &limits).unwrap().data, || ()).0;
            assert!(inside == expected, "{kind:?}");
        }
        // Cut by one byte.
        bytes.pop();
        std::fs::write(&scaled, &bytes).unwrap();
        let error = nifti::read(&scaled, &limits).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{error}");
    }
}

/// A file of two axes may have anything as the step of the third. Found by fuzzing: that step came
/// to life when the slice was written with three axes.
#[test]
fn a_slice_of_two_axes_stays_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.nii");
    let plane = Volume::new(Array3::ones((4, 5, 1)), affine::diagonal([1.0; 3]));
    nifti::write_map(&path, &plane).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40..42].copy_from_slice(&2i16.to_le_bytes());
    // No matrix and no quaternion: the steps decide.
    bytes[252..256].fill(0);
    for step in [5.0f32, f32::NAN, f32::INFINITY, 0.0] {
        bytes[88..92].copy_from_slice(&step.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let volume = nifti::read(&path, &Limits::default()).unwrap();
        let again = folder.path().join("again.nii.gz");
        nifti::write_map(&again, &volume).unwrap();
        let again = nifti::read(&again, &Limits::default()).unwrap();
        assert_eq!(again.affine, volume.affine, "step {step}");
    }
}

#[test]
fn a_place_that_the_format_cannot_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |step: f64, length: usize| {
        let volume = Volume::new(
            Array3::ones((length, 1, 1)),
            affine::diagonal([step, 1.0, 1.0]),
        );
        nifti::write_map(folder.path().join("v.nii"), &volume)
    };
    // Too large and too small for 32 bits; NIfTI-2, which long axes need, has 64.
    for step in [1e39, 1e-46, f64::NAN, 0.0] {
        let error = write(step, 3).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
    write(1e39, 40_000).unwrap();
    let volume = nifti::read(folder.path().join("v.nii"), &Limits::default()).unwrap();
    assert_eq!(volume.affine[0][0], 1e39);
}

#[test]
fn a_pair_without_its_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.nii");
    nifti::write_map(&path, &ones()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[344..347].copy_from_slice(b"ni1");
    bytes[108..112].copy_from_slice(&0f32.to_le_bytes());
    let header = folder.path().join("p.hdr");
    std::fs::write(&header, &bytes[..348]).unwrap();
    let error = nifti::read(&header, &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("p.img"), "{error}");
    let image = folder.path().join("p.img");
    std::fs::write(&image, &bytes[352..]).unwrap();
    for path in [&header, &image] {
        assert_eq!(
            nifti::read(path, &Limits::default()).unwrap().data,
            ones().data
        );
    }
    std::fs::remove_file(&header).unwrap();
    let error = nifti::read(&image, &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("p.hdr"), "{error}");
}

#[test]
fn several_volumes_are_no_volume() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.nii");
    nifti::write_map(&path, &ones()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // 4 x 5 x 6 becomes 4 x 5 x 3 x 2.
    bytes[40..42].copy_from_slice(&4i16.to_le_bytes());
    bytes[46..48].copy_from_slice(&3i16.to_le_bytes());
    bytes[48..50].copy_from_slice(&2i16.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = nifti::read(&path, &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let image = nifti::read_image::<f32>(&path, &Limits::default()).unwrap();
    assert_eq!(image.data.shape(), [4, 5, 3, 2]);
    // An affine without a third axis.
    let mut flat = std::fs::read(&path).unwrap();
    flat[40..42].copy_from_slice(&3i16.to_le_bytes());
    flat[312..328].fill(0);
    std::fs::write(&path, &flat).unwrap();
    let error = nifti::read(&path, &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::InvalidHeader { .. }), "{error}");
}

/// A file of `shape` with the header's bytes changed, in a folder.
fn file_of(shape: (usize, usize, usize), change: impl Fn(&mut [u8])) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.nii");
    let place = affine::diagonal([1.5, 1.5, 3.0]);
    nifti::write_map(&path, &Volume::new(Array3::ones(shape), place)).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    folder
}

/// Where the numbers of space stand in a NIfTI-1 header: steps, offsets of the quaternion, matrix.
const OF_SPACE: [std::ops::Range<usize>; 3] = [80..92, 268..280, 280..328];

/// Metres and microns are turned into millimetres; a result keeps the file's units and bytes of place.
#[test]
fn units_of_the_header_are_honoured() {
    // The unit of time, in the bits above, says nothing of space: seconds, milliseconds, none.
    for time in [8u8, 16, 0] {
        for (code, factor) in [(0u8, 1.0f32), (1, 1e-3), (2, 1.0), (3, 1e3)] {
            // With a matrix, with a quaternion alone, with steps alone.
            for places in 0..3 {
                let folder = file_of((4, 5, 6), |bytes| {
                    bytes[123] = code | time;
                    for at in OF_SPACE.into_iter().flat_map(|range| range.step_by(4)) {
                        let value = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
                        bytes[at..at + 4].copy_from_slice(&(value * factor).to_le_bytes());
                    }
                    if places > 0 {
                        bytes[254..256].fill(0);
                        bytes[252] = u8::from(places == 1);
                    }
                });
                let path = folder.path().join("v.nii");
                let volume = nifti::read(&path, &Limits::default()).unwrap();
                let [i, j, k] = volume.spacing();
                // 1.5 mm in metres is not exact in 32 bits.
                let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
                assert!(
                    near(i, 1.5) && near(j, 1.5) && near(k, 3.0),
                    "{code} {places}: {i} {j} {k}"
                );
                let size = affine::determinant(&volume.affine).abs();
                assert!((size - 6.75).abs() < 1e-5, "{size}");

                let out = folder.path().join("mask.nii");
                nifti::write_mask(&out, &volume).unwrap();
                let again = nifti::read(&out, &Limits::default()).unwrap();
                assert_eq!(again.affine, volume.affine);
                let (old, new) = (std::fs::read(&path).unwrap(), std::fs::read(&out).unwrap());
                assert_eq!(new[123], code | time);
                for range in OF_SPACE {
                    assert_eq!(new[range.clone()], old[range]);
                }
                // Put elsewhere, the numbers are still in the file's units.
                let mut moved = volume.clone();
                moved.affine[0][3] = 25.0;
                nifti::write_map(&out, &moved).unwrap();
                let again = nifti::read(&out, &Limits::default()).unwrap();
                for (a, b) in again
                    .affine
                    .iter()
                    .flatten()
                    .zip(moved.affine.iter().flatten())
                {
                    assert!((a - b).abs() < 1e-5, "{:?}", again.affine);
                }
                assert_eq!(std::fs::read(&out).unwrap()[123], code | time);
            }
        }
    }
}

/// What is written on a file's grid has the file's own dimensions.
#[test]
fn dimensions_are_those_of_the_file() {
    for (axes, shape) in [
        (1i16, (7, 1, 1)),
        (2, (4, 5, 1)),
        (3, (4, 5, 6)),
        (3, (4, 5, 1)),
        (4, (4, 5, 6)),
        (5, (4, 5, 6)),
        (7, (4, 5, 6)),
    ] {
        // A step of the fourth axis: the time between volumes.
        let folder = file_of(shape, |bytes| {
            bytes[40..42].copy_from_slice(&axes.to_le_bytes());
            bytes[92..96].copy_from_slice(&2.5f32.to_le_bytes());
        });
        let path = folder.path().join("v.nii");
        let volume = nifti::read(&path, &Limits::default()).unwrap();
        assert_eq!(volume.data.dim(), shape);
        for name in ["mask.nii", "map.nii.gz"] {
            let out = folder.path().join(name);
            if name == "mask.nii" {
                nifti::write_mask(&out, &volume).unwrap();
            } else {
                nifti::write_map(&out, &volume).unwrap();
            }
            let old = nifti::read_header(&path, &Limits::default()).unwrap();
            let new = nifti::read_header(&out, &Limits::default()).unwrap();
            assert_eq!(new.shape.len(), usize::try_from(axes).unwrap());
            assert_eq!(new.shape, old.shape);
            assert_eq!((new.pixdim, new.sform), (old.pixdim, old.sform));
            assert_eq!(
                (new.qform_code, new.sform_code),
                (old.qform_code, old.sform_code)
            );
            let again = nifti::read(&out, &Limits::default()).unwrap();
            assert_eq!((&again.data, again.affine), (&volume.data, volume.affine));
        }
        // Another array on the old header: the array's own dimensions.
        let mut other = volume.clone();
        other.data = Array3::ones((2, 3, 4));
        let out = folder.path().join("other.nii");
        nifti::write_map(&out, &other).unwrap();
        let new = nifti::read_header(&out, &Limits::default()).unwrap();
        assert_eq!(new.shape, [2, 3, 4]);
    }
}

/// What isn't finite is neither lesion nor none.
#[test]
fn no_mask_is_made_of_nan() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mask.nii");
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut mask = ones();
        mask.data[(1, 2, 3)] = odd;
        let error = nifti::write_mask(&path, &mask).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
        assert!(!path.exists());
    }
}
