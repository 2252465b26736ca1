//! A DICOM study in, a Segmentation out. The study is written by another writer of DICOM than the program's.

use std::fs;
use std::path::Path;
use std::process::Output;

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{DefaultDicomObject, FileMetaTableBuilder, InMemDicomObject, open_file};
use fndm::data::{Patient, Volume};

use crate::common::{fndm, model, patient, plain_mask, read, text, told};

/// What tells a series apart.
#[derive(Clone)]
struct Header {
    number: usize,
    description: &'static str,
    /// Repetition, echo and inversion time.
    times: [f64; 3],
    agent: &'static str,
    patient: &'static str,
}

/// FLAIR is told by its times alone, T1 with an agent by the agent's name alone.
fn headers() -> [(&'static str, Header); 4] {
    let header = |number, description, times, agent| Header {
        number,
        description,
        times,
        agent,
        patient: "P7",
    };
    [
        ("flair", header(4, "ax fast", [9000., 120., 2500.], "")),
        ("t1", header(2, "T1 SE ax", [500., 12., 0.], "")),
        ("t1ce", header(6, "T1 SE ax", [500., 12., 0.], "Gadovist")),
        ("t2", header(3, "T2 TSE", [4000., 100., 0.], "")),
    ]
}

/// Values as whole numbers with a slope; the first axis of the volume runs along columns.
fn write_series(folder: &Path, header: &Header, volume: &Volume) {
    let [columns, rows, slices] = volume.shape();
    let most = volume.data.iter().fold(0f32, |m, v| m.max(v.abs()));
    let slope = f64::from(most) / 30_000.;
    let a = volume.affine;
    let spacing = volume.spacing();
    // DICOM has left and back where the affine has right and front.
    let sign = [-1., -1., 1.];
    let direction = |axis: usize| [0, 1, 2].map(|n| sign[n] * a[n][axis] / spacing[axis]);
    let [x, y] = [direction(0), direction(1)];
    for k in 0..slices {
        let place = [0, 1, 2].map(|n| sign[n] * (a[n][3] + a[n][2] * k as f64));
        let join = |values: &[f64]| {
            let parts: Vec<String> = values.iter().map(|v| format!("{v:.8}")).collect();
            parts.join("\\")
        };
        let uid = format!("1.2.826.0.9.{}", header.number);
        let mut out = InMemDicomObject::new_empty();
        for (tag, vr, value) in [
            (tags::IMAGE_TYPE, VR::CS, "ORIGINAL\\PRIMARY\\M".to_owned()),
            (tags::SOP_CLASS_UID, VR::UI, uids::MR_IMAGE_STORAGE.into()),
            (tags::SOP_INSTANCE_UID, VR::UI, format!("{uid}.{}", k + 1)),
            (tags::STUDY_DATE, VR::DA, "20200102".into()),
            (tags::STUDY_TIME, VR::TM, "101112".into()),
            (tags::ACCESSION_NUMBER, VR::SH, String::new()),
            (tags::MODALITY, VR::CS, "MR".into()),
            (tags::REFERRING_PHYSICIAN_NAME, VR::PN, String::new()),
            (tags::SERIES_DESCRIPTION, VR::LO, header.description.into()),
            (tags::PATIENT_NAME, VR::PN, "Phantom".into()),
            (tags::PATIENT_ID, VR::LO, header.patient.into()),
            (tags::PATIENT_BIRTH_DATE, VR::DA, String::new()),
            (tags::PATIENT_SEX, VR::CS, "O".into()),
            (tags::CONTRAST_BOLUS_AGENT, VR::LO, header.agent.into()),
            (tags::REPETITION_TIME, VR::DS, header.times[0].to_string()),
            (tags::ECHO_TIME, VR::DS, header.times[1].to_string()),
            (tags::INVERSION_TIME, VR::DS, header.times[2].to_string()),
            (tags::STUDY_INSTANCE_UID, VR::UI, "1.2.826.0.9".into()),
            (tags::SERIES_INSTANCE_UID, VR::UI, uid.clone()),
            (tags::STUDY_ID, VR::SH, "1".into()),
            (tags::SERIES_NUMBER, VR::IS, header.number.to_string()),
            (
                tags::FRAME_OF_REFERENCE_UID,
                VR::UI,
                "1.2.826.0.9.99".into(),
            ),
            (
                tags::PHOTOMETRIC_INTERPRETATION,
                VR::CS,
                "MONOCHROME2".into(),
            ),
            (
                tags::IMAGE_ORIENTATION_PATIENT,
                VR::DS,
                join(&[x, y].concat()),
            ),
            (tags::IMAGE_POSITION_PATIENT, VR::DS, join(&place)),
            (tags::PIXEL_SPACING, VR::DS, join(&[spacing[1], spacing[0]])),
            (tags::SLICE_THICKNESS, VR::DS, join(&[spacing[2]])),
            (tags::RESCALE_SLOPE, VR::DS, format!("{slope:.10e}")),
            (tags::RESCALE_INTERCEPT, VR::DS, "0".into()),
        ] {
            out.put_str(tag, vr, value);
        }
        for (tag, value) in [
            (tags::ROWS, rows as u16),
            (tags::COLUMNS, columns as u16),
            (tags::SAMPLES_PER_PIXEL, 1),
            (tags::BITS_ALLOCATED, 16),
            (tags::BITS_STORED, 16),
            (tags::HIGH_BIT, 15),
            (tags::PIXEL_REPRESENTATION, 1),
        ] {
            out.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
        }
        let mut pixels = Vec::with_capacity(rows * columns);
        for j in 0..rows {
            for i in 0..columns {
                let value = f64::from(volume.data[(i, j, k)]) / slope;
                pixels.push(value.round() as i16 as u16);
            }
        }
        out.put(DataElement::new(
            tags::PIXEL_DATA,
            VR::OW,
            PrimitiveValue::U16(pixels.into()),
        ));
        let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
        let path = folder.join(format!("{}_{:02}", header.number, (k * 5 + 2) % 7));
        out.with_meta(meta).unwrap().write_to_file(path).unwrap();
    }
}

struct Case {
    place: tempfile::TempDir,
    patient: Patient,
}

impl Case {
    fn new() -> Self {
        let case = Self {
            place: tempfile::tempdir().unwrap(),
            patient: patient(60_000),
        };
        fs::create_dir(case.study()).unwrap();
        for (name, header) in headers() {
            case.add(&header, case.patient.sequence(name).unwrap());
        }
        case
    }

    fn study(&self) -> std::path::PathBuf {
        self.place.path().join("study")
    }

    fn add(&self, header: &Header, volume: &Volume) {
        write_series(&self.study(), header, volume);
    }

    fn run(&self, more: &[&str]) -> Output {
        let (model, study, output) = (model(), self.study(), self.place.path().join("out"));
        let all = ["detect", "--model", text(&model), "--dicom", text(&study)];
        let output = ["--output", text(&output)];
        fndm(&[&all[..], &output, more].concat())
    }

    /// Refused, with nothing written, and these words.
    fn refused(&self, more: &[&str], words: &str) {
        let out = self.run(more);
        let said = told(&out);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "expected {words}: {said}");
        assert!(!self.place.path().join("out/study").exists(), "{said}");
    }
}

