//! The whole way of a student on a small phantom: teachers, masks, training, calibration, files.

use std::path::Path;

use fndm::candle_core::{Device, Tensor};
use fndm::data::phantom::PhantomConfig;
use fndm::student::volume_thresholds;
use fndm::{CoarseSource, Detector, Method, Student};
use fndm_data::{PatientSlices, Preprocess, SliceSet};
use fndm_models::SegmenterConfig;
use fndm_study::student::{
    FoldRow, ModelTeacher, QuantileScope, StudentPlan, TeacherConfig, TrainedStudent, examine_fold,
    teach, train_student,
};
use fndm_study::{Case, Error, TrainingPlace};
use fndm_train::{OptimizerConfig, PixelAugmentation, RemoverConfig, StopFlag, StudentConfig};
use ndarray::Axis;

const SIDE: usize = 32;

fn patients(first: u64, count: u64) -> Vec<PatientSlices> {
    let phantom = PhantomConfig {
        size: SIDE,
        slices: 12,
        ..PhantomConfig::default()
    };
    let preprocess = Preprocess {
        image_size: SIDE,
        z_range: (0.2, 0.9),
        ..Preprocess::default()
    };
    (first..first + count)
        .map(|seed| {
            let mut patient = phantom.patient(seed).unwrap();
            patient.id = format!("phantom_{seed}");
            preprocess.apply(&patient).unwrap()
        })
        .collect()
}

fn bits(patients: &[PatientSlices]) -> SliceSet {
    let without = patients.iter().cloned().map(|mut slices| {
        slices.mask = None;
        slices
    });
    SliceSet::from_patients(without).unwrap()
}

fn phantom_sequences() -> Vec<String> {
    fndm_study::PHANTOM_SEQUENCES.map(String::from).to_vec()
}

fn plan(iterations: u64) -> StudentPlan {
    let sequences = 4;
    let network = |config: SegmenterConfig| SegmenterConfig {
        image_size: SIDE,
        channel_mult: vec![1., 2.],
        model_channels: 16,
        ..config
    };
    let optimizer = OptimizerConfig {
        lr: 3e-3,
        ..RemoverConfig::of(iterations).optimizer
    };
    StudentPlan {
        remover: network(SegmenterConfig::remover_64(sequences)),
        remover_training: RemoverConfig {
            batch: 4,
            optimizer: OptimizerConfig {
                warm_up: 10,
                ..optimizer.clone()
            },
            ..RemoverConfig::of(iterations)
        },
        teacher: TeacherConfig {
            head_erosion: 1,
            parts: 2,
            ..TeacherConfig::default()
        },
        student: network(SegmenterConfig::small_64(sequences)),
        student_training: StudentConfig {
            batch: 4,
            augmentation: PixelAugmentation::FLIP,
            optimizer: OptimizerConfig {
                warm_up: 10,
                ..optimizer
            },
            ..StudentConfig::of(iterations)
        },
        apart: 3,
        ..StudentPlan::new(&phantom_sequences(), SIDE, iterations, 1)
    }
}

fn at<'a>(folder: &'a Path, stop: &'a StopFlag) -> TrainingPlace<'a> {
    TrainingPlace::new(folder, &Device::Cpu, stop)
}

