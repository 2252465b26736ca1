//! Lesions that are cut from training slices by their bits alone.

use fndm::candle_core::Device;
use fndm::data::phantom::PhantomConfig;
use fndm::data::{Preprocess, SliceSet};
use fndm_study::donors;
use fndm_study::student::TeacherConfig;
use ndarray::Axis;

fn set(patients: u64) -> SliceSet {
    let phantom = PhantomConfig::default();
    let preprocess = Preprocess {
        image_size: 64,
        ..Preprocess::default()
    };
    let cut = (0..patients).map(|seed| {
        let mut slices = preprocess.apply(&phantom.patient(seed).unwrap()).unwrap();
        slices.mask = None;
        slices
    });
    SliceSet::from_patients(cut).unwrap()
}

#[test]
fn lesions_are_cut_from_diseased_slices_by_the_bits_alone() {
    let set = set(6);
    let diseased = set.labels.iter().filter(|&&label| label == 1).count();
    let cut = donors(&TeacherConfig::default(), &set, &Device::Cpu).unwrap();
    assert!(
        cut.len() > diseased / 2 && cut.len() <= diseased,
        "{} of {diseased}",
        cut.len()
    );
    let (_, c, h, w) = set.images.dim();
    assert_eq!(cut.shape(), [c, h, w]);
    let again = donors(&TeacherConfig::default(), &set, &Device::Cpu).unwrap();
    assert!(cut.values().eq(again.values()));
}

/// One patient has no others; it is then scored by its own Gaussians.
#[test]
fn a_single_patient_is_enough_and_one_label_is_not() {
    let one = set(1);
    let cut = donors(&TeacherConfig::default(), &one, &Device::Cpu).unwrap();
    assert!(!cut.is_empty());
    let healthy: Vec<usize> = one.with_label(0);
    let healthy = one.select(&healthy).unwrap();
    assert!(healthy.images.len_of(Axis(0)) > 1);
    let error = donors(&TeacherConfig::default(), &healthy, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("diseased slices"), "{error}");
}

/// Where brightness is the teacher, what it marks is cut: bright squares in diseased slices, and nothing of the healthy ones.
#[test]
fn bright_lesions_are_cut_by_brightness() {
    let mut set = set(2);
    let square = |y: usize, x: usize| (30..34).contains(&y) && (20..25).contains(&x);
    set.head.fill(true);
    for mut slice in set.images.outer_iter_mut() {
        for ((c, y, x), value) in slice.indexed_iter_mut() {
            *value = if square(y, x) {
                0.8
            } else {
                -0.2 - 0.01 * (c + (y + x) % 3) as f32
            };
        }
    }
    let diseased = set.with_label(1).len();
    let teacher = TeacherConfig {
        smoothing: 0.0,
        z_smoothing: 0.0,
        quantile: Some(0.99),
        ..TeacherConfig::small_bright(0, 64)
    };
    let cut = donors(&teacher, &set, &Device::Cpu).unwrap();
    assert_eq!(cut.len(), diseased);
    let (_, channels, h, w) = set.images.dim();
    // The images first, then how much of each pixel is lesion: the square with a soft border.
    let masks: Vec<f32> = cut.values().skip(diseased * channels * h * w).collect();
    assert_eq!(masks.len(), diseased * h * w);
    for (n, &share) in masks.iter().enumerate() {
        let (y, x) = (n / w % h, n % w);
        let near = (26..38).contains(&y) && (16..29).contains(&x);
        let deep = (31..33).contains(&y) && (21..24).contains(&x);
        assert!(near || share < 1e-3, "{y} {x} {share}");
        assert!(!deep || share > 0.5, "{y} {x} {share}");
    }
}
