//! A run that was stopped, killed or spread over other threads ends with the bits of one that wasn't.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use candle_core::Device;
use common::{bits, classifier, classifier_config, diffusion_config, slices, unet};
use fndm_train::{
    ClassifierTrainer, DiffusionConfig, DiffusionTrainer, Ended, Error, RunConfig, StopFlag,
    Trainer, list_checkpoints, read_checkpoint_state, run, write_loss_curve,
};

fn diffusion(config: &DiffusionConfig) -> DiffusionTrainer {
    DiffusionTrainer::new(config, &unet(), slices(6), 11, &Device::Cpu).unwrap()
}

fn steps(trainer: &mut impl Trainer, n: usize) -> Vec<u64> {
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
    // A patient less: two slices.
    assert!(message(&mut new(slices(4), 11)).contains("data."));
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
}

#[test]
fn a_full_disk_is_an_error_and_the_old_checkpoint_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = diffusion(&diffusion_config());
    let path = trainer.checkpoint(folder.path(), 2).unwrap();
    steps(&mut trainer, 1);
    // The next name is taken by a folder, so that the rename fails as a full disk would make the write fail.
    std::fs::create_dir_all(folder.path().join("step-00000001.safetensors/in-the-way")).unwrap();
    assert!(matches!(
        trainer.checkpoint(folder.path(), 2),
        Err(Error::Io { .. })
    ));
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    diffusion(&diffusion_config()).resume(&path).unwrap();
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

const CHILD_FOLDER: &str = "FNDM_TRAIN_TEST_FOLDER";
const CHILD_ITERATIONS: u64 = 30;

/// Not a test of its own: the process that the two tests below start, kill and start again.
#[test]
#[ignore = "run by the tests that start it"]
fn child() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else {
        return;
    };
    let config = DiffusionConfig {
        iterations: Some(CHILD_ITERATIONS),
        ..diffusion_config()
    };
    let place = RunConfig {
        folder: folder.into(),
        checkpoint_every: 1,
        ..RunConfig::default()
    };
    run(&mut diffusion(&config), &place, &StopFlag::new(), |_, _| {}).unwrap();
}

fn start_child(folder: &Path, threads: usize) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored"])
        .env(CHILD_FOLDER, folder)
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn final_tensors(folder: &Path) -> Vec<(String, Vec<u32>)> {
    assert_eq!(
        read_checkpoint_state(folder).unwrap().iteration,
        CHILD_ITERATIONS
    );
    let path = list_checkpoints(folder).unwrap().pop().unwrap();
    bits(
        &candle_core::safetensors::load(path, &Device::Cpu)
            .unwrap()
            .into_iter()
            .collect(),
    )
}

#[test]
fn one_thread_or_two_and_killed_or_not_the_bits_are_the_same() {
    let [one, two, killed] = [0; 3].map(|_| tempfile::tempdir().unwrap());
    let start = std::time::Instant::now();
    assert!(start_child(one.path(), 1).wait().unwrap().success());
    let length = start.elapsed();
    assert!(start_child(two.path(), 2).wait().unwrap().success());
    let expected = final_tensors(one.path());
    assert_eq!(final_tensors(two.path()), expected);

    // Twenty kills (SIGKILL on Unix) at moments spread over the length of a run.
    let mut kills = 0;
    for i in 0..20_u32 {
        let mut child = start_child(killed.path(), 2);
        std::thread::sleep(
            length.mul_f64(0.05 + 0.11 * f64::from(i * 7 % 20) / 20.0)
                + Duration::from_millis(u64::from(i)),
        );
        kills += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        if !list_checkpoints(killed.path())
            .unwrap_or_default()
            .is_empty()
        {
            diffusion(&DiffusionConfig {
                iterations: Some(CHILD_ITERATIONS),
                ..diffusion_config()
            })
            .resume(killed.path())
            .unwrap();
        }
    }
    assert!(start_child(killed.path(), 1).wait().unwrap().success());
    println!("killed {kills} times while running");
    assert_eq!(final_tensors(killed.path()), expected);
}