#[test]
fn a_student_is_trained_calibrated_written_and_read_back() {
    let (known, new) = (patients(1, 6), patients(100, 2));
    let set = bits(&known);
    assert!(set.labels.contains(&0) && set.labels.contains(&1));
    let (folder, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plan = plan(100);
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<StudentPlan>(&text).unwrap(), plan);

    // Stopped in the remover's, an odd half's and the student's training, then gone on.
    let stops = [25, 170, 240];
    let mut made = 0;
    let mut student = None;
    for _ in 0..=stops.len() {
        let stop = StopFlag::new();
        student = train_student(&plan, &set, at(folder.path(), &stop), |_, _, share| {
            made += 1;
            assert!(share > 0. && share <= 1.);
            if stops.contains(&made) {
                stop.stop();
            }
        })
        .unwrap();
    }
    let student = student.unwrap();
    // The halves of the second round have 50 each.
    assert_eq!(made, 300);
    let never = StopFlag::new();
    let whole = train_student(&plan, &set, at(again.path(), &never), |_, _, _| {});
    let whole = whole.unwrap().unwrap();
    assert_eq!(student.config, whole.config);
    // Shifted log-odds are the same network but for what is added last; nothing is trained for it.
    let shifted = StudentPlan {
        log_odds_shift: -1.5,
        ..plan.clone()
    };
    let moved = train_student(&shifted, &set, at(again.path(), &never), |_, _, _| {
        panic!("trained again");
    });
    let moved = moved.unwrap().unwrap();
    for (name, tensor) in whole.weights.tensors() {
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let shift = if name == "out.conv.bias" { -1.5 } else { 0. };
        let expected: Vec<f32> = values(tensor).iter().map(|v| v + shift).collect();
        assert_eq!(values(&moved.weights.tensors()[name]), expected, "{name}");
    }
    let calibration = student.config.calibration;
    // Patients 2 and 5 are held apart.
    let apart = [2, 5].map(|p| known[p].len());
    assert_eq!(
        calibration.slices.iter().sum::<usize>(),
        apart[0] + apart[1]
    );

    let built = |trained: &TrainedStudent| {
        Student::new(&trained.config, &trained.weights, &Device::Cpu, "student").unwrap()
    };
    let (student, whole) = (built(&student), built(&whole));
    assert_eq!(student.evaluations(), 2);
    let map = |student: &Student, slices: &PatientSlices| {
        student.probability(slices, &Device::Cpu).unwrap()
    };
    for slices in &new {
        let probability = map(&student, slices);
        assert_eq!(probability, map(&whole, slices));
        let diseased = student.diseased(&probability);
        assert_eq!(diseased.len(), slices.len());
        assert!(diseased.iter().all(|p| (0. ..=1.).contains(p)));
        for (&p, &head) in probability.iter().zip(&slices.head) {
            assert!((0. ..=1.).contains(&p) && (head || p == 0.));
        }
    }
    // By chance alone it would be 0.5.
    let (mut scores, mut truth) = (Vec::new(), Vec::new());
    for slices in &new {
        let map = map(&student, slices);
        let mask = slices.mask.as_ref().unwrap();
        for ((&p, &lesion), &head) in map.iter().zip(mask).zip(&slices.head) {
            if head {
                scores.push(p);
                truth.push(lesion);
            }
        }
    }
    let auroc = fndm_metrics::auroc(&scores, &truth)
        .unwrap()
        .value()
        .unwrap();
    println!("AUROC {auroc:.3}");
    assert!(auroc > 0.7, "{auroc}");
}

#[test]
fn healthy_slices_have_no_mask_and_wrong_settings_are_named() {
    let set = bits(&patients(1, 3));
    let config = SegmenterConfig {
        image_size: SIDE,
        ..SegmenterConfig::remover_64(4)
    };
    let parameters = fndm_models::Parameters::new(1, fndm::candle_core::DType::F32, &Device::Cpu);
    let remover = fndm_models::Segmenter::new(&config, parameters.builder()).unwrap();
    let teacher = TeacherConfig {
        // An untrained remover changes nothing.
        remover_power: 0.0,
        parts: 3,
        ..TeacherConfig::default()
    };
    let targets = teach(&teacher, Some(&remover), &set, &Device::Cpu).unwrap();
    for (label, target) in set.labels.iter().zip(targets.target().axis_iter(Axis(0))) {
        let any = target.iter().any(|&t| t > 0.0);
        assert!(*label == 1 || !any);
    }
    assert!(targets.target().iter().any(|&t| t > 0.0));
    let wrong = TeacherConfig {
        parts: 1,
        ..teacher
    };
    let error = teach(&wrong, Some(&remover), &set, &Device::Cpu).unwrap_err();
    assert!(
        matches!(error, Error::Option { name: "parts", .. }),
        "{error}"
    );
}

