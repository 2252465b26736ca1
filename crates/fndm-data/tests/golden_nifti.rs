//! Every case of the golden NIfTI files, written and read by nibabel.
//!
//! Other sets of the same format may stand in `FNDM_GOLDEN`. Every key of a case is used; a case with a key that
//! is not known here is left out, and said aloud.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fndm_data::affine::{self, Orientation, Reorder};
use fndm_data::nifti::{self, DataType, Element, Header, Image, Version};
use fndm_data::{Error, Limits};
use ndarray::{ArrayD, Axis};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The golden folder; the small one in the crate where the whole one is not there.
fn golden() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = std::env::var_os("FNDM_GOLDEN")
        .map_or_else(|| here.join("../../../shared/golden"), PathBuf::from);
    if root.join("nifti/manifest.json").is_file() {
        root.join("nifti")
    } else {
        eprintln!("{} is not there: the small set is used", root.display());
        here.join("tests/golden/nifti")
    }
}

/// A case of the manifest. It keeps account of the keys that were looked at.
struct Case<'a> {
    value: &'a Value,
    used: BTreeSet<&'static str>,
}

impl Case<'_> {
    fn get(&mut self, key: &'static str) -> &Value {
        self.used.insert(key);
        &self.value[key]
    }

    fn text(&mut self, key: &'static str) -> &str {
        self.get(key).as_str().unwrap()
    }

    fn number(&mut self, key: &'static str) -> f64 {
        number(self.get(key))
    }

    fn has(&mut self, key: &'static str) -> bool {
        !self.get(key).is_null()
    }

    fn left_over(&self) -> Vec<&str> {
        let keys = self.value.as_object().unwrap().keys();
        keys.map(String::as_str)
            .filter(|key| !self.used.contains(key))
            .collect()
    }
}

/// The keys of a case that the tests use.
const KNOWN: [&str; 33] = [
    "name",
    "file",
    "note",
    "warnings",
    "raises",
    "class",
    "endianness",
    "shape",
    "datatype_code",
    "bitpix",
    "on_disk_dtype",
    "dim",
    "pixdim",
    "zooms",
    "axcodes",
    "expected",
    "magic",
    "scl_slope_field",
    "scl_inter_field",
    "pixdim_in_file",
    "slope_inter_as_used",
    "header_vox_offset",
    "file_vox_offset",
    "qform_code",
    "sform_code",
    "xyzt_units",
    "intent_code",
    "n_extensions",
    "ras_axcodes",
    "ras_shape",
    "ras_zooms",
    "patched_header_fields",
    "ras_error",
];

/// A number, also one that JSON has no sign for.
fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => text.parse().unwrap(),
        Value::Null => f64::NAN,
        other => other.as_f64().unwrap(),
    }
}

/// A list of numbers; a number by itself is a list of one.
fn floats(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().map(number).collect(),
        one => vec![number(one)],
    }
}

fn sizes(value: &Value) -> Vec<usize> {
    floats(value).into_iter().map(|v| v as usize).collect()
}

