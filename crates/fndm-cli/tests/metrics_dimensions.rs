//! The metrics program judges a mask in the dimensions of its file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const SIZE: (usize, usize) = (24, 20);

/// A NIfTI-1 file of floats with these sizes and steps; the values are given by their place in the first two axes.
fn write(path: &Path, shape: &[i16], steps: &[f32], value: impl Fn(i32, i32) -> f32) {
    let mut bytes = vec![0u8; 352];
    bytes[..4].copy_from_slice(&348i32.to_le_bytes());
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(40, &(shape.len() as i16).to_le_bytes());
    for axis in 0..7 {
        let size = shape.get(axis).copied().unwrap_or(1);
        put(42 + 2 * axis, &size.to_le_bytes());
    }
    put(70, &16i16.to_le_bytes());
    put(72, &32i16.to_le_bytes());
    for (axis, step) in std::iter::once(&1f32).chain(steps).enumerate() {
        put(76 + 4 * axis, &step.to_le_bytes());
    }
    put(108, &352f32.to_le_bytes());
    put(344, b"n+1\0");
    for y in 0..SIZE.1 as i32 {
        for x in 0..SIZE.0 as i32 {
            bytes.extend(value(x, y).to_le_bytes());
        }
    }
    fs::write(path, bytes).unwrap();
}

fn metrics(options: &[&str], files: &[&PathBuf]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fndm"))
        .arg("metrics")
        .args(options)
        .args(["--format", "json"])
        .args(files)
        .output()
        .unwrap()
}

fn disc(x0: i32, y0: i32, squared: i32) -> impl Fn(i32, i32) -> f32 {
    move |x, y| f32::from(u8::from((x - x0).pow(2) + (y - y0).pow(2) <= squared))
}

/// Numbers of medpy 0.5.2 and surface-distance on the arrays as nibabel reads them.
const FLAT: [(&str, f64); 6] = [
    ("dice", 0.408_450_704_225_352_1),
    ("hausdorff", 6.082_762_530_298_219),
    ("hd95", 5.656_854_249_492_381),
    ("hd95_surface_distance", 6.0),
    ("assd", 3.780_291_119_136_548_3),
    ("surface_dice", 0.045_351_793_300_310_65),
];
const VOLUME: [(&str, f64); 6] = [
    ("dice", 0.408_450_704_225_352_1),
    ("hausdorff", 6.082_762_530_298_219),
    ("hd95", 4.973_606_797_749_973),
    ("hd95_surface_distance", 4.472_135_954_999_58),
    ("assd", 1.730_746_260_374_793),
    ("surface_dice", 0.610_109_288_501_107_6),
];

fn check(output: &Output, expected: &[(&str, f64)]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (key, number) in expected {
        let found = table["rows"][0][key].as_f64().unwrap();
        assert!((found - number).abs() < 1e-9, "{key}: {found} not {number}");
    }
}

#[test]
fn masks_of_two_axes_are_judged_in_two_dimensions() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (result, reference) = (file("a.nii"), file("b.nii"));
    let shape = [SIZE.0 as i16, SIZE.1 as i16];
    write(&result, &shape, &[1.0, 2.0], disc(11, 9, 9));
    write(&reference, &shape, &[1.0, 2.0], disc(10, 9, 36));
    check(&metrics(&[], &[&result, &reference]), &FLAT);

    // A volume of one slice is a volume, and is told to be one; --flat sees the slice.
    let (one, other) = (file("c.nii"), file("d.nii"));
    let shape = [SIZE.0 as i16, SIZE.1 as i16, 1];
    write(&one, &shape, &[1.0, 2.0, 1.0], disc(11, 9, 9));
    write(&other, &shape, &[1.0, 2.0, 1.0], disc(10, 9, 36));
    let output = metrics(&[], &[&one, &other]);
    check(&output, &VOLUME);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("one slice") && told.contains("--flat"),
        "{told}"
    );
    check(&metrics(&["--flat"], &[&one, &other]), &FLAT);

    // One of each doesn't fit together.
    let output = metrics(&[], &[&result, &other]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("[24, 20, 1]"),
        "{told}"
    );
    check(&metrics(&["--flat"], &[&result, &other]), &FLAT);
}

#[test]
fn nan_in_a_mask_is_an_error_that_names_the_voxel() {
    let folder = tempfile::tempdir().unwrap();
    let (result, reference) = (folder.path().join("a.nii"), folder.path().join("b.nii"));
    let shape = [SIZE.0 as i16, SIZE.1 as i16];
    let hole = |x, y| {
        if (x, y) == (3, 7) {
            f32::NAN
        } else {
            disc(11, 9, 9)(x, y)
        }
    };
    write(&result, &shape, &[1.0, 2.0], hole);
    write(&reference, &shape, &[1.0, 2.0], disc(10, 9, 36));
    let output = metrics(&[], &[&result, &reference]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{told}");
    assert!(
        told.contains("a.nii") && told.contains("NaN at voxel (3, 7, 0)"),
        "{told}"
    );
}