#[test]
fn a_study_gives_a_mask_and_a_segmentation() {
    let case = Case::new();
    let out = case.run(&[]);
    let said = told(&out);
    assert!(out.status.success(), "{said}");
    for expected in [
        "series 4, 6 slices: flair (TR 9000, TE 120, TI 2500 ms)",
        "series 6, 6 slices: t1ce (description \"T1 SE ax\", agent \"Gadovist\")",
        "t1 is series 2",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let folder = case.place.path().join("out/study");
    let mask = read(&folder.join("study_mask.nii.gz"));
    let file: DefaultDicomObject = open_file(folder.join("study_seg.dcm")).unwrap();
    let bytes = file.element(tags::PIXEL_DATA).unwrap().to_bytes().unwrap();
    let [columns, rows, _] = mask.shape();
    let mut lesion = 0;
    for ((i, j, k), value) in mask.data.indexed_iter() {
        let bit = (k * rows + j) * columns + i;
        assert_eq!(f32::from(bytes[bit / 8] >> (bit % 8) & 1), *value);
        lesion += usize::from(*value > 0.0);
    }
    assert!(lesion > 0, "no lesion was found");
    // Values are rounded to 1/30000 of the greatest: nearly the mask of the NIfTI files, whose slices may run the other way.
    let plain = plain_mask(case.place.path(), &case.patient);
    let total = |v: &Volume| v.data.iter().filter(|v| **v > 0.0).count() as f64;
    assert!((total(&plain) - total(&mask)).abs() <= 0.01 * total(&plain));
    // Once more, from the beginning: the same bytes.
    let first = fs::read(folder.join("study_seg.dcm")).unwrap();
    fs::remove_dir_all(case.place.path().join("out")).unwrap();
    assert!(case.run(&[]).status.success());
    assert_eq!(first, fs::read(folder.join("study_seg.dcm")).unwrap());
}

#[test]
fn what_is_unclear_is_asked() {
    let case = Case::new();
    let [(_, flair), (_, t1), ..] = headers();
    let second = Header {
        number: 8,
        ..flair.clone()
    };
    case.add(&second, case.patient.sequence("flair").unwrap());
    case.refused(&[], "flair could be 4 \"ax fast\", 8 \"ax fast\"");
    case.refused(&["--series", "flair=9"], "no such series");
    case.refused(
        &["--series", "swi=4"],
        "the model takes flair, t1, t1ce, t2",
    );
    case.refused(
        &["--series", "flair=2", "--series", "t1=2"],
        "one series is taken for two",
    );
    let out = case.run(&["--series", "flair=1.2.826.0.9.8"]);
    assert!(out.status.success(), "{}", told(&out));
    assert!(told(&out).contains("flair is series 8"));
    // Another patient's series among them.
    let case = Case::new();
    let other = Header {
        number: 9,
        patient: "P8",
        ..t1
    };
    case.add(&other, case.patient.sequence("t1").unwrap());
    case.refused(&[], "series of 2 patients");
}

#[test]
fn broken_series_are_told() {
    // A slice is missing.
    let case = Case::new();
    fs::remove_file(case.study().join("4_05")).unwrap();
    case.refused(&[], "slices are missing");
    // One stands twice.
    let case = Case::new();
    fs::copy(case.study().join("4_05"), case.study().join("4_twice")).unwrap();
    case.refused(&[], "slices are missing or stand twice");
    // One is cut short.
    let case = Case::new();
    let path = case.study().join("4_05");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1000]).unwrap();
    case.refused(&[], "cut short");
    // Nothing is there.
    let case = Case::new();
    fs::remove_dir_all(case.study()).unwrap();
    case.refused(&[], "expected a folder");
    fs::create_dir(case.study()).unwrap();
    case.refused(&[], "no DICOM image is in it");
}

