//! Properties, and slow references in f64.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as ndarray does"
)]

use std::collections::HashSet;

use candle_core::{Device, Tensor};
use fndm_memory::{
    Coreset, CoresetMethod, CoresetSize, Edge, Error, NearestNeighbours, PatchFeatures,
    SparseProjection, Storage, gaussian_blur, greedy, greedy_from, silent, upsample_bilinear,
};
use ndarray::{Array2, Array3, ArrayView1};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, columns), || rng.random::<f32>() - 0.5)
}

/// Small whole numbers: distances are exact in f32, ties and duplicates abound.
fn whole(rows: usize, columns: usize, values: u32, seed: u64) -> Array2<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, columns), || rng.random_range(0..values) as f32)
}

fn distance(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

/// All distances, sorted; the lower row first where they are equal.
fn brute_force(bank: &Array2<f32>, query: ArrayView1<'_, f32>) -> Vec<(f64, usize)> {
    let mut all: Vec<(f64, usize)> = bank
        .outer_iter()
        .enumerate()
        .map(|(i, row)| (distance(query, row), i))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn neighbours_are_those_of_brute_force(
        rows in 1usize..70, columns in 1usize..20, queries in 0usize..40, k in 1usize..80,
        values in 1u32..6, seed: u64, half: bool,
    ) {
        let bank = whole(rows, columns, values, seed);
        let asked = whole(queries, columns, values, seed ^ 1);
        let storage = if half { Storage::F16 } else { Storage::F32 };
        let found =
            NearestNeighbours::new(bank.clone(), storage).unwrap().search(asked.view(), k).unwrap();
        prop_assert_eq!(found.distances.dim(), (queries, k));
        for (i, query) in asked.outer_iter().enumerate() {
            let expected = brute_force(&bank, query);
            for j in 0..k {
                match expected.get(j) {
                    Some((d, row)) => {
                        prop_assert_eq!(f64::from(found.distances[(i, j)]), *d);
                        prop_assert_eq!(found.indices[(i, j)], Some(*row));
                    }
                    None => {
                        prop_assert!(found.distances[(i, j)].is_infinite());
                        prop_assert_eq!(found.indices[(i, j)], None);
                    }
                }
            }
        }
    }

    #[test]
    fn greedy_takes_the_farthest(
        rows in 1usize..900, columns in 1usize..12, part in 0.01f64..0.5, seed: u64,
    ) {
        let points = random(rows, columns, seed);
        let count = ((rows as f64 * part) as usize).max(1);
        let chosen = greedy(points.view(), count, &mut silent).unwrap();
        prop_assert_eq!(chosen.len(), count);
        check_farthest(&points, &chosen);
    }

    #[test]
    fn copies_are_chosen_once(rows in 1usize..700, seed: u64) {
        let points = whole(rows, 2, 4, seed);
        let chosen = greedy(points.view(), rows, &mut silent).unwrap();
        let places = |rows: &mut dyn Iterator<Item = usize>| {
            rows.map(|i| (points[(i, 0)] as u8, points[(i, 1)] as u8)).collect::<HashSet<_>>()
        };
        let distinct = places(&mut (0..rows));
        prop_assert_eq!(chosen.len(), distinct.len());
        prop_assert_eq!(places(&mut chosen.iter().copied()), distinct);
    }

    #[test]
    fn patch_features_are_those_of_the_slow_way(
        images in 1usize..3, c0 in 1usize..5, c1 in 1usize..6,
        h in 3usize..9, w in 3usize..9, h1 in 2usize..6, w1 in 2usize..6,
        patch_size in 1usize..5, stride in 1usize..6,
        pretrain in 1usize..40, target in 1usize..50, seed: u64,
    ) {
        let config = PatchFeatures {
            patch_size,
            stride,
            pretrain_dimension: pretrain,
            target_dimension: target,
        };
        let maps: Vec<Array2<f32>> =
            vec![random(images, c0 * h * w, seed), random(images, c1 * h1 * w1, seed ^ 1)];
        let shapes = [(c0, h, w), (c1, h1, w1)];
        let tensors: Vec<Tensor> = maps
            .iter()
            .zip(shapes)
            .map(|(m, (c, h, w))| {
                Tensor::from_iter(m.iter().copied(), &Device::Cpu)
                    .unwrap()
                    .reshape((images, c, h, w))
                    .unwrap()
            })
            .collect();
        let got = config.embed(&tensors).unwrap();
        let (grid, expected) = slow_patches(&config, &maps, &shapes);
        prop_assert_eq!(got.grid, grid);
        prop_assert_eq!(got.features.len(), expected.len());
        for (g, e) in got.features.iter().zip(&expected) {
            prop_assert!((f64::from(*g) - e).abs() < 1e-5, "{} for {}", g, e);
        }
    }

    #[test]
    fn smoothing_keeps_the_sum_within_mirrored_edges(
        h in 1usize..30, w in 1usize..30, sigma in 0.0f64..6.0, seed: u64,
    ) {
        let values = random(1, h * w, seed).into_raw_vec_and_offset().0;
        let mut planes = Array3::from_shape_vec((1, h, w), values).unwrap();
        let before: f64 = planes.iter().map(|v| f64::from(*v)).sum();
        gaussian_blur(&mut planes, sigma, Edge::Symmetric).unwrap();
        let after: f64 = planes.iter().map(|v| f64::from(*v)).sum();
        prop_assert!((before - after).abs() < 1e-4, "{before} {after}");
    }

    #[test]
    fn resizing_keeps_a_ramp_away_from_the_edges(h in 2usize..9, factor in 1usize..5) {
        let ramp = Array3::from_shape_fn((1, h, h), |(_, y, x)| y as f32 + 10.0 * x as f32);
        let n = h * factor;
        let large = upsample_bilinear(ramp.view(), (n, n)).unwrap();
        let at = |i: usize| ((i as f32 + 0.5) / factor as f32 - 0.5).clamp(0.0, h as f32 - 1.0);
        for ((_, y, x), v) in large.indexed_iter() {
            prop_assert!((v - at(y) - 10.0 * at(x)).abs() < 1e-4);
        }
    }
}

/// Every choice is the farthest from the earlier ones, up to rounding: three times 2^-24 of the norms, which are at most a
/// hundred times a distance that isn't taken directly, for each of the two. The points are those that f32 holds about their mean.
fn check_farthest(points: &Array2<f32>, chosen: &[usize]) {
    let mut mean = vec![0f64; points.ncols()];
    for row in points.outer_iter() {
        for (m, v) in mean.iter_mut().zip(row) {
            *m += f64::from(*v);
        }
    }
    let n = points.nrows() as f64;
    let mean: ndarray::Array1<f32> = mean.iter().map(|m| (m / n) as f32).collect();
    let points = points - &mean;
    let mut nearest = vec![f64::INFINITY; points.nrows()];
    for (step, &c) in chosen.iter().enumerate() {
        if step > 0 {
            let farthest = nearest.iter().copied().fold(0.0, f64::max);
            assert!(
                nearest[c] >= farthest * (1.0 - 3.6e-5),
                "step {step}: {} of {farthest}",
                nearest[c]
            );
        }
        for (n, row) in nearest.iter_mut().zip(points.outer_iter()) {
            *n = n.min(distance(points.row(c), row));
        }
    }
}

#[test]
fn greedy_takes_the_farthest_of_many() {
    // More points than one block of candidates holds, many blocks of choices.
    let points = random(20_000, 3, 4);
    let chosen = greedy(points.view(), 1500, &mut silent).unwrap();
    assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), 1500);
    check_farthest(&points, &chosen);
    let chosen = greedy_from(points.view(), &[3, 5, 8], 700, &mut silent).unwrap();
    assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), 700);
}

