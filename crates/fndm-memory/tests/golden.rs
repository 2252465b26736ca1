//! Every case of the reference data, found from its manifest. See `golden/memory/README.md` beside the repository.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as ndarray does"
)]

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use fndm_memory::{
    CoarseConfig, Coreset, CoresetMethod, CoresetSize, Edge, FeatureExtractor, HealthyModel,
    ImageScore, MemoryBank, MemoryConfig, NearestNeighbours, Padim, PadimConfig, PatchFeatures,
    Result, Score, Smoothing, Storage, greedy, greedy_from, silent,
};
use ndarray::{Array2, Array3, ArrayView1};
use serde_json::Value;
use std::collections::HashMap;

/// The reference data: the folder given by `FNDM_GOLDEN`, the one beside the repository, or the part kept in it.
struct Golden {
    manifest: Value,
    tensors: HashMap<String, Tensor>,
}

fn golden() -> Option<Golden> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let full = std::env::var_os("FNDM_GOLDEN")
        .map_or_else(|| own.join("../../../shared/golden"), PathBuf::from);
    let folder = [full.join("memory"), own.join("tests/golden")]
        .into_iter()
        .find(|f| f.join("manifest.json").is_file());
    let Some(folder) = folder else {
        println!("skipped: no reference data in {}", full.display());
        return None;
    };
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    Some(Golden {
        manifest: serde_json::from_str(&manifest).unwrap(),
        tensors: candle_core::safetensors::load(folder.join("memory.safetensors"), &Device::Cpu)
            .unwrap(),
    })
}

