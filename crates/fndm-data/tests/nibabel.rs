//! Files written here, opened by nibabel: the same affine, type and values.

use std::path::Path;

use fndm_data::nifti::{self, DataType};
use fndm_data::{Limits, Volume, affine};
use ndarray::Array3;
use serde_json::{Value, json};

#[path = "python/mod.rs"]
mod python;

const TYPES: [(DataType, &str); 10] = [
    (DataType::U8, "uint8"),
    (DataType::I8, "int8"),
    (DataType::U16, "uint16"),
    (DataType::I16, "int16"),
    (DataType::U32, "uint32"),
    (DataType::I32, "int32"),
    (DataType::U64, "uint64"),
    (DataType::I64, "int64"),
    (DataType::F32, "float32"),
    (DataType::F64, "float64"),
];

/// Writes a volume and what nibabel should find.
fn case(folder: &Path, name: &str, volume: &Volume, kind: (DataType, &str)) -> Value {
    let file = folder.join(name);
    nifti::write(&file, volume, kind.0).unwrap();
    let values = folder.join(format!("{name}.f32"));
    // First axis fastest.
    let bytes: Vec<u8> = volume
        .data
        .t()
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    std::fs::write(&values, bytes).unwrap();
    let description = volume.header.as_ref().map_or(String::new(), |h| {
        let text = String::from_utf8_lossy(&h.description).into_owned();
        text.trim_end_matches('\0').to_string()
    });
    json!({
        "file": file, "values": values, "shape": volume.shape(), "affine": volume.affine,
        "dtype": kind.1, "description": description,
    })
}

fn made(shape: (usize, usize, usize), matrix: affine::Affine) -> Volume {
    let value = |(i, j, k): (usize, usize, usize)| ((i * 7 + j * 31 + k * 3) % 128) as f32;
    Volume::new(Array3::from_shape_fn(shape, value), matrix)
}

/// Numbers that 32 bits hold exactly.
fn turned() -> affine::Affine {
    [
        [-0.5, 1.25, 0.125, 90.0],
        [1.5, 0.75, -0.25, -126.5],
        [0.25, -0.5, 3.0, -72.25],
        [0.0, 0.0, 0.0, 1.0],
    ]
}

#[test]
fn nibabel_reads_what_is_written() {
    let Some(python) = python::with("nibabel") else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    let mut cases = Vec::new();
    for (n, kind) in TYPES.into_iter().enumerate() {
        let suffix = if n % 2 == 0 { "nii.gz" } else { "nii" };
        let volume = made((4 + n, 5, 6), turned());
        cases.push(case(folder, &format!("{}.{suffix}", kind.1), &volume, kind));
    }
    let float = TYPES[8];
    let mut special = made((3, 2, 2), affine::diagonal([1.0, 2.0, 3.0]));
    special.data[(0, 0, 0)] = f32::NAN;
    special.data[(1, 0, 0)] = f32::INFINITY;
    special.data[(2, 0, 0)] = -1.5e-42;
    cases.push(case(folder, "special.nii.gz", &special, float));
    // An axis beyond NIfTI-1, and numbers beyond its precision.
    let mut long = made((40_000, 1, 2), affine::diagonal([0.1, 1.0 / 3.0, 2.0]));
    cases.push(case(folder, "nifti2.nii.gz", &long, float));
    long.affine[0][3] = 1e-17;
    cases.push(case(folder, "nifti2.nii", &long, float));
    // The first axis in memory is the last in the file's order, and turned round.
    let view = made((6, 5, 4), turned());
    let mut other = view.clone();
    other.data = view.data.clone().reversed_axes();
    other.data.invert_axis(ndarray::Axis(1));
    cases.push(case(folder, "strides.nii.gz", &other, TYPES[3]));

    // Headers of files that nibabel wrote: by matrix, by quaternion, by neither, both formats and orders.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nifti/files");
    for name in [
        "qform_only.nii",
        "qfac_minus.nii",
        "both_differ.nii",
        "neither.nii",
        "oblique_1.nii",
        "sheared_0.nii",
        "ornt_PIR.nii",
        "be_int16.nii",
        "scl_i16.nii",
        "n2.nii",
        "n2_be.nii",
        "n2_pair.hdr",
        "pair_gz.hdr.gz",
        "vox_offset_1024.nii",
    ] {
        let volume = nifti::read(golden.join(name), &Limits::default()).unwrap();
        let stem = name.split('.').next().unwrap();
        cases.push(case(folder, &format!("{stem}.nii.gz"), &volume, float));
        // Turned to canonical axes: the header is gone, and the matrix is another.
        let canonical = affine::reorient(&volume, ['R', 'A', 'S']).unwrap();
        let exact = canonical
            .affine
            .iter()
            .flatten()
            .all(|v| f64::from(*v as f32) == *v);
        if exact {
            cases.push(case(folder, &format!("{stem}_ras.nii"), &canonical, float));
        }
    }
    let json = folder.join("expected.json");
    std::fs::write(&json, serde_json::to_string(&cases).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/nibabel.py");
    python::run(&python, &[script.as_os_str(), json.as_os_str()]);
}
