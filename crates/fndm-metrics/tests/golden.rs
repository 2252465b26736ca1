//! Every case of the reference data against the library that the definition names.
//!
//! Every key of a case is used, or the case is left out aloud with its reason. Where a peer raised, ours must have no value either.

use fndm_metrics::{
    BorderDistances, Confusion, Connectivity, Definition, Error, Score, SurfelDistances, Undefined,
    VoxelDistances, auroc, average_precision, average_symmetric_surface_distance, best_dice,
    hausdorff, otsu_integer, otsu_with_bins, percentile_hausdorff, surface_dice,
};
use ndarray::{ArrayD, IxDyn};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

const TOLERANCE: f64 = 1e-9;

/// Says it to the terminal, past the capture of what a passing test prints.
macro_rules! aloud {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// The folder of reference data: `FNDM_GOLDEN`, the one beside the repository, or the copy in it.
fn folder() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = std::env::var_os("FNDM_GOLDEN")
        .map_or_else(|| here.join("../../../shared/golden"), PathBuf::from);
    let outside = root.join("metrics");
    if outside.join("manifest.json").exists() {
        outside
    } else {
        aloud!(
            "no reference data in {}: using the copy in tests/golden",
            outside.display()
        );
        here.join("tests/golden")
    }
}

/// The keys of an object that are not among these.
fn strange(object: &Value, known: &[&str]) -> Vec<String> {
    let keys = object
        .as_object()
        .into_iter()
        .flat_map(|object| object.keys());
    keys.filter(|key| !known.contains(&key.as_str()))
        .cloned()
        .collect()
}

/// The cases of a section. One with a key or an option that this test does not know may mean
/// something else: it is left out aloud.
fn cases(section: &str, known: &[&str], options: &[&str]) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let sections = ["set", "versions", "segmentation", "otsu", "ranking"];
    for other in strange(&manifest, &sections) {
        aloud!("left out: all of {other}, which this test does not know");
    }
    let all = manifest[section].as_array().cloned().unwrap_or_default();
    let mut kept = Vec::new();
    for case in all {
        let mut unknown = strange(&case, known);
        unknown.extend(strange(&case["options"], options));
        if unknown.is_empty() {
            kept.push(case);
        } else {
            leave_out(&case, &format!("{unknown:?} is not known to this test"));
        }
    }
    assert!(!kept.is_empty(), "no case of {section} is left to compare");
    kept
}

