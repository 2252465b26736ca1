//! A detector of parts that the program brings: networks, features, a coarse map. What it saves is what it was.

use candle_core::{DType, Device, Tensor};
use fndm::data::phantom::PhantomConfig;
use fndm::data::{Patient, PatientSlices, Volume};
use fndm::files::chain;
use fndm::memory::{
    ClassifierFeatures, FeatureExtractor, HealthyModel, MemoryBank, MemoryConfig, PatchFeatures,
    silent,
};
use fndm::models::{
    Classifier, ClassifierConfig, Parameters, Segmenter, SegmenterConfig, StateDict, UNet,
    UNetConfig,
};
use fndm::ndarray::{Array3, s};
use fndm::{
    CoarseModel, CoarseSource, DetectConfig, Detector, Error, Method, ModelConfig, Parts, Result,
    SliceCalibration, StudentConfig, ThresholdScope, batch_tensor,
};

const SIDE: usize = 16;

fn config() -> ModelConfig {
    let unet = UNetConfig {
        image_size: SIDE,
        channel_mult: vec![1., 1.],
        attention_resolutions: vec![2],
        ..UNetConfig::small_64(5, 2)
    };
    let classifier = ClassifierConfig {
        image_size: SIDE,
        channel_mult: vec![1., 1.],
        attention_resolutions: vec![2],
        ..ClassifierConfig::small_64(2)
    };
    let mut config = ModelConfig::new(&["flair", "t1"], unet, classifier);
    config.features.blocks = vec![0, 1];
    config
}

fn unet(config: &ModelConfig) -> StateDict {
    let parameters = Parameters::new(1, DType::F32, &Device::Cpu);
    UNet::new(config.unet.as_ref().unwrap(), parameters.builder()).unwrap();
    parameters.state_dict().unwrap()
}

fn classifier(config: &ModelConfig, seed: u64) -> StateDict {
    let parameters = Parameters::new(seed, DType::F32, &Device::Cpu);
    Classifier::new(config.classifier.as_ref().unwrap(), parameters.builder()).unwrap();
    parameters.state_dict().unwrap()
}

/// A detector of two networks, without a bank.
fn diffusing(config: &ModelConfig) -> Detector {
    let built = Detector::builder(config.clone())
        .unet(unet(config))
        .classifier(classifier(config, 2));
    built.build().unwrap()
}

fn patient(seed: u64) -> Patient {
    patient_of(3, seed)
}

fn patient_of(slices: usize, seed: u64) -> Patient {
    let phantom = PhantomConfig {
        size: SIDE,
        slices,
        ..PhantomConfig::default()
    };
    let mut patient = phantom.patient(seed).unwrap();
    let wanted = |name: &str| ["flair", "t1"].contains(&name);
    patient.sequences.retain(|(name, _)| wanted(name));
    patient.sequences.sort_by(|a, b| a.0.cmp(&b.0));
    patient
}

/// A bank of the slices of one patient.
fn bank(extractor: &dyn FeatureExtractor, slices: &PatientSlices) -> MemoryBank {
    let config = MemoryConfig {
        patch: PatchFeatures {
            pretrain_dimension: 8,
            target_dimension: 8,
            ..PatchFeatures::default()
        },
        ..MemoryConfig::default()
    };
    let images = batch_tensor(&slices.images.view(), &Device::Cpu).unwrap();
    let head = slices.head.view();
    let mut bank = MemoryBank::build(&config, extractor, &images, Some(head), &mut silent).unwrap();
    bank.calibrate(extractor, &images, head, &mut silent)
        .unwrap();
    bank
}

fn features(config: &ModelConfig, weights: &StateDict) -> ClassifierFeatures {
    ClassifierFeatures {
        classifier: Classifier::from_state_dict(
            config.classifier.as_ref().unwrap(),
            weights,
            DType::F32,
            &Device::Cpu,
        )
        .unwrap(),
        blocks: config.features.blocks.clone(),
        t: config.features.model_time,
        weights: Some(weights.fingerprint().unwrap()),
    }
}

