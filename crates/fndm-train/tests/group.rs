//! Several processes give what one process with the joined batch gives. Threads stand for processes here; `mpi.rs` has the
//! same with MPI.

mod common;
#[path = "common/threads.rs"]
mod threads;

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use common::{
    bits, classifier, classifier_config, diffusion_config, largest_difference, slices, unet,
};
use fndm_train::{
    ClassifierTrainer, DiffusionConfig, DiffusionTrainer, Ended, Error, LossWeight, NonFinite,
    OptimizerConfig, RunConfig, StopFlag, TimeSampling, Validation, made_by_the_first, run,
    run_validated,
};
use threads::ThreadGroup;

fn config() -> DiffusionConfig {
    DiffusionConfig {
        batch: 4,
        accumulation: 2,
        iterations: Some(6),
        region_weight: 2.0,
        loss_weight: LossWeight::MinSnr { gamma: 5.0 },
        optimizer: smooth(diffusion_config().optimizer),
        ..diffusion_config()
    }
}

/// Adam moves a weight by the whole rate however small its gradient is, so where that is all rounding (a bias before a norm
/// that removes it), so is the step. A larger epsilon makes the step a smooth function of the gradient.
fn smooth(optimizer: OptimizerConfig) -> OptimizerConfig {
    OptimizerConfig {
        eps: 1e-3,
        ..optimizer
    }
}

fn new(config: &DiffusionConfig) -> DiffusionTrainer {
    DiffusionTrainer::new(config, &unet(), slices(6), 11, &Device::Cpu).unwrap()
}

/// What `f` gives in each of `size` processes.
fn together<R: Send>(size: usize, f: impl Fn(ThreadGroup) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let f = &f;
        let started: Vec<_> = ThreadGroup::all(size)
            .into_iter()
            .map(|group| scope.spawn(move || f(group)))
            .collect();
        started.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn the_joined_batch_gives_the_same() {
    for times in [
        TimeSampling::Uniform,
        TimeSampling::LossAware {
            ranges: 2,
            history: 2,
            uniform: 0.1,
            refresh: 2,
        },
    ] {
        let config = DiffusionConfig { times, ..config() };
        let mut alone = new(&config);
        let reports: Vec<_> = (0..6).map(|_| alone.step().unwrap()).collect();
        let expected = alone.weights().unwrap();
        for size in [2, 4] {
            let all = together(size, |group| {
                let mut trainer = new(&config).in_group(Arc::new(group)).unwrap();
                let reports: Vec<_> = (0..6).map(|_| trainer.step().unwrap()).collect();
                (reports, trainer.weights().unwrap())
            });
            let mut worst = 0.0_f64;
            for (their, weights) in &all {
                assert_eq!(bits(weights), bits(&all[0].1));
                worst = worst.max(largest_difference(weights, &expected));
                for (theirs, ours) in their.iter().zip(&reports) {
                    assert!((theirs.loss - ours.loss).abs() < 1e-4 * ours.loss);
                    assert_eq!(theirs.timesteps, ours.timesteps);
                    for (a, b) in theirs.losses.iter().zip(&ours.losses) {
                        assert!((a - b).abs() < 1e-3 * b, "{a} {b}");
                    }
                }
            }
            println!("{times:?}, {size} processes: worst error of a weight {worst:.1e}");
            assert!(worst < 1e-6, "{worst}");
        }
    }
}

#[test]
fn the_classifier_too() {
    let new = || {
        let mut config = classifier_config();
        config.optimizer = smooth(config.optimizer);
        ClassifierTrainer::new(&config, &classifier(), slices(6), 3, &Device::Cpu).unwrap()
    };
    let mut alone = new();
    let reports: Vec<_> = (0..4).map(|_| alone.step().unwrap()).collect();
    let all = together(2, |group| {
        let mut trainer = new().in_group(Arc::new(group)).unwrap();
        let reports: Vec<_> = (0..4).map(|_| trainer.step().unwrap()).collect();
        (reports, trainer.weights().unwrap())
    });
    for (theirs, weights) in &all {
        assert_eq!(bits(weights), bits(&all[0].1));
        let worst = largest_difference(weights, &alone.weights().unwrap());
        assert!(worst < 1e-6, "{worst}");
        for (theirs, ours) in theirs.iter().zip(&reports) {
            assert!((theirs.loss - ours.loss).abs() < 1e-4 * ours.loss);
            assert_eq!(theirs.accuracy, ours.accuracy);
        }
    }
}

fn place(folder: &Path) -> RunConfig {
    RunConfig {
        folder: folder.to_owned(),
        checkpoint_every: 2,
        validate_every: 2,
        curve: true,
        ..RunConfig::default()
    }
}

#[test]
fn one_process_writes_and_all_end_together() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    let all = together(2, |group| {
        let (rank, stop) = (fndm_train::Group::rank(&group), StopFlag::new());
        let mut trainer = new(&config()).in_group(Arc::new(group)).unwrap();
        let mut validated = 0;
        let ended = run_validated(
            &mut trainer,
            &place,
            &stop,
            |_, report| {
                // A signal that reaches one process only.
                if rank == 1 && report.iteration == 3 {
                    stop.stop();
                }
                Ok::<(), Error>(())
            },
            |_| {
                validated += 1;
                Ok(Validation {
                    score: Some(0.5),
                    ..Validation::default()
                })
            },
        );
        (ended.unwrap(), trainer.iteration(), validated)
    });
    assert_eq!(all, [(Ended::Stopped, 3, 1), (Ended::Stopped, 3, 0)]);
    let log = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 3);
    assert!(folder.path().join("best.safetensors").exists());

    // One process goes on where two stopped.
    let mut alone = new(&config());
    run(&mut alone, &place, &StopFlag::new(), |_, _| {}).unwrap();
    assert_eq!(alone.iteration(), 6);
    let mut whole = new(&config());
    (0..6).for_each(|_| drop(whole.step().unwrap()));
    let worst = largest_difference(&alone.weights().unwrap(), &whole.weights().unwrap());
    assert!(worst < 1e-6, "{worst}");
}

