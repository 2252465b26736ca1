//! The cache, the order of slices, augmentation, and batches made ahead.

use std::sync::Arc;

use fndm_data::loading::{Augmentation, Batch, Batches, LoadConfig, Loader, Order, SliceCache};
use fndm_data::{Error, SliceSet};
use ndarray::{Array3, Array4, s};
use proptest::prelude::*;

/// Slices with a smooth pattern that differs from slice to slice and from channel to channel.
fn set(n: usize, c: usize, h: usize, w: usize) -> SliceSet {
    let head = Array3::from_shape_fn((n, h, w), |(k, y, x)| (x + y + k) % 3 != 0 && x > 0);
    let images = Array4::from_shape_fn((n, c, h, w), |(k, c, y, x)| {
        ((k + 1) as f32 * 0.7 + (c + 1) as f32 * 0.3 * y as f32 / h as f32 + x as f32 / w as f32)
            .sin()
    });
    SliceSet {
        images,
        labels: (0..n).map(|k| u8::from(k % 3 == 0)).collect(),
        head,
        patient: vec![0; n],
        z: (0..n).collect(),
        ids: vec!["p".into()],
        sequences: (0..c).map(|c| format!("s{c}")).collect(),
    }
}

fn cache(n: usize, c: usize, h: usize, w: usize) -> Arc<SliceCache> {
    Arc::new(SliceCache::new(&set(n, c, h, w)).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_cache_gives_slices_back(n in 1usize..6, c in 1usize..4, h in 1usize..20, w in 1usize..20) {
        let set = set(n, c, h, w);
        let cache = SliceCache::new(&set).unwrap();
        prop_assert_eq!((cache.len(), cache.shape()), (n, [n, c, h, w]));
        prop_assert_eq!(cache.labels(), &set.labels[..]);
        for k in 0..n {
            let image = cache.image(k).unwrap();
            let worst = image.iter().zip(set.images.index_axis(ndarray::Axis(0), k))
                .map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            prop_assert!(worst < 2e-5, "{}", worst);
            prop_assert_eq!(cache.head(k).unwrap(), set.head.index_axis(ndarray::Axis(0), k));
        }
        prop_assert!(cache.image(n).is_none() && cache.head(n).is_none());
        prop_assert!(cache.bytes() <= 2 * set.images.len() + 8 * n * (h * w).div_ceil(64) + n);
    }

    #[test]
    fn every_epoch_has_every_slice(labels in prop::collection::vec(0u8..2, 1..30), seed: u64) {
        let mut order = Order::new(&labels, None, seed).unwrap();
        let n = labels.len() as u64;
        for epoch in 0..3 {
            let mut seen: Vec<usize> = (0..n).map(|g| order.at(epoch * n + g)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..labels.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_share_of_diseased_slices_holds(share in 0.0f64..=1.0, seed: u64) {
        let labels: Vec<u8> = (0..50).map(|n| u8::from(n % 10 == 0)).collect();
        let mut order = Order::new(&labels, Some(share), seed).unwrap();
        let draws: Vec<usize> = (0..1000).map(|g| order.at(g)).collect();
        let diseased = draws.iter().filter(|slice| labels[**slice] == 1).count();
        prop_assert!((diseased as f64 - 1000.0 * share).abs() < 1.0 + 1e-6);
        // Any draw can be asked for first.
        let mut other = Order::new(&labels, Some(share), seed).unwrap();
        for g in [999, 3, 500, 0] {
            prop_assert_eq!(other.at(g), draws[g as usize]);
        }
    }
}

#[test]
fn another_seed_gives_another_order() {
    let labels = [0u8; 40];
    let draw = |seed| -> Vec<usize> {
        let mut order = Order::new(&labels, None, seed).unwrap();
        (0..40).map(|g| order.at(g)).collect()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

fn config(augmentation: Augmentation, threads: usize) -> LoadConfig {
    LoadConfig {
        batch: 5,
        seed: 11,
        augmentation,
        threads,
        ahead: 3,
        ..LoadConfig::default()
    }
}

#[test]
fn batches_do_not_depend_on_threads_and_resume_anywhere() {
    let cache = cache(13, 2, 16, 12);
    let first: Vec<Batch> = Loader::new(Arc::clone(&cache), &config(Augmentation::default(), 1), 0)
        .unwrap()
        .take(12)
        .collect();
    for threads in [2, 3, 7] {
        for start in [0, 1, 5, 11] {
            let config = config(Augmentation::default(), threads);
            let mut loader = Loader::new(Arc::clone(&cache), &config, start).unwrap();
            for expected in &first[start as usize..] {
                assert_eq!(loader.position(), expected.index);
                assert_eq!(loader.next().as_ref(), Some(expected), "{threads} {start}");
            }
        }
    }
    let mut batches = Batches::new(cache, &config(Augmentation::default(), 1)).unwrap();
    for number in [7, 0, 11] {
        assert_eq!(batches.at(number as u64), first[number]);
    }
}

#[test]
fn without_augmentation_a_batch_is_the_slices() {
    let cache = cache(9, 2, 16, 12);
    let mut batches = Batches::new(Arc::clone(&cache), &config(Augmentation::NONE, 1)).unwrap();
    for number in 0..4 {
        let batch = batches.at(number);
        assert_eq!(batch.images.dim(), (5, 2, 16, 12));
        for (n, &slice) in batch.slices.iter().enumerate() {
            assert_eq!(
                batch.images.slice(s![n, .., .., ..]),
                cache.image(slice).unwrap()
            );
            assert_eq!(batch.head.slice(s![n, .., ..]), cache.head(slice).unwrap());
            assert_eq!(batch.labels[n], cache.labels()[slice]);
        }
    }
}

/// One slice through an augmentation, and the slice itself.
fn changed(
    augmentation: Augmentation,
    cache: &Arc<SliceCache>,
    number: u64,
) -> (Batch, Array3<f32>) {
    let config = LoadConfig {
        batch: 1,
        augmentation,
        ..LoadConfig::default()
    };
    let batch = Batches::new(Arc::clone(cache), &config).unwrap().at(number);
    let image = cache.image(batch.slices[0]).unwrap();
    (batch, image)
}

#[test]
fn a_flip_mirrors_image_and_head() {
    let cache = cache(4, 3, 10, 14);
    let flip = Augmentation {
        flip: 1.0,
        ..Augmentation::NONE
    };
    for number in 0..4 {
        let (batch, image) = changed(flip, &cache, number);
        let head = cache.head(batch.slices[0]).unwrap();
        for ((c, y, x), value) in image.indexed_iter() {
            assert_eq!(batch.images[(0, c, y, 13 - x)], *value);
            assert_eq!(batch.head[(0, y, 13 - x)], head[(y, x)]);
        }
    }
}

/// A disc off the middle: where it goes tells the turn, the size and the shift.
#[test]
fn a_disc_moves_as_the_settings_allow() {
    let (size, radius) = (64, 7.0);
    let at = (20.0f32, 40.0f32);
    let inside = |y: usize, x: usize| (y as f32 - at.0).hypot(x as f32 - at.1) < radius;
    let mut set = set(1, 1, size, size);
    set.head = Array3::from_shape_fn((1, size, size), |(_, y, x)| inside(y, x));
    set.images = set
        .head
        .mapv(|bit| if bit { 1.0 } else { -1.0 })
        .insert_axis(ndarray::Axis(1));
    let cache = Arc::new(SliceCache::new(&set).unwrap());
    let only = |rotate: f64, scale: f64, shift: f64| Augmentation {
        rotate,
        scale,
        shift,
        ..Augmentation::NONE
    };
    let middle = (size as f32 - 1.0) / 2.0;
    let (away, area) = (
        (at.0 - middle).hypot(at.1 - middle),
        set.head.iter().filter(|b| **b).count() as f32,
    );
    let (mut angles, mut areas, mut shifts) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..60 {
        for (kind, augmentation) in [
            only(30.0, 0.0, 0.0),
            only(0.0, 0.2, 0.0),
            only(0.0, 0.0, 0.1),
        ]
        .into_iter()
        .enumerate()
        {
            let (batch, _) = changed(augmentation, &cache, number);
            let pixels: Vec<(f32, f32)> = batch
                .head
                .indexed_iter()
                .filter_map(|((_, y, x), bit)| bit.then_some((y as f32, x as f32)))
                .collect();
            let count = pixels.len() as f32;
            let sum = pixels
                .iter()
                .fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
            let centre = (sum.0 / count, sum.1 / count);
            // The image moves with the head.
            let bright = batch.images.iter().map(|v| 0.5 * (v + 1.0)).sum::<f32>();
            // The head goes to the nearest pixel: a straight piece of its border jumps at once.
            assert!((bright / count - 1.0).abs() < 0.15, "{bright} {count}");
            let from = (centre.0 - middle, centre.1 - middle);
            match kind {
                0 => {
                    assert!((bright / area - 1.0).abs() < 0.05);
                    assert!((from.0.hypot(from.1) - away).abs() < 0.5);
                    let turned = from.0.atan2(from.1) - (at.0 - middle).atan2(at.1 - middle);
                    angles.push(turned.to_degrees());
                }
                1 => {
                    let grown = from.0.hypot(from.1) / away;
                    assert!((bright / area / grown.powi(2) - 1.0).abs() < 0.1);
                    areas.push(grown.ln());
                }
                _ => shifts.push(((centre.0 - at.0) / 64.0, (centre.1 - at.1) / 64.0)),
            }
        }
    }
    // Evenly spread: the extremes of 60 draws come near the bounds, on both sides.
    let check = |values: &[f32], most: f32, slack: f32| {
        let low = values.iter().copied().fold(f32::MAX, f32::min);
        let high = values.iter().copied().fold(f32::MIN, f32::max);
        assert!(low > -most - slack && low < -0.8 * most, "{low} {most}");
        assert!(high < most + slack && high > 0.8 * most, "{high} {most}");
    };
    check(&angles, 30.0, 2.0);
    check(&areas, 0.2, 0.03);
    check(&shifts.iter().map(|s| s.0).collect::<Vec<_>>(), 0.1, 0.01);
    check(&shifts.iter().map(|s| s.1).collect::<Vec<_>>(), 0.1, 0.01);
}

/// Interpolation, against a slow reference: a smooth field is sampled where the move says.
#[test]
fn moving_by_whole_pixels_and_back_is_exact_inside() {
    let cache = cache(1, 2, 20, 20);
    // A half turn takes every pixel to another, up to rounding of sine and cosine.
    let mut seen = 0;
    for number in 0..200 {
        let turn = Augmentation {
            rotate: 180.0,
            ..Augmentation::NONE
        };
        let (batch, image) = changed(turn, &cache, number);
        // Values stay within those of the slice and the background.
        let low = image.iter().copied().fold(-1.0, f32::min);
        let high = image.iter().copied().fold(f32::MIN, f32::max);
        assert!(
            batch
                .images
                .iter()
                .all(|v| *v >= low - 1e-5 && *v <= high + 1e-5)
        );
        seen += usize::from(batch.images.slice(s![0, .., .., ..]) != image);
    }
    assert!(seen > 190);
}

#[test]
fn contrast_keeps_background_order_and_range() {
    let cache = cache(3, 2, 24, 24);
    let strong = Augmentation {
        gamma: 0.5,
        gain: 0.5,
        ..Augmentation::NONE
    };
    let mut changes = 0;
    for number in 0..40 {
        let (batch, image) = changed(strong, &cache, number);
        for c in 0..2 {
            let mut pairs: Vec<(f32, f32)> = image
                .slice(s![c, .., ..])
                .iter()
                .copied()
                .zip(batch.images.slice(s![0, c, .., ..]).iter().copied())
                .collect();
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(pairs.windows(2).all(|p| p[0].1 <= p[1].1 + 1e-6));
            assert!(pairs.iter().all(|p| (-1.0..=1.0).contains(&p.1)));
            changes += usize::from(pairs.iter().any(|p| (p.0 - p.1).abs() > 0.02));
            // One exponent and one factor explain every value that is not cut, but near 0, where
            // the table is coarse.
            let unit = |v: f32| f64::from(0.5 * (v + 1.0));
            let inner: Vec<(f64, f64)> = pairs
                .iter()
                .map(|p| (unit(p.0), unit(p.1)))
                .filter(|p| p.0 > 0.1 && p.1 < 0.999)
                .collect();
            if let (Some(a), Some(b)) = (inner.first(), inner.last())
                && b.0 > 1.5 * a.0
            {
                let exponent = (b.1 / a.1).ln() / (b.0 / a.0).ln();
                let gain = a.1 / a.0.powf(exponent);
                assert!((0.6..1.7).contains(&exponent) && (0.49..1.51).contains(&gain));
                for (from, to) in inner {
                    assert!((gain * from.powf(exponent) - to).abs() < 1e-3);
                }
            }
        }
    }
    assert!(changes > 60, "{changes}");
}

#[test]
fn settings_out_of_range_are_refused() {
    let cache = cache(4, 1, 8, 8);
    let base = LoadConfig::default;
    let broken = |augmentation: Augmentation| LoadConfig {
        augmentation,
        ..base()
    };
    for config in [
        LoadConfig { batch: 0, ..base() },
        LoadConfig { ahead: 0, ..base() },
        LoadConfig {
            threads: 0,
            ..base()
        },
        LoadConfig {
            diseased_share: Some(1.5),
            ..base()
        },
        LoadConfig {
            diseased_share: Some(f64::NAN),
            ..base()
        },
        broken(Augmentation {
            flip: -0.1,
            ..Augmentation::NONE
        }),
        broken(Augmentation {
            rotate: f64::NAN,
            ..Augmentation::NONE
        }),
        broken(Augmentation {
            gain: 1.5,
            ..Augmentation::NONE
        }),
    ] {
        let error = Loader::new(Arc::clone(&cache), &config, 0).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
    assert!(Order::new(&[0, 0], Some(0.5), 1).is_err());
    assert!(Order::new(&[], None, 1).is_err());
    let mut set = set(2, 1, 4, 4);
    set.images[(1, 0, 2, 2)] = f32::NAN;
    assert!(matches!(
        SliceCache::new(&set),
        Err(Error::InvalidConfig { .. })
    ));
    set.images[(1, 0, 2, 2)] = 1.5;
    assert!(SliceCache::new(&set).is_err());
    set.images[(1, 0, 2, 2)] = 1.0;
    set.labels.pop();
    assert!(matches!(SliceCache::new(&set), Err(Error::Shape { .. })));
    let text = serde_json::to_string(&base()).unwrap();
    assert_eq!(serde_json::from_str::<LoadConfig>(&text).unwrap(), base());
    assert_eq!(serde_json::from_str::<LoadConfig>("{}").unwrap(), base());
}

/// A loader that is dropped in the middle leaves no thread waiting.
#[test]
fn a_loader_may_be_dropped_at_any_time() {
    let cache = cache(6, 1, 8, 8);
    for taken in 0..4 {
        let config = config(Augmentation::default(), 3);
        let mut loader = Loader::new(Arc::clone(&cache), &config, 0).unwrap();
        for _ in 0..taken {
            loader.next().unwrap();
        }
        drop(loader);
    }
    // The threads are gone, and their shares of the cache with them.
    assert_eq!(Arc::strong_count(&cache), 1);
}
