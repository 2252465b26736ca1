//! A run that was stopped and resumed ends with the bits of one that wasn't. `processes.rs` has what needs a process of its own.

mod common;

use std::path::Path;

use candle_core::Device;
use common::{bits, classifier, classifier_config, diffusion_config, slices, unet};
use fndm_train::{
    ClassifierTrainer, DiffusionConfig, DiffusionTrainer, Ended, Error, NonFinite, RunConfig,
    StepReport, StopFlag, Task, TimeSampling, Trainer, Validation, ValidationLine, best_state,
    list_checkpoints, read_checkpoint_ema, read_checkpoint_state, run, run_validated,
    write_loss_curve,
};

fn diffusion(config: &DiffusionConfig) -> DiffusionTrainer {
    DiffusionTrainer::new(config, &unet(), slices(6), 11, &Device::Cpu).unwrap()
}

fn state_text(checkpoint: &[u8]) -> String {
    let (_, header) = safetensors::SafeTensors::read_metadata(checkpoint).unwrap();
    header.metadata().clone().unwrap()["fndm_train"].clone()
}

fn steps<T: Task>(trainer: &mut Trainer<T>, n: usize) -> Vec<u64> {
    (0..n)
        .map(|_| trainer.step().unwrap().loss.to_bits())
        .collect()
}

#[test]
fn a_resumed_diffusion_run_has_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let config = DiffusionConfig {
        accumulation: 2,
        ..diffusion_config()
    };
    let mut whole = diffusion(&config);
    let losses = steps(&mut whole, 6);

    let mut first = diffusion(&config);
    assert_eq!(steps(&mut first, 3), losses[..3]);
    first.checkpoint(folder.path(), 1).unwrap();
    drop(first);
    let mut second = diffusion(&config);
    steps(&mut second, 1);
    second.resume(folder.path()).unwrap();
    assert_eq!(second.iteration(), 3);
    assert_eq!(steps(&mut second, 3), losses[3..]);
    assert_eq!(
        bits(&second.weights().unwrap()),
        bits(&whole.weights().unwrap())
    );
    for i in 0..2 {
        let (a, b) = (
            second.ema_tensors_of(i).unwrap(),
            whole.ema_tensors_of(i).unwrap(),
        );
        assert_eq!(bits(&a), bits(&b));
    }
}

#[test]
fn a_resumed_classifier_run_has_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let new = || {
        ClassifierTrainer::new(
            &classifier_config(),
            &classifier(),
            slices(6),
            3,
            &Device::Cpu,
        )
        .unwrap()
    };
    let mut whole = new();
    let losses = steps(&mut whole, 6);
    let mut first = new();
    steps(&mut first, 4);
    let path = first.checkpoint(folder.path(), 1).unwrap();
    let mut second = new();
    second.resume(&path).unwrap();
    assert_eq!(steps(&mut second, 2), losses[4..]);
    assert_eq!(
        bits(&second.ema_tensors().unwrap()),
        bits(&whole.ema_tensors().unwrap())
    );
}

#[test]
fn a_changed_setting_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = diffusion(&diffusion_config());
    steps(&mut trainer, 1);
    trainer.checkpoint(folder.path(), 1).unwrap();

    let message = |trainer: &mut DiffusionTrainer| match trainer.resume(folder.path()) {
        Err(error @ Error::Changed { .. }) => error.to_string(),
        other => panic!("expected Error::Changed, got {other:?}"),
    };
    let mut config = diffusion_config();
    config.optimizer.lr = 0.5;
    assert!(message(&mut diffusion(&config)).contains("config.optimizer.lr"));
    config = DiffusionConfig {
        batch: 3,
        ..diffusion_config()
    };
    assert!(message(&mut diffusion(&config)).contains("config.batch = 2, but this run has 3"));

    let new = |set, seed| {
        DiffusionTrainer::new(&diffusion_config(), &unet(), set, seed, &Device::Cpu).unwrap()
    };
    assert!(message(&mut new(slices(6), 12)).contains("seed"));
    let mut changed = (*slices(6)).clone();
    changed.images[[0, 0, 4, 4]] += 0.01;
    assert!(message(&mut new(changed.into(), 11)).contains("data.hash"));

    // What can't change the weights may change.
    config = DiffusionConfig {
        iterations: Some(9),
        time_budget_s: Some(1e6),
        prefetch: 1,
        ..diffusion_config()
    };
    config.optimizer.non_finite = NonFinite::Skip { at_most: 9 };
    diffusion(&config).resume(folder.path()).unwrap();

    let mut other = ClassifierTrainer::new(
        &classifier_config(),
        &classifier(),
        slices(6),
        11,
        &Device::Cpu,
    )
    .unwrap();
    let error = other.resume(folder.path()).unwrap_err().to_string();
    assert!(error.contains("kind = \"diffusion\""), "{error}");
}

