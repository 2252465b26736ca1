//! Units and dimensions of the header.

use std::fs;
use std::io::Read;
use std::path::Path;

use fndm::data::nifti;

use crate::support::{Place, committed, read};

const SEQUENCES: [&str; 4] = ["flair", "t1", "t1ce", "t2"];

/// Rewrites each sequence of a patient as a plain file with a changed header.
fn with_header(place: &Place, folder: &str, change: impl Fn(&mut [u8])) {
    let name = Path::new(folder).file_name().unwrap().to_str().unwrap();
    for sequence in SEQUENCES {
        let packed = place.path(format!("{folder}/{name}_{sequence}.nii.gz"));
        let plain = place.path(format!("{folder}/{name}_{sequence}.nii"));
        let mut volume = read(&packed);
        volume.header = None;
        nifti::write_map(&plain, &volume).unwrap();
        fs::remove_file(packed).unwrap();
        let mut bytes = fs::read(&plain).unwrap();
        change(&mut bytes);
        fs::write(plain, bytes).unwrap();
    }
}

/// Millimetres said in microns: the same lengths.
#[test]
fn n13_units_are_honoured() {
    let place = Place::new();
    place.scan("in/mm", 1);
    place.scan("in/um", 1);
    with_header(&place, "in/um", |bytes| {
        // pixdim[1..4], qoffset, srow: times 1000; xyzt_units: micron.
        for at in (80..92).chain(268..328).step_by(4) {
            let value = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&(1000. * value).to_le_bytes());
        }
        bytes[123] = 3;
    });
    place
        .detect(&["--data", "in", "--output", "out"])
        .ends_with(0);
    let [mm, um] = ["mm", "um"].map(|id| place.json(&format!("out/{id}/{id}_report.json")));
    assert!(mm["mask_voxels"].as_u64().unwrap() > 0);
    assert_eq!(mm["mask_voxels"], um["mask_voxels"]);
    let spacing = read(&place.path("in/mm/mm_flair.nii.gz")).spacing();
    let right = spacing.iter().product::<f64>() * mm["mask_voxels"].as_f64().unwrap();
    for report in [mm, um] {
        let got = report["mask_mm3"].as_f64().unwrap();
        assert!((got / right - 1.).abs() < 1e-5, "{got} for {right}");
    }
}

/// Values of medpy 0.5.2 and surface-distance on the two-dimensional arrays.
#[test]
fn n12_masks_of_two_axes() {
    let place = Place::new();
    let [result, reference] = ["12/result_2d.nii.gz", "12/reference_2d.nii.gz"]
        .map(|f| committed(f).display().to_string());
    let ran = place
        .run(&["metrics", &result, &reference, "--format", "json"])
        .ends_with(0);
    let table: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let text = table.to_string();
    let value = |key: &str| {
        let found = find(&table, key).unwrap_or_else(|| panic!("{key} in {text}"));
        found
            .as_f64()
            .or_else(|| found["value"].as_f64())
            .unwrap_or_else(|| panic!("{key} in {text}"))
    };
    for (key, right, tolerance) in [
        ("hd95", 6., 1e-9),
        ("hd95_surface_distance", 6., 1e-9),
        ("assd", 3.595, 5e-4),
        ("surface_dice", 0.1845, 5e-5),
    ] {
        let got = value(key);
        assert!(
            (got - right).abs() <= tolerance,
            "{key}: {got}, right is {right}"
        );
    }
}

/// The first value under a key, however deep.
fn find<'a>(value: &'a serde_json::Value, key: &str) -> Option<&'a serde_json::Value> {
    match value {
        serde_json::Value::Object(map) => {
            let own = map
                .get(key)
                .filter(|v| v.is_number() || v["value"].is_number());
            own.or_else(|| map.values().find_map(|v| find(v, key)))
        }
        serde_json::Value::Array(all) => all.iter().find_map(|v| find(v, key)),
        _ => None,
    }
}

/// dim[0] to dim[7] of a packed file.
fn dimensions(path: &Path) -> Vec<i16> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).unwrap();
    flate2::read::GzDecoder::new(file)
        .read_to_end(&mut bytes)
        .unwrap();
    let at = |i: usize| i16::from_le_bytes([bytes[40 + 2 * i], bytes[41 + 2 * i]]);
    (0..8).map(at).collect()
}

/// The mask has the input's own dimensions.
#[test]
fn n23_two_and_four_axes() {
    let place = Place::new();
    place.patient("twod", 1, 1);
    place.patient("n14", 1, 3);
    fs::remove_file(place.path("twod/twod_seg.nii.gz")).unwrap();
    fs::remove_file(place.path("n14/n14_seg.nii.gz")).unwrap();
    let set = |bytes: &mut [u8], dim: &[i16]| {
        for (i, value) in dim.iter().enumerate() {
            bytes[40 + 2 * i..42 + 2 * i].copy_from_slice(&value.to_le_bytes());
        }
    };
    with_header(&place, "twod", |bytes| set(bytes, &[2, 64, 64, 1]));
    with_header(&place, "n14", |bytes| set(bytes, &[4, 64, 64, 3, 1]));
    for (id, rank) in [("twod", 2), ("n14", 4)] {
        place
            .detect(&["--patient", id, "--output", "out"])
            .ends_with(0);
        for what in ["mask", "anomaly"] {
            let dim = dimensions(&place.path(format!("out/{id}/{id}_{what}.nii.gz")));
            let right = if rank == 2 { [2, 64, 64] } else { [4, 64, 64] };
            assert_eq!(dim[..3], right, "{id} {what}");
            assert_eq!(
                dim[3..5],
                if rank == 2 { [1, 1] } else { [3, 1] },
                "{id} {what}"
            );
        }
    }
}

/// Which side is left isn't known: that is said wherever the patient is looked at.
#[test]
fn files_that_do_not_say_how_they_lie_are_told() {
    let place = Place::new();
    place.scan("in/p1", 1);
    place.scan("in/p2", 1);
    with_header(&place, "in/p2", |bytes| bytes[252..256].fill(0));
    let told = "the files don't say how they lie (neither sform nor qform): the axes are taken to point to L, A and S";
    let ran = place.run(&["inspect", "in"]).ends_with(2);
    ran.says(&[&format!("p2: {told}")]);
    let ran = place
        .detect(&["--data", "in", "--output", "out", "--method", "flair"])
        .ends_with(0);
    assert!(
        ran.err.contains(told) && !ran.err.contains("p1: warning"),
        "{}",
        ran.err
    );
    let notes = |id: &str| place.json(&format!("out/{id}/{id}_report.json"))["notes"].clone();
    assert_eq!(notes("p1").as_array().unwrap().len(), 0);
    assert!(notes("p2")[0].as_str().unwrap().starts_with(told));
}