fn steps(config: DetectConfig) -> DetectConfig {
    DetectConfig { steps: 2, ..config }
}

/// The first sequence, from 0 up.
#[derive(Debug)]
struct Bright;

impl CoarseModel for Bright {
    fn soft_map(&self, slices: &PatientSlices, _: &Device) -> Result<Array3<f32>> {
        Ok(slices.images.slice(s![.., 0, .., ..]).mapv(|v| v + 1.))
    }

    fn threshold(&self) -> Result<f32> {
        Ok(1.2)
    }
}

/// One that always fails.
#[derive(Debug)]
struct Broken;

impl CoarseModel for Broken {
    fn soft_map(&self, _: &PatientSlices, _: &Device) -> Result<Array3<f32>> {
        Err(Error::own("the atlas", std::io::Error::other("not there")))
    }

    fn threshold(&self) -> Result<f32> {
        Ok(0.)
    }
}

#[test]
fn what_is_saved_is_the_detector_that_was_built() {
    let mut config = config();
    let weights = classifier(&config, 2);
    let slices = config.preprocess.apply(&patient(1)).unwrap();
    let bank = bank(&features(&config, &weights), &slices);
    let network = SegmenterConfig {
        image_size: SIDE,
        channel_mult: vec![1., 2.],
        ..SegmenterConfig::small_64(2)
    };
    let parameters = Parameters::new(3, DType::F32, &Device::Cpu);
    Segmenter::new(&network, parameters.builder()).unwrap();
    config.student = Some(StudentConfig {
        network,
        mirror: true,
        z_smoothing: 0.7,
        calibration: SliceCalibration::NONE,
    });
    let built = Detector::builder(config.clone())
        .unet(unet(&config))
        .classifier(weights)
        .bank(bank)
        .student(parameters.state_dict().unwrap())
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    built.save(folder.path()).unwrap();
    let loaded = Detector::load(folder.path(), &Device::Cpu).unwrap();
    assert_eq!(loaded.config(), &config);
    let again = tempfile::tempdir().unwrap();
    loaded.save(again.path()).unwrap();
    for name in fndm::model_folder::names_of(&config) {
        let read = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(&name)).unwrap();
        assert!(read(&folder) == read(&again), "{name}");
    }
    // Weights are stored in half precision: the maps differ by that, and by no more.
    let slices = built.slices(&patient(2)).unwrap();
    for method in [Method::Fndm, Method::Memory, Method::Student] {
        let settings = steps(config.detect_config(method));
        let of = |detector: &Detector| {
            let maps = detector.examine_by(method, &slices, &settings, &mut |_| {});
            maps.unwrap().anomaly
        };
        let (a, b) = (of(&built), of(&loaded));
        let most = a.iter().fold(0f32, |m, v| m.max(v.abs()));
        let off = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0., f32::max) <= 0.02 * most, "{method:?}");
        assert!(most > 0., "{method:?}");
    }
    // The row of both together is the diffusion with the student's map, which is made once.
    let settings = steps(config.detect_config(Method::FndmStudent));
    assert_eq!(settings.coarse_source, CoarseSource::Student);
    assert!(settings.empty_when_healthy);
    let of = |method, settings: &DetectConfig| {
        let maps = built.examine_by(method, &slices, settings, &mut |_| {});
        maps.unwrap()
    };
    let both = of(Method::FndmStudent, &settings);
    let student = of(Method::Student, &config.detect_config(Method::Student));
    for ((&soft, &head), &said) in both.coarse.iter().zip(&slices.head).zip(&student.anomaly) {
        assert_eq!(soft, if head { said } else { 0. });
    }
    assert_eq!(both.diseased, student.diseased);
    let alone = of(Method::Fndm, &steps(config.detect_config(Method::Fndm)));
    assert_eq!(both.evaluations, alone.evaluations + student.evaluations);
    // Every row is told what the student says of whole slices; it counts for a row whose mask comes from it.
    assert_eq!(alone.diseased, student.diseased);
    let emptied = DetectConfig {
        empty_when_healthy: true,
        ..config.detect_config(Method::Flair)
    };
    for (empty, expected) in [(true, student.evaluations), (false, 0)] {
        let flair = DetectConfig {
            empty_when_healthy: empty,
            ..emptied.clone()
        };
        let flair = of(Method::Flair, &flair);
        assert_eq!(flair.diseased, student.diseased);
        assert_eq!(flair.evaluations, expected);
    }
    // A model that isn't there any more can't be saved again.
    std::fs::remove_file(folder.path().join("model.json")).unwrap();
    assert!(loaded.save(again.path()).is_err());
}