fn leave_out(case: &Value, why: &str) {
    aloud!("left out: {} ({}): {why}", case["id"], case["name"]);
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

const SEGMENTATION: [&str; 14] = [
    "id",
    "name",
    "note",
    "shape",
    "spacing",
    "tp",
    "fp",
    "fn",
    "tn",
    "volumetric_similarity",
    "medpy",
    "simpleitk",
    "surface_distance",
    "raises",
];

/// What is compared of each peer.
const PEERS: [(&str, &[&str]); 3] = [
    (
        "medpy",
        &[
            "dc",
            "jc",
            "precision",
            "recall",
            "specificity",
            "ravd",
            "hd",
            "hd95",
            "assd",
            "asd",
            "asd_reference_to_result",
            "hd95_connectivity_2",
            "hd95_connectivity_3",
        ],
    ),
    // `dice_all_labels` is the Dice of `overlap` once more.
    ("simpleitk", &["overlap", "dice_all_labels", "hausdorff"]),
    (
        "surface_distance",
        &[
            "hd100",
            "hd95",
            "average_surface_distance_gt_to_pred_and_pred_to_gt",
            "surface_dice_at_1mm",
            "dice",
        ],
    ),
];

/// A case of two masks.
struct Pair {
    case: Value,
    result: ArrayD<bool>,
    reference: ArrayD<bool>,
    spacing: Vec<f64>,
}

impl Pair {
    /// Whether the masks are ones that can be compared.
    fn comparable(&self) -> bool {
        self.result.shape() == self.reference.shape()
    }
}

/// All pairs of masks.
fn pairs() -> Vec<Pair> {
    let data = bytes("masks.safetensors");
    let file = SafeTensors::deserialize(&data).unwrap();
    let mut pairs = Vec::new();
    for case in cases("segmentation", &SEGMENTATION, &[]) {
        let id = case["id"].as_str().unwrap();
        let load = |side: &str| {
            let tensor = file.tensor(&format!("{id}.{side}")).ok()?;
            if !matches!(tensor.dtype(), Dtype::U8 | Dtype::BOOL) {
                return None;
            }
            let voxels = tensor.data().iter().map(|&v| v != 0).collect();
            ArrayD::from_shape_vec(IxDyn(tensor.shape()), voxels).ok()
        };
        let (Some(result), Some(reference)) = (load("result"), load("reference")) else {
            leave_out(&case, "its masks are not stored as bytes");
            continue;
        };
        for (peer, known) in PEERS {
            for key in strange(&case[peer], known) {
                aloud!("not compared: {peer} {key} of {id}, which this test does not know");
            }
        }
        // One number stands for all axes, and none for 1.
        let spacing = match &case["spacing"] {
            Value::Array(list) => list.iter().map(number).collect(),
            Value::Null => vec![1.0; reference.ndim()],
            one => vec![number(one); reference.ndim()],
        };
        pairs.push(Pair {
            case,
            result,
            reference,
            spacing,
        });
    }
    assert!(!pairs.is_empty());
    pairs
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

/// One of several numbers of an answer. What stands alone, an exception too, stands for all of them.
fn part(answer: &Value, place: impl serde_json::value::Index) -> Value {
    let value = answer.get("value").unwrap_or(answer);
    value.get(place).cloned().unwrap_or_else(|| answer.clone())
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

    /// What must hold of a case beside its numbers.
    fn expect(&mut self, holds: bool, case: &Value, what: &str) {
        self.compared += 1;
        if !holds {
            self.wrong
                .push(format!("{} ({}): {what}", case["id"], case["name"]));
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

#[test]
fn counts_and_overlap() {
    let mut tally = Tally::default();
    for pair in pairs() {
        let case = &pair.case;
        let counts = Confusion::of(&pair.result.view(), &pair.reference.view());
        if case.get("raises").is_some() {
            let none = counts.is_err() || refused(&pair);
            tally.expect(none, case, "the peer raises");
            continue;
        }
        let counts = match counts {
            Ok(counts) if pair.comparable() => counts,
            counts => {
                let refused = matches!(counts, Err(Error::Shape { .. }));
                tally.expect(refused, case, "differing shapes are no error");
                aloud!("{}: no overlap, {:?}", case["id"], counts.err());
                continue;
            }
        };
        for (ours, key) in [
            (counts.true_positive, "tp"),
            (counts.false_positive, "fp"),
            (counts.false_negative, "fn"),
            (counts.true_negative, "tn"),
        ] {
            if !case[key].is_null() {
                tally.expect(Some(ours) == case[key].as_u64(), case, key);
            }
        }
        match &case["volumetric_similarity"] {
            Value::Number(_) => tally.compare(
                case,
                "volumetric similarity",
                counts.volumetric_similarity(),
                &case["volumetric_similarity"],
            ),
            Value::Null => {}
            _ => {
                let both = Score::Undefined(Undefined::BothEmpty);
                let same = counts.volumetric_similarity() == both;
                tally.expect(same, case, "volumetric similarity is not undefined");
            }
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
            if !overlap["volume_similarity"].is_null() {
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
    }
    tally.finish();
}

/// Masks that have no distances here: each function must say so.
fn refused(pair: &Pair) -> bool {
    let (a, b, spacing) = (pair.result.view(), pair.reference.view(), &pair.spacing);
    BorderDistances::of(&a, &b, spacing, Connectivity::Faces).is_err()
        && VoxelDistances::of(&a, &b, spacing).is_err()
        && SurfelDistances::of(&a, &b, spacing).is_err()
        && hausdorff(&a, &b, spacing, Definition::Medpy).is_err()
        && surface_dice(&a, &b, spacing, 1.0).is_err()
}

#[test]
fn distances() {
    let mut tally = Tally::default();
    for pair in pairs() {
        let case = &pair.case;
        if case.get("raises").is_some() {
            continue; // As a whole: see counts_and_overlap.
        }
        let axes = pair.result.ndim();
        let spaced = pair.spacing.len() == axes && pair.spacing.iter().all(|s| *s > 0.0);
        if !pair.comparable() || !(1..=3).contains(&axes) || !spaced {
            leave_out(
                case,
                &format!(
                    "shapes {:?} and {:?} with spacing {:?} have no distances here: errors all",
                    pair.result.shape(),
                    pair.reference.shape(),
                    pair.spacing
                ),
            );
            tally.expect(refused(&pair), case, "some distance is no error");
            continue;
        }
        let (a, b, spacing) = (pair.result.view(), pair.reference.view(), &pair.spacing);

        let medpy = &case["medpy"];
        let borders = |connectivity| BorderDistances::of(&a, &b, spacing, connectivity).unwrap();
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
            average_symmetric_surface_distance(&a, &b, spacing, Definition::Medpy).unwrap(),
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
        if !itk.is_null() {
            let (largest, average) = match VoxelDistances::of(&a, &b, spacing).unwrap() {
                Ok(voxels) => (
                    Score::Value(voxels.hausdorff()),
                    Score::Value(voxels.average()),
                ),
                Err(why) => (Score::Undefined(why), Score::Undefined(why)),
            };
            let theirs = part(itk, "hausdorff");
            tally.compare(case, "SimpleITK hausdorff", largest, &theirs);
            let theirs = part(itk, "average_hausdorff");
            tally.compare(case, "SimpleITK average", average, &theirs);
        }

        let peer = &case["surface_distance"];
        if !(2..=3).contains(&a.ndim()) {
            let refused = SurfelDistances::of(&a, &b, spacing).is_err();
            tally.expect(refused, case, "surface elements of 1 axis");
            continue;
        }
        let hd = hausdorff(&a, &b, spacing, Definition::SurfaceDistance).unwrap();
        tally.compare(case, "surface-distance hd100", hd, &peer["hd100"]);
        let hd95 = percentile_hausdorff(&a, &b, spacing, 95.0, Definition::SurfaceDistance);
        tally.compare(case, "surface-distance hd95", hd95.unwrap(), &peer["hd95"]);
        let nsd = surface_dice(&a, &b, spacing, 1.0).unwrap();
        tally.compare(case, "surface dice at 1", nsd, &peer["surface_dice_at_1mm"]);
        let both = &peer["average_surface_distance_gt_to_pred_and_pred_to_gt"];
        if !both.is_null() {
            let (from_reference, from_result) = match SurfelDistances::of(&a, &b, spacing).unwrap()
            {
                Ok(surfels) => (
                    Score::Value(surfels.average_to_result()),
                    Score::Value(surfels.average_to_reference()),
                ),
                Err(why) => (Score::Undefined(why), Score::Undefined(why)),
            };
            let name = "surface-distance average gt";
            tally.compare(case, name, from_reference, &part(both, 0));
            let name = "surface-distance average pred";
            tally.compare(case, name, from_result, &part(both, 1));
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

const RANKING: [&str; 9] = [
    "id",
    "name",
    "note",
    "n",
    "positives",
    "roc_auc",
    "average_precision",
    "raises",
    "message",
];

#[test]
fn ranking() {
    let data = bytes("ranking.safetensors");
    let file = SafeTensors::deserialize(&data).unwrap();
    let mut tally = Tally::default();
    for case in &cases("ranking", &RANKING, &[]) {
        let id = case["id"].as_str().unwrap();
        let stored = |what: &str| file.tensor(&format!("{id}.{what}"));
        let (Ok(labels), Ok(scores)) = (stored("labels"), stored("scores")) else {
            leave_out(case, "its pixels are not stored");
            continue;
        };
        if !matches!(labels.dtype(), Dtype::U8 | Dtype::BOOL)
            || labels.data().iter().any(|v| *v > 1)
        {
            leave_out(case, "its labels are not bytes of 0 and 1");
            continue;
        }
        let labels: Vec<bool> = labels.data().iter().map(|&v| v != 0).collect();
        if !case["positives"].is_null() {
            let positives = labels.iter().filter(|label| **label).count() as u64;
            tally.expect(
                case["positives"].as_u64() == Some(positives),
                case,
                "positives",
            );
        }
        let refused = |answer: fndm_metrics::Result<Score>| {
            answer.unwrap_or(Score::Undefined(Undefined::Failed))
        };
        // f32 as it is; what f64 holds exactly as f64.
        let wide = match scores.dtype() {
            Dtype::F32 => None,
            Dtype::F64 => Some(values(scores.data(), f64::from_le_bytes)),
            Dtype::U8 => Some(scores.data().iter().map(|&v| f64::from(v)).collect()),
            Dtype::I32 => Some(values(scores.data(), |b| f64::from(i32::from_le_bytes(b)))),
            other => {
                leave_out(case, &format!("its scores are stored as {other:?}"));
                continue;
            }
        };
        let (roc, ap, best) = match wide {
            None => {
                let scores = values(scores.data(), f32::from_le_bytes);
                (
                    refused(auroc(&scores, &labels)),
                    refused(average_precision(&scores, &labels)),
                    refused(best_dice(&scores, &labels).map(|best| best.dice)),
                )
            }
            Some(scores) => (
                refused(auroc(&scores, &labels)),
                refused(average_precision(&scores, &labels)),
                refused(best_dice(&scores, &labels).map(|best| best.dice)),
            ),
        };
        // A case that raised as a whole has no answers by metric.
        let whole = case.get("raises").map(|_| case);
        let answer = |metric: &str| whole.unwrap_or(&case[metric]);
        tally.compare(case, "auroc", roc, answer("roc_auc"));
        let theirs = answer("average_precision");
        if theirs.get("raises").is_some() || labels.contains(&true) {
            tally.compare(case, "average precision", ap, theirs);
            let same = best.value().is_some() == ap.value().is_some();
            tally.expect(same, case, "best Dice and average precision part");
        } else {
            // With no positive the peer warns that recall is undefined and says 0; ours says why.
            let none = ap == Score::Undefined(Undefined::NoPositive);
            tally.expect(none, case, "average precision of no positive");
        }
    }
    tally.finish();
}

fn values<T, const N: usize>(data: &[u8], of: fn([u8; N]) -> T) -> Vec<T> {
    data.chunks_exact(N)
        .map(|c| of(c.try_into().unwrap()))
        .collect()
}

const OTSU: [&str; 12] = [
    "id", "name", "note", "dtype", "shape", "options", "value", "type", "n_above", "raises",
    "message", "warnings",
];

#[test]
#[allow(clippy::cast_lossless)] // One macro serves i64 too, which has no lossless cast.
fn otsu() {
    let data = bytes("otsu.safetensors");
    let file = SafeTensors::deserialize(&data).unwrap();
    let mut tally = Tally::default();
    let mut worst = 0f64;
    for case in &cases("otsu", &OTSU, &["nbins"]) {
        let id = case["id"].as_str().unwrap();
        let raises = case.get("raises").is_some();
        let sides = case["shape"].as_array();
        let empty = sides.is_some_and(|sides| sides.iter().any(|side| side == 0));
        let Ok(tensor) = file.tensor(id) else {
            // Empty images are not stored.
            if empty {
                let refused = fndm_metrics::otsu::<f64>(&[]).is_err() && raises;
                tally.expect(refused, case, "an empty image has a threshold");
            } else {
                leave_out(case, "its image is not stored");
            }
            continue;
        };
        let bins = match &case["options"]["nbins"] {
            Value::Null => 256,
            // Whole or not, a number that is no number of bins must be refused.
            bins => bins.as_u64().map_or(0, |bins| bins as usize),
        };
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
            Dtype::U8 | Dtype::BOOL if case["dtype"] == "bool" => {
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
            other => {
                leave_out(case, &format!("its image is stored as {other:?}"));
                continue;
            }
        };
        if raises {
            tally.expect(ours.is_err(), case, &format!("{ours:?}, the peer raises"));
            continue;
        }
        let theirs = number(&case["value"]);
        let (threshold, above) = match ours {
            Ok(found) => found,
            Err(error) => {
                tally.expect(false, case, &format!("{error}, the peer says {theirs}"));
                continue;
            }
        };
        let tolerance = if tensor.dtype() == Dtype::F32 {
            1e-6
        } else {
            TOLERANCE
        };
        let error = (threshold - theirs).abs() / theirs.abs().max(1.0);
        worst = worst.max(error);
        tally.expect(
            error <= tolerance,
            case,
            &format!("{threshold} not {theirs}"),
        );
        if !case["n_above"].is_null() {
            let same = Some(above as u64) == case["n_above"].as_u64();
            tally.expect(same, case, &format!("{above} pixels above"));
        }
    }
    println!("otsu: worst error {worst:.1e}");
    tally.finish();
}
