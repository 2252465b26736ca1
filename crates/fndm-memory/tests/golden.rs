//! Every case of the reference data, found from its manifest. See `golden/memory/README.md` beside the repository.
//!
//! Every key of a case is used, or the case is left out aloud with its reason. Where the peer raised, ours must be an error.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as ndarray does"
)]

use std::io::Write;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use fndm_memory::{
    CoarseConfig, Coreset, CoresetMethod, CoresetSize, Edge, Error, FeatureExtractor, HealthyModel,
    ImageScore, MemoryBank, MemoryConfig, NearestNeighbours, Padim, PadimConfig, PatchFeatures,
    Result, Score, Smoothing, Storage, greedy, greedy_from, silent,
};
use ndarray::{Array2, Array3, ArrayView1, Axis};
use serde_json::Value;
use std::collections::HashMap;

/// Says it to the terminal, past the capture of what a passing test prints.
macro_rules! aloud {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// The reference data: the folder given by `FNDM_GOLDEN`, the one beside the repository, or the part kept in it.
struct Golden {
    manifest: Value,
    tensors: HashMap<String, Tensor>,
}

fn golden() -> Golden {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let full = std::env::var_os("FNDM_GOLDEN")
        .map_or_else(|| own.join("../../../shared/golden"), PathBuf::from);
    let folder = [full.join("memory"), own.join("tests/golden")]
        .into_iter()
        .find(|f| f.join("manifest.json").is_file());
    let folder = folder.expect("a part of the reference data is kept in the repository");
    if !folder.starts_with(&full) {
        aloud!(
            "no reference data in {}: using the part in tests/golden",
            full.display()
        );
    }
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let known = [
        "set",
        "faiss",
        "torch",
        "patch",
        "coreset",
        "knn",
        "segmentation",
        "end_to_end",
        "padim",
        "anomalib_patchcore",
    ];
    for other in strange(&manifest, &known) {
        aloud!("left out: all of {other}, which this test does not know");
    }
    Golden {
        manifest,
        tensors: candle_core::safetensors::load(folder.join("memory.safetensors"), &Device::Cpu)
            .unwrap(),
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

fn leave_out(case: &Value, why: &str) {
    aloud!("left out: {}: {why}", case["id"]);
}

/// A list of whole numbers; a number alone is a list of one.
fn list(value: &Value) -> Vec<usize> {
    let one = |v: &Value| v.as_u64().unwrap_or_else(|| panic!("no whole number: {v}")) as usize;
    match value {
        Value::Array(all) => all.iter().map(one).collect(),
        alone => vec![one(alone)],
    }
}

impl Golden {
    /// The cases of a kind. One with a key that this test doesn't know may mean something else: it is left out aloud.
    fn cases(&self, kind: &str, known: &[&str]) -> Vec<Value> {
        let all = self.manifest.get(kind).and_then(Value::as_array);
        let mut cases = all.cloned().unwrap_or_default();
        if cases.is_empty() {
            aloud!("{kind}: the reference data has no case");
        }
        cases.retain(|case| {
            let mut known = known.to_vec();
            known.extend(["id", "note", "raises", "message"]);
            let unknown = strange(case, &known);
            if !unknown.is_empty() {
                leave_out(case, &format!("{unknown:?} is not known to this test"));
            }
            unknown.is_empty()
        });
        println!("{kind}: {} cases", cases.len());
        cases
    }

    fn find(&self, case: &Value, name: &str) -> Option<Tensor> {
        self.tensors.get(&format!("{}.{name}", id(case))).cloned()
    }

    fn tensor(&self, case: &Value, name: &str) -> Tensor {
        self.find(case, name)
            .unwrap_or_else(|| panic!("{} has no {name}", id(case)))
    }

    fn values(&self, case: &Value, name: &str) -> Vec<f64> {
        values(&self.tensor(case, name))
    }

    fn matrix(&self, case: &Value, name: &str) -> Array2<f32> {
        let t = self.tensor(case, name).to_dtype(DType::F32).unwrap();
        let shape = t.dims2().unwrap();
        Array2::from_shape_vec(shape, t.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
    }
}

fn id(case: &Value) -> &str {
    case["id"].as_str().unwrap()
}

fn number(case: &Value, name: &str) -> usize {
    case[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{}: {name}", id(case))) as usize
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// The largest difference relative to the largest expected value.
fn worst(got: impl IntoIterator<Item = f64>, expected: &[f64]) -> f64 {
    let got: Vec<f64> = got.into_iter().collect();
    assert_eq!(got.len(), expected.len());
    let scale = expected
        .iter()
        .filter(|v| v.is_finite())
        .fold(0f64, |a, v| a.max(v.abs()));
    let scale = if scale > 0.0 { scale } else { 1.0 };
    let mut worst = 0f64;
    for (g, e) in got.iter().zip(expected) {
        assert!(!g.is_nan() || e.is_nan(), "got NaN for {e}");
        // Peers write the largest f32 or infinity where there is nothing, and then take means of it.
        let nothing = f64::from(f32::MAX) / 1000.0;
        if e.is_nan() || *e >= nothing {
            assert!(!g.is_finite() || *g >= nothing, "expected {e}, got {g}");
        } else {
            worst = worst.max((g - e).abs() / scale);
        }
    }
    worst
}

fn floats<'a>(v: impl IntoIterator<Item = &'a f32>) -> Vec<f64> {
    v.into_iter().map(|v| f64::from(*v)).collect()
}

/// Layers of the images `from..to` of a case.
fn layers(golden: &Golden, case: &Value, from: usize, count: usize) -> Vec<Tensor> {
    (0..)
        .map_while(|l| golden.find(case, &format!("layer{l}")))
        .map(|t| t.narrow(0, from, count).unwrap())
        .collect()
}

#[test]
fn patch_features() {
    let golden = golden();
    let known = [
        "layers",
        "patchsize",
        "stride",
        "pretrain_embed_dimension",
        "target_embed_dimension",
        "patches_layer0",
        "patchify_shape_layer0",
        "patches_layer1",
        "patchify_shape_layer1",
        "patches_layer2",
        "patchify_shape_layer2",
        "embedding_shape",
        "patch_shapes",
    ];
    for case in golden.cases("patch", &known) {
        let config = PatchFeatures {
            patch_size: number(&case, "patchsize"),
            stride: number(&case, "stride"),
            pretrain_dimension: number(&case, "pretrain_embed_dimension"),
            target_dimension: number(&case, "target_embed_dimension"),
        };
        let count = golden.tensor(&case, "layer0").dim(0).unwrap();
        let maps = layers(&golden, &case, 0, count);
        let got = config.embed(&maps);
        if case.get("raises").is_some() {
            assert!(got.is_err(), "{}: the peer raises", id(&case));
            continue;
        }
        let got = got.unwrap();
        for (l, map) in maps.iter().enumerate() {
            // Each map by itself: its own grid.
            let alone = config.embed(std::slice::from_ref(map)).unwrap();
            let grid = vec![alone.grid.0, alone.grid.1];
            let named = &case[format!("patches_layer{l}")];
            for expected in [named, &case["patch_shapes"][l]] {
                assert!(
                    expected.is_null() || list(expected) == grid,
                    "{}",
                    id(&case)
                );
            }
            let unfolded = &case[format!("patchify_shape_layer{l}")];
            if !unfolded.is_null() {
                let (c, k) = (map.dim(1).unwrap(), config.patch_size);
                let shape = [count, grid[0] * grid[1], c, k, k];
                assert_eq!(list(unfolded), shape, "{}", id(&case));
            }
            if !case["layers"].is_null() {
                assert_eq!(list(&case["layers"][l]), map.dims(), "{}", id(&case));
            }
        }
        if !case["embedding_shape"].is_null() {
            let shape = got.features.shape();
            assert_eq!(list(&case["embedding_shape"]), shape, "{}", id(&case));
        }
        let error = worst(floats(&got.features), &golden.values(&case, "embedding"));
        println!("{}: {error:.1e}", id(&case));
        assert!(error < 1e-5, "{}: {error}", id(&case));
    }
}

/// Squared distances in f64.
fn distance(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

/// How far each choice was from those before it, relative to the farthest row then, in f64: the smallest of all choices. It says
/// whether they are right also where near ties let ours and the peer's part.
fn shortest_of_farthest(features: &Array2<f32>, starts: &[usize], chosen: &[usize]) -> f64 {
    let n = features.nrows();
    let between = |i: usize, j: usize| distance(features.row(i), features.row(j)).sqrt();
    let mut nearest: Vec<f64> = (0..n)
        .map(|i| {
            if starts.is_empty() {
                (0..n).map(|j| between(i, j).powi(2)).sum::<f64>().sqrt()
            } else {
                starts.iter().map(|&s| between(i, s)).sum::<f64>() / starts.len() as f64
            }
        })
        .collect();
    let mut short = 1f64;
    for &row in chosen {
        let farthest = nearest.iter().copied().fold(0.0, f64::max);
        if farthest > 0.0 {
            short = short.min(nearest[row] / farthest);
        }
        for (i, nearest) in nearest.iter_mut().enumerate() {
            *nearest = nearest.min(between(i, row));
        }
    }
    short
}

#[test]
fn greedy_coresets() {
    let golden = golden();
    let mut near_ties = 0;
    let known = [
        "features",
        "percentage",
        "kind",
        "dimension_to_project_features_to",
        "seed",
        "float64_agrees",
        "smallest_relative_gap",
        "run_matches_indices",
        "n_selected",
        "start_points",
    ];
    for case in golden.cases("coreset", &known) {
        if case["run_matches_indices"].as_bool() == Some(false) {
            leave_out(&case, "the peer's own run chooses otherwise");
            continue;
        }
        let full = golden.matrix(&case, "features");
        let features = match golden.find(&case, "projection_weight") {
            Some(_) => {
                let weight = golden.matrix(&case, "projection_weight");
                let reduced = full.dot(&weight.t());
                let error = worst(floats(&reduced), &golden.values(&case, "reduced"));
                assert!(error < 1e-5, "{}: reduced {error}", id(&case));
                let dimension = number(&case, "dimension_to_project_features_to");
                assert_eq!(reduced.ncols(), dimension, "{}", id(&case));
                reduced
            }
            None => full,
        };
        let percentage = case["percentage"].as_f64().unwrap();
        let exact = match case["kind"].as_str() {
            Some("exact") => true,
            Some("approximate") => false,
            other => {
                leave_out(&case, &format!("a coreset of kind {other:?}"));
                continue;
            }
        };
        let starts = match &case["start_points"] {
            Value::Null => Vec::new(),
            points => list(points),
        };
        let config = Coreset {
            method: if exact {
                CoresetMethod::Greedy
            } else {
                CoresetMethod::Approximate { starts: 10 }
            },
            size: CoresetSize::Fraction(percentage),
            ..Coreset::default()
        };
        if case.get("raises").is_some() {
            // A whole bank is a coreset here, and none in the peer.
            let ours = config.select(features.view(), features.nrows(), &mut silent);
            let whole = percentage == 1.0;
            assert!(whole || ours.is_err(), "{}: the peer raises", id(&case));
            continue;
        }
        let expected: Vec<usize> = golden
            .find(&case, "indices")
            .map_or_else(Vec::new, |t| values(&t))
            .iter()
            .map(|v| *v as usize)
            .collect();
        let count = config.count(features.nrows());
        assert_eq!(count, expected.len(), "{}", id(&case));
        if !case["n_selected"].is_null() {
            assert_eq!(number(&case, "n_selected"), count, "{}", id(&case));
        }
        if count == 0 {
            // The peer's bank would be empty; ours can't be.
            let ours = config.select(features.view(), features.nrows(), &mut silent);
            assert!(ours.is_err(), "{}", id(&case));
            continue;
        }
        let got = if exact {
            greedy(features.view(), count, &mut silent).unwrap()
        } else {
            greedy_from(features.view(), &starts, count, &mut silent).unwrap()
        };
        let short = shortest_of_farthest(&features, &starts, &got);
        assert!(short > 1.0 - 1e-4, "{}: {short}", id(&case));
        // Rows that repeat chosen ones aren't chosen here; the peer goes on with them.
        for repeated in &expected[got.len()..] {
            let row = features.row(*repeated);
            assert!(got.iter().any(|g| distance(row, features.row(*g)) == 0.0));
        }
        let expected = &expected[..got.len()];
        let same = got == expected;
        let all = got.len();
        println!(
            "{}: {all} rows, same: {same}, {short:.6} of the farthest",
            id(&case)
        );
        if case["float64_agrees"].as_bool() == Some(true) {
            assert_eq!(got, expected, "{}", id(&case));
        } else if !same {
            near_ties += 1;
        }
    }
    println!("cases with near ties that differ: {near_ties}");
}

#[test]
fn nearest_neighbours() {
    let golden = golden();
    let known = [
        "bank",
        "queries",
        "n_nearest_neighbours",
        "max_abs_error_of_peer_against_float64",
    ];
    for case in golden.cases("knn", &known) {
        let bank = golden.matrix(&case, "bank");
        let queries = golden.matrix(&case, "query");
        let k = number(&case, "n_nearest_neighbours");
        for (named, array) in [("bank", &bank), ("queries", &queries)] {
            assert!(case[named].is_null() || list(&case[named]) == array.shape());
        }
        let index = NearestNeighbours::new(bank.clone(), Storage::F32);
        if case.get("raises").is_some() {
            let found = index.and_then(|index| index.search(queries.view(), k));
            assert!(found.is_err(), "{}: the peer raises", id(&case));
            continue;
        }
        let index = match index {
            Err(Error::NonFinite { .. }) if bank.iter().any(|v| !v.is_finite()) => {
                leave_out(&case, "a bank with NaN is an error here");
                continue;
            }
            index => index.unwrap(),
        };
        let got = index.search(queries.view(), k).unwrap();
        let error = worst(floats(&got.distances), &golden.values(&case, "distances"));
        let mut near_ties = 0;
        for (i, (got, expected)) in got
            .indices
            .iter()
            .zip(golden.values(&case, "indices"))
            .enumerate()
        {
            let expected = (expected >= 0.0).then_some(expected as usize);
            if *got != expected {
                let (Some(a), Some(b)) = (*got, expected) else {
                    panic!("{}: {got:?} for {expected:?}", id(&case));
                };
                let q = queries.row(i / k);
                let (a, b) = (distance(q, bank.row(a)), distance(q, bank.row(b)));
                assert!((a - b).abs() <= 1e-5 * b, "{}: {a} and {b}", id(&case));
                near_ties += 1;
            }
        }
        let config = MemoryConfig {
            patch: PatchFeatures {
                target_dimension: bank.ncols(),
                ..PatchFeatures::default()
            },
            neighbours: k,
            ..MemoryConfig::default()
        };
        let bank = MemoryBank::from_rows(&config, None, bank).unwrap();
        // The peer gives a query of NaN a huge score; here it is an error, and the others are scored without it.
        let (good, bad): (Vec<usize>, Vec<usize>) =
            (0..queries.nrows()).partition(|&i| queries.row(i).iter().all(|v| v.is_finite()));
        if !bad.is_empty() {
            let refused = bank.score(queries.view());
            assert!(matches!(refused, Err(Error::NonFinite { .. })));
        }
        let scores = bank.score(queries.select(Axis(0), &good).view()).unwrap();
        let theirs = golden.values(&case, "scores");
        let theirs: Vec<f64> = good.iter().map(|&i| theirs[i]).collect();
        let score_error = worst(floats(&scores), &theirs);
        println!(
            "{}: distances {error:.1e}, scores {score_error:.1e}, near ties {near_ties}",
            id(&case)
        );
        assert!(error < 1e-4 && score_error < 1e-4);
    }
}

fn planes(t: &Tensor) -> Array3<f32> {
    let t = t.to_dtype(DType::F32).unwrap();
    Array3::from_shape_vec(
        t.dims3().unwrap(),
        t.flatten_all().unwrap().to_vec1().unwrap(),
    )
    .unwrap()
}

/// The peers' sigma is 4 where a case names none.
fn smoothing(case: &Value) -> CoarseConfig {
    let sigma = match &case["sigma"] {
        Value::Null => 4.0,
        sigma => sigma
            .as_f64()
            .unwrap_or_else(|| panic!("{}: sigma", id(case))),
    };
    CoarseConfig {
        smoothing: Smoothing::Pixels(sigma),
        ..CoarseConfig::default()
    }
}

fn size(case: &Value, name: &str) -> (usize, usize) {
    match list(&case[name])[..] {
        [side] => (side, side),
        [height, width] => (height, width),
        ref other => panic!("{}: {name} {other:?}", id(case)),
    }
}

#[test]
fn score_maps() {
    let golden = golden();
    let known = ["scores", "target_size", "sigma"];
    for case in golden.cases("segmentation", &known) {
        let scores = planes(&golden.tensor(&case, "scores"));
        assert!(case["scores"].is_null() || list(&case["scores"]) == scores.shape());
        let size = size(&case, "target_size");
        if case.get("raises").is_some() {
            let ours = smoothing(&case).score_maps(scores.view(), size);
            assert!(ours.is_err(), "{}: the peer raises", id(&case));
            continue;
        }
        let upsampled = fndm_memory::upsample_bilinear(scores.view(), size).unwrap();
        let map = smoothing(&case).score_maps(scores.view(), size).unwrap();
        let first = worst(floats(&upsampled), &golden.values(&case, "upsampled"));
        let second = worst(floats(&map), &golden.values(&case, "map"));
        println!("{}: upsampled {first:.1e}, map {second:.1e}", id(&case));
        assert!(first < 1e-5 && second < 1e-4);
    }
}

/// Hands out stored maps: the image's one value is its number.
struct Stored {
    layers: Vec<Tensor>,
}

impl FeatureExtractor for Stored {
    fn maps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let numbers = images.narrow(2, 0, 1)?.narrow(3, 0, 1)?.flatten_all()?;
        let numbers = numbers.to_dtype(DType::U32)?;
        Ok(self
            .layers
            .iter()
            .map(|l| l.index_select(&numbers, 0))
            .collect::<candle_core::Result<_>>()?)
    }
}

impl Stored {
    fn images(from: usize, count: usize, size: (usize, usize)) -> Tensor {
        Tensor::arange(from as f32, (from + count) as f32, &Device::Cpu)
            .unwrap()
            .reshape((count, 1, 1, 1))
            .unwrap()
            .broadcast_as((count, 1, size.0, size.1))
            .unwrap()
            .contiguous()
            .unwrap()
    }
}

#[test]
fn end_to_end() {
    let golden = golden();
    let known = [
        "n_train",
        "n_test",
        "layers",
        "image",
        "neighbours",
        "sampler",
        "percentage",
        "bank",
        "ps",
        "stride",
        "pre",
        "tgt",
        "sigma",
    ];
    for case in golden.cases("end_to_end", &known) {
        let (train, test) = (number(&case, "n_train"), number(&case, "n_test"));
        let extractor = Stored {
            layers: layers(&golden, &case, 0, train + test),
        };
        let config = MemoryConfig {
            patch: PatchFeatures {
                patch_size: number(&case, "ps"),
                stride: number(&case, "stride"),
                pretrain_dimension: number(&case, "pre"),
                target_dimension: number(&case, "tgt"),
            },
            standardise: false,
            coreset: Coreset {
                method: CoresetMethod::All,
                ..Coreset::default()
            },
            neighbours: number(&case, "neighbours"),
            coarse: smoothing(&case),
            batch_size: 3,
            ..MemoryConfig::default()
        };
        let image = size(&case, "image");
        let healthy = Stored::images(0, train, image);
        let built = MemoryBank::build(&config, &extractor, &healthy, None, &mut silent);
        if case.get("raises").is_some() {
            assert!(built.is_err(), "{}: the peer raises", id(&case));
            continue;
        }
        let built = built.unwrap();
        for (l, map) in extractor.layers.iter().enumerate() {
            let shape = &map.dims()[1..];
            assert!(case["layers"].is_null() || list(&case["layers"][l]) == shape);
        }
        let whole = case["sampler"].as_str() == Some("Identity");
        let expected = golden.values(&case, "bank");
        let sampled = golden.matrix(&case, "bank");
        assert!(case["bank"].is_null() || list(&case["bank"]) == sampled.shape());
        if let Some(percentage) = case["percentage"].as_f64() {
            let count = (built.len() as f64 * percentage) as usize;
            assert_eq!(sampled.nrows(), count, "{}", id(&case));
        }
        assert!(!whole || sampled.nrows() == built.len(), "{}", id(&case));
        let bank = if whole {
            let error = worst(floats(&built.index().to_array().unwrap()), &expected);
            println!("{}: bank {error:.1e}", id(&case));
            assert!(error < 1e-5);
            built
        } else {
            // The peer's sampler draws from its own generator: its rows must be among ours.
            let all = built.index().to_array().unwrap();
            let found = NearestNeighbours::new(all, Storage::F32)
                .unwrap()
                .search(sampled.view(), 1)
                .unwrap();
            assert!(found.distances.iter().all(|d| *d < 1e-8));
            MemoryBank::from_rows(&config, None, sampled).unwrap()
        };
        let images = Stored::images(train, test, image);
        let scores = bank.patch_scores(&extractor, &images, None).unwrap();
        let largest = scores
            .outer_iter()
            .map(|s| s.iter().copied().fold(0f32, f32::max));
        let image_error = worst(
            largest.map(f64::from),
            &golden.values(&case, "image_scores"),
        );
        let maps = bank.score_maps(&extractor, &images, None).unwrap();
        let map_error = worst(floats(&maps), &golden.values(&case, "maps"));
        println!(
            "{}: image scores {image_error:.1e}, maps {map_error:.1e}",
            id(&case)
        );
        assert!(image_error < 1e-4 && map_error < 1e-4);
    }
}

#[test]
fn gaussians_per_position() {
    let golden = golden();
    let known = [
        "layers",
        "channel_indices",
        "image_size",
        "queries",
        "sigma",
    ];
    for case in golden.cases("padim", &known) {
        let both = |name: &str| {
            (1..)
                .map_while(|l| golden.find(&case, &format!("{name}_l{l}")))
                .collect::<Vec<Tensor>>()
        };
        let (train, query) = (both("train"), both("query"));
        let (n, q) = (train[0].dim(0).unwrap(), query[0].dim(0).unwrap());
        for (l, map) in train.iter().enumerate() {
            assert!(case["layers"].is_null() || list(&case["layers"][l]) == map.dims());
        }
        assert!(case["queries"].is_null() || number(&case, "queries") == q);
        let layers = train
            .iter()
            .zip(&query)
            .map(|(t, q)| Tensor::cat(&[t, q], 0).unwrap())
            .collect();
        let extractor = Stored { layers };
        let config = PadimConfig {
            channels: Some(list(&case["channel_indices"])),
            // The peer adds twice: once to the covariance, once before it inverts.
            regularisation: 0.01 + 1e-5,
            coarse: CoarseConfig {
                edge: Edge::Reflect,
                ..smoothing(&case)
            },
            batch_size: 3,
            ..PadimConfig::default()
        };
        let image = size(&case, "image_size");
        let healthy = Stored::images(0, n, image);
        let model = Padim::build(&config, &extractor, &healthy, &mut silent);
        if n < 2 {
            // The peer's covariance of one image is NaN.
            assert!(model.is_err());
            println!("{}: one image has no covariance", id(&case));
            continue;
        }
        let test = Stored::images(n, q, image);
        if case.get("raises").is_some() {
            let maps = model.and_then(|model| model.score_maps(&extractor, &test, None));
            if maps.is_ok() {
                // The peer's blur asks for sides above its radius of 16; ours mirrors again.
                assert!(image.0.min(image.1) <= 16, "{}: the peer raises", id(&case));
                leave_out(&case, "the peer can't blur an image that small");
            }
            continue;
        }
        let model = model.unwrap();
        let mean = worst(
            floats(model.mean().unwrap().t()),
            &golden.values(&case, "mean"),
        );
        let inverse = worst(
            floats(&model.inverse_covariance()),
            &golden.values(&case, "inverse_covariance"),
        );
        let scores = model.patch_scores(&extractor, &test, None).unwrap();
        let distance = worst(floats(&scores), &golden.values(&case, "distance"));
        let upsampled = fndm_memory::upsample_bilinear(scores.view(), image).unwrap();
        let upsampled = worst(floats(&upsampled), &golden.values(&case, "upsampled"));
        let map = model.score_maps(&extractor, &test, None).unwrap();
        let map = worst(floats(&map), &golden.values(&case, "map"));
        println!(
            "{}: mean {mean:.1e}, inverse {inverse:.1e}, distance {distance:.1e}, upsampled {upsampled:.1e}, map {map:.1e}",
            id(&case)
        );
        assert!(mean < 1e-5 && inverse < 1e-3);
        assert!(distance < 1e-4 && upsampled < 1e-4 && map < 1e-4);
    }
}

#[test]
fn reweighted_image_scores() {
    let golden = golden();
    let known = ["bank", "patches_per_image", "images", "num_neighbors"];
    for case in golden.cases("anomalib_patchcore", &known) {
        let bank = golden.matrix(&case, "bank");
        let embedding = golden.matrix(&case, "embedding");
        let config = MemoryConfig {
            patch: PatchFeatures {
                target_dimension: bank.ncols(),
                ..PatchFeatures::default()
            },
            score: Score::Euclidean,
            image_score: ImageScore::Reweighted {
                neighbours: number(&case, "num_neighbors"),
            },
            ..MemoryConfig::default()
        };
        assert!(case["bank"].is_null() || list(&case["bank"]) == bank.shape());
        let bank = MemoryBank::from_rows(&config, None, bank);
        if case.get("raises").is_some() {
            let ours = bank.and_then(|bank| bank.image_score(embedding.view()));
            assert!(ours.is_err(), "{}: the peer raises", id(&case));
            continue;
        }
        let bank = bank.unwrap();
        let scores = bank.score(embedding.view()).unwrap();
        let patches = worst(floats(&scores), &golden.values(&case, "patch_scores"));
        let found = bank.index().search(embedding.view(), 1).unwrap();
        let locations = golden.values(&case, "locations");
        assert!(
            found
                .indices
                .iter()
                .zip(&locations)
                .all(|(i, e)| *i == Some(*e as usize))
        );
        let images: Vec<f64> = embedding
            .axis_chunks_iter(Axis(0), number(&case, "patches_per_image"))
            .map(|patches| f64::from(bank.image_score(patches).unwrap()))
            .collect();
        assert!(case["images"].is_null() || number(&case, "images") == images.len());
        let images = worst(images, &golden.values(&case, "image_scores"));
        println!("{}: patches {patches:.1e}, images {images:.1e}", id(&case));
        assert!(patches < 1e-4 && images < 1e-4);
    }
}
