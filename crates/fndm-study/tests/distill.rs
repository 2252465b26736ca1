//! A model of few steps, taught by a model of many: from the teacher's round trip to a model folder.

use std::path::Path;

use fndm::candle_core::{Device, Tensor};
use fndm::data::phantom::PhantomConfig;
use fndm::models::{Limits, StateDict, UNet};
use fndm::{DetectConfig, Detector, Method, Start, model_folder};
use fndm_study::train::StopFlag;
use fndm_study::{
    DistillPlan, LabelSource, Source, TrainEvent, TrainPlan, TrainingPlace, distill, train_model,
};

const SIZE: usize = 32;

fn source() -> Source {
    Source::Phantom {
        config: PhantomConfig {
            slices: 12,
            ..PhantomConfig::default()
        },
        first_seed: 0,
        patients: 3,
    }
}

/// A model of the paper's objective, of a few iterations, that takes four steps each way.
fn teacher(folder: &Path) -> Detector {
    let sequences = ["flair", "t1"].map(String::from).to_vec();
    let mut plan = TrainPlan::small(source(), LabelSource::Masks, sequences, SIZE);
    for network in [
        &mut plan.unet.channel_mult,
        &mut plan.classifier.channel_mult,
    ] {
        *network = vec![1., 1.];
    }
    plan.unet.attention_resolutions = vec![2];
    plan.classifier.attention_resolutions = vec![2];
    plan.features.blocks = vec![1, 2];
    plan.memory.budget_bytes = 1 << 17;
    for (iterations, budget) in [
        (
            &mut plan.classifier_training.iterations,
            &mut plan.classifier_training.time_budget_s,
        ),
        (
            &mut plan.diffusion_training.iterations,
            &mut plan.diffusion_training.time_budget_s,
        ),
    ] {
        (*iterations, *budget) = (Some(4), None);
    }
    plan.diffusion_training.optimizer.lr = 3e-3;
    for row in plan.detect.values_mut() {
        row.steps = 4;
        row.guidance_scale = 5.;
    }
    let stop = StopFlag::new();
    let place = TrainingPlace::new(folder, &Device::Cpu, &stop);
    train_model(&plan, place, "test", &mut |_| {}).unwrap();
    Detector::load(folder, &Device::Cpu).unwrap()
}

fn plan() -> DistillPlan {
    let mut plan = DistillPlan::new(source(), Method::Fndm, 1);
    plan.slices = 9;
    plan.training.iterations = Some(3);
    plan.training.batch = 2;
    plan
}

