//! Training learns, and says clearly when it can't.

mod common;

use candle_core::Device;
use common::{
    CHANNELS, classifier, classifier_config, diffusion_config, largest_difference, slices,
    slices_of, unet,
};
use fndm_data::SliceSet;
use fndm_models::{ClassifierConfig, UNetConfig};
use fndm_train::{
    Augmentation, ClassifierTrainConfig, ClassifierTrainer, CoarseJitter, Compute, DiffusionConfig,
    DiffusionTrainer, EmaConfig, Error, NonFinite, OptimizerConfig, RateSchedule, RunConfig,
    StepReport, StopFlag, TimeSampling, try_run,
};

fn new(config: &DiffusionConfig, set: SliceSet) -> fndm_train::Result<DiffusionTrainer> {
    DiffusionTrainer::new(config, &unet(), set.into(), 1, &Device::Cpu)
}

#[test]
fn the_loss_falls() {
    let config = DiffusionConfig {
        batch: 4,
        optimizer: OptimizerConfig {
            lr: 2e-3,
            clip: Some(1.0),
            ..OptimizerConfig::default()
        },
        ..diffusion_config()
    };
    let mut trainer = new(&config, (*slices(4)).clone()).unwrap();
    let mut mean =
        |n: u32| (0..n).map(|_| trainer.step().unwrap().loss).sum::<f64>() / f64::from(n);
    let first = mean(10);
    mean(60);
    let last = mean(10);
    assert!(last < 0.6 * first, "{first} to {last}");
}

#[test]
#[ignore = "a minute"]
fn four_slices_are_overfitted_below_0_01() {
    let config = DiffusionConfig {
        batch: 8,
        iterations: Some(4000),
        augmentation: Augmentation::NONE,
        condition_dropout: fndm_train::ConditionDropout::NONE,
        jitter: CoarseJitter::NONE,
        optimizer: OptimizerConfig {
            lr: 3e-3,
            warm_up: 20,
            rate: RateSchedule::Cosine { final_share: 0.01 },
            clip: Some(1.0),
            ema: EmaConfig {
                decays: vec![0.98],
                warm_up: true,
            },
            ..OptimizerConfig::default()
        },
        ..DiffusionConfig::default()
    };
    let set = slices(4);
    let mut trainer = new(&config, (*set).clone()).unwrap();
    while !trainer.finished() {
        let report = trainer.step().unwrap();
        if report.iteration.is_multiple_of(250) {
            println!(
                "{} {:.4} {:.1} s",
                report.iteration, report.loss, report.elapsed_s
            );
        }
    }
    let ranges = trainer.validate(&set, 256, 4, 0).unwrap();
    println!("{ranges:?}");
    let loss = ranges.iter().map(|r| r.loss).sum::<f64>() / 4.0;
    assert!(loss < 0.01, "{loss}");
}

#[test]
fn validation_repeats_and_covers_all_times() {
    let trainer = new(&diffusion_config(), (*slices(6)).clone()).unwrap();
    let ranges = trainer.validate(&slices(3), 20, 4, 9).unwrap();
    assert_eq!(ranges, trainer.validate(&slices(3), 20, 4, 9).unwrap());
    let edges: Vec<_> = ranges.iter().map(|r| (r.from, r.to, r.samples)).collect();
    assert_eq!(
        edges,
        [(0, 250, 5), (250, 500, 5), (500, 750, 5), (750, 1000, 5)]
    );
    assert!(ranges.iter().all(|r| r.loss.is_finite() && r.loss > 0.0));
}

#[test]
fn a_classifier_learns_which_slices_are_diseased() {
    let config = ClassifierTrainConfig {
        batch: 8,
        times: TimeSampling::Power { exponent: 2.0 },
        optimizer: OptimizerConfig {
            lr: 3e-3,
            ema: EmaConfig {
                decays: vec![0.9],
                warm_up: true,
            },
            ..OptimizerConfig::default()
        },
        ..ClassifierTrainConfig::default()
    };
    let set = slices_of(16, 16);
    let model = fndm_models::ClassifierConfig {
        image_size: 16,
        ..classifier()
    };
    let mut trainer =
        ClassifierTrainer::new(&config, &model, set.clone(), 2, &Device::Cpu).unwrap();
    for _ in 0..80 {
        trainer.step().unwrap();
    }
    let ranges = trainer.validate(&set, 4, 5).unwrap();
    assert_eq!(ranges, trainer.validate(&set, 4, 5).unwrap());
    assert!(ranges.iter().all(|r| r.samples == 16));
    println!("{ranges:?}");
    let at_low_noise = ranges[0].accuracy.unwrap();
    assert!(at_low_noise > 0.85, "{at_low_noise}");
}