fn letters(value: &Value) -> Vec<String> {
    let letter = |v: &Value| v.as_str().unwrap().to_string();
    value.as_array().unwrap().iter().map(letter).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The numbers of little-endian bytes.
macro_rules! numbers {
    ($bytes:expr, $type:ty) => {
        $bytes
            .as_chunks::<{ size_of::<$type>() }>()
            .0
            .iter()
            .map(|b| <$type>::from_le_bytes(*b) as f64)
            .collect()
    };
}

#[allow(clippy::cast_lossless, reason = "one text for all types")]
fn f64s(tensors: &SafeTensors<'_>, name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
    let view = tensors.tensor(name).ok()?;
    let bytes = view.data();
    let values = match view.dtype() {
        Dtype::F64 => numbers!(bytes, f64),
        Dtype::F32 => numbers!(bytes, f32),
        Dtype::U8 => numbers!(bytes, u8),
        Dtype::I8 => numbers!(bytes, i8),
        Dtype::U16 => numbers!(bytes, u16),
        Dtype::I16 => numbers!(bytes, i16),
        Dtype::U32 => numbers!(bytes, u32),
        Dtype::I32 => numbers!(bytes, i32),
        Dtype::U64 => numbers!(bytes, u64),
        Dtype::I64 => numbers!(bytes, i64),
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

/// nibabel's names of the units, as `xyzt_units` has them.
fn unit_code(names: &[String]) -> i32 {
    let code = |name: &str| match name {
        "unknown" => 0,
        "meter" => 1,
        "mm" => 2,
        "micron" => 3,
        "sec" => 8,
        "msec" => 16,
        "usec" => 24,
        "hz" => 32,
        "ppm" => 40,
        "rads" => 48,
        other => panic!("unit {other}"),
    };
    names.iter().map(|name| code(name)).sum()
}

/// numpy's name of a type.
fn type_name(datatype: DataType) -> String {
    let text = format!("{datatype:?}");
    let (kind, bits) = text.split_at(1);
    let kind = match kind {
        "U" => "uint",
        "I" => "int",
        _ => "float",
    };
    format!("{kind}{bits}")
}

/// The fields of the header against those that nibabel read from the file, and those that it uses.
fn check_header(name: &str, case: &mut Case<'_>, header: &Header) {
    let (version, pair) = match case.text("class") {
        "Nifti1Image" => (Version::One, false),
        "Nifti1Pair" => (Version::One, true),
        "Nifti2Image" => (Version::Two, false),
        "Nifti2Pair" => (Version::Two, true),
        other => panic!("{name}: class {other}"),
    };
    assert_eq!((header.version, header.pair), (version, pair), "{name}");
    let magic = case.text("magic").to_string();
    assert_eq!(magic.starts_with("ni"), pair, "{name}");
    assert_eq!(magic.contains('2'), version == Version::Two, "{name}");
    assert_eq!(
        header.big_endian,
        case.text("endianness") == "big",
        "{name}"
    );
    let code = f64::from(header.datatype.code());
    assert_eq!(code, case.number("datatype_code"), "{name}");
    let bits = 8 * header.datatype.size();
    assert_eq!(bits as f64, case.number("bitpix"), "{name}");
    assert_eq!(
        type_name(header.datatype),
        case.text("on_disk_dtype"),
        "{name}"
    );
    let mut dim = vec![header.shape.len()];
    dim.extend(&header.shape);
    dim.resize(8, 1);
    let mut wanted = sizes(case.get("dim"));
    // Behind the last axis a file may have anything.
    wanted[header.shape.len() + 1..].fill(1);
    assert_eq!(dim, wanted, "{name}");
    // Decimal numbers are read to within one place of 64 bits.
    let error = worst(
        header.pixdim.into_iter(),
        &floats(case.get("pixdim_in_file")),
    );
    assert!(error < 1e-12, "{name}: pixdim {error:e}");
    // As nibabel uses them: the sign of the quaternion's axis is -1 or 1, steps are positive.
    let used = floats(case.get("pixdim"));
    let sign = if header.pixdim[0] == -1.0 { -1.0 } else { 1.0 };
    assert_eq!(sign, used[0], "{name}");
    let error = worst(header.zooms().into_iter(), &used[1..=header.shape.len()]);
    assert!(error < 1e-12, "{name}: steps {error:e}");
    assert!(
        worst(header.zooms().into_iter(), &floats(case.get("zooms"))) < 1e-12,
        "{name}"
    );
    for (key, field) in [
        ("scl_slope_field", header.scl_slope),
        ("scl_inter_field", header.scl_inter),
        ("qform_code", f64::from(header.qform_code)),
        ("sform_code", f64::from(header.sform_code)),
        ("intent_code", f64::from(header.intent_code)),
        ("header_vox_offset", header.vox_offset as f64),
        ("file_vox_offset", header.vox_offset as f64),
    ] {
        let wanted = case.number(key);
        // An offset of half a byte is cut.
        let wanted = if key.ends_with("offset") {
            wanted.floor()
        } else {
            wanted
        };
        let error = worst(std::iter::once(field), &[wanted]);
        assert!(error < 1e-12, "{name}: {key}: {field} and {wanted}");
    }
    assert_eq!(
        header.xyzt_units,
        unit_code(&letters(case.get("xyzt_units"))),
        "{name}"
    );
    // Extensions lie before the voxels, and are passed over.
    assert!(
        case.number("n_extensions") == 0.0 || header.pair || header.vox_offset > 352,
        "{name}"
    );
    let used = case.get("slope_inter_as_used").as_array().unwrap();
    match (used[0].as_f64(), header.scaling()) {
        (Some(slope), found) => {
            // nibabel gives (1, 0) for "no scaling" in some cases and none in others.
            let found = found.unwrap_or((1.0, 0.0));
            let wanted = [slope, used[1].as_f64().unwrap()];
            let error = worst([found.0, found.1].into_iter(), &wanted);
            assert!(error < 1e-12, "{name}: {found:?} and {wanted:?}");
        }
        (None, found) => assert_eq!(found, None, "{name}"),
    }
    if case.has("patched_header_fields") {
        for (field, value) in case.get("patched_header_fields").as_object().unwrap() {
            let found = match field.as_str() {
                "scl_slope" => header.scl_slope,
                "scl_inter" => header.scl_inter,
                "pixdim[0]" => header.pixdim[0],
                other => panic!("{name}: {other} was changed, which is not looked at here"),
            };
            let value = number(value);
            let near = (found - value).abs() <= 1e-7 * value.abs();
            assert!(
                near || (found.is_nan() && value.is_nan()) || found == value,
                "{name}: {field}"
            );
        }
    }
}

/// Values as `f64` and `f32`, from what is stored and from the file. The worst error of the first.
fn check_values(
    name: &str,
    image: &Image<f64>,
    single: &Image<f32>,
    expected: &SafeTensors<'_>,
) -> f64 {
    let whole = f64s(expected, "data_f64").unwrap();
    let error = array_error(&image.data, &whole);
    let (_, raw) = f64s(expected, "raw").unwrap();
    let (slope, inter) = image.header.scaling().unwrap_or((1.0, 0.0));
    let scaled = raw.iter().map(|v| v * slope + inter);
    let of_raw = worst(scaled, &whole.1);
    assert!(of_raw < 1e-12, "{name}: scaling {of_raw:e}");
    let of_single = array_error(&single.data, &f64s(expected, "data_f32").unwrap());
    assert!(of_single < 1e-6, "{name}: f32 {of_single:e}");
    error
}

/// The place, the orientation, and the data turned to RAS. The worst error of the affine.
fn check_place(
    name: &str,
    case: &mut Case<'_>,
    image: &Image<f64>,
    expected: &SafeTensors<'_>,
) -> f64 {
    let header = &image.header;
    let matrix_in_use = header.affine().unwrap();
    let wanted = f64s(expected, "affine").unwrap().1;
    let place_error = worst(matrix_in_use.iter().flatten().copied(), &wanted);
    assert!(place_error < 1e-12, "{name}: affine {place_error:e}");
    for (key, found) in [
        ("sform", Some(header.sform_affine())),
        ("qform", header.qform_affine()),
        ("base_affine", Some(header.base_affine())),
    ] {
        if let Some((_, wanted)) = f64s(expected, key) {
            let error = worst(found.unwrap().iter().flatten().copied(), &wanted);
            assert!(error < 1e-12, "{name}: {key} {error:e}");
        }
    }
    let axes = image.data.ndim().min(3);
    let orientation = Orientation::of(&matrix_in_use);
    let codes = orientation.codes().map(|code| code.to_string());
    assert_eq!(
        codes[..axes],
        letters(case.get("axcodes"))[..axes],
        "{name}"
    );
    if let Some((_, wanted)) = f64s(expected, "orientation") {
        for (found, wanted) in orientation.axes.iter().zip(wanted.as_chunks::<2>().0) {
            let flip = if found.1 { -1.0 } else { 1.0 };
            assert_eq!([found.0 as f64, flip], *wanted, "{name}");
        }
    }

    if case.has("ras_error") {
        // nibabel can't turn fewer than three axes. Ours are given the missing ones by `nifti::read`.
        assert!(image.data.ndim() < 3, "{name}: {}", case.text("ras_error"));
        return place_error;
    }
    let reorder = Reorder::new(&matrix_in_use, ['R', 'A', 'S']).unwrap();
    let order: Vec<usize> = (0..image.data.ndim())
        .map(|axis| reorder.from.get(axis).copied().unwrap_or(axis))
        .collect();
    let mut turned = image.data.view().permuted_axes(order.clone());
    for axis in (0..3).filter(|&axis| reorder.flipped[axis]) {
        turned.invert_axis(Axis(axis));
    }
    if let Ok(three) = image.data.view().into_dimensionality::<ndarray::Ix3>() {
        let ours = reorder.view(three);
        let all: Vec<f64> = turned.iter().copied().collect();
        assert_eq!(worst(ours.iter().copied(), &all), 0.0, "{name}");
    }
    let wanted = f64s(expected, "ras_data_f64").unwrap();
    assert_eq!(turned.shape(), wanted.0, "{name}");
    assert_eq!(turned.shape(), sizes(case.get("ras_shape")), "{name}");
    let error = worst(turned.iter().copied(), &wanted.1);
    assert!(error < 1e-12, "{name}: RAS data {error:e}");
    // Turning the axes, nibabel takes the steps anew from the affine, and stores them in 32 bits.
    let mut zooms = header.zooms();
    let unchanged = reorder.from == [0, 1, 2] && reorder.flipped == [false; 3];
    if !unchanged {
        let of_affine = affine::spacing(&matrix_in_use);
        zooms[..3].copy_from_slice(&of_affine);
    }
    let zooms = order.iter().map(|&axis| zooms[axis]);
    let error = worst(zooms, &floats(case.get("ras_zooms")));
    let stored = f64::from(f32::EPSILON);
    assert!(error <= stored, "{name}: RAS steps {error:e}");
    let shape = [0, 1, 2].map(|axis| image.data.shape()[axis]);
    let place = reorder.affine(&matrix_in_use, shape);
    let wanted = f64s(expected, "ras_affine").unwrap().1;
    let error = worst(place.iter().flatten().copied(), &wanted);
    assert!(error < 1e-12, "{name}: RAS affine {error:e}");
    let codes = Orientation::of(&matrix(&wanted)).codes();
    let codes = codes.map(|code| code.to_string());
    assert_eq!(codes.as_slice(), letters(case.get("ras_axcodes")), "{name}");
    place_error
}

#[test]
fn every_case_is_read_as_nibabel_reads_it() {
    let folder = golden();
    let manifest = json(&folder.join("manifest.json"));
    let limits = Limits::default();
    let (mut data_error, mut place_error) = (0.0f64, 0.0f64);
    let (mut read, mut refused, mut left_out) = (0, 0, 0);
    for value in manifest["cases"].as_array().unwrap() {
        let name = value["name"].as_str().unwrap();
        let mut case = Case {
            value,
            // What the case is for, in words, and what nibabel warned of.
            used: BTreeSet::from(["name", "note", "warnings"]),
        };
        let keys = value.as_object().unwrap().keys();
        let unknown: Vec<&String> = keys.filter(|key| !KNOWN.contains(&key.as_str())).collect();
        if !unknown.is_empty() {
            eprintln!("left out {name}: keys that are not known here: {unknown:?}");
            left_out += 1;
            continue;
        }
        let path = folder.join(case.text("file"));
        let image = nifti::read_image::<f64>(&path, &limits);
        if case.has("raises") {
            let raises = case.get("raises").to_string();
            assert!(
                image.is_err(),
                "{name}: read, where nibabel raises {raises}"
            );
            refused += 1;
            continue;
        }
        let class = case.text("class").to_string();
        if !class.starts_with("Nifti") {
            // No magic string: another format, refused as such.
            assert!(
                matches!(image, Err(Error::NotNifti { .. })),
                "{name}: {image:?}"
            );
            refused += 1;
            continue;
        }
        // Complex numbers, colours, and floats of 128 bits.
        if [32, 128, 1536, 1792, 2048, 2304].contains(&(case.number("datatype_code") as i64)) {
            assert!(
                matches!(image, Err(Error::Unsupported { .. })),
                "{name}: {image:?}"
            );
            refused += 1;
            continue;
        }
        let image = image.unwrap_or_else(|e| panic!("{name}: {e}"));
        let bytes = std::fs::read(folder.join(case.text("expected"))).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(image.data.shape(), sizes(case.get("shape")), "{name}");
        check_header(name, &mut case, &image.header);
        let single = nifti::read_image::<f32>(&path, &limits).unwrap();
        data_error = data_error.max(check_values(name, &image, &single, &expected));
        place_error = place_error.max(check_place(name, &mut case, &image, &expected));
        assert!(
            case.left_over().is_empty(),
            "{name}: {:?}",
            case.left_over()
        );
        read += 1;
    }
    eprintln!(
        "{read} cases read, {refused} refused as they must be, {left_out} left out; worst error of data \
         {data_error:e}, of affines {place_error:e}"
    );
    assert!(read > 0 && data_error < 1e-12, "{data_error:e}");
}

/// What each broken file must give. Of a file that is not listed by name here, ours may read no more than nibabel.
#[test]
fn every_broken_file_is_an_error_of_the_right_kind() {
    let folder = golden();
    let list = json(&folder.join("bad.json"));
    let limits = Limits::default();
    for entry in list["files"].as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let path = folder.join(file);
        let name = path.file_name().unwrap().to_str().unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        assert_eq!(Some(size), entry["size"].as_u64(), "{name}");
        let found = nifti::read_image::<f32>(&path, &limits);
        // The content decides whether a file is packed, not its name.
        if name == "gz_named_plain.nii" || name == "plain_named_gz.nii.gz" {
            assert!(found.is_ok(), "{name}: {found:?}");
            continue;
        }
        let stem = name.split('.').next().unwrap();
        let error = match found {
            Err(error) => error,
            Ok(image) => {
                let wrong = &entry["what_is_wrong"];
                assert_eq!(kind(stem), None, "{name}: read, with {wrong}");
                let peer = &entry["nibabel"];
                assert_eq!(
                    peer["get_fdata"], "ok",
                    "{name}: {wrong}: nibabel refuses it"
                );
                assert_eq!(image.data.shape(), sizes(&peer["data_shape"]), "{name}");
                eprintln!("{name}: read, as nibabel does, with {wrong}");
                continue;
            }
        };
        let told = std::error::Error::source(&error).map_or(String::new(), |e| format!(": {e}"));
        println!("{name}: {error}{told}");
        let right = match kind(stem) {
            Some(Kind::Unsupported) => matches!(error, Error::Unsupported { .. }),
            Some(Kind::Limit) => matches!(error, Error::Limit { .. }),
            Some(Kind::Header) => matches!(error, Error::InvalidHeader { .. }),
            Some(Kind::NotNifti) => matches!(error, Error::NotNifti { .. }),
            Some(Kind::Truncated) => matches!(error, Error::Truncated { .. }),
            Some(Kind::Gzip) => matches!(error, Error::Gzip { .. } | Error::Truncated { .. }),
            None => true,
        };
        assert!(right, "{name}: {error:?}");
        assert!(
            error.to_string().contains(name),
            "the file is named: {error}"
        );
    }
}

/// Kinds of errors.
#[derive(Debug, PartialEq)]
enum Kind {
    Unsupported,
    Limit,
    Header,
    NotNifti,
    Truncated,
    Gzip,
}

/// What a broken file must give, by its name.
fn kind(stem: &str) -> Option<Kind> {
    Some(match stem {
        "datatype_complex64" | "datatype_rgb24" | "datatype_unknown" | "datatype_zero" => {
            Kind::Unsupported
        }
        "dims_100GB" | "dims_overflow" => Kind::Limit,
        "dims_negative" | "dims_zero" | "ndim_8" | "ndim_negative" | "ndim_zero" => Kind::Header,
        "magic_spaces" | "wrong_magic" | "text" => Kind::NotNifti,
        "empty" | "truncated_data" | "truncated_header" | "vox_offset_past_end" => Kind::Truncated,
        "truncated_gz" => Kind::Gzip,
        _ => return None,
    })
}
