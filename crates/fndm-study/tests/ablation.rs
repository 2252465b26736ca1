//! Networks for each row of the ablation, and the contrast of healthy and diseased slices, from training to detection.

use std::collections::BTreeMap;
use std::path::Path;

use fndm::candle_core::Device;
use fndm::data::Preprocess;
use fndm::data::phantom::PhantomConfig;
use fndm::memory::{ContrastConfig, MemoryBank, MemoryConfig};
use fndm::models::{ClassifierConfig, Limits, UNetConfig};
use fndm::{CoarseSource, DetectConfig, Detector, FeatureConfig, Method, ResidualSide, Start};
use fndm_study::student::StudentPlan;
use fndm_study::train::{ClassifierTrainConfig, ConditionDropout, DiffusionConfig, StopFlag};
use fndm_study::{
    Gallery, LabelSource, SeparatePlan, Source, StudentBase, TrainPlan, TrainingPlace,
    TrainingRecord, add_student, examine_case, train_model,
};

const SIZE: usize = 32;

fn plan() -> TrainPlan {
    let sequences = ["flair", "t1"].map(String::from).to_vec();
    let channels = sequences.len();
    let unet = |inputs: usize, classes: usize| UNetConfig {
        image_size: SIZE,
        channel_mult: vec![1., 1.],
        attention_resolutions: vec![2],
        num_classes: Some(classes),
        ..UNetConfig::small_64(inputs, channels)
    };
    let training = |label_dropout: f64| DiffusionConfig {
        batch: 2,
        iterations: Some(3),
        time_budget_s: None,
        condition_dropout: ConditionDropout::NONE,
        label_dropout,
        ..DiffusionConfig::default()
    };
    let separate = |inputs, classes, dropout| SeparatePlan {
        unet: unet(inputs, classes),
        training: training(dropout),
    };
    TrainPlan {
        source: Source::Phantom {
            config: PhantomConfig {
                slices: 12,
                ..PhantomConfig::default()
            },
            first_seed: 0,
            patients: 3,
        },
        labels: LabelSource::Masks,
        sequences: sequences.clone(),
        preprocess: Preprocess {
            image_size: SIZE,
            ..Preprocess::default()
        },
        classifier: ClassifierConfig {
            image_size: SIZE,
            channel_mult: vec![1., 1.],
            attention_resolutions: vec![2],
            ..ClassifierConfig::small_64(channels)
        },
        classifier_training: ClassifierTrainConfig {
            batch: 2,
            iterations: Some(3),
            time_budget_s: None,
            ..ClassifierTrainConfig::default()
        },
        features: FeatureConfig {
            blocks: vec![1, 2],
            ..FeatureConfig::default()
        },
        memory: MemoryConfig {
            budget_bytes: 1 << 17,
            ..MemoryConfig::default()
        },
        contrast: Some(ContrastConfig::default()),
        unet: unet(2 * channels + 1, 2),
        diffusion_training: training(0.),
        pasted_by: None,
        separate: BTreeMap::from([
            (Method::CgNm, separate(2 * channels, 2, 0.)),
            (Method::Cg, separate(channels, 3, 0.5)),
        ]),
        student: Some(student(&sequences)),
        detect: BTreeMap::from([(
            Method::Fndm,
            DetectConfig {
                steps: 2,
                ..DetectConfig::default()
            },
        )]),
        validation: None,
        seed: 1,
    }
}

/// A student of three iterations. Every second patient is held apart.
fn student(sequences: &[String]) -> StudentPlan {
    let mut plan = StudentPlan::new(sequences, SIZE, 3, 1);
    for network in [&mut plan.remover, &mut plan.student] {
        network.channel_mult = vec![1., 2.];
    }
    plan.remover_training.batch = 2;
    plan.student_training.batch = 2;
    plan.teacher.parts = 2;
    plan.apart = 2;
    plan
}

fn at<'a>(folder: &'a Path, stop: &'a StopFlag) -> TrainingPlace<'a> {
    TrainingPlace::new(folder, &Device::Cpu, stop)
}

fn train(plan: &TrainPlan, folder: &Path) {
    let stop = StopFlag::new();
    let record = train_model(plan, at(folder, &stop), "test", &mut |_| {});
    assert!(record.unwrap().is_some());
}