#[test]
fn points_close_together_are_parted_by_direct_distances() {
    // Pairs of points a millionth apart, and a line of points.
    let mut points = random(3000, 30, 17);
    for i in (0..2000).step_by(2) {
        let near = &points.row(i) + 1e-6;
        points.row_mut(i + 1).assign(&near);
    }
    for i in 2000..3000 {
        points.row_mut(i).fill(i as f32 * 1e-3);
    }
    let chosen = greedy(points.view(), 2800, &mut silent).unwrap();
    check_farthest(&points, &chosen);
}

#[test]
fn many_neighbours_over_many_tiles() {
    let bank = random(5000, 24, 1);
    let queries = random(700, 24, 2);
    let index = NearestNeighbours::new(bank.clone(), Storage::F32).unwrap();
    let found = index.search(queries.view(), 7).unwrap();
    for (i, query) in queries.outer_iter().enumerate().step_by(23) {
        for (j, (d, row)) in brute_force(&bank, query).into_iter().take(7).enumerate() {
            let got = f64::from(found.distances[(i, j)]);
            assert!((got - d).abs() <= 1e-6 * d, "{got} for {d}");
            assert_eq!(found.indices[(i, j)], Some(row));
        }
    }
}

#[test]
fn a_query_with_nan_has_no_neighbours() {
    let index = NearestNeighbours::new(random(5, 3, 1), Storage::F32).unwrap();
    let mut queries = random(2, 3, 2);
    queries[(0, 1)] = f32::NAN;
    let found = index.search(queries.view(), 2).unwrap();
    assert_eq!(
        (found.indices[(0, 0)], found.distances[(0, 0)]),
        (None, f32::INFINITY)
    );
    assert!(found.indices[(1, 1)].is_some());
}