/// With brightness alone for a teacher and a quantile for a threshold, the brightest of each patient's pixels are marked, as many as asked for:
/// sorted here by brightness, without the teacher's code.
#[test]
fn a_quantile_marks_as_many_of_the_brightest_pixels_as_it_says() {
    let set = bits(&patients(1, 3));
    let config = SegmenterConfig {
        image_size: SIDE,
        ..SegmenterConfig::remover_64(4)
    };
    let parameters = fndm_models::Parameters::new(1, fndm::candle_core::DType::F32, &Device::Cpu);
    let remover = fndm_models::Segmenter::new(&config, parameters.builder()).unwrap();
    let teacher = TeacherConfig {
        parts: 3,
        contrast_power: 0.0,
        remover_power: 0.0,
        intensity_power: 1.0,
        intensity_sequence: 2,
        smoothing: 0.0,
        z_smoothing: 0.0,
        head_erosion: 0,
        quantile: Some(0.9),
        ..TeacherConfig::default()
    };
    let targets = teach(&teacher, Some(&remover), &set, &Device::Cpu).unwrap();
    for patient in 0..3 {
        let (mut marked, mut left): (Vec<f32>, Vec<f32>) = (Vec::new(), Vec::new());
        for n in (0..set.len()).filter(|&n| set.patient[n] == patient && set.labels[n] == 1) {
            let image = set.images.index_axis(Axis(0), n);
            let image = image.index_axis(Axis(0), 2);
            let (head, target) = (
                set.head.index_axis(Axis(0), n),
                targets.target().index_axis(Axis(0), n),
            );
            for ((&v, &inside), &target) in image.iter().zip(head).zip(target) {
                assert!(inside || target == 0.);
                if inside {
                    if target > 0. { &mut marked } else { &mut left }.push(v);
                }
            }
        }
        let least = marked.iter().copied().fold(f32::INFINITY, f32::min);
        assert!(left.iter().all(|&v| v <= least));
        // One in ten, less the pixels that are as bright as the threshold.
        let all = marked.len() + left.len();
        let equal = left
            .iter()
            .filter(|&&v| v == left.iter().copied().fold(f32::MIN, f32::max))
            .count();
        assert!(
            marked.len() <= all / 10 + 1 && marked.len() + equal >= all / 10,
            "{} of {all}",
            marked.len()
        );
    }
}

#[test]
fn a_model_that_is_there_teaches_what_it_says_of_the_patients() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom");
    let detector = Detector::load(&folder, &Device::Cpu).unwrap();
    let phantom = PhantomConfig {
        slices: 8,
        ..PhantomConfig::default()
    };
    let patients: Vec<PatientSlices> = (0..2)
        .map(|n| {
            let mut patient = phantom.patient(20_000 + n).unwrap();
            patient.id = format!("phantom_{n}");
            detector.slices(&patient).unwrap()
        })
        .collect();
    let set = bits(&patients);
    let bank = Some(CoarseSource::Bank);
    for (method, coarse_source) in [(Method::Memory, bank), (Method::Student, None)] {
        let of = |power| TeacherConfig {
            contrast_power: 0.,
            remover_power: 0.,
            models: vec![ModelTeacher {
                folder: folder.clone(),
                method,
                coarse_source,
                power,
            }],
            by_slice: 0.,
            head_erosion: 0,
            ..TeacherConfig::default()
        };
        let targets = teach(&of(1.), None, &set, &Device::Cpu).unwrap();
        let config = detector.config().detect_config(method);
        let mut first = 0;
        for slices in &patients {
            let said = detector.examine_by(method, slices, &config, &mut |_| ());
            let map = said.unwrap().anomaly;
            let patient = vec![0; slices.len()];
            let thresholds = volume_thresholds(&map, &slices.head, &patient).unwrap();
            let labels = slices.labels.as_ref().unwrap();
            for ((n, y, x), &value) in map.indexed_iter() {
                let marked = labels[n] == 1 && slices.head[(n, y, x)] && value > thresholds[n];
                let target = targets.target()[(first + n, y, x)];
                assert_eq!(target > 0., marked, "{method:?}, slice {n} at {y}, {x}");
            }
            first += slices.len();
        }
        assert!(targets.target().iter().any(|&v| v > 0.), "{method:?}");
        let nothing = teach(&of(0.), None, &set, &Device::Cpu);
        assert!(nothing.unwrap_err().to_string().contains("powers"));
    }
    let other = SliceSet {
        sequences: ["a", "b", "c", "d"].map(String::from).to_vec(),
        ..set
    };
    let teacher = TeacherConfig {
        models: vec![ModelTeacher {
            folder,
            method: Method::Student,
            coarse_source: None,
            power: 1.,
        }],
        ..TeacherConfig::small_bright(0, 64)
    };
    let message = teach(&teacher, None, &other, &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("flair") && message.contains("a, b"),
        "{message}"
    );
}