#[test]
fn every_row_runs_on_its_own_network_and_on_either_coarse_map() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    train(&plan, folder.path());
    let detector = Detector::load(folder.path(), &Device::Cpu).unwrap();
    let config = detector.config();
    assert_eq!(config.separate.len(), 2);
    let record = TrainingRecord::read(folder.path()).unwrap();
    assert_eq!(record.separate[&Method::Cg].iterations, 3);

    let patient = plan.source.patient(0, &plan.sequences).unwrap();
    let slices = detector.slices(&patient).unwrap();
    let healthy = |detector: &Detector, method: Method, config: &DetectConfig| {
        let (_, maps) = examine_case(detector, method, config, &slices, &mut |_| {}).unwrap();
        maps.unwrap().healthy.unwrap()
    };
    for method in [Method::Fndm, Method::CgNm, Method::Cg, Method::Diffano] {
        let settings = config.detect_config(method);
        assert_eq!(settings.label_condition, method != Method::Diffano);
        assert_eq!(settings.order == 1, method == Method::Diffano);
        let image = healthy(&detector, method, &settings);
        assert!(image.iter().all(|v| v.is_finite()), "{method:?}");
    }

    // A folder that lacks the network of a row is refused, with the file named.
    let file = folder.path().join("unet_cg_nm.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let error = Detector::load(folder.path(), &Device::Cpu).unwrap_err();
    assert!(
        error.to_string().contains("unet_cg_nm.safetensors"),
        "{error}"
    );
    std::fs::write(&file, bytes).unwrap();

    // x_seg comes from the model that was asked for, and a folder without it says so.
    let mut settings = config.detect_config(Method::Fndm);
    let bank = detector.examine(&slices, &settings, &mut |_| {}).unwrap();
    // A sheet of other slices than the maps are of isn't drawn.
    let some = slices.select(&[0]).unwrap();
    assert!(Gallery::default().add(&some, &bank).is_err());
    Gallery::default().add(&slices, &bank).unwrap();
    settings.coarse_source = CoarseSource::Contrast;
    let contrast = detector.examine(&slices, &settings, &mut |_| {}).unwrap();
    assert_ne!(bank.coarse, contrast.coarse);
    let mut without = config.clone();
    without.contrast = false;
    (without.student, without.method) = (None, Method::Fndm);
    let weights = |name: &str| {
        fndm::models::StateDict::read(folder.path().join(name), &Limits::default()).unwrap()
    };
    let without = Detector::builder(without)
        .unet(weights("unet.safetensors"))
        .classifier(weights("classifier.safetensors"))
        .separate(Method::Cg, weights("unet_cg.safetensors"))
        .separate(Method::CgNm, weights("unet_cg_nm.safetensors"))
        .bank(MemoryBank::load(folder.path().join("memory.safetensors")).unwrap())
        .build()
        .unwrap();
    let error = without
        .examine(&slices, &settings, &mut |_| {})
        .unwrap_err();
    assert!(
        error.to_string().contains("contrast.safetensors"),
        "{error}"
    );
}

