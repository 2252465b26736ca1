//! Properties of every kind of corruption.

use fndm_data::Error;
use fndm_data::corrupt::{Corruption, CorruptionMix};
use fndm_data::freeform::MaskMix;
use ndarray::{Array2, Array3};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

struct Case {
    image: Array3<f32>,
    other: Array3<f32>,
    mask: Array2<bool>,
    head: Array2<bool>,
}

fn case(seed: u64, c: usize, h: usize, w: usize) -> Case {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut random = || Array3::from_shape_simple_fn((c, h, w), || rng.random_range(-1.0..=1.0f32));
    let (image, other) = (random(), random());
    let head = Array2::from_shape_fn((h, w), |(i, j)| {
        let (y, x) = (
            i as f64 + 0.5 - h as f64 / 2.0,
            j as f64 + 0.5 - w as f64 / 2.0,
        );
        (y / h as f64).hypot(x / w as f64) < 0.45
    });
    let mask = MaskMix::default().draw_in(&mut rng, head.view());
    Case {
        image,
        other,
        mask,
        head,
    }
}

fn corrupted(kind: Corruption, case: &Case, seed: u64, soft_edge: f64) -> Array3<f32> {
    let mut image = case.image.clone();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    kind.apply(
        &mut rng,
        image.view_mut(),
        case.mask.view(),
        case.other.view(),
        case.head.view(),
        soft_edge,
    )
    .expect("shapes fit");
    image
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_the_region_changes_and_values_stay_in_range(
        seed: u64, c in 1usize..5, h in 1usize..50, w in 1usize..50, soft_edge in 0.0..6.0f64,
    ) {
        let case = case(seed, c, h, w);
        for kind in Corruption::ALL {
            let image = corrupted(kind, &case, seed, soft_edge);
            for ((at, new), old) in image.indexed_iter().zip(&case.image) {
                let at = (at.1, at.2);
                prop_assert!((-1.0..=1.0).contains(new), "{kind:?} {new}");
                if !(case.mask[at] && case.head[at]) {
                    prop_assert!(new.to_bits() == old.to_bits(), "{kind:?} outside");
                }
            }
            let again = corrupted(kind, &case, seed, soft_edge);
            prop_assert_eq!(&image, &again);
        }
    }

    #[test]
    fn a_large_region_does_change(seed: u64, soft_edge in 0.0..3.0f64) {
        let mut case = case(seed, 4, 40, 40);
        case.mask.fill(false);
        case.mask.slice_mut(ndarray::s![14..26, 14..26]).fill(true);
        for kind in Corruption::ALL {
            let image = corrupted(kind, &case, seed, soft_edge);
            let change: f32 = (&image - &case.image).iter().map(|v| v.abs()).sum();
            prop_assert!(change > 1.0, "{kind:?} {change}");
        }
    }
}

#[test]
fn constant_is_one_value_for_each_sequence() {
    let case = case(3, 4, 64, 64);
    let image = corrupted(Corruption::Constant, &case, 1, 0.0);
    for plane in image.outer_iter() {
        let inside: Vec<f32> = plane
            .indexed_iter()
            .filter(|(at, _)| case.mask[*at] && case.head[*at])
            .map(|(_, v)| *v)
            .collect();
        assert!(inside.windows(2).all(|v| (v[0] - v[1]).abs() < 1e-6));
    }
}

#[test]
fn shuffle_keeps_the_values_and_moves_all_sequences_together() {
    let mut case = case(5, 2, 64, 64);
    // The second sequence is a function of the first, and stays so.
    let first = case.image.index_axis(ndarray::Axis(0), 0).to_owned();
    case.image
        .index_axis_mut(ndarray::Axis(0), 1)
        .assign(&first.mapv(|v| -0.5 * v));
    let image = corrupted(Corruption::Shuffle, &case, 1, 0.0);
    for (a, b) in image
        .index_axis(ndarray::Axis(0), 0)
        .iter()
        .zip(image.index_axis(ndarray::Axis(0), 1))
    {
        assert!((b + 0.5 * a).abs() < 1e-6);
    }
    let sorted = |a: &Array3<f32>| {
        let mut v: Vec<f32> = a.iter().copied().collect();
        v.sort_by(f32::total_cmp);
        v
    };
    for (a, b) in sorted(&image).iter().zip(sorted(&case.image)) {
        assert!((a - b).abs() < 1e-6);
    }
}