#[test]
fn a_coarse_map_of_ones_own_leads_the_diffusion() {
    let config = config();
    let with = |coarse: bool| {
        let builder = Detector::builder(config.clone())
            .unet(unet(&config))
            .classifier(classifier(&config, 2));
        match coarse {
            true => builder.coarse(Bright).build().unwrap(),
            false => builder.build().unwrap(),
        }
    };
    let detector = with(true);
    let slices = detector.slices(&patient(3)).unwrap();
    let settings = DetectConfig {
        coarse_source: CoarseSource::Own,
        ..steps(DetectConfig::default())
    };
    let maps = detector.examine(&slices, &settings, &mut |_| {}).unwrap();
    for ((&soft, &head), &image) in maps
        .coarse
        .iter()
        .zip(&slices.head)
        .zip(slices.images.slice(s![.., 0, .., ..]))
    {
        assert_eq!(soft, if head { image + 1. } else { 0. });
    }
    let other = with(false);
    let error = other.examine(&slices, &settings, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("own"), "{error}");
    let broken = Detector::builder(config.clone())
        .unet(unet(&config))
        .classifier(classifier(&config, 2))
        .coarse(Broken)
        .build()
        .unwrap();
    let error = broken.examine(&slices, &settings, &mut |_| {}).unwrap_err();
    assert_eq!(chain(&error), "the atlas: not there");
}

#[test]
fn a_bank_knows_its_features() {
    let config = config();
    let weights = classifier(&config, 2);
    let slices = config.preprocess.apply(&patient(1)).unwrap();
    let known = bank(&features(&config, &weights), &slices);
    let build = |weights: StateDict, bank: &MemoryBank| {
        Detector::builder(config.clone())
            .unet(unet(&config))
            .classifier(weights)
            .bank(bank.clone())
            .build()
    };
    build(weights.clone(), &known).unwrap();
    let error = chain(&build(classifier(&config, 4), &known).unwrap_err());
    assert!(error.contains("built with"), "{error}");
    // It knows them after it was written and read, too.
    let read = MemoryBank::from_bytes(&known.to_bytes().unwrap()).unwrap();
    assert!(build(classifier(&config, 4), &read).is_err());

    // Features of the program's own: another extractor with a name is refused, a closure isn't known.
    let own = |x: &Tensor| Ok(vec![x.clone(), x.avg_pool2d(2)?]);
    let detector = Detector::builder(config.clone())
        .unet(unet(&config))
        .classifier(classifier(&config, 4))
        .bank(bank(&own, &slices))
        .features(own)
        .build()
        .unwrap();
    let settings = DetectConfig::default();
    let other = detector.slices(&patient(5)).unwrap();
    let maps = detector.coarse_map(&other, &settings).unwrap();
    assert!(maps.soft.iter().any(|&v| v > 0.));
}