#[test]
fn an_error_of_one_process_reaches_all() {
    // The first process can't write its checkpoint.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("step-00000002.json/x")).unwrap();
    let place = place(folder.path());
    let all = together(2, |group| {
        let mut trainer = new(&config()).in_group(Arc::new(group)).unwrap();
        run(&mut trainer, &place, &StopFlag::new(), |_, _| {}).unwrap_err()
    });
    assert!(matches!(all[0], Error::Files(_)), "{}", all[0]);
    assert!(matches!(all[1], Error::Group { .. }), "{}", all[1]);

    // A loss that isn't finite stops all, wherever it came up.
    let mut wild = config();
    wild.optimizer = OptimizerConfig {
        lr: 1e38,
        non_finite: NonFinite::Skip { at_most: 1 },
        ..OptimizerConfig::default()
    };
    let all = together(2, |group| {
        let mut trainer = new(&wild).in_group(Arc::new(group)).unwrap();
        (0..9).find_map(|_| trainer.step().err()).unwrap()
    });
    assert!(all.iter().all(|e| matches!(e, Error::NonFinite { .. })));
}

#[test]
fn processes_that_differ_are_told() {
    let all = together(2, |group| {
        let seed = fndm_train::Group::rank(&group) as u64;
        let trainer =
            DiffusionTrainer::new(&config(), &unet(), slices(6), seed, &Device::Cpu).unwrap();
        trainer.in_group(Arc::new(group)).unwrap_err().to_string()
    });
    assert!(all.iter().all(|e| e.contains("the same seed")), "{all:?}");
    let odd = DiffusionConfig {
        batch: 3,
        ..config()
    };
    let all = together(2, |group| {
        new(&odd).in_group(Arc::new(group)).unwrap_err().to_string()
    });
    assert!(
        all.iter()
            .all(|e| e.contains("a multiple of the 2 processes, got 3")),
        "{all:?}"
    );
}

/// Work of many short parts, each of which asks whether to go on.
fn patient_work(ask: &mut dyn FnMut() -> bool, parts: u32) -> Result<Option<Vec<u8>>, Error> {
    for _ in 0..parts {
        if ask() {
            return Ok(None);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(Some((0..=255).chain([7, 0, 255]).collect()))
}

#[test]
fn what_the_first_makes_all_get() {
    for size in [1, 2, 3] {
        let all = together(size, |group| {
            let stop = StopFlag::new();
            let rank = fndm_train::Group::rank(&group);
            made_by_the_first(&group, &stop, |ask| {
                assert_eq!(rank, 0, "the others only wait");
                patient_work(ask, 100)
            })
            .unwrap()
        });
        let wanted: Vec<u8> = (0..=255).chain([7, 0, 255]).collect();
        assert!(all.iter().all(|got| got.as_ref() == Some(&wanted)));
        let nothing = together(size, |group| {
            let none = |_: &mut dyn FnMut() -> bool| Ok::<_, Error>(Some(Vec::new()));
            made_by_the_first(&group, &StopFlag::new(), none).unwrap()
        });
        assert!(
            nothing
                .iter()
                .all(|got| got.as_ref().is_some_and(Vec::is_empty))
        );
    }
}

#[test]
fn a_stop_of_any_process_ends_what_the_first_makes_in_all() {
    for stopper in [0, 1, 2] {
        let all = together(3, |group| {
            let stop = StopFlag::new();
            if fndm_train::Group::rank(&group) == stopper {
                stop.stop();
            }
            // Without the flag this would take minutes.
            made_by_the_first(&group, &stop, |ask| patient_work(ask, 100_000)).unwrap()
        });
        assert_eq!(all, [None, None, None], "stopped by {stopper}");
    }
}

#[test]
fn an_error_of_the_first_reaches_those_that_wait() {
    let all = together(2, |group| {
        made_by_the_first(&group, &StopFlag::new(), |_| {
            Err(Error::Batch {
                index: 3,
                reason: "a test".to_owned(),
            })
        })
        .unwrap_err()
    });
    assert!(matches!(all[0], Error::Batch { .. }), "{}", all[0]);
    assert!(matches!(all[1], Error::Group { .. }), "{}", all[1]);
}
