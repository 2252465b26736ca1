//! The loop over a cohort, and the comparison of methods on it.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use fndm::candle_core::Device;
use fndm::data::phantom::PhantomConfig;
use fndm::data::{Patient, nifti};
use fndm::{Detector, Method};
use fndm_study::{
    Arm, CohortEvent, Comparison, Error, Gallery, Level, Patients, Source, Truth, evaluate,
    examine_case,
};

fn detector() -> Detector {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom");
    Detector::load(&folder, &Device::Cpu).unwrap()
}

fn phantom() -> PhantomConfig {
    PhantomConfig {
        slices: 4,
        ..PhantomConfig::default()
    }
}

fn source(patients: u64) -> Source {
    Source::Phantom {
        config: phantom(),
        first_seed: 12_345,
        patients,
    }
}

fn arms(detector: &Detector) -> Vec<Arm> {
    let arm = |method| Arm::new(method, detector.config().detect_config(method));
    let quantile = Arm {
        key: "flair_quantile".into(),
        flair_quantile: Some((0.9, 3)),
        ..arm(Method::Flair)
    };
    vec![arm(Method::Flair), arm(Method::Memory), quantile]
}

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

/// Scored one by one, the figures are those of all cases at once.
#[test]
fn the_figures_do_not_depend_on_the_loop() {
    let detector = detector();
    let source = source(3);
    let mut comparison = Comparison::by_masks(arms(&detector), &Level::ALL);
    let mut told = Vec::new();
    let patients = Patients::of(&detector, &source, Truth::Mask);
    let mut done = Vec::new();
    let cohort = patients
        .each(
            &mut |event| {
                if let CohortEvent::Done(number, total) = event {
                    done.push((number, total));
                }
                GO_ON
            },
            |read| -> Result<(), Error> {
                comparison.add(&detector, &read.slices, &mut |arm, share| {
                    told.push((arm.key.clone(), share));
                    GO_ON
                })?;
                Ok(())
            },
        )
        .unwrap();
    assert_eq!(done, [(1, 3), (2, 3), (3, 3)]);
    assert_eq!((cohort.patients, cohort.slices), (3, 12));
    assert!(cohort.left_out.is_empty() && cohort.unreadable == 0);
    let keys: Vec<&str> = told.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys[..3], ["flair", "memory", "flair_quantile"]);
    assert!(told.iter().all(|(_, share)| *share == 1.));

    let found = comparison.finish().unwrap();
    assert_eq!(found.len(), 3);
    for (both, method) in found.iter().zip([Method::Flair, Method::Memory]) {
        let config = detector.config().detect_config(method);
        let cases: Vec<_> = (0..3)
            .map(|i| {
                let patient = source.patient(i, &detector.config().sequences).unwrap();
                let slices = detector.slices(&patient).unwrap();
                let found = examine_case(&detector, method, &config, &slices, &mut |_| {});
                found.unwrap().0
            })
            .collect();
        for (found, level) in both.iter().zip(Level::ALL) {
            let whole = evaluate(method.key(), level, &cases, 0, 0).unwrap();
            assert_eq!(found.cases, whole.cases);
            assert_eq!(found.row.dice_interval, whole.row.dice_interval);
            assert_eq!(found.row.auroc, whole.row.auroc);
            assert_eq!(found.row.average_precision, whole.row.average_precision);
            assert_eq!(found.row.cases, whole.row.cases);
        }
    }
    assert_ne!(found[0][0].row.dice_otsu, found[2][0].row.dice_otsu);
}

