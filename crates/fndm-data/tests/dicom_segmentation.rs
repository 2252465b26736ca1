//! Masks as DICOM Segmentation objects: read back by other programs, voxel by voxel, and the same bytes every time.

#[path = "python/mod.rs"]
mod python;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{DefaultDicomObject, FileMetaTableBuilder, InMemDicomObject, open_file};
use fndm_data::dicom::{Algorithm, Series, read_study, write_segmentation};
use fndm_data::{Limits, Volume, nifti};

// Not a multiple of eight: frames begin within bytes.
const ROWS: u16 = 5;
const COLUMNS: u16 = 7;
const SLICES: usize = 6;

/// A series of an oblique scan, whose files have another order than their places.
fn write_series(folder: &Path, series: usize, patient: &str) {
    let (s, c) = 0.4f64.sin_cos();
    let normal = [-s, 0.0, c];
    for k in 0..SLICES {
        let mut out = InMemDicomObject::new_empty();
        let place: Vec<f64> = (0..3)
            .map(|n| [-30.0, 12.5, 70.25][n] + 4.0 * k as f64 * normal[n])
            .collect();
        let text = |values: &[f64]| {
            let parts: Vec<String> = values.iter().map(|v| format!("{v:.8}")).collect();
            parts.join("\\")
        };
        let uid = format!("1.2.826.0.1.{series}");
        for (tag, vr, value) in [
            (
                tags::SPECIFIC_CHARACTER_SET,
                VR::CS,
                "ISO_IR 192".to_owned(),
            ),
            (tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\M".into()),
            (tags::SOP_CLASS_UID, VR::UI, uids::MR_IMAGE_STORAGE.into()),
            (tags::SOP_INSTANCE_UID, VR::UI, format!("{uid}.{}", k + 1)),
            (tags::STUDY_DATE, VR::DA, "20200102".into()),
            (tags::STUDY_TIME, VR::TM, "101112".into()),
            (tags::ACCESSION_NUMBER, VR::SH, "A17".into()),
            (tags::MODALITY, VR::CS, "MR".into()),
            (tags::SERIES_DESCRIPTION, VR::LO, "ax FLAIR".into()),
            (tags::PATIENT_NAME, VR::PN, "Müller^Jürgen".into()),
            (tags::PATIENT_ID, VR::LO, patient.into()),
            (tags::PATIENT_BIRTH_DATE, VR::DA, "19700101".into()),
            (tags::PATIENT_SEX, VR::CS, "O".into()),
            (tags::STUDY_INSTANCE_UID, VR::UI, "1.2.826.0.1".into()),
            (tags::SERIES_INSTANCE_UID, VR::UI, uid.clone()),
            (tags::STUDY_ID, VR::SH, "17".into()),
            (tags::SERIES_NUMBER, VR::IS, series.to_string()),
            (
                tags::FRAME_OF_REFERENCE_UID,
                VR::UI,
                "1.2.826.0.1.77".into(),
            ),
            (
                tags::PHOTOMETRIC_INTERPRETATION,
                VR::CS,
                "MONOCHROME2".into(),
            ),
            (
                tags::IMAGE_ORIENTATION_PATIENT,
                VR::DS,
                text(&[c, 0.0, s, 0.0, 1.0, 0.0]),
            ),
            (tags::IMAGE_POSITION_PATIENT, VR::DS, text(&place)),
            (tags::PIXEL_SPACING, VR::DS, "2\\1.5".into()),
            (tags::SLICE_THICKNESS, VR::DS, "4".into()),
        ] {
            out.put_str(tag, vr, value);
        }
        for (tag, value) in [
            (tags::ROWS, ROWS),
            (tags::COLUMNS, COLUMNS),
            (tags::SAMPLES_PER_PIXEL, 1),
            (tags::BITS_ALLOCATED, 16),
            (tags::BITS_STORED, 16),
            (tags::HIGH_BIT, 15),
            (tags::PIXEL_REPRESENTATION, 0),
        ] {
            out.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
        }
        let pixels: Vec<u16> = (0..ROWS * COLUMNS).map(|n| n + 50 * k as u16).collect();
        let pixels = PrimitiveValue::U16(pixels.into());
        out.put(DataElement::new(tags::PIXEL_DATA, VR::OW, pixels));
        let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
        let name = format!("s{series}_{}.dcm", (k * 5 + 3) % 11);
        out.with_meta(meta)
            .unwrap()
            .write_to_file(folder.join(name))
            .unwrap();
    }
}

fn series(folder: &Path) -> Vec<Series> {
    read_study(folder, &Limits::default()).unwrap().series
}

/// Every third voxel of the series' grid, and none of one slice.
fn mask(like: &Volume) -> Volume {
    let mut mask = Volume::new(like.data.clone(), like.affine);
    let mut n = 0;
    for ((i, j, k), value) in mask.data.indexed_iter_mut() {
        n += 1;
        *value = f32::from(u8::from((n + i * j) % 3 == 0 && k != 2));
    }
    mask
}

fn algorithm() -> Algorithm {
    Algorithm {
        name: "fndm, student".into(),
        version: "0.1.0".into(),
        settings: "{}".into(),
    }
}

struct Written {
    folder: tempfile::TempDir,
    series: Vec<Series>,
    mask: Volume,
}

impl Written {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        write_series(&source, 3, "P1");
        write_series(&source, 5, "P1");
        let series = series(&source);
        let mask = mask(&series[0].read(&Limits::default()).unwrap());
        let written = Self {
            folder,
            series,
            mask,
        };
        written.write(&written.file());
        written
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("seg.dcm")
    }

    fn write(&self, path: &Path) {
        let sources: Vec<&Series> = self.series.iter().collect();
        write_segmentation(path, &self.mask, &sources, &algorithm()).unwrap();
    }
}

