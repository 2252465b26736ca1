//! Every case of the golden NIfTI files, written and read by nibabel.

use std::path::{Path, PathBuf};

use fndm_data::affine::{Orientation, Reorder};
use fndm_data::nifti::{self, Element};
use fndm_data::{Error, Limits};
use ndarray::{ArrayD, ArrayView3};
use safetensors::SafeTensors;
use serde_json::Value;

/// The golden folder; the small one in the crate where the whole one is not there.
fn golden() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = std::env::var_os("FNDM_GOLDEN")
        .map_or_else(|| here.join("../../../shared/golden"), PathBuf::from);
    if root.join("nifti/manifest.json").is_file() {
        root.join("nifti")
    } else {
        println!("{} is not there: the small set is used", root.display());
        here.join("tests/golden/nifti")
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

fn letters(value: &Value) -> Vec<String> {
    let letter = |v: &Value| v.as_str().unwrap().to_string();
    value.as_array().unwrap().iter().map(letter).collect()
}

fn f64s(tensors: &SafeTensors<'_>, name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
    let view = tensors.tensor(name).ok()?;
    let bytes = view.data();
    let values = match view.dtype() {
        safetensors::Dtype::F64 => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect(),
        safetensors::Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f64::from(f32::from_le_bytes(*b)))
            .collect(),
        other => panic!("{name}: {other:?}"),
    };
    Some((view.shape().to_vec(), values))
}

/// Largest error, relative above 1; NaN and infinity must match exactly.
fn worst(got: impl Iterator<Item = f64>, expected: &[f64]) -> f64 {
    let mut count = 0;
    let worst = got.zip(expected).fold(0.0f64, |worst, (a, &b)| {
        count += 1;
        if a == b || (a.is_nan() && b.is_nan()) {
            return worst;
        }
        let error = (a - b).abs() / b.abs().max(1.0);
        if error.is_finite() {
            worst.max(error)
        } else {
            f64::INFINITY
        }
    });
    assert_eq!(count, expected.len());
    worst
}

fn array_error<T: Element + Into<f64>>(
    array: &ArrayD<T>,
    expected: &(Vec<usize>, Vec<f64>),
) -> f64 {
    assert_eq!(array.shape(), expected.0);
    worst(array.iter().map(|v| (*v).into()), &expected.1)
}

fn matrix(values: &[f64]) -> [[f64; 4]; 4] {
    std::array::from_fn(|r| std::array::from_fn(|c| values[4 * r + c]))
}