#[test]
fn parts_that_are_missing_or_too_many_are_named() {
    let config = config();
    let error = Detector::builder(config.clone()).build().unwrap_err();
    assert!(error.to_string().contains("unet.safetensors"), "{error}");
    for method in [Method::Student, Method::FndmStudent] {
        let mut with_student = config.clone();
        with_student.method = method;
        let error = Detector::builder(with_student).build().unwrap_err();
        assert!(error.to_string().contains("student"), "{error}");
    }
    let builder = Detector::builder(config.clone())
        .unet(unet(&config))
        .classifier(classifier(&config, 2));
    let error = builder.student(unet(&config)).build().unwrap_err();
    assert!(error.to_string().contains("student"), "{error}");

    let detector = diffusing(&config);
    let slices = detector.slices(&patient(1)).unwrap();
    for (method, settings) in [
        (Method::Student, DetectConfig::student()),
        (
            Method::FndmStudent,
            config.detect_config(Method::FndmStudent),
        ),
        (Method::Memory, DetectConfig::default()),
        (
            Method::Flair,
            DetectConfig {
                empty_when_healthy: true,
                ..DetectConfig::default()
            },
        ),
    ] {
        let error = detector.examine_by(method, &slices, &settings, &mut |_| {});
        assert!(matches!(error, Err(Error::Option { .. })), "{method:?}");
    }
}

/// Slices may come from plain arrays: here a single 2-D image of each sequence.
#[test]
fn a_two_dimensional_image_is_a_patient() {
    let config = config();
    let detector = diffusing(&config);
    let image = |factor: f32| {
        Array3::from_shape_fn((40, 30, 1), |(x, y, _)| {
            let (dx, dy) = (x as f32 - 20., y as f32 - 15.);
            let inside = dx * dx / 225. + dy * dy / 144. < 1.;
            if inside { factor * (10. + dx) } else { 0. }
        })
    };
    let volume = |factor| {
        let affine = [
            [1., 0., 0., 0.],
            [0., 1., 0., 0.],
            [0., 0., 1., 0.],
            [0., 0., 0., 1.],
        ];
        Volume::new(image(factor), affine)
    };
    let patient = Patient {
        id: "one".into(),
        sequences: vec![("flair".into(), volume(3.)), ("t1".into(), volume(2.))],
        mask: None,
    };
    let settings = DetectConfig {
        parts: Parts::CG_NM,
        threshold: ThresholdScope::Volume,
        z_smoothing: 1.,
        ..steps(DetectConfig::default())
    };
    let found = detector
        .detect_by(Method::CgNm, &patient, &settings, &mut |_| {})
        .unwrap();
    assert_eq!(found.mask.shape(), [40, 30, 1]);
    assert!(found.anomaly.data.iter().all(|v| v.is_finite()));
}

/// Parts of a patient go through narrow networks side by side.
#[test]
fn a_patient_has_the_same_bits_with_one_thread_and_with_several() {
    let config = config();
    let detector = diffusing(&config);
    let slices = config.preprocess.apply(&patient_of(13, 4)).unwrap();
    let settings = steps(DetectConfig {
        // Three parts at a time.
        batch: 18,
        coarse_weight: 0.,
        parts: Parts::CG_NM,
        ..DetectConfig::default()
    });
    let run = || {
        let mut shares = Vec::new();
        let found = detector.examine(&slices, &settings, &mut |share| shares.push(share));
        (found.unwrap(), shares)
    };
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1);
    let (expected, _) = alone.build().unwrap().install(run);
    let (found, shares) = run();
    assert!(slices.len() > 12, "{} slices", slices.len());
    assert_eq!(found.healthy, expected.healthy);
    assert_eq!(found.anomaly, expected.anomaly);
    // The progress is told upwards, and ends with the end.
    assert!(
        shares.is_sorted() && shares.last() == Some(&1.),
        "{shares:?}"
    );
}

#[test]
fn models_may_be_shared_among_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Detector>();
    shared::<fndm::Student>();
    shared::<fndm::SliceMaps>();
    shared::<Error>();
}
