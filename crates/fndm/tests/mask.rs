//! From an anomaly map to a mask, on maps whose mask is known.

use fndm::data::phantom::PhantomConfig;
use fndm::data::{PatientSlices, Preprocess};
use fndm::{DetectConfig, Error, ThresholdScope, mask_of};
use ndarray::{Array3, s};

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
        matches!(error, Error::Option { name: "method", .. }),
        "{error}"
    );
}
