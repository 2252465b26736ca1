//! Every case of the reference data against the library that the definition names.

use fndm_metrics::{
    BorderDistances, Confusion, Connectivity, Definition, Error, Score, SurfelDistances, Undefined,
    VoxelDistances, auroc, average_precision, average_symmetric_surface_distance, best_dice,
    hausdorff, otsu_integer, otsu_with_bins, percentile_hausdorff, surface_dice,
};
use ndarray::{ArrayD, IxDyn};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::path::{Path, PathBuf};

const TOLERANCE: f64 = 1e-9;

/// The folder of reference data: `FNDM_GOLDEN`, the one beside the repository, or the copy in it.
fn folder() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = std::env::var_os("FNDM_GOLDEN")
        .map_or_else(|| here.join("../../../shared/golden"), PathBuf::from);
    let outside = root.join("metrics");
    if outside.join("manifest.json").exists() {
        outside
    } else {
        println!(
            "skipped: {}; using the copy in tests/golden",
            outside.display()
        );
        here.join("tests/golden")
    }
}

fn manifest(section: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    manifest[section].as_array().unwrap().clone()
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

fn masks(file: &SafeTensors<'_>, case: &Value) -> (ArrayD<bool>, ArrayD<bool>) {
    let id = case["id"].as_str().unwrap();
    let load = |side: &str| {
        let tensor = file.tensor(&format!("{id}.{side}")).unwrap();
        let voxels = tensor.data().iter().map(|&v| v != 0).collect();
        ArrayD::from_shape_vec(IxDyn(tensor.shape()), voxels).unwrap()
    };
    (load("result"), load("reference"))
}

/// A number of the manifest, where "nan" and "inf" are strings.
fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) if text == "nan" => f64::NAN,
        Value::String(text) if text == "inf" => f64::INFINITY,
        Value::String(text) if text == "-inf" => f64::NEG_INFINITY,
        Value::Bool(truth) => f64::from(u8::from(*truth)),
        other => other
            .as_f64()
            .unwrap_or_else(|| panic!("no number: {other}")),
    }
}

/// Counts comparisons and keeps the worst error of each metric.
#[derive(Default)]
struct Tally {
    worst: std::collections::BTreeMap<String, (f64, String)>,
    compared: usize,
    wrong: Vec<String>,
}

impl Tally {
    /// `ours` against the peer's answer. A peer that raises, or says NaN or infinity, must meet an
    /// undefined score of ours, and the other way round.
    fn compare(&mut self, case: &Value, metric: &str, ours: Score, peer: &Value) {
        let name = format!("{} ({})", case["id"], case["name"]);
        if peer.is_null() {
            return;
        }
        self.compared += 1;
        let theirs = if peer.get("raises").is_some() {
            f64::NAN
        } else {
            number(peer.get("value").unwrap_or(peer))
        };
        match ours {
            Score::Value(ours) if theirs.is_finite() => {
                let error = (ours - theirs).abs() / theirs.abs().max(1.0);
                let worst = self.worst.entry(metric.to_owned()).or_default();
                if error >= worst.0 {
                    *worst = (error, name.clone());
                }
                if error > TOLERANCE {
                    self.wrong
                        .push(format!("{name} {metric}: {ours} not {theirs}"));
                }
            }
            Score::Undefined(_) if !theirs.is_finite() => {}
            ours => self
                .wrong
                .push(format!("{name} {metric}: {ours} not {peer}")),
        }
    }