#[test]
fn pixels_about_which_teachers_differ_count_less() {
    let set = bits(&patients(1, 4));
    let of = |contrast_power, intensity_power, disputed| {
        let config = TeacherConfig {
            contrast_power,
            remover_power: 0.,
            intensity_power,
            parts: 2,
            head_erosion: 1,
            disputed,
            ..TeacherConfig::default()
        };
        teach(&config, None, &set, &Device::Cpu).unwrap()
    };
    let (contrast, brightness) = (of(1., 0., 1.), of(0., 1., 1.));
    let (all, weighed) = (of(0.5, 0.5, 1.), of(0.5, 0.5, 0.25));
    assert_eq!(all.target(), weighed.target());
    let mut disputed = 0;
    for ((n, y, x), &weight) in weighed.weight().indexed_iter() {
        let at = (n, y, x);
        let differ = contrast.target()[at] != brightness.target()[at];
        disputed += usize::from(differ);
        assert_eq!(weight, if differ { 0.25 } else { 1. }, "{at:?}");
        assert_eq!(all.weight()[at], 1.);
    }
    assert!(disputed > 0);
}

/// Of slices that are brighter as a whole no more is marked, where brightness is measured slice by slice.
#[test]
fn brightness_by_slice_knows_nothing_of_the_slice_as_a_whole() {
    let set = bits(&patients(1, 3));
    let mut other = set.clone();
    for (n, mut slice) in other.images.outer_iter_mut().enumerate() {
        slice.mapv_inplace(|v| v * [1., 0.5, 0.75][n % 3] + [0., 0.25, -0.25][n % 3]);
    }
    let differ = |by_slice: bool| {
        let teacher = TeacherConfig {
            parts: 3,
            contrast_power: 0.0,
            remover_power: 0.0,
            intensity_power: 0.7,
            intensity_by_slice: by_slice,
            z_smoothing: 0.0,
            quantile: Some(0.9),
            ..TeacherConfig::default()
        };
        let of = |set: &SliceSet| teach(&teacher, None, set, &Device::Cpu).unwrap();
        let (one, two) = (of(&set), of(&other));
        let marked = one.target().iter().filter(|&&t| t > 0.).count();
        let pairs = one.target().iter().zip(two.target());
        (marked, pairs.filter(|(a, b)| a != b).count())
    };
    let (marked, by_slice) = differ(true);
    // Sums are rounded; the threshold's neighbours may change sides.
    assert!(
        marked > 100 && by_slice <= marked / 100,
        "{by_slice} of {marked}"
    );
    let (marked, as_it_is) = differ(false);
    assert!(as_it_is > marked / 4, "{as_it_is} of {marked}");
}

/// One threshold for all patients marks its share of all their pixels together, and more in the two that are brighter than the first.
#[test]
fn a_quantile_of_all_is_one_threshold() {
    let mut set = bits(&patients(1, 3));
    for (n, mut slice) in set.images.outer_iter_mut().enumerate() {
        let brighter = set.patient[n] as f32 * 0.1;
        slice.mapv_inplace(|v| v * 0.5 + brighter);
    }
    let teacher = TeacherConfig {
        parts: 3,
        contrast_power: 0.0,
        remover_power: 0.0,
        intensity_power: 1.0,
        smoothing: 0.0,
        z_smoothing: 0.0,
        head_erosion: 0,
        quantile: Some(0.9),
        quantile_of: QuantileScope::All,
        ..TeacherConfig::default()
    };
    let targets = teach(&teacher, None, &set, &Device::Cpu).unwrap();
    let (mut marked, mut left, mut of) = (f32::INFINITY, f32::NEG_INFINITY, [0usize; 3]);
    let mut all = 0usize;
    for n in (0..set.len()).filter(|&n| set.labels[n] == 1) {
        let image = set.images.index_axis(Axis(0), n);
        let pixels = image.index_axis(Axis(0), 0).into_iter();
        let pixels = pixels.zip(set.head.index_axis(Axis(0), n));
        for ((&v, &inside), &target) in pixels.zip(targets.target().index_axis(Axis(0), n)) {
            match (inside, target > 0.) {
                (true, true) => {
                    marked = marked.min(v);
                    of[set.patient[n]] += 1;
                }
                (true, false) => left = left.max(v),
                (false, marked) => assert!(!marked),
            }
            all += usize::from(inside);
        }
    }
    assert!(left <= marked, "{left} {marked}");
    let sum: usize = of.iter().sum();
    assert!(sum.abs_diff(all / 10) <= all / 100, "{sum} of {all}");
    // Not a tenth of each.
    assert!(of[0] < of[1] / 2 && of[0] < of[2] / 2, "{of:?}");
}