#[test]
fn other_grids_are_told_and_resampled_where_asked() {
    let case = Case::new();
    let [_, _, _, (_, t2)] = headers();
    for entry in fs::read_dir(case.study()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("3_")
        {
            fs::remove_file(path).unwrap();
        }
    }
    // Half of the slices of T2, twice as thick.
    let whole = case.patient.sequence("t2").unwrap();
    let data = whole.data.slice(ndarray::s![.., .., ..;2]).to_owned();
    let mut affine = whole.affine;
    for row in &mut affine {
        row[2] *= 2.0;
    }
    affine[3] = [0., 0., 0., 1.];
    case.add(&t2, &Volume::new(data, affine));
    case.refused(&[], "--resample");
    let out = case.run(&["--resample"]);
    assert!(out.status.success(), "{}", told(&out));
    assert!(told(&out).contains("t2 is brought onto the grid of flair"));
}

/// Scanners export series of functional and diffusion MR as one image of all slices, whose place is that of none of them.
#[test]
fn a_study_of_mosaics_says_so() {
    let place = tempfile::tempdir().unwrap();
    let study = place.path().join("study");
    fs::create_dir(&study).unwrap();
    let mut object = InMemDicomObject::new_empty();
    for (tag, vr, value) in [
        (
            tags::IMAGE_TYPE,
            VR::CS,
            "ORIGINAL\\PRIMARY\\DIFFUSION\\MOSAIC",
        ),
        (tags::SOP_CLASS_UID, VR::UI, uids::MR_IMAGE_STORAGE),
        (tags::SOP_INSTANCE_UID, VR::UI, "1.2.826.0.9.8.1"),
        (tags::MODALITY, VR::CS, "MR"),
        (tags::SERIES_INSTANCE_UID, VR::UI, "1.2.826.0.9.8"),
    ] {
        object.put_str(tag, vr, value);
    }
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let file = object.with_meta(meta).unwrap();
    file.write_to_file(study.join("1")).unwrap();
    let output = place.path().join("out");
    let ran = fndm(&[
        "detect",
        "--model",
        text(&model()),
        "--dicom",
        text(&study),
        "--id",
        "P7",
        "--output",
        text(&output),
    ]);
    assert_eq!(ran.status.code(), Some(1), "{}", told(&ran));
    let words = told(&ran);
    assert!(
        words.contains("1 file of another kind") && words.contains("a mosaic of slices"),
        "{words}"
    );
    assert!(!output.exists());
}