#[test]
fn a_student_comes_with_the_model_and_can_be_added_to_one() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = TrainPlan {
        separate: BTreeMap::new(),
        ..plan()
    };
    train(&whole, folder.path());
    let detector = Detector::load(folder.path(), &Device::Cpu).unwrap();
    let config = detector.config();
    assert_eq!(config.method, Method::Student);
    let record = TrainingRecord::read(folder.path()).unwrap();
    assert_eq!(Some(&record.student.unwrap().plan), whole.student.as_ref());
    let calibration = config.student.as_ref().unwrap().calibration;
    assert!(calibration.slices.iter().all(|&n| n > 0));

    // The mask is the student's, and so is what is said of every slice.
    let patient = whole.source.patient(0, &whole.sequences).unwrap();
    let found = detector.detect(&patient).unwrap();
    let maps = &found.maps;
    assert!(maps.healthy.is_none() && maps.evaluations == 2);
    let diseased = maps.diseased.as_ref().unwrap();
    assert_eq!(diseased.len(), found.slices.len());
    for (mask, &likely) in maps.mask.outer_iter().zip(diseased) {
        assert!(likely >= calibration.healthy_below || mask.iter().all(|&v| !v));
    }
    // The diffusion may start from it.
    let mut settings = config.detect_config(Method::Fndm);
    settings.coarse_source = CoarseSource::Student;
    let maps = detector
        .examine(&found.slices, &settings, &mut |_| {})
        .unwrap();
    let student = detector.student().unwrap();
    let probability = student.probability(&found.slices, &Device::Cpu).unwrap();
    assert_eq!(maps.coarse, probability);
    assert_eq!(maps.diseased.as_ref(), Some(diseased));

    // What is saved is what was loaded, file by file.
    detector.save(copy.path()).unwrap();
    for name in fndm::model_folder::names_of(config) {
        let read = |folder: &Path| std::fs::read(folder.join(&name)).unwrap();
        assert!(read(folder.path()) == read(copy.path()), "{name}");
    }
    assert_eq!(
        TrainingRecord::read(copy.path()).unwrap().memory_rows,
        record.memory_rows
    );

    // The same training of a student by itself, for a model without one, gives the same student.
    let bare = tempfile::tempdir().unwrap();
    let without = TrainPlan {
        student: None,
        ..whole.clone()
    };
    train(&without, bare.path());
    let plan = whole.student.as_ref().unwrap();
    let (source, labels) = (&whole.source, &LabelSource::Masks);
    let stop = StopFlag::new();
    let added = add_student(
        plan,
        source,
        labels,
        &StudentBase::Model(bare.path()),
        at(bare.path(), &stop),
        "test",
        &mut |_| {},
    );
    assert_eq!(added.unwrap().unwrap().patients, record.patients);
    let again = Detector::load(bare.path(), &Device::Cpu).unwrap();
    assert_eq!(again.detect(&patient).unwrap().maps.mask, found.maps.mask);
    let record = TrainingRecord::read(bare.path()).unwrap();
    assert!(record.student.is_some() && record.memory_rows > 0);

    // A model of the student alone says what it hasn't.
    let alone = tempfile::tempdir().unwrap();
    let base = StudentBase::Nothing {
        sequences: &whole.sequences,
        preprocess: &whole.preprocess,
    };
    let added = add_student(
        plan,
        source,
        labels,
        &base,
        at(alone.path(), &stop),
        "test",
        &mut |_| {},
    );
    added.unwrap().unwrap();
    let only = Detector::load(alone.path(), &Device::Cpu).unwrap();
    assert_eq!(only.detect(&patient).unwrap().maps.mask, found.maps.mask);
    for method in [Method::Fndm, Method::Cg, Method::Diffano, Method::Memory] {
        let settings = only.config().detect_config(method);
        let error = only.config().check_row(method, &settings).unwrap_err();
        assert!(matches!(error, fndm::Error::Option { .. }), "{error}");
        let examined = only.examine_by(method, &found.slices, &settings, &mut |_| {});
        assert!(matches!(examined, Err(fndm::Error::Option { .. })));
    }
    assert!(TrainingRecord::read(alone.path()).is_err());

    // Another classifier than the one whose features the bank holds is refused.
    let other = tempfile::tempdir().unwrap();
    let mut seeded = without;
    seeded.seed = 2;
    train(&seeded, other.path());
    let name = "classifier.safetensors";
    std::fs::copy(other.path().join(name), bare.path().join(name)).unwrap();
    let error = Detector::load(bare.path(), &Device::Cpu).unwrap_err();
    let error = fndm::files::chain(&error);
    assert!(
        error.contains("built with") && error.contains(name),
        "{error}"
    );
}

#[test]
fn a_network_is_not_asked_for_what_it_never_saw() {
    let folder = tempfile::tempdir().unwrap();
    let plan = TrainPlan {
        separate: BTreeMap::new(),
        student: None,
        contrast: None,
        ..plan()
    };
    train(&plan, folder.path());
    let detector = Detector::load(folder.path(), &Device::Cpu).unwrap();
    let patient = plan.source.patient(0, &plan.sequences).unwrap();
    let slices = detector.slices(&patient).unwrap();
    // Its labels were never withheld.
    let settings = detector.config().detect_config(Method::Diffano);
    let error = detector
        .examine(&slices, &settings, &mut |_| {})
        .unwrap_err();
    assert!(error.to_string().contains("label_condition"), "{error}");

    let mut config = detector.config().clone();
    config.separate = BTreeMap::from([(
        Method::Cg,
        fndm::SeparateModel {
            unet: config.unet.clone().unwrap(),
            prediction: None,
            from_image: false,
        },
    )]);
    let error = config.check().unwrap_err();
    assert!(error.to_string().contains("separate.unet"), "{error}");
    let model = config.separate.remove(&Method::Cg).unwrap();
    config.separate.insert(Method::Flair, model);
    assert!(config.check().is_err());
}

