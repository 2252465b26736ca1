//! Layouts, splits and tables on made folders.

use std::fs;
use std::path::Path;

use fndm_data::layout::{Manifest, complete_patients, find_mask, find_sequence, list_sequences};
use fndm_data::{
    Error, Limits, Preprocess, Side, SliceSet, Splits, Volume, affine, list_patients, nifti,
    read_patient, read_patient_below,
};
use ndarray::Array3;
use proptest::prelude::*;
use tempfile::TempDir;

/// Makes the files, each with a value of its own: its place in the list.
fn tree(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (n, file) in files.iter().enumerate() {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut data = Array3::from_elem((4, 4, 5), 10.0 * (n + 1) as f32);
        data[(0, 0, 0)] = 0.0;
        nifti::write_map(&path, &Volume::new(data, affine::diagonal([1.0; 3]))).unwrap();
    }
    root
}

/// The number of the file that a volume was read from.
fn number(volume: &Volume) -> usize {
    (volume.data[(1, 1, 1)] / 10.0) as usize - 1
}

fn read_numbers(root: &Path, id: &str, sequences: &[&str]) -> (Vec<usize>, Option<usize>) {
    let patient = read_patient(root.join(id), sequences, &Limits::default()).unwrap();
    assert_eq!(patient.id, id);
    let names: Vec<&str> = patient.sequences.iter().map(|s| s.0.as_str()).collect();
    assert_eq!(names, sequences);
    let numbers = patient.sequences.iter().map(|s| number(&s.1)).collect();
    (numbers, patient.mask.as_ref().map(number))
}

#[test]
fn brats_2018_to_2021() {
    let root = tree(&[
        "BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz",
        "BraTS20_Training_001/BraTS20_Training_001_t1.nii.gz",
        "BraTS20_Training_001/BraTS20_Training_001_t1ce.nii.gz",
        "BraTS20_Training_001/BraTS20_Training_001_t2.nii.gz",
        "BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz",
        "BraTS2021_00000/BraTS2021_00000_flair.nii",
        "BraTS2021_00000/BraTS2021_00000_t1ce.nii",
    ]);
    assert_eq!(
        list_patients(root.path()).unwrap().ids,
        ["BraTS2021_00000", "BraTS20_Training_001"]
    );
    let all = ["t1", "t1ce", "t2", "flair"];
    let found = read_numbers(root.path(), "BraTS20_Training_001", &all);
    assert_eq!(found, (vec![1, 2, 3, 0], Some(4)));
    let found = read_numbers(root.path(), "BraTS2021_00000", &["t1ce", "flair"]);
    assert_eq!(found, (vec![6, 5], None));
}