#[test]
fn far_from_the_origin_the_distances_keep_their_digits() {
    // The expanded square alone loses everything here.
    let bank = random(300, 16, 1) + 1000.0;
    let queries = random(20, 16, 2) + 1000.0;
    let index = NearestNeighbours::new(bank.clone(), Storage::F32).unwrap();
    let found = index.search(queries.view(), 5).unwrap();
    for (i, query) in queries.outer_iter().enumerate() {
        for (j, (d, row)) in brute_force(&bank, query).into_iter().take(5).enumerate() {
            assert_eq!(found.indices[(i, j)], Some(row));
            assert!((f64::from(found.distances[(i, j)]) - d).abs() <= 1e-6 * d);
        }
    }
}

/// The nearest by distances that are rounded to f32, as they are handed out.
fn brute_force_rounded(bank: &Array2<f32>, query: ArrayView1<'_, f32>) -> Vec<(f32, usize)> {
    let mut all: Vec<(f32, usize)> = bank
        .outer_iter()
        .enumerate()
        .map(|(i, row)| (distance(query, row) as f32, i))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all
}

fn check_exact(bank: &Array2<f32>, queries: &Array2<f32>, k: usize) {
    let index = NearestNeighbours::new(bank.clone(), Storage::F32).unwrap();
    let found = index.search(queries.view(), k).unwrap();
    for (i, query) in queries.outer_iter().enumerate() {
        for (j, (d, row)) in brute_force_rounded(bank, query)
            .into_iter()
            .take(k)
            .enumerate()
        {
            assert_eq!(found.indices[(i, j)], Some(row), "query {i}, neighbour {j}");
            assert_eq!(found.distances[(i, j)].to_bits(), d.to_bits());
        }
    }
}

#[test]
fn rows_closer_together_than_products_can_tell_are_told_apart() {
    // Two thousand rows within a millionth of each other, far from the others.
    let mut bank = random(3000, 40, 5);
    let cluster = random(1, 40, 6) * 30.0;
    let noise = random(3000, 40, 7);
    for i in 500..2500 {
        let row = &cluster.row(0) + &(&noise.row(i) * 1e-5);
        bank.row_mut(i).assign(&row);
    }
    let mut queries = random(30, 40, 8);
    for i in 0..10 {
        let row = &cluster.row(0) + &(&random(1, 40, 20 + i as u64).row(0) * 1e-5);
        queries.row_mut(i).assign(&row);
    }
    for i in 10..15 {
        let copy = bank.row(700 + i).to_owned();
        queries.row_mut(i).assign(&copy);
    }
    for k in [1, 3, 200] {
        check_exact(&bank, &queries, k);
    }
}

#[test]
fn duplicates_beyond_number_come_in_their_order() {
    let one = random(1, 24, 9);
    let bank = Array2::from_shape_fn((2500, 24), |(_, j)| one[(0, j)]);
    let mut queries = random(3, 24, 10);
    queries.row_mut(1).assign(&one.row(0));
    for k in [1, 5] {
        check_exact(&bank, &queries, k);
    }
}

#[test]
fn values_whose_squares_leave_the_range_of_f32_are_compared() {
    for scale in [1e-24f32, 1e-20, 1e18, 1e19] {
        check_exact(&(random(90, 7, 11) * scale), &(random(9, 7, 12) * scale), 4);
    }
    let bank = random(50, 7, 13);
    check_exact(&bank, &(random(5, 7, 14) * 1e30), 2);
    let index = NearestNeighbours::new(bank, Storage::F32).unwrap();
    let infinite = Array2::from_elem((1, 7), f32::INFINITY);
    assert_eq!(
        index.search(infinite.view(), 1).unwrap().indices[(0, 0)],
        None
    );
}

#[test]
fn searches_and_choices_do_not_depend_on_threads() {
    let bank = random(3000, 20, 15);
    let queries = random(333, 20, 16);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let index = NearestNeighbours::new(bank.clone(), Storage::F16).unwrap();
            let found = index.search(queries.view(), 3).unwrap();
            let chosen = greedy(bank.view(), 700, &mut silent).unwrap();
            (found, chosen)
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}

#[test]
fn a_projection_keeps_lengths_on_average() {
    let x = random(1, 200, 9);
    let length: f64 = distance(x.row(0), Array2::zeros((1, 200)).row(0));
    let runs = 400;
    let sum: f64 = (0..runs)
        .map(|seed| {
            let y = SparseProjection::new(200, 32, seed)
                .unwrap()
                .apply(x.view())
                .unwrap();
            distance(y.row(0), Array2::zeros((1, 32)).row(0)) / length
        })
        .sum();
    let mean = sum / runs as f64;
    // One run's deviation is about sqrt(2 / 32); of 400 runs' mean, a twentieth of that.
    assert!((mean - 1.0).abs() < 0.06, "{mean}");
}

