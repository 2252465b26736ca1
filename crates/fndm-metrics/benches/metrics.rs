//! Surface distances of a pair of `BraTS` size, and ranking of as many pixels as a volume has.

#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fndm_metrics::{
    BorderDistances, Confusion, Connectivity, LesionConfig, Ranking, SurfelDistances,
    VoxelDistances, lesion_detection, otsu,
};
use ndarray::Array3;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::hint::black_box;

const SHAPE: (usize, usize, usize) = (240, 240, 155);

/// A lesion with a wavy surface: radius in voxels, centre along the first axis.
fn lesion(radius: f64, centre: f64) -> Array3<bool> {
    Array3::from_shape_fn(SHAPE, |(x, y, z)| {
        let (x, y, z) = (x as f64 - centre, y as f64 - 120.0, z as f64 - 77.0);
        let wave = 1.0 + 0.1 * (x * 0.4).sin() * (y * 0.3).cos() * (z * 0.5).sin();
        x * x + y * y + z * z < (radius * wave).powi(2)
    })
}

fn surfaces(c: &mut Criterion) {
    let spacing = [1.0, 1.0, 1.0];
    for (size, radius) in [("lesion of radius 30", 30.0), ("mask of radius 70", 70.0)] {
        let (result, reference) = (lesion(radius, 118.0), lesion(radius * 0.9, 123.0));
        let (a, b) = (result.view(), reference.view());
        let mut group = c.benchmark_group(size);
        group.sample_size(10);
        group.bench_function("hd95 and assd, medpy", |bench| {
            bench.iter(|| {
                let found = BorderDistances::of(&a, &b, &spacing, Connectivity::Faces);
                let found = found.unwrap().unwrap();
                black_box((found.percentile(95.0).unwrap(), found.average_symmetric()))
            });
        });
        group.bench_function("hd95 and averages, surface-distance", |bench| {
            bench.iter(|| {
                let found = SurfelDistances::of(&a, &b, &spacing).unwrap().unwrap();
                black_box((found.percentile(95.0).unwrap(), found.average_to_result()))
            });
        });
        group.bench_function("hausdorff, SimpleITK", |bench| {
            bench.iter(|| {
                let found = VoxelDistances::of(&a, &b, &spacing).unwrap().unwrap();
                black_box((found.hausdorff(), found.average()))
            });
        });
        group.bench_function("confusion", |bench| {
            bench.iter(|| black_box(Confusion::of(&a, &b).unwrap()));
        });
        group.bench_function("lesion detection", |bench| {
            let config = LesionConfig::default();
            bench.iter(|| black_box(lesion_detection(&a, &b, &spacing, &config).unwrap()));
        });
        group.finish();
    }
}

fn ranking(c: &mut Criterion) {
    let pixels = SHAPE.0 * SHAPE.1 * SHAPE.2;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut scores = Vec::with_capacity(pixels);
    let mut labels = Vec::with_capacity(pixels);
    for _ in 0..pixels {
        let label = rng.random_range(0.0..1.0) < 0.02;
        labels.push(label);
        scores.push(rng.random_range(0.0f32..1.0) + if label { 0.3 } else { 0.0 });
    }
    let mut group = c.benchmark_group("9 million pixels");
    group.sample_size(10);
    group.throughput(Throughput::Elements(pixels as u64));
    group.bench_function("auroc, average precision and best dice", |bench| {
        bench.iter(|| {
            let ranking = Ranking::of(&scores, &labels).unwrap();
            black_box((
                ranking.auroc(),
                ranking.average_precision(),
                ranking.best_dice(),
            ))
        });
    });
    group.bench_function("otsu", |bench| {
        bench.iter(|| black_box(otsu(&scores).unwrap()));
    });
    group.finish();
}

criterion_group!(benches, surfaces, ranking);
criterion_main!(benches);