#[test]
fn elastic_texture_keeps_a_flat_image_and_moves_sequences_together() {
    let mut case = case(6, 2, 64, 64);
    case.image.index_axis_mut(ndarray::Axis(0), 0).fill(0.25);
    let image = corrupted(Corruption::ElasticTexture, &case, 1, 0.0);
    assert!(
        image
            .index_axis(ndarray::Axis(0), 0)
            .iter()
            .all(|v| (v - 0.25).abs() < 1e-6)
    );
}

#[test]
fn blend_stays_between_both_slices() {
    let case = case(8, 3, 64, 64);
    let image = corrupted(Corruption::BlendOtherSlice, &case, 1, 3.0);
    for ((v, a), b) in image.iter().zip(&case.image).zip(&case.other) {
        assert!(*v >= a.min(*b) - 1e-6 && *v <= a.max(*b) + 1e-6);
    }
}

#[test]
fn blur_weakens_detail() {
    let case = case(9, 1, 64, 64);
    let image = corrupted(Corruption::Blur, &case, 1, 0.0);
    let energy = |a: &Array3<f32>| -> f32 {
        a.indexed_iter()
            .filter(|(at, _)| case.mask[(at.1, at.2)] && case.head[(at.1, at.2)])
            .map(|(_, v)| v * v)
            .sum()
    };
    assert!(energy(&image) < 0.3 * energy(&case.image));
}

#[test]
fn a_soft_edge_changes_the_border_less() {
    let mut case = case(1, 1, 64, 64);
    case.head.fill(true);
    case.mask.fill(false);
    case.mask.slice_mut(ndarray::s![20..44, 20..44]).fill(true);
    let change = |soft_edge: f64| {
        let hard = corrupted(Corruption::Constant, &case, 7, 0.0);
        let soft = corrupted(Corruption::Constant, &case, 7, soft_edge);
        let ratio =
            |at: [usize; 3]| f64::from((soft[at] - case.image[at]) / (hard[at] - case.image[at]));
        (ratio([0, 32, 20]), ratio([0, 32, 32]))
    };
    let (border, middle) = change(4.0);
    assert!(border < 0.45, "{border}");
    assert!((middle - 1.0).abs() < 0.02, "{middle}");
}

#[test]
fn the_mix_draws_each_kind_by_its_weight() {
    for kind in Corruption::ALL {
        let mix = CorruptionMix::only(kind);
        mix.check().expect("in range");
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        assert!((0..50).all(|_| mix.choose(&mut rng) == kind));
    }
    let mix = CorruptionMix::default();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let n = 20_000;
    let shifts = (0..n)
        .filter(|_| mix.choose(&mut rng) == Corruption::IntensityShift)
        .count() as f64
        / f64::from(n);
    assert!((shifts - 0.5).abs() < 4.0 * (0.25 / f64::from(n)).sqrt());
}

#[test]
fn settings_out_of_range_and_shapes_that_do_not_fit_are_refused() {
    let bad = CorruptionMix {
        noise: f64::NAN,
        ..CorruptionMix::default()
    };
    assert!(matches!(bad.check(), Err(Error::InvalidConfig { .. })));
    let bad = CorruptionMix {
        soft_edge: -1.0,
        ..CorruptionMix::default()
    };
    assert!(matches!(bad.check(), Err(Error::InvalidConfig { .. })));

    let case = case(1, 2, 16, 16);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mix = CorruptionMix::default();
    let small = Array2::from_elem((15, 16), true);
    let few = Array3::zeros((1, 16, 16));
    let mut image = case.image.clone();
    let result = mix.apply(
        &mut rng,
        image.view_mut(),
        small.view(),
        case.other.view(),
        case.head.view(),
    );
    assert!(matches!(result, Err(Error::Shape { .. })));
    let result = mix.apply(
        &mut rng,
        image.view_mut(),
        case.mask.view(),
        case.other.view(),
        small.view(),
    );
    assert!(matches!(result, Err(Error::Shape { .. })));
    let result = mix.apply(
        &mut rng,
        image.view_mut(),
        case.mask.view(),
        few.view(),
        case.head.view(),
    );
    assert!(matches!(result, Err(Error::Shape { .. })));
    assert_eq!(image, case.image);
}

#[test]
fn an_empty_mask_changes_nothing() {
    let mut case = case(1, 2, 16, 16);
    case.mask.fill(false);
    for kind in Corruption::ALL {
        assert_eq!(corrupted(kind, &case, 3, 1.0), case.image);
    }
}
