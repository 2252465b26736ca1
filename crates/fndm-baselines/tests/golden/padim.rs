//! `PaDiM`: draws, Gaussians, distances and maps.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use fndm_baselines::padim::{
    Joined, SIGMA, embedding, official_channels, over_the_set, smoothed, upsampled,
};
use fndm_memory::{Edge, FeatureExtractor, HealthyModel, PadimBuilder, PadimConfig};
use ndarray::Axis;
use serde::Deserialize;

use crate::cases::{Case, cases};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    shapes: Vec<(usize, usize, usize)>,
    train_images: usize,
    test_images: usize,
    map_size: usize,
    dimensions: usize,
}

/// Gives the maps of the images whose numbers are in their first pixels.
struct Stored(Vec<Tensor>);

impl Stored {
    fn images(count: usize) -> Tensor {
        let numbers: Vec<f32> = (0..count).map(|n| n as f32).collect();
        Tensor::from_vec(numbers, (count, 1, 1, 1), &Device::Cpu).unwrap()
    }
}

impl FeatureExtractor for Stored {
    fn maps(&self, images: &Tensor) -> fndm_memory::Result<Vec<Tensor>> {
        let numbers = images.flatten_all()?.to_dtype(DType::U32)?;
        let maps = self.0.iter().map(|map| map.index_select(&numbers, 0));
        Ok(maps.collect::<candle_core::Result<_>>()?)
    }
}

fn named(case: &Case, who: &str, count: usize, shapes: &[(usize, usize, usize)]) -> Vec<Tensor> {
    let maps = (1..).zip(shapes).map(|(l, &(c, h, w))| {
        let name = format!("{who}{l}");
        let map = case.io(&name);
        assert_eq!(map.dims(), [count, c, h, w]);
        map
    });
    maps.collect()
}

fn floats<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<f64> {
    values.into_iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn full() {
    for case in cases("padim", "full") {
        let args: Args = case.args();
        let train = named(&case, "train", args.train_images, &args.shapes);
        let test = named(&case, "test", args.test_images, &args.shapes);
        let whole = embedding(&train).unwrap();
        let first = whole.get(0).unwrap();
        case.check("embedding_before_draw_image0", &first);
        let index = case.io("index").to_vec1::<i64>().unwrap();
        let index: Vec<usize> = index.into_iter().map(|v| v as usize).collect();
        case.check_integers("index", &index);
        assert_eq!(index.len(), args.dimensions);

        let config = PadimConfig {
            channels: Some(index),
            ..PadimConfig::default()
        };
        let mut builder = PadimBuilder::new(config).unwrap();
        let healthy = Stored::images(args.train_images);
        builder
            .push(&Joined(Arc::new(Stored(train))), &healthy)
            .unwrap();
        let (mean, covariance) = builder.moments().unwrap();
        case.check_values("mean", &floats(mean.t()));
        let covariance = covariance.permuted_axes([1, 2, 0]);
        case.check_values("covariance", &floats(&covariance));
        let model = builder.finish().unwrap();
        let images = Stored::images(args.test_images);
        let distances = model.patch_scores(&Joined(Arc::new(Stored(test))), &images, None);
        let distances = distances.unwrap();
        case.check_values("mahalanobis", &floats(&distances));
        let size = (args.map_size, args.map_size);
        let large = upsampled(distances.view(), size).unwrap();
        case.check_values("upsampled", &floats(&large));
        let smooth = smoothed(large, SIGMA, Edge::Symmetric).unwrap();
        case.check_values("smoothed", &floats(&smooth));
        let maps = over_the_set(smooth).unwrap();
        case.check_values("score_map", &floats(&maps));
        let scores: Vec<f64> = maps
            .axis_iter(Axis(0))
            .map(|map| f64::from(map.fold(0f32, |a, &v| a.max(v))))
            .collect();
        case.check_values("image_score", &scores);
        // It keeps two numbers of its own about its rounding.
        let rounding: Option<f64> = case.extra("rounding_mahalanobis_vs_double");
        assert!(rounding.is_none_or(|r| r >= 0.0));
        case.finish();
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrawArgs {
    generator: String,
}

/// The numbers of `seed1024_100_of_448`.
fn numbers(name: &str) -> Option<(u32, usize, usize)> {
    let (seed, rest) = name.strip_prefix("seed")?.split_once('_')?;
    let (dimensions, total) = rest.split_once("_of_")?;
    Some((
        seed.parse().ok()?,
        dimensions.parse().ok()?,
        total.parse().ok()?,
    ))
}

#[test]
fn draws() {
    for case in cases("padim", "draws") {
        let args: DrawArgs = case.args();
        assert!(
            args.generator
                .contains("random.sample(range(0, total), dims)")
        );
        for name in case.names() {
            let (seed, dimensions, total) = numbers(&name).unwrap();
            let drawn = official_channels(total, dimensions, seed).unwrap();
            case.check_integers(&name, &drawn);
        }
        case.finish();
    }
}