    fn finish(self) {
        for (metric, (error, case)) in &self.worst {
            println!("{metric}: worst error {error:.1e} in {case}");
        }
        println!("{} comparisons", self.compared);
        assert!(self.compared > 0);
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

fn spacing(case: &Value) -> Vec<f64> {
    case["spacing"]
        .as_array()
        .unwrap()
        .iter()
        .map(number)
        .collect()
}

#[test]
fn counts_and_overlap() {
    let data = bytes("masks.safetensors");
    let file = SafeTensors::deserialize(&data).unwrap();
    let mut tally = Tally::default();
    for case in &manifest("segmentation") {
        let (result, reference) = masks(&file, case);
        let counts = Confusion::of(&result.view(), &reference.view()).unwrap();
        for (ours, key) in [
            (counts.true_positive, "tp"),
            (counts.false_positive, "fp"),
            (counts.false_negative, "fn"),
            (counts.true_negative, "tn"),
        ] {
            assert_eq!(Some(ours), case[key].as_u64(), "{key} of {}", case["id"]);
        }
        let vs = &case["volumetric_similarity"];
        if vs.is_number() {
            tally.compare(
                case,
                "volumetric similarity",
                counts.volumetric_similarity(),
                vs,
            );
        } else {
            let both = Score::Undefined(Undefined::BothEmpty);
            assert_eq!(counts.volumetric_similarity(), both);
        }
        // Both masks empty: the peers disagree (NaN, 0, 1). Ours is undefined.
        let empty = counts.dice() == Score::Undefined(Undefined::BothEmpty);
        let peer = &case["medpy"];
        for (metric, ours) in [
            ("dc", counts.dice()),
            ("jc", counts.jaccard()),
            ("precision", counts.precision()),
            ("recall", counts.recall()),
            ("specificity", counts.specificity()),
            ("ravd", counts.relative_volume_difference()),
        ] {
            if !(empty && metric == "jc") {
                tally.compare(case, &format!("medpy {metric}"), ours, &peer[metric]);
            }
        }
        tally.compare(
            case,
            "surface-distance dice",
            counts.dice(),
            &case["surface_distance"]["dice"],
        );
        let overlap = &case["simpleitk"]["overlap"]["value"];
        if !empty && overlap.is_object() {
            tally.compare(case, "SimpleITK dice", counts.dice(), &overlap["dice"]);
            tally.compare(
                case,
                "SimpleITK jaccard",
                counts.jaccard(),
                &overlap["jaccard"],
            );
            let signed = number(&overlap["volume_similarity"]);
            let theirs = serde_json::json!(1.0 - signed.abs() / 2.0);
            tally.compare(
                case,
                "SimpleITK vs",
                counts.volumetric_similarity(),
                &theirs,
            );
        }
    }
    tally.finish();
}

#[test]
fn distances() {
    let data = bytes("masks.safetensors");
    let file = SafeTensors::deserialize(&data).unwrap();
    let mut tally = Tally::default();
    for case in &manifest("segmentation") {
        let (result, reference) = masks(&file, case);
        let (a, b, spacing) = (result.view(), reference.view(), spacing(case));

        let medpy = &case["medpy"];
        let borders = |connectivity| BorderDistances::of(&a, &b, &spacing, connectivity).unwrap();
        let score = |d: &Result<BorderDistances, Undefined>,
                     f: &dyn Fn(&BorderDistances) -> f64| {
            d.as_ref()
                .map_or_else(|&why| Score::Undefined(why), |d| Score::Value(f(d)))
        };
        let by_faces = borders(Connectivity::Faces);
        tally.compare(
            case,
            "medpy hd",
            score(&by_faces, &BorderDistances::hausdorff),
            &medpy["hd"],
        );
        let hd95 = |d: &BorderDistances| d.percentile(95.0).unwrap();
        tally.compare(case, "medpy hd95", score(&by_faces, &hd95), &medpy["hd95"]);
        tally.compare(
            case,
            "medpy assd",
            average_symmetric_surface_distance(&a, &b, &spacing, Definition::Medpy).unwrap(),
            &medpy["assd"],
        );
        let one = score(&by_faces, &BorderDistances::average_to_reference);
        tally.compare(case, "medpy asd", one, &medpy["asd"]);
        let other = score(&by_faces, &BorderDistances::average_to_result);
        tally.compare(
            case,
            "medpy asd back",
            other,
            &medpy["asd_reference_to_result"],
        );
        for (connectivity, key) in [
            (Connectivity::Edges, "hd95_connectivity_2"),
            (Connectivity::Corners, "hd95_connectivity_3"),
        ] {
            if medpy.get(key).is_some() {
                tally.compare(case, key, score(&borders(connectivity), &hd95), &medpy[key]);
            }
        }

        let itk = &case["simpleitk"]["hausdorff"];
        let voxels = VoxelDistances::of(&a, &b, &spacing).unwrap();
        match voxels {
            Ok(voxels) => {
                let theirs = &itk["value"];
                tally.compare(
                    case,
                    "SimpleITK hausdorff",
                    Score::Value(voxels.hausdorff()),
                    &theirs["hausdorff"],
                );
                tally.compare(
                    case,
                    "SimpleITK average",
                    Score::Value(voxels.average()),
                    &theirs["average_hausdorff"],
                );
            }
            Err(_) => assert!(itk.get("raises").is_some(), "{itk}"),
        }

        let peer = &case["surface_distance"];
        if !(2..=3).contains(&a.ndim()) {
            assert!(SurfelDistances::of(&a, &b, &spacing).is_err(), "{case}");
            continue;
        }
        let hd = hausdorff(&a, &b, &spacing, Definition::SurfaceDistance).unwrap();
        tally.compare(case, "surface-distance hd100", hd, &peer["hd100"]);
        let hd95 = percentile_hausdorff(&a, &b, &spacing, 95.0, Definition::SurfaceDistance);
        tally.compare(case, "surface-distance hd95", hd95.unwrap(), &peer["hd95"]);
        let nsd = surface_dice(&a, &b, &spacing, 1.0).unwrap();
        tally.compare(case, "surface dice at 1", nsd, &peer["surface_dice_at_1mm"]);
        let both = &peer["average_surface_distance_gt_to_pred_and_pred_to_gt"]["value"];
        match SurfelDistances::of(&a, &b, &spacing).unwrap() {
            Ok(surfels) => {
                let from_reference = Score::Value(surfels.average_to_result());
                tally.compare(
                    case,
                    "surface-distance average gt",
                    from_reference,
                    &both[0],
                );
                let from_result = Score::Value(surfels.average_to_reference());
                tally.compare(case, "surface-distance average pred", from_result, &both[1]);
            }
            Err(_) => assert!(both[0].is_string() && both[1].is_string()),
        }
    }
    tally.finish();
}

#[test]
fn simple_itk_has_no_percentile() {
    let mask = ndarray::array![[true]];
    let answer = percentile_hausdorff(
        &mask.view(),
        &mask.view(),
        &[1.0; 2],
        95.0,
        Definition::SimpleItk,
    );
    assert!(matches!(answer, Err(Error::NotDefined { .. })));
}

#[test]
fn ranking() {
    let data = bytes("ranking.safetensors");
    let file = SafeTensors::deserialize(&data).unwrap();
    let mut tally = Tally::default();
    for case in &manifest("ranking") {
        let id = case["id"].as_str().unwrap();
        let labels = file.tensor(&format!("{id}.labels")).unwrap();
        let labels: Vec<bool> = labels.data().iter().map(|&v| v != 0).collect();
        let scores = file.tensor(&format!("{id}.scores")).unwrap();
        let refused = |answer: fndm_metrics::Result<Score>| {
            answer.unwrap_or(Score::Undefined(Undefined::Failed))
        };
        let (roc, ap, best) = if scores.dtype() == Dtype::F32 {
            let scores = values(scores.data(), f32::from_le_bytes);
            (
                refused(auroc(&scores, &labels)),
                refused(average_precision(&scores, &labels)),
                refused(best_dice(&scores, &labels).map(|best| best.dice)),
            )
        } else {
            let scores = values(scores.data(), f64::from_le_bytes);
            (
                refused(auroc(&scores, &labels)),
                refused(average_precision(&scores, &labels)),
                refused(best_dice(&scores, &labels).map(|best| best.dice)),
            )
        };
        tally.compare(case, "auroc", roc, &case["roc_auc"]);
        // With no positive the peer warns that recall is undefined and says 0; ours says why.
        if labels.contains(&true) {
            tally.compare(case, "average precision", ap, &case["average_precision"]);
            assert_eq!(best.value().is_some(), ap.value().is_some());
        } else {
            assert!(case["average_precision"]["warnings"].is_array());
            assert_eq!(ap, Score::Undefined(Undefined::NoPositive));
        }
    }
    tally.finish();
}

fn values<T, const N: usize>(data: &[u8], of: fn([u8; N]) -> T) -> Vec<T> {
    data.chunks_exact(N)
        .map(|c| of(c.try_into().unwrap()))
        .collect()
}

#[test]
#[allow(clippy::cast_lossless)] // One macro serves i64 too, which has no lossless cast.
fn otsu() {
    let data = bytes("otsu.safetensors");
    let file = SafeTensors::deserialize(&data).unwrap();
    let mut worst = 0f64;
    for case in &manifest("otsu") {
        let id = case["id"].as_str().unwrap();
        let raises = case.get("raises").is_some();
        let Ok(tensor) = file.tensor(id) else {
            // Empty images are not stored.
            assert!(fndm_metrics::otsu::<f64>(&[]).is_err() && raises, "{id}");
            continue;
        };
        let bins = case["options"]["nbins"].as_u64().unwrap_or(256) as usize;
        let data = tensor.data();
        // The threshold and the number of pixels strictly above it.
        macro_rules! check {
            ($type:ty, $otsu:expr) => {{
                let values = values(data, <$type>::from_le_bytes);
                $otsu(&values).map(|t: $type| (t as f64, values.iter().filter(|&&v| v > t).count()))
            }};
        }
        let ours = match tensor.dtype() {
            // The peer takes truth values as numbers, not as integers with a bin each.
            Dtype::U8 if case["dtype"] == "bool" => {
                let values: Vec<f64> = data.iter().map(|&v| f64::from(v)).collect();
                otsu_with_bins(&values, bins)
                    .map(|t| (t, values.iter().filter(|&&v| v > t).count()))
            }
            Dtype::F32 => check!(f32, |v: &[f32]| otsu_with_bins(v, bins)),
            Dtype::F64 => check!(f64, |v: &[f64]| otsu_with_bins(v, bins)),
            Dtype::U8 => check!(u8, otsu_integer),
            Dtype::I8 => check!(i8, otsu_integer),
            Dtype::U16 => check!(u16, otsu_integer),
            Dtype::I16 => check!(i16, otsu_integer),
            Dtype::U32 => check!(u32, otsu_integer),
            Dtype::I64 => check!(i64, otsu_integer),
            Dtype::I32 => check!(i32, otsu_integer),
            Dtype::U64 => check!(u64, otsu_integer),
            other => panic!("{id}: no integer or floating point image: {other:?}"),
        };
        if raises {
            assert!(ours.is_err(), "{id}: {ours:?}, the peer raises {case}");
            continue;
        }
        let (threshold, above) = ours.unwrap();
        let theirs = number(&case["value"]);
        let tolerance = if tensor.dtype() == Dtype::F32 {
            1e-6
        } else {
            TOLERANCE
        };
        let error = (threshold - theirs).abs() / theirs.abs().max(1.0);
        worst = worst.max(error);
        assert!(
            error <= tolerance,
            "{id} ({}): {threshold} not {theirs}",
            case["name"]
        );
        assert_eq!(Some(above as u64), case["n_above"].as_u64(), "{id}");
    }
    println!("otsu: worst error {worst:.1e}");
}