#[test]
fn coresets_have_the_asked_size_and_no_row_twice() {
    let features = random(1000, 40, 3);
    for method in [
        CoresetMethod::Random,
        CoresetMethod::Greedy,
        CoresetMethod::Approximate { starts: 10 },
        CoresetMethod::All,
    ] {
        for (size, count) in [
            (CoresetSize::Fraction(0.1), 100),
            (CoresetSize::Rows(70), 70),
        ] {
            let config = Coreset {
                method,
                size,
                projection: Some(16),
                seed: 3,
            };
            let rows = config.select(features.view(), 80, &mut silent).unwrap();
            let expected = if method == CoresetMethod::All {
                80
            } else {
                count.min(80)
            };
            assert_eq!(rows.len(), expected, "{method:?}");
            assert_eq!(rows.iter().collect::<HashSet<_>>().len(), expected);
            assert_eq!(
                rows,
                config.select(features.view(), 80, &mut silent).unwrap()
            );
        }
    }
}

#[test]
fn coresets_of_wrong_input_are_errors() {
    let select = |config: Coreset, features: Array2<f32>, limit| {
        config
            .select(features.view(), limit, &mut silent)
            .unwrap_err()
    };
    let size = |size| Coreset {
        size,
        ..Coreset::default()
    };
    let fine = || random(5, 3, 1);
    for f in [0.0, -0.1, 1.1, f64::NAN] {
        let e = select(size(CoresetSize::Fraction(f)), fine(), 5);
        assert!(matches!(
            e,
            Error::Config {
                field: "coreset.size",
                ..
            }
        ));
    }
    let e = select(size(CoresetSize::Rows(0)), fine(), 5);
    assert!(matches!(e, Error::Config { .. }));
    let e = select(size(CoresetSize::Fraction(0.1)), fine(), 5);
    assert!(matches!(e, Error::Empty { .. }));
    assert!(matches!(
        select(Coreset::default(), fine(), 0),
        Error::Empty { .. }
    ));
    assert!(matches!(
        select(Coreset::default(), Array2::zeros((0, 3)), 5),
        Error::Empty { .. }
    ));
    let nan = Array2::from_elem((5, 3), f32::NAN);
    assert!(matches!(
        select(Coreset::default(), nan, 5),
        Error::NonFinite { .. }
    ));
    assert!(greedy_from(fine().view(), &[5], 2, &mut silent).is_err());
    assert!(greedy_from(fine().view(), &[], 2, &mut silent).is_err());
}

/// Unfold, resize each patch value, pool twice: as the definition says, in f64.
fn slow_patches(
    config: &PatchFeatures,
    maps: &[Array2<f32>],
    shapes: &[(usize, usize, usize)],
) -> ((usize, usize), Vec<f64>) {
    let k = config.patch_size;
    let p = (k - 1) / 2;
    let patches = |n: usize| (n + 2 * p - k) / config.stride + 1;
    let grid = (patches(shapes[0].1), patches(shapes[0].2));
    let images = maps[0].nrows();
    let mut out = Vec::new();
    for image in 0..images {
        for y in 0..grid.0 {
            for x in 0..grid.1 {
                let mut stack = Vec::new();
                for (map, &(c, h, w)) in maps.iter().zip(shapes) {
                    let own = (patches(h), patches(w));
                    let value = |py: usize, px: usize, i: usize| -> f64 {
                        let (channel, ky, kx) = (i / (k * k), i / k % k, i % k);
                        let (y, x) = (py * config.stride + ky, px * config.stride + kx);
                        if y < p || x < p || y - p >= h || x - p >= w {
                            return 0.0;
                        }
                        f64::from(map[(image, (channel * h + y - p) * w + x - p)])
                    };
                    let source = |i: usize, from: usize, to: usize| {
                        let at = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
                        let low = (at.floor() as usize).min(from - 1);
                        (low, (low + 1).min(from - 1), at - low as f64)
                    };
                    let (y0, y1, fy) = source(y, own.0, grid.0);
                    let (x0, x1, fx) = source(x, own.1, grid.1);
                    let patch: Vec<f64> = (0..c * k * k)
                        .map(|i| {
                            (1.0 - fy) * ((1.0 - fx) * value(y0, x0, i) + fx * value(y0, x1, i))
                                + fy * ((1.0 - fx) * value(y1, x0, i) + fx * value(y1, x1, i))
                        })
                        .collect();
                    stack.extend(pool(&patch, config.pretrain_dimension));
                }
                out.extend(pool(&stack, config.target_dimension));
            }
        }
    }
    (grid, out)
}

fn pool(values: &[f64], to: usize) -> Vec<f64> {
    let n = values.len();
    (0..to)
        .map(|i| {
            let (start, end) = (i * n / to, ((i + 1) * n).div_ceil(to));
            values[start..end].iter().sum::<f64>() / (end - start) as f64
        })
        .collect()
}