#[test]
fn every_case_is_read_as_nibabel_reads_it() {
    let folder = golden();
    let manifest = json(&folder.join("manifest.json"));
    let limits = Limits::default();
    let (mut data_error, mut place_error) = (0.0f64, 0.0f64);
    let mut read = 0;
    for case in manifest["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let path = folder.join(case["file"].as_str().unwrap());
        let image = nifti::read_image::<f64>(&path, &limits);
        if case["class"].as_str().unwrap().contains("Analyze") {
            // No magic string: another format, refused as such.
            assert!(
                matches!(image, Err(Error::NotNifti { .. })),
                "{name}: {image:?}"
            );
            continue;
        }
        let image = image.unwrap_or_else(|e| panic!("{name}: {e}"));
        let bytes = std::fs::read(folder.join(case["expected"].as_str().unwrap())).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let header = &image.header;
        assert_eq!(header.big_endian, case["endianness"] == "big", "{name}");
        assert_eq!(
            i64::from(header.datatype.code()),
            case["datatype_code"].as_i64().unwrap()
        );
        assert_eq!(
            i64::from(header.qform_code),
            case["qform_code"].as_i64().unwrap()
        );
        assert_eq!(
            i64::from(header.sform_code),
            case["sform_code"].as_i64().unwrap()
        );
        assert_eq!(
            i64::from(header.intent_code),
            case["intent_code"].as_i64().unwrap()
        );
        assert_eq!(
            header.vox_offset,
            case["file_vox_offset"].as_u64().unwrap(),
            "{name}"
        );
        let used = case["slope_inter_as_used"].as_array().unwrap();
        match (used[0].as_f64(), header.scaling()) {
            (Some(slope), found) => {
                // nibabel gives (1, 0) for "no scaling" in some cases and none in others.
                let found = found.unwrap_or((1.0, 0.0));
                assert_eq!(found, (slope, used[1].as_f64().unwrap()), "{name}");
            }
            (None, found) => assert_eq!(found, None, "{name}"),
        }
        assert!(
            worst(header.zooms().into_iter(), &floats(&case["zooms"])) < 1e-12,
            "{name}"
        );

        let whole = f64s(&expected, "data_f64").unwrap();
        data_error = data_error.max(array_error(&image.data, &whole));
        let single = nifti::read_image::<f32>(&path, &limits).unwrap();
        let whole = f64s(&expected, "data_f32").unwrap();
        let error = array_error(&single.data, &whole);
        assert!(error < 1e-6, "{name}: f32 {error:e}");

        let affine = header.affine().unwrap();
        let wanted = f64s(&expected, "affine").unwrap().1;
        let error = worst(affine.iter().flatten().copied(), &wanted);
        assert!(error < 1e-12, "{name}: affine {error:e}");
        place_error = place_error.max(error);
        for (key, found) in [
            ("sform", Some(header.sform_affine())),
            ("qform", header.qform_affine()),
            ("base_affine", Some(header.base_affine())),
        ] {
            if let Some((_, wanted)) = f64s(&expected, key) {
                let error = worst(found.unwrap().iter().flatten().copied(), &wanted);
                assert!(error < 1e-12, "{name}: {key} {error:e}");
            }
        }
        let axes = image.data.ndim().min(3);
        let codes = Orientation::of(&affine).codes();
        let codes: Vec<String> = codes[..axes].iter().map(char::to_string).collect();
        let wanted = letters(&case["axcodes"]);
        assert_eq!(codes, wanted[..axes], "{name}");

        if let (Some(wanted), 3) = (f64s(&expected, "ras_data_f64"), image.data.ndim()) {
            let reorder = Reorder::new(&affine, ['R', 'A', 'S']).unwrap();
            let view: ArrayView3<'_, f64> = image.data.view().into_dimensionality().unwrap();
            let shape = [view.dim().0, view.dim().1, view.dim().2];
            let turned = reorder.view(view);
            assert_eq!(turned.shape(), wanted.0);
            assert!(
                worst(turned.iter().copied(), &wanted.1) < 1e-12,
                "{name}: RAS data"
            );
            let place = reorder.affine(&affine, shape);
            let wanted = f64s(&expected, "ras_affine").unwrap().1;
            let error = worst(place.iter().flatten().copied(), &wanted);
            assert!(error < 1e-12, "{name}: RAS affine {error:e}");
            assert_eq!(Orientation::of(&matrix(&wanted)).codes(), ['R', 'A', 'S']);
        }
        read += 1;
    }
    println!("{read} cases; worst error of data {data_error:e}, of affines {place_error:e}");
    assert!(data_error < 1e-12, "{data_error:e}");
}

/// What each broken file must give. Files that are not listed must be an error, of any kind.
#[test]
fn every_broken_file_is_an_error_of_the_right_kind() {
    let folder = golden();
    let list = json(&folder.join("bad.json"));
    let limits = Limits::default();
    for entry in list["files"].as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let name = Path::new(file).file_name().unwrap().to_str().unwrap();
        let found = nifti::read_image::<f32>(folder.join(file), &limits);
        // The content decides whether a file is packed, not its name.
        if name == "gz_named_plain.nii" || name == "plain_named_gz.nii.gz" {
            assert!(found.is_ok(), "{name}: {found:?}");
            continue;
        }
        let error = match found {
            Err(error) => error,
            Ok(image) => panic!("{name}: read as {:?}", image.data.shape()),
        };
        println!("{name}: {error}");
        let right = match name.split('.').next().unwrap() {
            "datatype_complex64" | "datatype_rgb24" | "datatype_unknown" | "datatype_zero" => {
                matches!(error, Error::Unsupported { .. })
            }
            "dims_100GB" | "dims_overflow" => matches!(error, Error::Limit { .. }),
            "dims_negative" | "dims_zero" | "ndim_8" | "ndim_negative" | "ndim_zero" => {
                matches!(error, Error::InvalidHeader { .. })
            }
            "magic_spaces" | "wrong_magic" | "text" => matches!(error, Error::NotNifti { .. }),
            "empty" | "truncated_data" | "truncated_header" | "vox_offset_past_end" => {
                matches!(error, Error::Truncated { .. })
            }
            "truncated_gz" => matches!(error, Error::Gzip { .. } | Error::Truncated { .. }),
            _ => true,
        };
        assert!(right, "{name}: {error:?}");
        assert!(
            error.to_string().contains(name),
            "the file is named: {error}"
        );
    }
}