fn text(object: &InMemDicomObject, tag: dicom_core::Tag) -> String {
    let value = object.element(tag).unwrap().to_str().unwrap();
    value.trim_end_matches(['\0', ' ']).to_owned()
}

fn items(object: &InMemDicomObject, tag: dicom_core::Tag) -> Vec<InMemDicomObject> {
    object.element(tag).unwrap().items().unwrap().to_vec()
}

#[test]
fn another_reader_finds_every_voxel_and_its_source() {
    let written = Written::new();
    let file: DefaultDicomObject = open_file(written.file()).unwrap();
    let object: &InMemDicomObject = &file;
    assert_eq!(
        text(object, tags::SOP_CLASS_UID),
        uids::SEGMENTATION_STORAGE
    );
    assert_eq!(text(object, tags::PATIENT_NAME), "Müller^Jürgen");
    assert_eq!(text(object, tags::FRAME_OF_REFERENCE_UID), "1.2.826.0.1.77");
    assert_eq!(text(object, tags::STUDY_INSTANCE_UID), "1.2.826.0.1");
    assert_eq!(text(object, tags::NUMBER_OF_FRAMES), SLICES.to_string());
    assert_eq!(items(object, tags::REFERENCED_SERIES_SEQUENCE).len(), 2);
    let bytes = object
        .element(tags::PIXEL_DATA)
        .unwrap()
        .to_bytes()
        .unwrap();
    let (columns, rows) = (usize::from(COLUMNS), usize::from(ROWS));
    for ((i, j, k), value) in written.mask.data.indexed_iter() {
        let bit = (k * rows + j) * columns + i;
        assert_eq!(bytes[bit / 8] >> (bit % 8) & 1, *value as u8, "{i} {j} {k}");
    }
    // A frame lies where its source image does.
    let frames = items(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    assert_eq!(frames.len(), SLICES);
    for (k, frame) in frames.iter().enumerate() {
        let derivation = &items(frame, tags::DERIVATION_IMAGE_SEQUENCE)[0];
        let source = &items(derivation, tags::SOURCE_IMAGE_SEQUENCE)[0];
        let uid = text(source, tags::REFERENCED_SOP_INSTANCE_UID);
        assert_eq!(uid, format!("1.2.826.0.1.3.{}", k + 1));
        let place = &items(frame, tags::PLANE_POSITION_SEQUENCE)[0];
        let place = place.element(tags::IMAGE_POSITION_PATIENT).unwrap();
        let place = place.to_multi_float64().unwrap();
        // The affine has x and y the other way.
        for (n, sign) in [-1.0, -1.0, 1.0].into_iter().enumerate() {
            let row = written.mask.affine[n];
            let expected = sign * (row[2] * k as f64 + row[3]);
            assert!((place[n] - expected).abs() < 1e-6, "{place:?}");
        }
    }
}

#[test]
fn the_same_bytes_every_time_and_other_uids_for_other_masks() {
    let mut written = Written::new();
    let first = fs::read(written.file()).unwrap();
    let again = written.folder.path().join("again.dcm");
    written.write(&again);
    assert_eq!(first, fs::read(&again).unwrap());
    let instance = |path: &Path| {
        let file: DefaultDicomObject = open_file(path).unwrap();
        text(&file, tags::SOP_INSTANCE_UID)
    };
    let uid = instance(&again);
    assert!(uid.starts_with("2.25.") && uid.len() <= 64, "{uid}");
    written.mask.data[(0, 0, 2)] = 1.0;
    written.write(&again);
    assert_ne!(uid, instance(&again));
}

#[test]
fn masks_of_other_grids_are_refused() {
    let written = Written::new();
    let path = written.folder.path().join("wrong.dcm");
    let sources: Vec<&Series> = written.series.iter().collect();
    let mut moved = written.mask.clone();
    moved.affine[1][3] += 0.1;
    let smaller = Volume::new(
        written.mask.data.slice(ndarray::s![.., .., ..3]).to_owned(),
        written.mask.affine,
    );
    let mut broken = written.mask.clone();
    broken.affine[0][0] = f64::NAN;
    for wrong in [&moved, &smaller, &broken] {
        assert!(write_segmentation(&path, wrong, &sources, &algorithm()).is_err());
    }
    assert!(write_segmentation(&path, &written.mask, &[], &algorithm()).is_err());
    assert!(!path.exists());
}

/// pydicom and highdicom read the object, and give the mask of the NIfTI file on its grid.
#[test]
fn highdicom_reads_it() {
    let Some(python) = python::with("highdicom, nibabel") else {
        return;
    };
    let written = Written::new();
    let mask = written.folder.path().join("mask.nii.gz");
    nifti::write_mask(&mask, &written.mask).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/segmentation.py");
    let source = written.folder.path().join("source");
    python::run(
        &python,
        &[
            script.as_os_str(),
            written.file().as_os_str(),
            mask.as_os_str(),
            source.as_os_str(),
        ],
    );
}

/// dicom3tools' validator of information objects finds no error.
#[test]
fn dciodvfy_finds_no_error() {
    let written = Written::new();
    let out = match Command::new("dciodvfy").arg(written.file()).output() {
        Ok(out) => out,
        Err(error) => {
            eprintln!("skipped: no dciodvfy (of dicom3tools): {error}");
            return;
        }
    };
    let told = String::from_utf8_lossy(&out.stderr);
    println!("{told}");
    assert!(told.contains("Segmentation"), "{told}");
    assert!(!told.contains("Error"), "{told}");
}
