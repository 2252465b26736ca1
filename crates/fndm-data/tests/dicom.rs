//! DICOM series made here: places against the standard's own formula, values, order, and what is wrong with a series.

use std::path::{Path, PathBuf};

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use fndm_data::{Error, Limits, dicom};
use tempfile::TempDir;

const ROWS: usize = 5;
const COLUMNS: usize = 7;

/// One slice to be written.
#[derive(Clone)]
struct Slice {
    series: &'static str,
    /// Columns' direction, then rows' direction, and the first pixel's place: left, back, up.
    directions: [f64; 6],
    position: [f64; 3],
    spacing: [f64; 2],
    slope: f64,
    intercept: f64,
    pixels: Vec<i16>,
    syntax: &'static str,
}

/// A frame turned about all three axes.
fn oblique() -> [[f64; 3]; 3] {
    let (s, c) = 0.4f64.sin_cos();
    let (t, d) = (-0.25f64).sin_cos();
    let columns = [c, s * d, s * t];
    let rows = [-s, c * d, c * t];
    let normal = [
        columns[1] * rows[2] - columns[2] * rows[1],
        columns[2] * rows[0] - columns[0] * rows[2],
        columns[0] * rows[1] - columns[1] * rows[0],
    ];
    [columns, rows, normal]
}

/// Slice `k` of a series with rows 2 mm, columns 1.5 mm and slices 4 mm apart.
fn slice(k: usize) -> Slice {
    let [columns, rows, normal] = oblique();
    let origin = [-30.0, 12.5, 70.25];
    Slice {
        series: "1.2.3.4",
        directions: [
            columns[0], columns[1], columns[2], rows[0], rows[1], rows[2],
        ],
        position: std::array::from_fn(|n| origin[n] + 4.0 * k as f64 * normal[n]),
        spacing: [2.0, 1.5],
        slope: 1.0,
        intercept: 0.0,
        pixels: (0..ROWS * COLUMNS)
            .map(|n| (100 * k + n) as i16 - 50)
            .collect(),
        syntax: uids::EXPLICIT_VR_LITTLE_ENDIAN,
    }
}

fn text(values: &[f64]) -> String {
    let parts: Vec<String> = values.iter().map(|v| format!("{v:.10}")).collect();
    parts.join("\\")
}