#[test]
fn a_missing_patient_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let new =
        |set| DiffusionTrainer::new(&diffusion_config(), &unet(), set, 11, &Device::Cpu).unwrap();
    new(slices(6)).checkpoint(folder.path(), 1).unwrap();
    let error = new(slices(4)).resume(folder.path()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("3 patients, but this run has 2; missing: patient-2; new: none"),
        "{text}"
    );
    let error = new(slices(8)).resume(folder.path()).unwrap_err();
    assert!(error.to_string().contains("new: patient-3"), "{error}");
}

#[test]
fn a_checkpoint_of_an_older_version_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = diffusion(&diffusion_config());
    steps(&mut trainer, 2);
    let path = trainer.checkpoint(folder.path(), 1).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&metadata["fndm_train"]).unwrap();
    for (part, name) in [
        ("/config", "recompute"),
        ("/config", "compute"),
        ("/data", "ids"),
        ("", "skipped_in_a_row"),
    ] {
        let part = state.pointer_mut(part).unwrap().as_object_mut().unwrap();
        assert!(part.remove(name).is_some(), "{name}");
    }
    metadata.insert("fndm_train".to_owned(), state.to_string());
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    let old = safetensors::serialize(tensors, Some(metadata)).unwrap();
    std::fs::write(&path, old).unwrap();
    let mut again = diffusion(&diffusion_config());
    again.resume(&path).unwrap();
    assert_eq!(steps(&mut again, 2), steps(&mut trainer, 2));
}

#[test]
fn a_resumed_loss_aware_run_has_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let config = DiffusionConfig {
        times: TimeSampling::LossAware {
            ranges: 4,
            history: 2,
            uniform: 0.05,
            refresh: 4,
        },
        batch: 8,
        ..diffusion_config()
    };
    let mut whole = diffusion(&config);
    let mut drawn = Vec::new();
    let mut losses = Vec::new();
    for _ in 0..14 {
        let report = whole.step().unwrap();
        losses.push(report.loss.to_bits());
        drawn.push(report.timesteps);
    }
    // The distribution did change.
    let mut uniform = diffusion(&DiffusionConfig {
        times: TimeSampling::Uniform,
        ..config.clone()
    });
    let even: Vec<_> = (0..14).map(|_| uniform.step().unwrap().timesteps).collect();
    assert_eq!(drawn[..4], even[..4]);
    assert_ne!(drawn[8..], even[8..]);

    // Stopped in the middle of a stretch with one distribution, and on its border.
    for stop in [8, 10] {
        let mut first = diffusion(&config);
        steps(&mut first, stop);
        let path = first.checkpoint(folder.path(), 9).unwrap();
        let mut second = diffusion(&config);
        second.resume(&path).unwrap();
        assert_eq!(steps(&mut second, 14 - stop), losses[stop..]);
        assert_eq!(
            bits(&second.weights().unwrap()),
            bits(&whole.weights().unwrap())
        );
    }
}

/// A session that is stopped after an iteration, or goes to the config's end before it.
fn run_up_to(
    until: u64,
    config: &DiffusionConfig,
    place: &RunConfig,
    validate: impl FnMut(&DiffusionTrainer) -> Result<Validation, Error>,
) {
    let stop = StopFlag::new();
    let mut trainer = diffusion(config);
    let stop_then = |_: &DiffusionTrainer, report: &StepReport| {
        if report.iteration == until {
            stop.stop();
        }
        Ok(())
    };
    run_validated(&mut trainer, place, &stop, stop_then, validate).unwrap();
}

