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
