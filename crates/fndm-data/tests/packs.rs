//! The data packs load whole, and their counts are those of their tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fndm_data::{
    Limits, Preprocess, Side, SliceSet, Splits, Volume, affine, find_identical_sequences,
    list_patients, nifti, read_patient,
};
use ndarray::Array3;
use rayon::prelude::*;

/// The pack's folder, or `None` (told out loud) where it is not there.
fn pack(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("FNDM_DATA").map_or(root, PathBuf::from);
    let folder = root.join(name);
    if folder.is_dir() {
        Some(folder)
    } else {
        eprintln!("{} is not there", folder.display());
        None
    }
}

/// A pack of the same form with two patients, where the real one is not there: in slice k a lesion of k x (k + n)
/// pixels, and in the second patient a copy of FLAIR under each other name.
fn made_pack(sequences: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let (mut slices, mut patients) = (
        "patient,slice,lesion_px\n".to_string(),
        "patient,missing_sequences\n".to_string(),
    );
    let place = affine::diagonal([-1.0, -1.0, 2.0]);
    for n in 0..2 {
        let id = format!("made_{n}");
        std::fs::create_dir(root.path().join(&id)).unwrap();
        let file = |name: &str| root.path().join(format!("{id}/{id}_{name}.nii.gz"));
        let copies: Vec<&str> = sequences
            .iter()
            .copied()
            .filter(|name| n == 1 && *name != "flair" && sequences.contains(&"flair"))
            .collect();
        for (c, name) in sequences.iter().enumerate() {
            let c = if copies.contains(name) { 0 } else { c };
            let image = Array3::from_shape_fn((128, 128, 5), |(i, j, k)| {
                let inside = (i as f32 - 64.0).hypot(j as f32 - 64.0) < 50.0;
                f32::from(u8::from(inside)) * (100 + (i * (c + 2) + j + k) % 40) as f32
            });
            nifti::write_map(file(name), &Volume::new(image, place)).unwrap();
        }
        let mask = Array3::from_shape_fn((128, 128, 5), |(i, j, k)| {
            let inside = (60..60 + k).contains(&i) && (50..50 + k + n).contains(&j);
            f32::from(u8::from(inside))
        });
        nifti::write_mask(file("seg"), &Volume::new(mask, place)).unwrap();
        for k in 0..5 {
            slices.push_str(&format!("{id},{k},{}\n", k * (k + n)));
        }
        patients.push_str(&format!("{id},{}\n", copies.join(" ")));
    }
    std::fs::write(root.path().join("slices.csv"), slices).unwrap();
    std::fs::write(root.path().join("patients.csv"), patients).unwrap();
    let splits = r#"{"train": ["made_0"], "val": [], "test": ["made_1"]}"#;
    std::fs::write(root.path().join("splits.json"), splits).unwrap();
    root
}

/// Rows of a table as column name -> value.
fn table_of(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            let values = line.split(',').map(String::from);
            names.iter().map(|n| (*n).to_string()).zip(values).collect()
        })
        .collect()
}

/// Lesion pixels of each slice, by patient, from `slices.csv`.
fn lesions(folder: &Path) -> BTreeMap<String, Vec<usize>> {
    let mut out: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for row in table_of(&folder.join("slices.csv")) {
        let slices = out.entry(row["patient"].clone()).or_default();
        assert_eq!(slices.len(), row["slice"].parse::<usize>().unwrap());
        slices.push(row["lesion_px"].parse().unwrap());
    }
    out
}

/// Every patient of the pack: read, cut, and compared with the table slice by slice.
fn check_pack(name: &str, sequences: &[&str]) {
    let made;
    let folder = match pack(name) {
        Some(folder) => folder,
        None => {
            eprintln!("a small pack of the same form is made instead");
            made = made_pack(sequences);
            made.path().to_path_buf()
        }
    };
    let limits = Limits::default();
    let expected = lesions(&folder);
    let ids = list_patients(&folder).unwrap().ids;
    assert_eq!(ids, expected.keys().cloned().collect::<Vec<_>>());
    let splits = Splits::read(folder.join("splits.json"), &limits).unwrap();
    splits.check_folders(&folder).unwrap();
    ids.par_iter().for_each(|id| {
        check_patient(&folder.join(id), sequences, &expected[id]);
    });
    eprintln!("{name}: {} patients", ids.len());
}