impl Golden {
    fn cases(&self, kind: &str) -> Vec<Value> {
        let cases = self
            .manifest
            .get(kind)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
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
    let Some(golden) = golden() else { return };
    for case in golden.cases("patch") {
        let config = PatchFeatures {
            patch_size: number(&case, "patchsize"),
            stride: number(&case, "stride"),
            pretrain_dimension: number(&case, "pretrain_embed_dimension"),
            target_dimension: number(&case, "target_embed_dimension"),
        };
        let count = golden.tensor(&case, "layer0").dim(0).unwrap();
        let got = config.embed(&layers(&golden, &case, 0, count)).unwrap();
        let grid = &case["patch_shapes"][0];
        assert_eq!(got.grid.0 as u64, grid[0].as_u64().unwrap());
        assert_eq!(got.grid.1 as u64, grid[1].as_u64().unwrap());
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

#[test]
fn greedy_coresets() {
    let Some(golden) = golden() else { return };
    let mut near_ties = 0;
    for case in golden.cases("coreset") {
        let full = golden.matrix(&case, "features");
        let features = match golden.find(&case, "projection_weight") {
            Some(_) => {
                let weight = golden.matrix(&case, "projection_weight");
                let reduced = full.dot(&weight.t());
                let error = worst(floats(&reduced), &golden.values(&case, "reduced"));
                assert!(error < 1e-5, "{}: reduced {error}", id(&case));
                reduced
            }
            None => full,
        };
        let percentage = case["percentage"].as_f64().unwrap();
        let exact = case["kind"].as_str() == Some("exact");
        let config = Coreset {
            method: if exact {
                CoresetMethod::Greedy
            } else {
                CoresetMethod::Approximate { starts: 10 }
            },
            size: CoresetSize::Fraction(percentage),
            ..Coreset::default()
        };
        let expected: Vec<usize> = golden
            .values(&case, "indices")
            .iter()
            .map(|v| *v as usize)
            .collect();
        let count = config.count(features.nrows());
        assert_eq!(count, expected.len(), "{}", id(&case));
        let got = if exact {
            greedy(features.view(), count, &mut silent).unwrap()
        } else {
            let starts: Vec<usize> = case["start_points"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_u64().unwrap() as usize)
                .collect();
            greedy_from(features.view(), &starts, count, &mut silent).unwrap()
        };
        // Rows that repeat chosen ones aren't chosen here; the peer goes on with them.
        for repeated in &expected[got.len()..] {
            let row = features.row(*repeated);
            assert!(got.iter().any(|g| distance(row, features.row(*g)) == 0.0));
        }
        let expected = &expected[..got.len()];
        let same = got == expected;
        println!("{}: {} rows, same: {same}", id(&case), got.len());
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
    let Some(golden) = golden() else { return };
    for case in golden.cases("knn") {
        let bank = golden.matrix(&case, "bank");
        let queries = golden.matrix(&case, "query");
        let k = number(&case, "n_nearest_neighbours");
        let index = NearestNeighbours::new(bank.clone(), Storage::F32).unwrap();
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
        let scores = bank.score(queries.view()).unwrap();
        let score_error = worst(floats(&scores), &golden.values(&case, "scores"));
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

fn smoothing(case: &Value) -> CoarseConfig {
    CoarseConfig {
        smoothing: Smoothing::Pixels(case["sigma"].as_f64().unwrap_or(4.0)),
        ..CoarseConfig::default()
    }
}

fn size(case: &Value, name: &str) -> (usize, usize) {
    (
        case[name][0].as_u64().unwrap() as usize,
        case[name][1].as_u64().unwrap() as usize,
    )
}

#[test]
fn score_maps() {
    let Some(golden) = golden() else { return };
    for case in golden.cases("segmentation") {
        let scores = planes(&golden.tensor(&case, "scores"));
        let size = size(&case, "target_size");
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
    let Some(golden) = golden() else { return };
    for case in golden.cases("end_to_end") {
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
        let built = MemoryBank::build(&config, &extractor, &healthy, None, &mut silent).unwrap();
        let expected = golden.values(&case, "bank");
        let sampled = golden.matrix(&case, "bank");
        let bank = if sampled.nrows() == built.len() {
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
    let Some(golden) = golden() else { return };
    for case in golden.cases("padim") {
        let both = |name: &str| {
            (1..)
                .map_while(|l| golden.find(&case, &format!("{name}_l{l}")))
                .collect::<Vec<Tensor>>()
        };
        let (train, query) = (both("train"), both("query"));
        let (n, q) = (train[0].dim(0).unwrap(), query[0].dim(0).unwrap());
        let layers = train
            .iter()
            .zip(&query)
            .map(|(t, q)| Tensor::cat(&[t, q], 0).unwrap())
            .collect();
        let extractor = Stored { layers };
        let channels = case["channel_indices"].as_array().unwrap();
        let config = PadimConfig {
            channels: Some(
                channels
                    .iter()
                    .map(|v| v.as_u64().unwrap() as usize)
                    .collect(),
            ),
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
        if n < 2 {
            // The peer's covariance of one image is NaN.
            assert!(Padim::build(&config, &extractor, &healthy, &mut silent).is_err());
            println!("{}: one image has no covariance", id(&case));
            continue;
        }
        let model = Padim::build(&config, &extractor, &healthy, &mut silent).unwrap();
        let mean = worst(
            floats(model.mean().unwrap().t()),
            &golden.values(&case, "mean"),
        );
        let inverse = worst(
            floats(&model.inverse_covariance()),
            &golden.values(&case, "inverse_covariance"),
        );
        let test = Stored::images(n, q, image);
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
    let Some(golden) = golden() else { return };
    for case in golden.cases("anomalib_patchcore") {
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
        let bank = MemoryBank::from_rows(&config, None, bank).unwrap();
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
            .axis_chunks_iter(ndarray::Axis(0), number(&case, "patches_per_image"))
            .map(|patches| f64::from(bank.image_score(patches).unwrap()))
            .collect();
        let images = worst(images, &golden.values(&case, "image_scores"));
        println!("{}: patches {patches:.1e}, images {images:.1e}", id(&case));
        assert!(patches < 1e-4 && images < 1e-4);
    }
}