/// The archives of 2018 and 2019 have a folder for each grade; one mask of 2020 has a name of its own.
#[test]
fn brats_2018_by_grade_and_odd_masks() {
    let root = tree(&[
        "HGG/Brats18_2013_11_1/Brats18_2013_11_1_flair.nii.gz",
        "HGG/Brats18_2013_11_1/Brats18_2013_11_1_t1.nii.gz",
        "HGG/Brats18_2013_11_1/Brats18_2013_11_1_seg.nii.gz",
        "LGG/Brats18_TCIA09_141_1/Brats18_TCIA09_141_1_flair.nii.gz",
        "LGG/Brats18_TCIA09_141_1/Brats18_TCIA09_141_1_t1.nii.gz",
        "BraTS20_Training_355/BraTS20_Training_355_flair.nii",
        "BraTS20_Training_355/W39_1998.09.19_Segm.nii",
        // A patient with a folder for each sequence is no group.
        "p1/flair/flair.nii",
        "p1/t1/t1.nii",
    ]);
    let ids = [
        "BraTS20_Training_355",
        "HGG/Brats18_2013_11_1",
        "LGG/Brats18_TCIA09_141_1",
        "p1",
    ];
    assert_eq!(list_patients(root.path()).unwrap().ids, ids);
    let limits = Limits::default();
    let patient = read_patient(root.path().join(ids[1]), &["t1", "flair"], &limits).unwrap();
    assert_eq!(patient.id, "Brats18_2013_11_1");
    let patient = read_patient_below(root.path(), ids[1], &["t1", "flair"], &limits).unwrap();
    assert_eq!(patient.id, ids[1]);
    assert_eq!(number(&patient.sequences[0].1), 1);
    assert_eq!(patient.mask.as_ref().map(number), Some(2));
    let found = read_numbers(root.path(), ids[0], &["flair"]);
    assert_eq!(found, (vec![5], Some(6)));
    assert_eq!(
        read_numbers(root.path(), "p1", &["t1", "flair"]),
        (vec![8, 7], None)
    );
    let splits = splits(&[ids[1]], &[], &[ids[2], "p1"]);
    splits.check_folders(root.path()).unwrap();
    for name in ["HGG/no", "HGG/../p1", "/HGG", "HGG/./../../x"] {
        let splits = self::splits(&[name], &[], &[]);
        let error = splits.check_folders(root.path()).unwrap_err();
        assert!(
            matches!(error, Error::PatientWithoutFolder { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn brats_2023() {
    let root = tree(&[
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1c.nii.gz",
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz",
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz",
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2w.nii.gz",
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz",
    ]);
    let all = ["t1", "t1ce", "t2", "flair"];
    let found = read_numbers(root.path(), "BraTS-GLI-00000-000", &all);
    assert_eq!(found, (vec![1, 0, 3, 2], Some(4)));
    let found = list_sequences(root.path().join("BraTS-GLI-00000-000")).unwrap();
    assert_eq!(found, ["flair", "t1", "t1ce", "t2"]);
}

#[test]
fn isles_2022() {
    let root = tree(&[
        "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz",
        "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_adc.nii.gz",
        "sub-strokecase0001/ses-0001/anat/sub-strokecase0001_ses-0001_FLAIR.nii.gz",
        "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz",
    ]);
    assert_eq!(
        list_patients(root.path()).unwrap().ids,
        ["sub-strokecase0001"]
    );
    let found = read_numbers(root.path(), "sub-strokecase0001", &["dwi", "adc", "flair"]);
    assert_eq!(found, (vec![0, 1, 2], Some(3)));
    let found = list_sequences(root.path().join("sub-strokecase0001")).unwrap();
    assert_eq!(found, ["adc", "dwi", "flair"]);
}

/// The layout of the challenge itself: raw data and derivatives side by side.
#[test]
fn isles_2022_with_rawdata() {
    let root = tree(&[
        "rawdata/sub-strokecase0002/ses-0001/sub-strokecase0002_ses-0001_dwi.nii.gz",
        "rawdata/sub-strokecase0002/ses-0001/sub-strokecase0002_ses-0001_flair.nii.gz",
        "derivatives/sub-strokecase0002/ses-0001/sub-strokecase0002_ses-0001_msk.nii.gz",
    ]);
    let raw = root.path().join("rawdata");
    assert_eq!(list_patients(&raw).unwrap().ids, ["sub-strokecase0002"]);
    let found = read_numbers(&raw, "sub-strokecase0002", &["flair", "dwi"]);
    assert_eq!(found, (vec![1, 0], Some(2)));
}

#[test]
fn plain_names_and_close_calls() {
    let root = tree(&[
        "p1/t1.nii",
        "p1/t1ce.nii",
        "p1/mask.nii.gz",
        "p2/p2_t1.nii.gz",
        "p2/old_t1.nii.gz",
        "p3/a_t1.nii",
        "p3/b_t1.nii",
    ]);
    assert_eq!(
        read_numbers(root.path(), "p1", &["t1ce", "t1"]),
        (vec![1, 0], Some(2))
    );
    assert_eq!(
        list_sequences(root.path().join("p1")).unwrap(),
        ["t1", "t1ce"]
    );
    // `<id>_<sequence>` is meant even where another name ends the same way.
    assert_eq!(read_numbers(root.path(), "p2", &["t1"]), (vec![3], None));
    let error = find_sequence(root.path().join("p3"), "t1").unwrap_err();
    assert!(matches!(error, Error::AmbiguousSequence { .. }), "{error}");
    let error =
        read_patient(root.path().join("p2"), &["t1", "flair"], &Limits::default()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::MissingSequence { .. }));
    for part in ["p2", "flair", "p2_flair.nii.gz", "p2_t2f.nii.gz"] {
        assert!(text.contains(part), "{text}");
    }
    let (complete, left_out) =
        complete_patients(root.path(), &["p1", "p2"], &["t1", "t1ce"]).unwrap();
    assert_eq!(complete, ["p1"]);
    assert!(left_out.len() == 1 && left_out[0].to_string().contains("p2"));
    let error = complete_patients(root.path(), &["p3"], &["t1"]).unwrap_err();
    assert!(matches!(error, Error::AmbiguousSequence { .. }), "{error}");
    assert_eq!(find_mask(root.path().join("p2")).unwrap(), None);
    let error = read_patient(root.path().join("p9"), &["t1"], &Limits::default()).unwrap_err();
    assert!(
        matches!(error, Error::Io { .. }) && error.to_string().contains("p9"),
        "{error}"
    );
    for wrong in [&[][..], &["t1", "t1"]] {
        let error = read_patient(root.path().join("p2"), wrong, &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        list_patients(empty.path()),
        Err(Error::NoPatients { .. })
    ));
    assert!(matches!(
        list_patients(empty.path().join("no")),
        Err(Error::Io { .. })
    ));
}

#[test]
fn a_manifest_names_any_file() {
    let root = tree(&["x/one.nii.gz", "y/two.nii", "z.nii.gz"]);
    let path = root.path().join("m.json");
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        Manifest::read(&path, &Limits::default())
    };
    let manifest = write(
        r#"{"patients": [{"id": "a", "sequences": {"flair": "x/one.nii.gz", "t1": "y/two.nii"}, "mask": "z.nii.gz"}]}"#,
    )
    .unwrap();
    let patient = manifest
        .files("a", &["t1", "flair"])
        .unwrap()
        .read(&Limits::default())
        .unwrap();
    assert_eq!(number(&patient.sequences[0].1), 1);
    assert_eq!(patient.mask.as_ref().map(number), Some(2));
    let error = manifest.files("a", &["t2"]).unwrap_err();
    assert!(matches!(error, Error::MissingSequence { .. }), "{error}");
    let error = manifest.files("b", &["t1"]).unwrap_err();
    assert!(matches!(error, Error::Text { .. }), "{error}");
    let twice = r#"{"patients": [{"id": "a", "sequences": {}}, {"id": "a", "sequences": {}}]}"#;
    assert!(matches!(write(twice), Err(Error::Text { .. })));
    assert!(matches!(
        write(r#"{"patients": []}"#),
        Err(Error::NoPatients { .. })
    ));
    assert!(matches!(write("{"), Err(Error::Json { .. })));
    for id in ["../a", "/a", "a/../../b", ""] {
        let outside = format!(r#"{{"patients": [{{"id": "{id}", "sequences": {{}}}}]}}"#);
        assert!(matches!(write(&outside), Err(Error::Text { .. })), "{id}");
    }
}

fn splits(train: &[&str], val: &[&str], test: &[&str]) -> Splits {
    let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Splits {
        train: list(train),
        val: list(val),
        test: list(test),
    }
}

#[test]
fn splits_are_checked() {
    let root = tree(&["a/a_t1.nii", "b/b_t1.nii"]);
    let good = splits(&["a"], &[], &["b"]);
    let path = root.path().join("splits.json");
    good.write(&path).unwrap();
    assert_eq!(Splits::read(&path, &Limits::default()).unwrap(), good);
    good.check_folders(root.path()).unwrap();
    assert!(matches!(good.needed(Side::Val), Err(Error::EmptySplit { side }) if side == "val"));
    assert_eq!(good.needed(Side::Test).unwrap(), ["b"]);

    let leak = splits(&["a"], &["b"], &["a"]);
    let error = leak.write(&path).unwrap_err();
    assert!(
        matches!(&error, Error::PatientOnTwoSides { patient, .. } if patient == "a"),
        "{error}"
    );
    fs::write(&path, r#"{"train": ["a", "a"]}"#).unwrap();
    let error = Splits::read(&path, &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::PatientOnTwoSides { .. }), "{error}");
    for name in ["c", "", "../a", "a/../b", "."] {
        let error = splits(&["a"], &[name], &[])
            .check_folders(root.path())
            .unwrap_err();
        assert!(
            matches!(error, Error::PatientWithoutFolder { .. }),
            "{name}: {error}"
        );
    }
    for text in ["[]", r#"{"trian": []}"#, "\u{feff}"] {
        fs::write(&path, text).unwrap();
        let error = Splits::read(&path, &Limits::default()).unwrap_err();
        let right = matches!(error, Error::Text { .. } | Error::Json { .. });
        assert!(right, "{error}");
    }
    // As PowerShell writes it: a byte order mark in front, which JSON may have (RFC 8259, section 8.1).
    fs::write(&path, "\u{feff}{\"train\": [\"a\"]}").unwrap();
    assert_eq!(
        Splits::read(&path, &Limits::default()).unwrap().train,
        ["a"]
    );
    let utf16: Vec<u8> = "\u{feff}{}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (bytes, part) in [(utf16.as_slice(), "UTF-16"), (b"{\n\xff}", "line 2")] {
        fs::write(&path, bytes).unwrap();
        let error = Splits::read(&path, &Limits::default()).unwrap_err();
        assert!(
            matches!(error, Error::Text { .. }) && error.to_string().contains(part),
            "{error}"
        );
    }
    let tight = Limits {
        text_bytes: 1,
        ..Limits::default()
    };
    assert!(matches!(
        Splits::read(&path, &tight),
        Err(Error::Limit { .. })
    ));
    assert!(matches!(
        Splits::read("no.json", &tight),
        Err(Error::Io { .. })
    ));
}

proptest! {
    #[test]
    fn stratified_splits_are_even(sizes in prop::collection::vec(0usize..30, 1..6), seed: u64) {
        let mut patients = Vec::new();
        for (stratum, size) in sizes.iter().enumerate() {
            for n in 0..*size {
                patients.push((format!("p{stratum}_{n}"), format!("s{stratum}")));
            }
        }
        let fractions = [0.7, 0.1, 0.2];
        let split = Splits::stratified(&patients, fractions, seed).unwrap();
        let total = patients.len();
        prop_assert_eq!(split.train.len() + split.val.len() + split.test.len(), total);
        for (side, fraction) in Side::ALL.into_iter().zip(fractions) {
            let got = split.side(side).len() as f64;
            prop_assert!((got - fraction * total as f64).abs() < 2.0, "{:?} {}", side, got);
            for (stratum, size) in sizes.iter().enumerate() {
                let prefix = format!("p{stratum}_");
                let got = split.side(side).iter().filter(|p| p.starts_with(&prefix)).count() as f64;
                prop_assert!((got - fraction * *size as f64).abs() < 2.0, "{:?} {}", side, got);
            }
        }
        patients.reverse();
        prop_assert_eq!(&Splits::stratified(&patients, fractions, seed).unwrap(), &split);
    }
}

#[test]
fn fractions_must_sum_to_one() {
    for wrong in [[0.5, 0.5, 0.5], [1.5, -0.5, 0.0], [f64::NAN, 0.5, 0.5]] {
        let error = Splits::stratified(&[], wrong, 1).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
    let twice = [
        ("a".to_string(), "x".to_string()),
        ("a".to_string(), "y".to_string()),
    ];
    let error = Splits::stratified(&twice, [0.5, 0.5, 0.0], 1).unwrap_err();
    assert!(matches!(error, Error::PatientOnTwoSides { .. }), "{error}");
}

/// Reading by several threads gives the same set, in the order of the names.
#[test]
fn sets_are_loaded_in_order() {
    let root = tree(&["a/a_t1.nii", "a/a_seg.nii", "b/b_t1.nii", "b/b_seg.nii"]);
    let preprocess = Preprocess {
        image_size: 4,
        ..Preprocess::default()
    };
    let limits = Limits::default();
    let set = SliceSet::load(root.path(), &["b", "a"], &["t1"], &preprocess, &limits).unwrap();
    assert_eq!(set.ids, ["b", "a"]);
    assert_eq!(set.patient, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
    let missing = SliceSet::load(root.path(), &["b", "c"], &["t1"], &preprocess, &limits);
    assert!(missing.unwrap_err().to_string().contains('c'));
}