/// One patient: mask, labels, the way back, and copies of one sequence under two names.
fn check_patient(folder: &Path, sequences: &[&str], table: &[usize]) {
    let patient = read_patient(folder, sequences, &Limits::default()).unwrap();
    let id = &patient.id;
    let mask = patient.mask.as_ref().unwrap();
    assert_eq!(mask.shape(), [128, 128, table.len()]);
    assert_eq!(mask.axis_codes(), ['L', 'P', 'S']);
    for (k, &count) in table.iter().enumerate() {
        let slice = mask.data.index_axis(ndarray::Axis(2), k);
        let found = slice.iter().filter(|v| **v > 0.0).count();
        assert_eq!(found, count, "{id} {k}");
    }
    let preprocess = Preprocess {
        image_size: 128,
        ..Preprocess::default()
    };
    let slices = preprocess.apply(&patient).unwrap();
    let labels: Vec<u8> = table.iter().map(|&n| u8::from(n > 0)).collect();
    assert_eq!(slices.labels.as_ref(), Some(&labels), "{id}");
    // Nothing is resized at 128: the mask must come back exactly.
    let back = slices.to_mask(slices.mask.as_ref().unwrap()).unwrap();
    let bits = mask.data.mapv(|v| f32::from(u8::from(v > 0.0)));
    assert!(back.data == bits, "{id}");
    assert_eq!(back.affine, mask.affine);

    // The table names every copy of FLAIR under another name.
    let root = folder.parent().unwrap();
    if root.join("patients.csv").is_file() {
        let rows = table_of(&root.join("patients.csv"));
        let row = rows.iter().find(|row| &row["patient"] == id).unwrap();
        let found = find_identical_sequences(&patient);
        for name in ["t1", "t1ce"] {
            let copy = found.iter().any(|(a, b)| a == "flair" && b == name);
            let mut listed = row["missing_sequences"].split(|c: char| !c.is_alphanumeric());
            assert_eq!(copy, listed.any(|n| n == name), "{id} {name}");
        }
    }
}

#[test]
fn lgg128_is_as_its_table() {
    check_pack("lgg128", &["flair", "t1", "t1ce"]);
}

#[test]
fn brats_mini_is_as_its_table() {
    check_pack("brats_mini", &["flair", "t1ce"]);
}

#[test]
fn ms128_is_as_its_table() {
    check_pack("ms128", &["t1", "t1ce", "t2", "flair"]);
}

#[test]
fn isles1_is_as_its_table() {
    check_pack("isles1", &["dwi", "adc"]);
}

/// The counts of the middle of the head, from the pack's description.
#[test]
fn lgg128_middle_of_the_head() {
    let Some(folder) = pack("lgg128") else {
        eprintln!("skipped: the counts are those of that pack alone");
        return;
    };
    let limits = Limits::default();
    let splits = Splits::read(folder.join("splits.json"), &limits).unwrap();
    let preprocess = Preprocess {
        z_range: (0.30, 0.85),
        ..Preprocess::default()
    };
    for (side, slices, lesion) in [
        (Side::Train, 1398, 819),
        (Side::Val, 178, 100),
        (Side::Test, 341, 210),
    ] {
        let ids = splits.needed(side).unwrap();
        let set = SliceSet::load(&folder, ids, &["flair"], &preprocess, &limits).unwrap();
        assert_eq!(
            (set.len(), set.with_label(1).len()),
            (slices, lesion),
            "{side:?}"
        );
        assert!(set.images.iter().all(|v| (-1.0..=1.0).contains(v)));
    }
}