/// Where the teacher itself takes single steps of order 1 without a gradient, what is to be learned is what it says.
#[test]
fn its_own_steps_are_what_the_network_says() {
    let folder = tempfile::tempdir().unwrap();
    let detector = teacher(folder.path());
    let patient = source().patient(0, &detector.config().sequences).unwrap();
    let slices = detector.slices(&patient).unwrap();
    let settings = DetectConfig {
        clip_x0: false,
        ..Detector::in_long_steps(&detector.config().detect_config(Method::Fndm), 3)
    };
    let (encode, sample) = detector.long_steps(&slices, &[1, 4], &settings, 3).unwrap();
    let unet = detector.config().unet.clone().unwrap();
    let file = model_folder::file(folder.path(), model_folder::UNET).unwrap();
    let weights = StateDict::read(file, &Limits::default()).unwrap();
    let unet = UNet::from_state_dict(&unet, &weights, fndm::candle_core::DType::F32, &Device::Cpu);
    let unet = unet.unwrap();
    for (taught, label) in [(encode.unwrap(), 1), (sample, 0)] {
        assert_eq!(taught.z, [1, 4, 1, 4, 1, 4].map(|i| slices.z[i]));
        assert_eq!(taught.labels, [label; 6]);
        let values: Vec<f32> = taught.inputs.iter().copied().collect();
        let x = Tensor::from_vec(values, taught.inputs.dim(), &Device::Cpu).unwrap();
        let t = Tensor::new(&taught.model_times[..], &Device::Cpu).unwrap();
        let y = Tensor::new(&taught.labels[..], &Device::Cpu).unwrap();
        let said = unet
            .forward(&x, &t, Some(&y))
            .unwrap()
            .flatten_all()
            .unwrap();
        let said = said.to_vec1::<f32>().unwrap();
        let largest = said.iter().fold(0f32, |most, v| most.max(v.abs()));
        let worst = said.iter().zip(&taught.targets).map(|(a, b)| (a - b).abs());
        let worst = worst.fold(0f32, f32::max);
        println!("label {label}: worst error {worst:e} of {largest}");
        assert!(
            largest > 0.01 && worst < 2e-4 * largest.max(1.),
            "{worst:e} of {largest}"
        );
    }
    // With the gradient it is another thing, and only in the sampling.
    let guided = DetectConfig {
        guidance_scale: 5.,
        ..settings.clone()
    };
    let (there, back) = detector.long_steps(&slices, &[1, 4], &guided, 3).unwrap();
    let (before_there, before) = detector.long_steps(&slices, &[1, 4], &settings, 3).unwrap();
    assert_eq!(there.unwrap().targets, before_there.unwrap().targets);
    assert_ne!(back.targets, before.targets);

    for (which, steps, name) in [(vec![99], 3, "slice"), (vec![0], 2, "long steps")] {
        let refused = detector.long_steps(&slices, &which, &settings, steps);
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_model_of_long_steps_is_a_model_of_its_row_alone() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let four = teacher(from.path());
    let stop = StopFlag::new();
    let place = TrainingPlace::new(to.path(), &Device::Cpu, &stop);
    let mut stages = Vec::new();
    let record = distill(&plan(), from.path(), place, "test", &mut |event| {
        if let TrainEvent::Distill(direction, steps, ..) = event {
            stages.push((direction.name(), steps));
        }
    });
    let record = record.unwrap().unwrap();
    stages.dedup();
    assert_eq!(
        stages,
        [("encode", 2), ("sample", 2), ("encode", 1), ("sample", 1)]
    );
    assert_eq!(
        (record.slices, record.patients.len(), record.stages.len()),
        (9, 3, 4)
    );

    let one = Detector::load(to.path(), &Device::Cpu).unwrap();
    let config = one.config();
    for method in [Method::Cg, Method::CgNm, Method::Diffano] {
        assert!(!config.has_network(method), "{method:?}");
    }
    assert!(config.has_network(Method::Fndm) && config.has_network(Method::Memory));
    let patient = source().patient(1, &config.sequences).unwrap();
    let slices = one.slices(&patient).unwrap();
    let settings = config.detect_config(Method::Fndm);
    let maps = one.examine(&slices, &settings, &mut |_| {}).unwrap();
    assert_eq!((maps.evaluations, maps.gradient_evaluations), (2, 0));
    let whole = four.config().detect_config(Method::Fndm);
    let maps = four.examine(&slices, &whole, &mut |_| {}).unwrap();
    assert_eq!((maps.evaluations, maps.gradient_evaluations), (8, 4));

    let wrong = [
        DetectConfig {
            steps: 2,
            ..settings.clone()
        },
        DetectConfig {
            guidance_scale: 1.,
            ..settings.clone()
        },
        DetectConfig {
            start: Start::Noised,
            ..settings.clone()
        },
        DetectConfig {
            encode_steps: Some(3),
            ..settings.clone()
        },
        DetectConfig {
            parts: fndm::Parts::CG_NM,
            ..settings
        },
    ];
    for settings in wrong {
        let refused = config.check_settings(&settings);
        assert!(refused.unwrap_err().to_string().contains("long steps"));
    }

    // Three steps of four are none.
    let mut three = plan();
    three.steps = vec![2, 3];
    let elsewhere = tempfile::tempdir().unwrap();
    let place = TrainingPlace::new(elsewhere.path(), &Device::Cpu, &stop);
    let refused = distill(&three, from.path(), place, "test", &mut |_| {});
    assert!(refused.unwrap_err().to_string().contains("divisors"));

    // Once more in the same place: everything is there, and the model is the same.
    let before = std::fs::read(to.path().join(model_folder::UNET)).unwrap();
    let place = TrainingPlace::new(to.path(), &Device::Cpu, &stop);
    distill(&plan(), from.path(), place, "test", &mut |_| {})
        .unwrap()
        .unwrap();
    assert_eq!(
        std::fs::read(to.path().join(model_folder::UNET)).unwrap(),
        before
    );
    let copy = tempfile::tempdir().unwrap();
    one.save(copy.path()).unwrap();
    Detector::load(copy.path(), &Device::Cpu).unwrap();
}

#[test]
fn plans_that_make_no_sense_are_refused_before_anything_is_read() {
    type Spoil = fn(&mut DistillPlan);
    let wrong: [(&str, Spoil); 4] = [
        ("steps", |plan| plan.steps.clear()),
        ("steps", |plan| plan.steps = vec![2, 0]),
        ("slices", |plan| plan.slices = 0),
        ("method", |plan| plan.method = Method::Student),
    ];
    for (name, spoil) in wrong {
        let mut plan = plan();
        spoil(&mut plan);
        let error = plan.check().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