#[test]
fn the_best_checkpoint_is_kept_and_known_after_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let config = DiffusionConfig {
        iterations: Some(9),
        ..diffusion_config()
    };
    let place = RunConfig {
        folder: folder.path().to_owned(),
        validate_every: 2,
        checkpoint_every: 3,
        events: true,
        curve: true,
        ..RunConfig::default()
    };
    // The scores after 2, 4, 6, 8 and 9 iterations.
    let score = |iteration: u64| [0.1, 0.4, f64::NAN, 0.3, 0.4][iteration.div_ceil(2) as usize - 1];
    let session = |until: u64| {
        let mut asked = Vec::new();
        run_up_to(until, &config, &place, |trainer| {
            asked.push(trainer.iteration());
            Ok(Validation {
                score: Some(score(trainer.iteration())),
                ranges: trainer.validate(&slices(2), 4, 2, 1)?,
            })
        });
        asked
    };
    assert_eq!(session(5), [2, 4]);
    let best = folder.path().join("best.safetensors");
    assert_eq!(read_checkpoint_state(&best).unwrap().iteration, 4);
    assert_eq!(session(99), [6, 8, 9]);
    assert_eq!(read_checkpoint_state(&best).unwrap().iteration, 4);
    let text = std::fs::read_to_string(folder.path().join("validation.jsonl")).unwrap();
    let lines: Vec<ValidationLine> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let found: Vec<_> = lines
        .iter()
        .map(|l| (l.iteration, l.validation.score))
        .collect();
    assert_eq!(
        found,
        [
            (2, Some(0.1)),
            (4, Some(0.4)),
            (6, None),
            (8, Some(0.3)),
            (9, Some(0.4))
        ]
    );
    assert!(lines.iter().all(|l| l.validation.ranges.len() == 2));
    assert!(folder.path().join("loss.png").exists());
    let svg = std::fs::read_to_string(folder.path().join("loss.svg")).unwrap();
    assert!(svg.contains("running mean") && svg.contains("<polyline"));

    // The averaged weights of that moment.
    let mut trainer = diffusion(&config);
    steps(&mut trainer, 4);
    let averages = read_checkpoint_ema(&best, &Device::Cpu).unwrap();
    assert_eq!(bits(&averages), bits(&trainer.ema_tensors().unwrap()));
}

#[test]
fn a_bad_checkpoint_is_an_error_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = diffusion(&diffusion_config());
    steps(&mut trainer, 1);
    let before = bits(&trainer.weights().unwrap());
    let fails = |trainer: &mut DiffusionTrainer, path: &Path, words: &str| {
        let error = trainer.resume(path).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    fails(&mut trainer, folder.path(), "found none");
    fails(
        &mut trainer,
        &folder.path().join("no-such-file"),
        "no-such-file",
    );

    let path = trainer.checkpoint(folder.path(), 1).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        fails(&mut trainer, &path, "safetensors");
    }
    // More than this network's state can be.
    let file = std::fs::File::create(&path).unwrap();
    let huge = 1_u64 << 33;
    let header = serde_json::json!({
        "__metadata__": { "fndm_train": state_text(&bytes) },
        "x": { "dtype": "U8", "shape": [huge], "data_offsets": [0, huge] },
    })
    .to_string();
    let mut head = (header.len() as u64).to_le_bytes().to_vec();
    head.extend(header.bytes());
    std::io::Write::write_all(&mut &file, &head).unwrap();
    file.set_len(head.len() as u64 + huge).unwrap();
    fails(&mut trainer, &path, "limit: expected at most");
    drop(file);
    // A safetensors file of someone else.
    let empty = safetensors::serialize(Vec::<(&str, &candle_core::Tensor)>::new(), None).unwrap();
    std::fs::write(&path, empty).unwrap();
    fails(&mut trainer, &path, "fndm_train");
    // One tensor missing.
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone();
    let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    let name = "adam.first/out.2.bias";
    assert!(tensors.remove(name).is_some());
    std::fs::write(&path, safetensors::serialize(tensors, metadata).unwrap()).unwrap();
    fails(&mut trainer, &path, name);
    assert_eq!(bits(&trainer.weights().unwrap()), before);
}