#[test]
fn a_loss_that_is_not_finite_stops_or_skips() {
    // A rate so high that the weights' products overflow at once.
    let mut config = diffusion_config();
    config.optimizer = OptimizerConfig {
        lr: 1e30,
        ..OptimizerConfig::default()
    };
    let mut trainer = new(&config, (*slices(6)).clone()).unwrap();
    let error = (0..5).find_map(|_| trainer.step().err()).unwrap();
    let Error::NonFinite {
        iteration,
        slices: blamed,
        timesteps,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(*iteration >= 2 && blamed.len() == 2 && timesteps.len() == 2);
    assert!(error.to_string().contains("slices ["), "{error}");

    config.optimizer.non_finite = NonFinite::Skip { at_most: 3 };
    let mut trainer = new(&config, (*slices(6)).clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = RunConfig {
        folder: folder.path().to_owned(),
        log_every: 1000,
        checkpoint_every: 1,
        ..RunConfig::default()
    };
    let mut skipped = 0;
    let error = fndm_train::run(&mut trainer, &place, &StopFlag::new(), |_, report| {
        skipped += u32::from(report.skipped);
    })
    .unwrap_err();
    assert_eq!(skipped, 3);
    let Error::NonFinite { iteration, .. } = error else {
        panic!("{error}");
    };
    // The log names every such batch, and the last line is the error.
    let text = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    for line in &lines[..3] {
        let report: StepReport = serde_json::from_str(line).unwrap();
        assert!(report.skipped && !(report.loss.is_finite() && report.gradient_norm.is_finite()));
        assert_eq!(report.batch.len(), 2);
        assert!(report.batch[0].starts_with("patient-"), "{line}");
        assert!(report.batch[0].contains(" z="), "{line}");
    }
    assert!(lines[3].contains("error") && lines[3].contains("patient-"));
    assert!(lines[3].contains(&format!("\"iteration\":{iteration}")));

    // A run that goes on after the second of them may skip one more, as if it had never stopped.
    let second = fndm_train::list_checkpoints(folder.path()).unwrap()[0].clone();
    let mut again = new(&config, (*slices(6)).clone()).unwrap();
    again.resume(&second).unwrap();
    assert!(again.step().unwrap().skipped);
    assert!(matches!(again.step(), Err(Error::NonFinite { .. })));
}

#[test]
fn wrong_settings_and_slices_are_named() {
    let fails = |config: &DiffusionConfig, set: SliceSet, words: &str| {
        let error = new(config, set).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let set = || (*slices(4)).clone();
    let good = diffusion_config();
    let set_to = |change: fn(&mut DiffusionConfig)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    fails(&set_to(|c| c.batch = 0), set(), "batch");
    fails(
        &set_to(|c| c.optimizer.lr = f64::NAN),
        set(),
        "optimizer.lr",
    );
    fails(&set_to(|c| c.empty_mask = 1.5), set(), "empty_mask");
    fails(
        &set_to(|c| c.condition_dropout.coarse = 0.9),
        set(),
        "condition_dropout",
    );
    fails(
        &set_to(|c| c.optimizer.rate = RateSchedule::Cosine { final_share: 0.0 }),
        set(),
        "iterations",
    );
    fails(
        &set_to(|c| c.optimizer.ema.decays.clear()),
        set(),
        "ema.decays",
    );
    fails(
        &set_to(|c| c.times = TimeSampling::Power { exponent: 0.0 }),
        set(),
        "exponent",
    );
    fails(&set_to(|c| c.label_dropout = 0.1), set(), "3 classes");
    let aware = |uniform, refresh| TimeSampling::LossAware {
        ranges: 10,
        history: 2,
        uniform,
        refresh,
    };
    for (times, words) in [(aware(0.0, 1), "uniform"), (aware(0.1, 0), "refresh")] {
        let config = DiffusionConfig {
            times,
            ..good.clone()
        };
        fails(&config, set(), words);
    }

    fails(
        &good,
        SliceSet {
            labels: vec![0; 3],
            ..set()
        },
        "4 labels",
    );
    fails(
        &good,
        SliceSet {
            labels: vec![0, 1, 2, 0],
            ..set()
        },
        "2 at slice 2",
    );
    fails(
        &good,
        SliceSet {
            labels: vec![0; 4],
            ..set()
        },
        "one diseased slice",
    );
    let mut nan = set();
    nan.images[[3, 0, 1, 1]] = f32::NAN;
    fails(&good, nan, "NaN in slice 3");

    let model = UNetConfig {
        in_channels: 4 * CHANNELS,
        ..unet()
    };
    let error = DiffusionTrainer::new(&good, &model, slices(4), 1, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("8 input"), "{error}");
    let other = slices_of(4, 8);
    let config = ClassifierTrainConfig {
        times: TimeSampling::LOSS_AWARE,
        ..classifier_config()
    };
    assert!(config.check().unwrap_err().to_string().contains("times"));
    let config = classifier_config();
    let model = fndm_models::ClassifierConfig {
        in_channels: 7,
        ..classifier()
    };
    assert!(ClassifierTrainer::new(&config, &model, other, 1, &Device::Cpu).is_err());
}

#[test]
fn the_presets_are_the_papers() {
    let config = DiffusionConfig::paper();
    assert_eq!(config.schedule.build().unwrap().steps(), 1000);
    assert_eq!(config.prediction, fndm_solver::Prediction::Noise);
    assert_eq!((config.batch, config.accumulation), (3, 1));
    assert_eq!(config.iterations, Some(130_000));
    assert_eq!(config.times, TimeSampling::Uniform);
    assert_eq!(config.loss_weight, fndm_train::LossWeight::Uniform);
    assert_eq!(config.region_weight, 1.0);
    let classifier = ClassifierTrainConfig::paper();
    assert_eq!(classifier.schedule.build().unwrap().steps(), 1000);
    assert_eq!((classifier.batch, classifier.accumulation), (10, 1));
    assert_eq!(classifier.iterations, Some(150_000));
    assert_eq!(classifier.times, TimeSampling::Uniform);
    for optimizer in [config.optimizer, classifier.optimizer] {
        assert_eq!(optimizer.lr, 1e-4);
        assert_eq!((optimizer.beta1, optimizer.beta2), (0.9, 0.999));
        assert_eq!((optimizer.weight_decay, optimizer.warm_up), (0.0, 0));
        assert_eq!(optimizer.rate, RateSchedule::Constant);
        assert_eq!(optimizer.clip, None);
    }
}

#[test]
fn recomputed_blocks_give_the_same_gradients() {
    let config = DiffusionConfig {
        accumulation: 2,
        region_weight: 2.0,
        ..diffusion_config()
    };
    let model = UNetConfig {
        dropout: 0.1,
        channel_mult: vec![1.0, 2.0],
        ..unet()
    };
    let step = |recompute| {
        let config = DiffusionConfig {
            recompute,
            ..config.clone()
        };
        let mut trainer =
            DiffusionTrainer::new(&config, &model, slices(6), 1, &Device::Cpu).unwrap();
        trainer.step().unwrap()
    };
    let (plain, recomputed) = (step(false), step(true));
    let close = |a: f64, b: f64| (a - b).abs() < 1e-5 * b;
    assert!(close(recomputed.loss, plain.loss));
    assert!(close(recomputed.gradient_norm, plain.gradient_norm));
    assert_eq!(recomputed.losses.len(), 4);

    let model = ClassifierConfig {
        dropout: 0.1,
        ..classifier()
    };
    let step = |recompute| {
        let config = ClassifierTrainConfig {
            accumulation: 2,
            label_smoothing: 0.1,
            recompute,
            ..classifier_config()
        };
        let mut trainer =
            ClassifierTrainer::new(&config, &model, slices(6), 3, &Device::Cpu).unwrap();
        // The last layer starts at zero and lets no gradient through.
        trainer.step().unwrap();
        (trainer.step().unwrap(), trainer.weights().unwrap())
    };
    let ((plain, expected), (recomputed, weights)) = (step(false), step(true));
    assert!(close(recomputed.loss, plain.loss));
    assert!(close(recomputed.gradient_norm, plain.gradient_norm));
    assert_eq!(recomputed.accuracy, plain.accuracy);
    let worst = largest_difference(&weights, &expected);
    assert!(worst < 1e-6, "{worst}");
}

#[test]
fn bf16_trains_f32_weights() {
    let config = |compute| DiffusionConfig {
        compute,
        batch: 4,
        optimizer: OptimizerConfig {
            lr: 2e-3,
            clip: Some(1.0),
            ..OptimizerConfig::default()
        },
        ..diffusion_config()
    };
    let mut wide = new(&config(Compute::F32), (*slices(4)).clone()).unwrap();
    let mut narrow = new(&config(Compute::Bf16), (*slices(4)).clone()).unwrap();
    let (a, b) = (wide.step().unwrap(), narrow.step().unwrap());
    assert!(
        (a.loss - b.loss).abs() < 0.02 * a.loss,
        "{} {}",
        a.loss,
        b.loss
    );
    let (a, b) = (a.gradient_norm, b.gradient_norm);
    assert!((a - b).abs() < 0.05 * a, "{a} {b}");
    // Changes that bf16 could not hold add up.
    let weights = narrow.weights().unwrap();
    assert!(
        weights
            .values()
            .all(|w| w.dtype() == candle_core::DType::F32)
    );
    let fine = weights.values().any(|w| {
        let values = w.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.iter().any(|v| v.to_bits() & 0xffff != 0)
    });
    assert!(fine);
    let mut mean = |n: u32| (0..n).map(|_| narrow.step().unwrap().loss).sum::<f64>() / f64::from(n);
    let first = mean(10);
    mean(60);
    let last = mean(10);
    assert!(last < 0.7 * first, "{first} to {last}");

    let config = ClassifierTrainConfig {
        compute: Compute::Bf16,
        ..classifier_config()
    };
    let mut trainer =
        ClassifierTrainer::new(&config, &classifier(), slices(6), 3, &Device::Cpu).unwrap();
    assert!(trainer.step().unwrap().gradient_norm > 0.0);
}

#[test]
fn configs_are_the_same_after_json_and_presets_are_valid() {
    for config in [
        DiffusionConfig::default(),
        DiffusionConfig::paper(),
        diffusion_config(),
        DiffusionConfig {
            times: TimeSampling::LOSS_AWARE,
            compute: Compute::Bf16,
            recompute: true,
            ..DiffusionConfig::default()
        },
    ] {
        config.check().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<DiffusionConfig>(&json).unwrap(),
            config
        );
    }
    for config in [
        ClassifierTrainConfig::default(),
        ClassifierTrainConfig::paper(),
    ] {
        config.check().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<ClassifierTrainConfig>(&json).unwrap(),
            config
        );
    }
    // A misspelt setting is not passed over.
    assert!(serde_json::from_str::<DiffusionConfig>(r#"{ "bacth": 3 }"#).is_err());
    let partial: DiffusionConfig = serde_json::from_str(r#"{ "batch": 3 }"#).unwrap();
    assert_eq!(
        partial,
        DiffusionConfig {
            batch: 3,
            ..DiffusionConfig::default()
        }
    );
}

#[test]
fn a_failing_hook_ends_the_run_with_its_error() {
    let folder = tempfile::tempdir().unwrap();
    let place = RunConfig {
        folder: folder.path().to_owned(),
        checkpoint_every: 1,
        events: true,
        ..RunConfig::default()
    };
    let mut trainer = new(&diffusion_config(), (*slices(4)).clone()).unwrap();
    let result = try_run(&mut trainer, &place, &StopFlag::new(), |_, report| {
        if report.iteration == 3 {
            return Err(Box::<dyn std::error::Error>::from("no"));
        }
        Ok(())
    });
    assert_eq!(result.unwrap_err().to_string(), "no");
    assert_eq!(
        fndm_train::read_checkpoint_state(folder.path())
            .unwrap()
            .iteration,
        2
    );
}

#[test]
fn networks_without_conditions_train_too() {
    for in_channels in [CHANNELS, 2 * CHANNELS] {
        let model = UNetConfig {
            in_channels,
            out_channels: 2 * CHANNELS,
            num_classes: None,
            ..unet()
        };
        let mut trainer =
            DiffusionTrainer::new(&diffusion_config(), &model, slices(4), 1, &Device::Cpu).unwrap();
        assert_eq!(trainer.conditions().image, in_channels > CHANNELS);
        assert!(trainer.step().unwrap().loss.is_finite());
    }
}

#[test]
fn a_time_budget_ends_a_run_and_counts_from_the_first_iteration() {
    let config = DiffusionConfig {
        time_budget_s: Some(0.2),
        ..diffusion_config()
    };
    let mut trainer = new(&config, (*slices(4)).clone()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!trainer.finished());
    while !trainer.finished() {
        trainer.step().unwrap();
    }
    let first = trainer.elapsed_s();
    assert!(first >= 0.2);
    // Another session of the same run has no time left.
    let folder = tempfile::tempdir().unwrap();
    trainer.checkpoint(folder.path(), 1).unwrap();
    let mut again = new(&config, (*slices(4)).clone()).unwrap();
    again.resume(folder.path()).unwrap();
    assert!(again.finished());
}

/// Rate of a real network: run by hand in release mode.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let set = slices_of(64, 64);
    let config = DiffusionConfig {
        batch: 8,
        ..DiffusionConfig::default()
    };
    let model = UNetConfig::small_64(2 * CHANNELS + 1, CHANNELS);
    let mut trainer = DiffusionTrainer::new(&config, &model, set, 1, &Device::Cpu).unwrap();
    println!("{} parameters", trainer.parameters().len_elements());
    for _ in 0..6 {
        let r = trainer.step().unwrap();
        println!(
            "step {:.3} s, waiting {:.4}, optimiser {:.4}",
            r.step_s, r.wait_s, r.optimizer_s
        );
    }
}

/// The last step of a run has no next one whose loss would tell.
#[test]
fn weights_that_a_step_made_infinite_are_never_written() {
    let mut config = diffusion_config();
    config.optimizer = OptimizerConfig {
        lr: f64::from(f32::MAX),
        // Momentum of the second kind only: the step is the rate times a little more than 1.
        beta1: 0.0,
        weight_decay: 3.0,
        ..OptimizerConfig::default()
    };
    config.iterations = Some(1);
    let mut trainer = new(&config, (*slices(6)).clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = RunConfig {
        folder: folder.path().to_owned(),
        ..RunConfig::default()
    };
    let error = fndm_train::run(&mut trainer, &place, &StopFlag::new(), |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::NonFiniteWeight { .. }), "{error}");
    assert!(trainer.ema_tensors().is_err());
    let written = std::fs::read_dir(folder.path()).unwrap();
    let names: Vec<_> = written.map(|e| e.unwrap().file_name()).collect();
    assert!(
        names.iter().all(|n| !n.to_string_lossy().contains("step-")),
        "{names:?}"
    );
}

#[test]
fn a_plan_is_checked_without_slices() {
    let (unet, classifier) = (unet(), classifier());
    let diffusion = diffusion_config();
    diffusion.check_model(&unet, CHANNELS).unwrap();
    let labels = classifier_config();
    labels.check_model(&classifier, CHANNELS).unwrap();
    let told = |result: fndm_train::Result<()>, words: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let with = |change: fn(&mut DiffusionConfig)| {
        let mut config = diffusion.clone();
        change(&mut config);
        config.check_model(&unet, CHANNELS)
    };
    told(with(|c| c.batch = 0), "batch");
    told(with(|c| c.iterations = Some(0)), "iterations");
    told(with(|c| c.time_budget_s = Some(-60.0)), "time_budget_s");
    told(with(|c| c.time_budget_s = Some(f64::NAN)), "time_budget_s");
    told(with(|c| c.optimizer.lr = f64::NAN), "optimizer.lr");
    told(
        with(|c| c.schedule = fndm_solver::ScheduleConfig::cosine(0)),
        "schedule",
    );
    told(with(|c| c.label_dropout = 0.1), "3 classes");
    told(diffusion.check_model(&unet, CHANNELS + 1), "channels");
    let narrow = UNetConfig {
        model_channels: 31,
        ..unet.clone()
    };
    told(diffusion.check_model(&narrow, CHANNELS), "multiple of 32");
    told(labels.check_model(&classifier, CHANNELS + 1), "channels");
    let odd = ClassifierConfig {
        model_channels: 31,
        ..classifier
    };
    told(labels.check_model(&odd, CHANNELS), "multiple of 32");

    // What a folder's checkpoints were made with.
    let folder = tempfile::tempdir().unwrap();
    let nothing = folder.path().join("none");
    diffusion.check_resume(&unet, 1, &nothing).unwrap();
    let trainer = new(&diffusion, (*slices(4)).clone()).unwrap();
    trainer.checkpoint(folder.path(), 1).unwrap();
    diffusion.check_resume(&unet, 1, folder.path()).unwrap();
    told(diffusion.check_resume(&unet, 2, folder.path()), "seed = 1");
    let mut other = diffusion.clone();
    other.batch = 4;
    told(
        other.check_resume(&unet, 1, folder.path()),
        "config.batch = 2",
    );
    told(
        labels.check_resume(&odd, 1, folder.path()),
        "kind = \"diffusion\"",
    );
}
