//! From an anomaly map to a mask, on maps whose mask is known.

use fndm::data::phantom::PhantomConfig;
use fndm::data::{PatientSlices, Preprocess};
use fndm::{DetectConfig, Error, GuidedSmoothing, ThresholdScope, mask_of};
use ndarray::{Array3, Array4, Axis, s};

fn slices() -> PatientSlices {
    let phantom = PhantomConfig {
        size: 16,
        slices: 3,
        ..PhantomConfig::default()
    };
    let preprocess = Preprocess {
        image_size: 16,
        ..Preprocess::default()
    };
    let mut slices = preprocess.apply(&phantom.patient(1).unwrap()).unwrap();
    // A head of 12 x 12 pixels.
    slices.head.fill(false);
    slices.head.slice_mut(s![.., 2..14, 2..14]).fill(true);
    slices
}

#[test]
fn the_mask_is_what_lies_above_the_threshold_in_the_inner_head() {
    let slices = slices();
    let mut map = Array3::from_elem(slices.head.dim(), 0.1);
    map.slice_mut(s![1, 0..8, 0..8]).fill(0.9);
    let config = DetectConfig {
        head_erosion: 1,
        threshold: ThresholdScope::Half,
        ..DetectConfig::default()
    };
    let found = mask_of(&mut map, &slices, &config, None).unwrap();
    for ((n, y, x), &inside) in found.inner_head.indexed_iter() {
        assert_eq!(inside, (3..13).contains(&y) && (3..13).contains(&x));
        let square = n == 1 && (3..8).contains(&y) && (3..8).contains(&x);
        assert_eq!(found.mask[[n, y, x]], square);
        assert!(inside || map[[n, y, x]] == 0.);
    }
    assert_eq!(found.thresholds, [0.5; 3]);
}

#[test]
fn what_makes_no_mask_is_an_error() {
    let slices = slices();
    let plain = DetectConfig::default();
    let mut other = Array3::zeros((3, 16, 15));
    let error = mask_of(&mut other, &slices, &plain, None).unwrap_err();
    assert!(matches!(error, Error::Input { .. }), "{error}");
    let mut map = Array3::zeros(slices.head.dim());
    map[[2, 8, 8]] = f32::NAN;
    let error = mask_of(&mut map, &slices, &plain, None).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    // Slices count as healthy by a student alone.
    map.fill(0.);
    let error = mask_of(&mut map, &slices, &DetectConfig::student(), None).unwrap_err();
    assert!(
        matches!(error, Error::Option { .. }) && error.to_string().contains("student"),
        "{error}"
    );
}

/// Slices of one size and position each, with a lesion's square in one sequence, and a map that fades out over its border.
fn faded(count: usize) -> (PatientSlices, Array3<f32>) {
    let mut slices = slices();
    let (c, size) = (slices.images.dim().1, 16);
    slices.images = Array4::from_shape_fn((count, c, size, size), |(n, c, y, x)| {
        let noise = 0.02 * ((n * 31 + c * 17 + y * 7 + x * 3) as f32).sin();
        match c == 0 && lesion(y, x) {
            true => 0.8 + noise,
            false => -0.1 + noise,
        }
    });
    slices.z = (0..count).collect();
    slices.head = Array3::from_elem((count, size, size), true);
    (slices.mask, slices.labels) = (None, None);
    let map = Array3::from_shape_fn((count, size, size), |(n, y, x)| {
        let off = |v: usize| v.abs_diff(8) as f32;
        // Too small above, too wide below, and with chance in it.
        let side = if y < 8 { 2. } else { 6. };
        let chance = 0.2 * ((n * 13 + y * 5 + x * 11) as f32).cos();
        (1. - off(y).max(off(x)) / side).max(0.) + chance.max(0.)
    });
    (slices, map)
}

fn lesion(y: usize, x: usize) -> bool {
    (4..12).contains(&y) && (5..12).contains(&x)
}

#[test]
fn a_smoothing_that_the_slices_guide_ends_where_the_tissue_ends() {
    let (slices, map) = faded(3);
    let plain = DetectConfig {
        head_erosion: 0,
        ..DetectConfig::default()
    };
    let guided = DetectConfig {
        guided_smoothing: Some(GuidedSmoothing {
            space: 5.,
            range: 0.06,
            z: 1.,
        }),
        ..plain.clone()
    };
    let wrong = |config: &DetectConfig| {
        let found = mask_of(&mut map.clone(), &slices, config, None).unwrap();
        let pixels = found.mask.indexed_iter();
        pixels.filter(|&((_, y, x), &m)| m != lesion(y, x)).count()
    };
    // Of a hundred wrong pixels a few are left, at the corners.
    let (before, after) = (wrong(&plain), wrong(&guided));
    assert!(before >= 100 && after * 20 <= before, "{before}, {after}");
}

/// Many slices are smoothed a part at a time, and look at those within reach alone.
#[test]
fn a_slice_is_smoothed_alike_whatever_lies_far_from_it() {
    let (slices, map) = faded(40);
    let config = DetectConfig {
        guided_smoothing: Some(GuidedSmoothing {
            space: 2.,
            range: 0.1,
            z: 0.9,
        }),
        ..DetectConfig::default()
    };
    let mut whole = map.clone();
    mask_of(&mut whole, &slices, &config, None).unwrap();
    let part: Vec<usize> = (10..31).collect();
    let mut alone = map.select(Axis(0), &part);
    mask_of(&mut alone, &slices.select(&part).unwrap(), &config, None).unwrap();
    for n in 12..29 {
        assert_eq!(
            whole.index_axis(Axis(0), n),
            alone.index_axis(Axis(0), n - 10)
        );
    }
    // The slice at the end of the part has lost two of those that it looked at.
    assert_ne!(whole.index_axis(Axis(0), 30), alone.index_axis(Axis(0), 20));
}

#[test]
fn images_of_other_slices_are_refused() {
    let (mut slices, mut map) = faded(3);
    slices.images = slices.images.select(Axis(0), &[0, 1]);
    let config = DetectConfig {
        guided_smoothing: Some(GuidedSmoothing::of_size(16)),
        ..DetectConfig::default()
    };
    let error = mask_of(&mut map, &slices, &config, None).unwrap_err();
    assert!(matches!(error, Error::Input { .. }), "{error}");
}