/// A group's other members can read a checkpoint where they can read any new file.
#[cfg(unix)]
#[test]
fn a_checkpoint_has_the_permissions_of_a_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = diffusion(&diffusion_config())
        .checkpoint(folder.path(), 1)
        .unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    for path in [path.clone(), path.with_extension("json")] {
        assert_eq!(mode(&path), mode(&plain), "{}", path.display());
    }
}

#[test]
fn the_newest_checkpoints_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = diffusion(&diffusion_config());
    for _ in 0..4 {
        steps(&mut trainer, 1);
        trainer.checkpoint(folder.path(), 2).unwrap();
    }
    // What a killed writer leaves behind is not taken for a checkpoint.
    std::fs::write(
        folder.path().join(".step-00000009.safetensors.tmp"),
        b"half",
    )
    .unwrap();
    let names: Vec<_> = list_checkpoints(folder.path())
        .unwrap()
        .iter()
        .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        names,
        ["step-00000003.safetensors", "step-00000004.safetensors"]
    );
    assert_eq!(read_checkpoint_state(folder.path()).unwrap().iteration, 4);
    // It goes with the next checkpoint.
    trainer.checkpoint(folder.path(), 2).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn a_best_state_of_another_validation_is_not_held_against_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let config = DiffusionConfig {
        iterations: Some(4),
        ..diffusion_config()
    };
    // Up to an iteration, with a validation after each that always gives the same score.
    let session = |by: Option<&str>, until: u64, score: f64| {
        let place = RunConfig {
            folder: folder.path().to_owned(),
            validate_every: 1,
            validated_by: by.map(str::to_owned),
            ..RunConfig::default()
        };
        run_up_to(until, &config, &place, |_| {
            Ok(Validation {
                score: Some(score),
                ..Validation::default()
            })
        });
        let best = read_checkpoint_state(&folder.path().join("best.safetensors"));
        best.unwrap().iteration
    };
    assert_eq!(session(Some("few slices"), 1, 0.8), 1);
    // The same validation, and one that doesn't say what it is: 0.8 stays the best.
    assert_eq!(session(Some("few slices"), 2, 0.7), 1);
    assert_eq!(session(None, 3, 0.7), 1);
    // Another one's scores can't be compared with it.
    assert_eq!(session(Some("many slices"), 4, 0.6), 4);
}

/// A run that was killed before its first checkpoint leaves a best state, which is none of the next run's.
#[test]
fn a_best_state_of_another_run_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let best = folder.path().join("best.safetensors");
    let place = RunConfig {
        folder: folder.path().to_owned(),
        validate_every: 1,
        validated_by: Some("few slices".into()),
        ..RunConfig::default()
    };
    let session = |config: &DiffusionConfig, until: u64, score: f64| {
        run_up_to(until, config, &place, |_| {
            Ok(Validation {
                score: Some(score),
                ..Validation::default()
            })
        });
    };
    let first = DiffusionConfig {
        iterations: Some(4),
        ..diffusion_config()
    };
    session(&first, 2, 0.9);
    assert_eq!(
        best_state(&diffusion(&first), &place).unwrap(),
        None,
        "it is of a later iteration"
    );
    let mut trainer = diffusion(&first);
    trainer.resume(folder.path()).unwrap();
    assert_eq!(best_state(&trainer, &place).unwrap(), Some(best.clone()));
    for path in list_checkpoints(folder.path()).unwrap() {
        std::fs::remove_file(path).unwrap();
    }
    let mut second = first;
    second.optimizer.lr *= 2.;
    session(&second, 3, 0.1);
    let state = read_checkpoint_state(&best).unwrap();
    assert_eq!(state.iteration, 1);
    assert_eq!(state.config["optimizer"]["lr"], second.optimizer.lr);
}

/// A run that is at its end is validated anew where nothing that is there counts, and once.
#[test]
fn a_finished_run_is_validated_by_another_validation() {
    let folder = tempfile::tempdir().unwrap();
    let config = DiffusionConfig {
        iterations: Some(3),
        ..diffusion_config()
    };
    let session = |by: &str, score: Option<f64>| {
        let place = RunConfig {
            folder: folder.path().to_owned(),
            validate_every: 2,
            validated_by: Some(by.into()),
            ..RunConfig::default()
        };
        let mut asked = Vec::new();
        run_up_to(99, &config, &place, |trainer| {
            asked.push(trainer.iteration());
            Ok(Validation {
                score,
                ..Validation::default()
            })
        });
        asked
    };
    assert_eq!(session("few slices", Some(0.5)), [2, 3]);
    assert_eq!(session("few slices", Some(0.5)), [0; 0]);
    assert_eq!(session("many slices", Some(0.5)), [3]);
    assert_eq!(session("many slices", Some(0.5)), [0; 0]);
    // Without a score there is no best state, and one validation all the same.
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(session("few slices", None), [2, 3]);
}