/// What goes on into the head's rim is left out, and what ends a pixel before it stays.
#[test]
fn what_hangs_together_with_the_rim_is_no_lesion() {
    let mut set = bits(&patients(1, 2));
    set.head.fill(true);
    let (n, _, h, w) = set.images.dim();
    let spot = |y: usize, x: usize| {
        // Deep; deep with a way into the rim of 3 pixels; beside the rim, with a gap by sides but none by a corner.
        let deep = (7..9).contains(&y) && (6..9).contains(&x);
        let with_a_way = (10..12).contains(&y) && x < 6;
        let at_a_corner = (y, x) == (5, 3) || (y, x) == (4, 2);
        (deep || at_a_corner, with_a_way)
    };
    for mut slice in set.images.outer_iter_mut() {
        for ((_, y, x), value) in slice.indexed_iter_mut() {
            let (stays, goes) = spot(y, x);
            *value = if stays || goes { 0.9 } else { -0.5 };
        }
    }
    let mut teacher = TeacherConfig {
        parts: 2,
        contrast_power: 0.0,
        remover_power: 0.0,
        intensity_power: 1.0,
        smoothing: 0.0,
        z_smoothing: 0.0,
        head_erosion: 3,
        quantile: Some(0.5),
        ..TeacherConfig::default()
    };
    for clear in [false, true] {
        teacher.clear_rim = clear;
        let targets = teach(&teacher, None, &set, &Device::Cpu).unwrap();
        for n in (0..n).filter(|&n| set.labels[n] == 1) {
            for ((y, x), &target) in targets.target().index_axis(Axis(0), n).indexed_iter() {
                let (stays, goes) = spot(y, x);
                let inside = y >= 3 && x >= 3 && y < h - 3 && x < w - 3;
                let expected = inside && (stays || (goes && !clear));
                assert_eq!(target > 0., expected, "{clear}, {y}, {x}");
            }
        }
    }
}