#[test]
fn both_loops_end_when_asked_to() {
    let detector = detector();
    let source = source(3);
    let patients = Patients::of(&detector, &source, Truth::Mask);
    let mut seen = 0;
    let ended = patients.each(&mut |_| ControlFlow::Break(()), |_| {
        seen += 1;
        Ok::<(), Error>(())
    });
    assert!(matches!(ended, Err(Error::Cancelled)));
    assert_eq!(seen, 1);

    let mut comparison = Comparison::by_masks(arms(&detector), &[Level::Slice]);
    let patient = source.patient(0, &detector.config().sequences).unwrap();
    let slices = detector.slices(&patient).unwrap();
    let mut told = 0;
    let ended = comparison.add(&detector, &slices, &mut |_, _| {
        told += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(ended, Err(Error::Cancelled)));
    assert_eq!(told, 1);
}

fn write(root: &Path, patient: &Patient, mask: bool) {
    let folder = root.join(&patient.id);
    fs::create_dir_all(&folder).unwrap();
    let file = |what: &str| -> PathBuf { folder.join(format!("{}_{what}.nii.gz", patient.id)) };
    for (name, volume) in &patient.sequences {
        nifti::write_map(file(name), volume).unwrap();
    }
    if let Some(truth) = patient.mask.as_ref().filter(|_| mask) {
        nifti::write_mask(file("seg"), truth).unwrap();
    }
}

#[test]
fn who_cannot_be_used_is_left_out_and_told() {
    let detector = detector();
    let root = tempfile::tempdir().unwrap();
    let named = |id: &str| {
        let mut patient = phantom().patient(12_345).unwrap();
        patient.id = id.into();
        patient
    };
    write(root.path(), &named("a"), true);
    write(root.path(), &named("b"), false);
    let mut copied = named("c");
    copied.sequences[1].1 = copied.sequences[0].1.clone();
    write(root.path(), &copied, true);
    write(root.path(), &named("d"), true);
    fs::write(root.path().join("d/d_t1.nii.gz"), "no volume").unwrap();
    let source = Source::folder(root.path(), None, None).unwrap();
    let mut told = Vec::new();
    let mut used = Vec::new();
    let cohort = Patients::of(&detector, &source, Truth::Mask)
        .each(
            &mut |event| {
                if let CohortEvent::LeftOut(one) = event {
                    told.push(one.clone());
                }
                GO_ON
            },
            |read| {
                used.push(read.slices.id);
                Ok::<(), Error>(())
            },
        )
        .unwrap();
    assert_eq!(used, ["a"]);
    assert_eq!(told, cohort.left_out);
    assert_eq!((cohort.patients, cohort.unreadable), (1, 1));
    for (one, (patient, reason)) in told.iter().zip([
        ("b", "no lesion mask"),
        ("c", "copies"),
        ("d", "d_t1.nii.gz"),
    ]) {
        assert_eq!(one.patient, patient);
        assert!(one.reason.contains(reason), "{}", one.reason);
    }
}

/// The rows of a picture: spread evenly, or from the best Dice to the worst.
#[test]
fn a_gallery_shows_slices_with_a_lesion() {
    let detector = detector();
    let source = source(2);
    let arm = Arm::new(
        Method::Cg,
        fndm::DetectConfig {
            steps: 1,
            order: 1,
            ..detector.config().detect_config(Method::Cg)
        },
    );
    let mut comparison = Comparison::by_masks(vec![arm], &[Level::Slice]);
    let mut gallery = Gallery::default();
    assert!(gallery.is_empty());
    Patients::of(&detector, &source, Truth::Mask)
        .each(&mut |_| GO_ON, |read| {
            let found = comparison.add(&detector, &read.slices, &mut |_, _| GO_ON)?;
            gallery.add(&read.slices, found[0].maps.as_ref().unwrap())?;
            Ok::<(), Error>(())
        })
        .unwrap();
    let evaluation = comparison.finish().unwrap().remove(0).remove(0);
    let lesions = evaluation.cases.len();
    assert!(lesions > 2);
    let all: Vec<usize> = (0..lesions).collect();
    assert_eq!(gallery.spread(100), all);
    assert_eq!(gallery.spread(2), [0, lesions / 2]);
    let dice = |at: usize| evaluation.cases[at].dice_otsu.value().unwrap();
    let sorted = gallery.by_dice(&evaluation, lesions);
    assert!(sorted.windows(2).all(|pair| dice(pair[0]) >= dice(pair[1])));
    let both = gallery.by_dice(&evaluation, 2);
    assert_eq!(both, [sorted[0], sorted[lesions - 1]]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sheet.png");
    gallery.save(&[], &path).unwrap();
    assert!(!path.exists());
    gallery.save(&both, &path).unwrap();
    assert!(fs::read(path).unwrap().starts_with(b"\x89PNG"));
}