/// The clock runs while a checkpoint is written, and may end the run there.
#[test]
fn the_last_state_of_a_run_with_a_budget_is_validated() {
    // Most of the time goes into checkpoints, so that most of these end in one.
    for budget in [0.05, 0.08, 0.11, 0.14, 0.17] {
        let folder = tempfile::tempdir().unwrap();
        let config = DiffusionConfig {
            iterations: None,
            time_budget_s: Some(budget),
            ..diffusion_config()
        };
        let place = RunConfig {
            folder: folder.path().to_owned(),
            checkpoint_every: 1,
            validate_every: 100_000,
            ..RunConfig::default()
        };
        let mut trainer = diffusion(&config);
        let mut asked = Vec::new();
        let ended = run_validated(
            &mut trainer,
            &place,
            &StopFlag::new(),
            |_, _| Ok::<(), Error>(()),
            |trainer| {
                asked.push(trainer.iteration());
                Ok(Validation::default())
            },
        );
        assert_eq!(ended.unwrap(), Ended::Finished);
        assert_eq!(asked, [trainer.iteration()]);
    }
}

#[test]
fn a_stopped_run_saves_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = DiffusionConfig {
        iterations: Some(5),
        ..diffusion_config()
    };
    let place = RunConfig {
        folder: folder.path().to_owned(),
        checkpoint_every: 100,
        ..RunConfig::default()
    };
    let stop = StopFlag::new();
    let mut trainer = diffusion(&config);
    let asked = stop.clone();
    let ended = run(&mut trainer, &place, &stop, |_, report| {
        if report.iteration == 2 {
            asked.stop();
        }
    });
    assert_eq!(ended.unwrap(), Ended::Stopped);
    let mut again = diffusion(&config);
    assert_eq!(
        run(&mut again, &place, &StopFlag::new(), |_, _| {}).unwrap(),
        Ended::Finished
    );
    let mut whole = diffusion(&config);
    steps(&mut whole, 5);
    assert_eq!(
        bits(&again.weights().unwrap()),
        bits(&whole.weights().unwrap())
    );
    let log = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
    let iterations: Vec<u64> = log
        .lines()
        .map(|line| {
            serde_json::from_str::<fndm_train::StepReport>(line)
                .unwrap()
                .iteration
        })
        .collect();
    assert_eq!(iterations, [1, 2, 3, 4, 5]);

    let picture = folder.path().join("loss.png");
    write_loss_curve(&folder.path().join("log.jsonl"), &picture).unwrap();
    let decoder = png::Decoder::new(std::io::BufReader::new(
        std::fs::File::open(&picture).unwrap(),
    ));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    // The dark curve is there.
    assert!(pixels.chunks(3).filter(|p| p == &[24, 78, 152]).count() > 100);
    std::fs::write(folder.path().join("log.jsonl"), "").unwrap();
    assert!(write_loss_curve(&folder.path().join("log.jsonl"), &picture).is_err());
}

/// Where the head is, whose slice it is and at which height decide on what is drawn.
#[test]
fn a_resume_notices_other_heads_and_places() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = diffusion(&diffusion_config());
    steps(&mut trainer, 1);
    let path = trainer.checkpoint(folder.path(), 1).unwrap();
    let set = (*slices(6)).clone();
    let mut head = set.head.clone();
    head[[0, 0, 0]] = !head[[0, 0, 0]];
    let mut moved = set.clone();
    moved.z[1] += 1;
    for other in [set.clone().with_head(head).unwrap(), moved] {
        let mut trainer =
            DiffusionTrainer::new(&diffusion_config(), &unet(), other.into(), 11, &Device::Cpu)
                .unwrap();
        let error = trainer.resume(&path).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
    }
    trainer.resume(&path).unwrap();
}