/// A setting's name, and how to spoil it.
type Spoil = (&'static str, fn(&mut StudentPlan));

#[test]
fn every_wrong_setting_of_a_plan_is_named() {
    let good = plan(3);
    good.check_slices(4, SIDE).unwrap();
    let wrong: [Spoil; 17] = [
        ("parts", |p| p.teacher.parts = 1),
        ("by_slice", |p| p.teacher.by_slice = 1.5),
        ("band", |p| p.teacher.band = 1.0),
        ("disputed", |p| p.teacher.disputed = 1.5),
        ("models.power", |p| {
            p.teacher.models = vec![ModelTeacher {
                folder: "model".into(),
                method: Method::Fndm,
                coarse_source: None,
                power: -1.0,
            }];
        }),
        ("contrast_power", |p| p.teacher.contrast_power = -1.0),
        ("remover_power", |p| p.teacher.remover_power = f64::NAN),
        ("intensity_power", |p| p.teacher.intensity_power = 101.0),
        ("powers", |p| {
            (p.teacher.contrast_power, p.teacher.remover_power) = (0.0, 0.0);
        }),
        ("quantile", |p| p.teacher.quantile = Some(1.0)),
        ("smoothing", |p| p.teacher.smoothing = 1e3),
        ("z_smoothing", |p| p.teacher.z_smoothing = -0.1),
        ("cross.power", |p| p.cross.as_mut().unwrap().power = 2.0),
        ("apart", |p| p.apart = 1),
        ("empty", |p| p.empty = 1.1),
        ("log_odds_shift", |p| p.log_odds_shift = -31.0),
        ("student.out_channels", |p| p.student.out_channels = 2),
    ];
    let set = bits(&patients(1, 2));
    let (folder, never) = (tempfile::tempdir().unwrap(), StopFlag::new());
    for (setting, change) in wrong {
        let mut plan = good.clone();
        change(&mut plan);
        let error = plan.check().unwrap_err();
        assert!(
            matches!(&error, Error::Option { name, .. } if *name == setting),
            "{error}"
        );
        // A training tells the same, and trains nothing.
        let told = train_student(&plan, &set, at(folder.path(), &never), |_, _, _| {});
        assert_eq!(told.unwrap_err().to_string(), error.to_string());
    }
    let mut taught = good.clone();
    let phantom = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom");
    for (folder, size, words) in [
        (folder.path().join("none"), SIDE, "none"),
        (phantom.clone(), SIDE, "4 and 64"),
        (phantom, 64, "contrast"),
    ] {
        taught.teacher.models = vec![ModelTeacher {
            folder,
            method: Method::Memory,
            coarse_source: Some(CoarseSource::Contrast),
            power: 1.,
        }];
        (taught.student.image_size, taught.remover.image_size) = (size, size);
        let error = taught.check_slices(4, size).unwrap_err();
        let error = fndm_files::chain(&error);
        assert!(error.contains(words), "{error}");
    }
    let mut fifth = good.clone();
    fifth.teacher.intensity_sequence = 4;
    assert!(fifth.check().is_ok() && fifth.check_slices(4, SIDE).is_err());
    assert!(good.check_slices(3, SIDE).is_err());
    assert!(good.check_slices(4, 2 * SIDE).is_err());
}

#[test]
fn a_fold_has_a_row_for_each_teacher_and_the_bound() {
    let (known, new) = (patients(1, 6), patients(100, 2));
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(12);
    let never = StopFlag::new();
    let mut seen = std::collections::BTreeSet::new();
    let found = examine_fold(
        &plan,
        true,
        &known,
        &new,
        at(folder.path(), &never),
        &mut |row, _, _| {
            seen.insert(row);
        },
        &mut |_, _| Ok(()),
    );
    let rows = found.unwrap().unwrap();
    let trained = [FoldRow::Remover, FoldRow::Student, FoldRow::Bound];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), trained);
    let keys: Vec<FoldRow> = rows.iter().map(|(row, _)| *row).collect();
    assert_eq!(keys, FoldRow::ALL);
    for (row, cases) in &rows {
        assert_eq!(cases.len(), 2, "{row:?}");
        for case in cases {
            case.check().unwrap();
            assert!(case.anomaly.iter().all(|v| v.is_finite() && *v >= 0.));
            let student = matches!(row, FoldRow::Student | FoldRow::Bound);
            assert_eq!(case.diseased.is_some(), student);
        }
    }
    // With one teacher alone, the product is that teacher's map.
    let of = |rows: &[(FoldRow, Vec<Case>)], row: FoldRow| {
        let found = rows.iter().find(|(r, _)| *r == row).unwrap();
        found.1[0].anomaly.clone()
    };
    assert_ne!(of(&rows, FoldRow::Teacher), of(&rows, FoldRow::Remover));
    let mut alone = plan.clone();
    (alone.teacher.contrast_power, alone.teacher.remover_power) = (0., 1.);
    let other = tempfile::tempdir().unwrap();
    let rows = examine_fold(
        &alone,
        false,
        &known,
        &new,
        at(other.path(), &never),
        &mut |_, _, _| {},
        &mut |_, _| Ok(()),
    );
    let rows = rows.unwrap().unwrap();
    assert_eq!(of(&rows, FoldRow::Teacher), of(&rows, FoldRow::Remover));
    // Without masks there is no bound.
    let bits: Vec<PatientSlices> = known
        .iter()
        .cloned()
        .map(|mut slices| {
            slices.mask = None;
            slices
        })
        .collect();
    let error = examine_fold(
        &plan,
        true,
        &bits,
        &new,
        at(folder.path(), &never),
        &mut |_, _, _| {},
        &mut |_, _| Ok(()),
    );
    assert!(error.unwrap_err().to_string().contains("mask"));
}