/// A network that removes lesions, and no other but CG's: it serves CG + NM and FNDM in one evaluation, which leaves healthy tissue as
/// it is where nothing was learned yet, and CG keeps its own.
#[test]
fn one_network_removes_for_both_rows_in_one_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan();
    plan.student = None;
    plan.separate.remove(&Method::CgNm);
    plan.detect.insert(Method::CgNm, DetectConfig::default());
    let mut plan = plan.removing();
    plan.diffusion_training.iterations = Some(1);
    plan.diffusion_training.batch = 2;
    train(&plan, folder.path());
    let detector = Detector::load(folder.path(), &Device::Cpu).unwrap();
    let config = detector.config();
    assert!(config.from_image && !config.separate[&Method::Cg].from_image);
    assert!(config.has_network(Method::Cg) && config.has_network(Method::Flair));
    let mut alone = config.clone();
    alone.separate.clear();
    assert!(!alone.has_network(Method::Cg) && !alone.has_network(Method::Diffano));
    assert!(alone.has_network(Method::CgNm) && alone.has_network(Method::Fndm));
    let patient = plan.source.patient(0, &plan.sequences).unwrap();
    let slices = detector.slices(&patient).unwrap();
    let examine =
        |settings: &DetectConfig| detector.examine(&slices, settings, &mut |_| {}).unwrap();
    let of = |method| examine(&config.detect_config(method));
    let (alone, whole) = (of(Method::CgNm), of(Method::Fndm));
    for maps in [&alone, &whole] {
        assert_eq!((maps.evaluations, maps.gradient_evaluations), (1, 0));
    }
    assert_eq!(alone.healthy, whole.healthy);
    assert_ne!(alone.anomaly, whole.anomaly);
    // After one step at a thousandth the last layer, which begins at 0, gives next to nothing.
    let change = alone.healthy.as_ref().unwrap() - &slices.images;
    assert!(change.iter().all(|v| v.abs() < 0.1));

    let same = DetectConfig {
        start: Start::Scaled,
        steps: 4,
        ..config.detect_config(Method::CgNm)
    };
    assert_eq!(examine(&same).evaluations, 4);
    let encoded = DetectConfig {
        start: Start::Encoded,
        encode_steps: Some(2),
        ..same.clone()
    };
    assert_eq!(examine(&encoded).evaluations, 6);
    // Blanked, the image is no longer what the output belongs to; and x_seg that neither network nor map sees is a mistake.
    let wrong = [
        (
            DetectConfig {
                blank_condition: true,
                ..same.clone()
            },
            "blank_condition",
        ),
        (
            DetectConfig {
                coarse_weight: 0.,
                ..config.detect_config(Method::Fndm)
            },
            "memory_bank",
        ),
        (
            DetectConfig {
                residual_sides: vec![ResidualSide::Both],
                ..same
            },
            "residual sides",
        ),
    ];
    for (settings, name) in wrong {
        let error = detector
            .examine(&slices, &settings, &mut |_| {})
            .unwrap_err()
            .to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_power_keeps_every_rank() {
    let folder = tempfile::tempdir().unwrap();
    let plan = TrainPlan {
        separate: BTreeMap::new(),
        ..plan()
    };
    train(&plan, folder.path());
    let detector = Detector::load(folder.path(), &Device::Cpu).unwrap();
    let patient = plan.source.patient(1, &plan.sequences).unwrap();
    let slices = detector.slices(&patient).unwrap();
    let plain = detector.config().detect_config(Method::Fndm);
    let rooted = DetectConfig {
        map_power: 0.5,
        ..plain.clone()
    };
    let a = detector.examine(&slices, &plain, &mut |_| {}).unwrap();
    let b = detector.examine(&slices, &rooted, &mut |_| {}).unwrap();
    for (a, b) in a.anomaly.iter().zip(&b.anomaly) {
        assert!((a.sqrt() - b).abs() <= 1e-5 * a.sqrt().max(1.));
    }
}