fn object(slice: &Slice, number: usize) -> InMemDicomObject {
    let mut out = InMemDicomObject::new_empty();
    let uid = format!("{}.{number}", slice.series);
    for (tag, vr, value) in [
        (tags::SOP_CLASS_UID, VR::UI, uids::MR_IMAGE_STORAGE),
        (tags::SOP_INSTANCE_UID, VR::UI, uid.as_str()),
        (tags::STUDY_INSTANCE_UID, VR::UI, "1.2.3"),
        (tags::SERIES_INSTANCE_UID, VR::UI, slice.series),
        (tags::SERIES_DESCRIPTION, VR::LO, "t2 flair"),
        (tags::SERIES_NUMBER, VR::IS, "7"),
        (tags::MODALITY, VR::CS, "MR"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
    ] {
        out.put_str(tag, vr, value);
    }
    // A sequence on the way to the pixels.
    let item = InMemDicomObject::from_element_iter([DataElement::new(
        tags::REFERENCED_SOP_INSTANCE_UID,
        VR::UI,
        "1.2.3.9",
    )]);
    out.put(DataElement::new(
        tags::REFERENCED_IMAGE_SEQUENCE,
        VR::SQ,
        DataSetSequence::from(vec![item]),
    ));
    for (tag, values) in [
        (tags::IMAGE_ORIENTATION_PATIENT, &slice.directions[..]),
        (tags::IMAGE_POSITION_PATIENT, &slice.position[..]),
        (tags::PIXEL_SPACING, &slice.spacing[..]),
        (tags::RESCALE_SLOPE, &[slice.slope][..]),
        (tags::RESCALE_INTERCEPT, &[slice.intercept][..]),
        (tags::SLICE_THICKNESS, &[3.0][..]),
    ] {
        out.put_str(tag, VR::DS, text(values));
    }
    for (tag, value) in [
        (tags::ROWS, ROWS as u16),
        (tags::COLUMNS, COLUMNS as u16),
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 16),
        (tags::HIGH_BIT, 15),
        (tags::PIXEL_REPRESENTATION, 1),
    ] {
        out.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    let words: Vec<u16> = slice.pixels.iter().map(|v| *v as u16).collect();
    let pixels = PrimitiveValue::U16(words.into());
    out.put(DataElement::new(tags::PIXEL_DATA, VR::OW, pixels));
    out
}

fn write(object: InMemDicomObject, syntax: &str, path: &Path) {
    let meta = FileMetaTableBuilder::new().transfer_syntax(syntax);
    let file = object.with_meta(meta).unwrap();
    file.write_to_file(path).unwrap();
}

/// A folder of slices, whose names have another order than their places.
fn folder(slices: &[Slice]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (n, slice) in slices.iter().enumerate() {
        write(object(slice, n), slice.syntax, &path(root.path(), n));
    }
    root
}

fn path(root: &Path, n: usize) -> PathBuf {
    root.join(format!("IM{:04}.dcm", (n * 7 + 3) % 11))
}

fn read(root: &TempDir) -> fndm_data::Result<fndm_data::Volume> {
    dicom::read_series(root.path(), &Limits::default())
}

/// Equation C.7.6.2.1-1 of the standard for a pixel, turned to right, front, up.
fn place(slice: &Slice, column: usize, row: usize) -> [f64; 3] {
    let d = slice.directions;
    std::array::from_fn(|n| {
        let x = slice.position[n]
            + d[n] * slice.spacing[1] * column as f64
            + d[n + 3] * slice.spacing[0] * row as f64;
        if n < 2 { -x } else { x }
    })
}

#[test]
fn voxels_lie_where_the_standard_says() {
    for syntax in [
        uids::EXPLICIT_VR_LITTLE_ENDIAN,
        uids::IMPLICIT_VR_LITTLE_ENDIAN,
    ] {
        let slices: Vec<Slice> = (0..6).map(|k| Slice { syntax, ..slice(k) }).collect();
        let volume = read(&folder(&slices)).unwrap();
        assert_eq!(volume.shape(), [COLUMNS, ROWS, 6]);
        for (k, slice) in slices.iter().enumerate() {
            for row in 0..ROWS {
                for column in 0..COLUMNS {
                    let stored = slice.pixels[row * COLUMNS + column];
                    assert_eq!(volume.data[(column, row, k)], f32::from(stored));
                    let index = [column as f64, row as f64, k as f64, 1.0];
                    let expected = place(slice, column, row);
                    for (line, expected) in volume.affine.iter().zip(expected) {
                        let got: f64 = line.iter().zip(index).map(|(a, b)| a * b).sum();
                        assert!((got - expected).abs() < 1e-6, "{got} {expected}");
                    }
                }
            }
        }
        let spacing = volume.spacing();
        for (got, expected) in spacing.iter().zip([1.5, 2.0, 4.0]) {
            assert!((got - expected).abs() < 1e-6);
        }
    }
}

#[test]
fn values_are_rescaled_slice_by_slice() {
    let mut slices: Vec<Slice> = (0..3).map(slice).collect();
    for (k, slice) in slices.iter_mut().enumerate() {
        slice.slope = 0.5 + k as f64;
        slice.intercept = -10.0 * k as f64;
    }
    let volume = read(&folder(&slices)).unwrap();
    for (k, slice) in slices.iter().enumerate() {
        let expected = f64::from(slice.pixels[8]) * slice.slope + slice.intercept;
        assert_eq!(f64::from(volume.data[(1, 1, k)]), expected);
    }
}

/// Twelve of sixteen bits are stored; what stands above them is an overlay.
#[test]
fn bits_above_the_stored_ones_are_no_value() {
    let root = tempfile::tempdir().unwrap();
    for signed in [0u16, 1] {
        let mut made = object(&slice(0), 0);
        for (tag, value) in [
            (tags::BITS_STORED, 12),
            (tags::HIGH_BIT, 11),
            (tags::PIXEL_REPRESENTATION, signed),
        ] {
            made.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
        }
        let mut words = vec![0u16; ROWS * COLUMNS];
        words[..3].copy_from_slice(&[0xf005, 0x1fff, 0x0800]);
        let pixels = PrimitiveValue::U16(words.into());
        made.put(DataElement::new(tags::PIXEL_DATA, VR::OW, pixels));
        write(made, uids::EXPLICIT_VR_LITTLE_ENDIAN, &path(root.path(), 0));
        let volume = read(&root).unwrap();
        let expected = if signed == 1 {
            [5.0, -1.0, -2048.0]
        } else {
            [5.0, 4095.0, 2048.0]
        };
        for (i, expected) in expected.into_iter().enumerate() {
            assert_eq!(volume.data[(i, 0, 0)], expected);
        }
        // One slice has its own thickness.
        assert!((volume.spacing()[2] - 3.0).abs() < 1e-6);
    }
}

#[test]
fn series_are_told_apart_and_other_files_passed_over() {
    let mut slices: Vec<Slice> = (0..3).map(slice).collect();
    slices.push(Slice {
        series: "1.2.3.5",
        ..slice(0)
    });
    let root = folder(&slices);
    std::fs::write(root.path().join("notes.txt"), "no image").unwrap();
    std::fs::create_dir(root.path().join("more")).unwrap();
    std::fs::rename(path(root.path(), 1), root.path().join("more/x")).unwrap();
    let found = dicom::list_series(root.path(), &Limits::default()).unwrap();
    let counts: Vec<(&str, usize)> = found.iter().map(|s| (s.uid(), s.len())).collect();
    assert_eq!(counts, [("1.2.3.4", 3), ("1.2.3.5", 1)]);
    assert_eq!((found[0].number(), found[0].description()), (7, "t2 flair"));
    assert!(!found[0].is_empty());
    assert_eq!(found[0].read(&Limits::default()).unwrap().shape()[2], 3);
    let error = read(&root).unwrap_err();
    assert!(matches!(error, Error::MixedSeries { .. }), "{error}");
    assert!(error.to_string().contains("2 series"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = read(&empty).unwrap_err();
    assert!(matches!(error, Error::MixedSeries { .. }), "{error}");
}

#[test]
fn missing_and_doubled_slices_are_named() {
    let slices: Vec<Slice> = [0, 1, 2, 4, 5].map(slice).to_vec();
    let root = folder(&slices);
    let error = read(&root).unwrap_err();
    assert!(
        matches!(&error, Error::MissingSlices { gap, usual, first, .. }
            if (gap - 8.0).abs() < 1e-6 && (usual - 4.0).abs() < 1e-6 && *first == path(root.path(), 2)),
        "{error}"
    );
    let slices: Vec<Slice> = [0, 1, 1, 2, 3].map(slice).to_vec();
    let error = read(&folder(&slices)).unwrap_err();
    assert!(
        matches!(&error, Error::MissingSlices { gap, .. } if gap.abs() < 1e-6),
        "{error}"
    );
}

#[test]
fn slices_that_do_not_belong_together_are_told() {
    let with = |change: &dyn Fn(&mut Slice)| {
        let mut slices: Vec<Slice> = (0..4).map(slice).collect();
        change(&mut slices[2]);
        let error = read(&folder(&slices)).unwrap_err();
        assert!(matches!(error, Error::MixedSeries { .. }), "{error}");
        error.to_string()
    };
    let text = with(&|s| s.spacing = [2.0, 2.0]);
    assert!(text.contains("spacings"), "{text}");
    let text = with(&|s| s.directions = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    assert!(text.contains("directions"), "{text}");
    // Moved within its own plane.
    let text = with(&|s| (0..3).for_each(|n| s.position[n] += 5.0 * s.directions[n]));
    assert!(text.contains("off the line"), "{text}");
}

#[test]
fn what_a_file_lacks_or_has_wrong_is_named() {
    let change = |change: &dyn Fn(&mut InMemDicomObject)| {
        let root = tempfile::tempdir().unwrap();
        let mut made = object(&slice(0), 0);
        change(&mut made);
        write(made, uids::EXPLICIT_VR_LITTLE_ENDIAN, &path(root.path(), 0));
        read(&root).unwrap_err()
    };
    for (tag, field) in [
        (tags::IMAGE_ORIENTATION_PATIENT, "ImageOrientationPatient"),
        (tags::IMAGE_POSITION_PATIENT, "ImagePositionPatient"),
        (tags::PIXEL_SPACING, "PixelSpacing"),
        (tags::COLUMNS, "Columns"),
    ] {
        let error = change(&|o| {
            o.remove_element(tag);
        });
        assert!(
            matches!(&error, Error::InvalidHeader { field: f, .. } if *f == field),
            "{error}"
        );
        assert!(error.to_string().contains("IM0003.dcm"), "{error}");
    }
    for (tag, value) in [
        (tags::IMAGE_ORIENTATION_PATIENT, "1\\0\\0\\1\\0\\0"),
        (tags::IMAGE_ORIENTATION_PATIENT, "1\\0\\0"),
        (tags::PIXEL_SPACING, "0\\1"),
        (tags::RESCALE_SLOPE, "0"),
    ] {
        let error = change(&|o| {
            o.put_str(tag, VR::DS, value);
        });
        assert!(matches!(error, Error::InvalidHeader { .. }), "{error}");
    }
    let error = change(&|o| {
        o.put_str(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "RGB");
    });
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let error = change(&|o| {
        o.put_str(tags::NUMBER_OF_FRAMES, VR::IS, "12");
    });
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let error = change(&|o| {
        let few = PrimitiveValue::U16(vec![0u16; 8].into());
        o.put(DataElement::new(tags::PIXEL_DATA, VR::OW, few));
    });
    assert!(
        matches!(error, Error::Truncated { .. } | Error::Dicom { .. }),
        "{error}"
    );
    let error = change(&|o| {
        o.remove_element(tags::PIXEL_DATA);
    });
    assert!(matches!(error, Error::Dicom { .. }), "{error}");
}

/// Lengths beyond the file are refused before memory is taken for them; every cut and many
/// changed bytes are an error or a volume, never a panic.
#[test]
fn damaged_files_are_taken_calmly() {
    let root = folder(&[slice(0)]);
    let file = path(root.path(), 0);
    let valid = std::fs::read(&file).unwrap();
    let pixels = valid.len() - 2 * ROWS * COLUMNS;
    let mut long = valid.clone();
    long[pixels - 4..pixels].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
    std::fs::write(&file, &long).unwrap();
    let error = read(&root).unwrap_err();
    assert!(matches!(error, Error::Truncated { .. }), "{error}");

    let find = |text: &[u8]| valid.windows(text.len()).position(|w| w == text).unwrap();
    let syntax = find(b"1.2.840.10008.1.2.1\0");
    let mut other = valid.clone();
    other[syntax + 18] = b'9';
    std::fs::write(&file, &other).unwrap();
    let error = read(&root).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");

    for end in (133..valid.len()).step_by(3) {
        std::fs::write(&file, &valid[..end]).unwrap();
        assert!(read(&root).is_err(), "cut at {end}");
    }
    for place in 132..pixels {
        for byte in [0xff, valid[place] ^ 0x10] {
            let mut changed = valid.clone();
            changed[place] = byte;
            std::fs::write(&file, &changed).unwrap();
            let _ = read(&root);
        }
    }
}

#[test]
fn limits_hold() {
    let slices: Vec<Slice> = (0..3).map(slice).collect();
    let root = folder(&slices);
    for limits in [
        Limits {
            voxels: (3 * ROWS * COLUMNS - 1) as u64,
            ..Limits::default()
        },
        Limits {
            file_bytes: 200,
            ..Limits::default()
        },
    ] {
        let error = dicom::read_series(root.path(), &limits).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
}

/// The same series read by SimpleITK (GDCM): origin, directions, spacing and every value.
#[test]
fn simpleitk_reads_the_same() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/dicom.py");
    let Some(python) = python::with("SimpleITK") else {
        return;
    };
    let mut slices: Vec<Slice> = (0..6).map(slice).collect();
    for slice in &mut slices {
        slice.slope = 2.5;
        slice.intercept = -4.0;
    }
    let root = folder(&slices);
    let volume = read(&root).unwrap();
    let expected = serde_json::json!({
        "affine": volume.affine,
        "shape": volume.shape(),
        "values": volume.data.t().iter().collect::<Vec<_>>(),
    });
    let json = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(json.path(), expected.to_string()).unwrap();
    python::run(
        &python,
        &[
            script.as_os_str(),
            root.path().as_os_str(),
            json.path().as_os_str(),
        ],
    );
}

#[path = "python/mod.rs"]
mod python;
