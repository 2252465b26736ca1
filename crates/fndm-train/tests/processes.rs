//! What can only be seen from outside a process: kills, signals, full disks, numbers of threads.

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use candle_core::Device;
use common::{bits, diffusion_config, slices, unet};
use fndm_train::{
    DiffusionConfig, DiffusionTrainer, Ended, Error, RunConfig, StopFlag, list_checkpoints,
    read_checkpoint_state, run,
};
use rand::{RngExt, SeedableRng};

const FOLDER: &str = "FNDM_TRAIN_TEST_FOLDER";
const ITERATIONS: &str = "FNDM_TRAIN_TEST_ITERATIONS";

fn trainer(iterations: u64) -> DiffusionTrainer {
    let config = DiffusionConfig {
        iterations: Some(iterations),
        ..diffusion_config()
    };
    DiffusionTrainer::new(&config, &unet(), slices(6), 11, &Device::Cpu).unwrap()
}

fn place(folder: &Path) -> RunConfig {
    RunConfig {
        folder: folder.to_owned(),
        // Most of the time is spent on writing, so that many kills strike there.
        checkpoint_every: 1,
        ..RunConfig::default()
    }
}

/// Not a test of its own: the process that the tests below start, kill and start again.
#[test]
#[ignore = "run by the tests that start it"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let iterations = std::env::var(ITERATIONS).unwrap().parse().unwrap();
    let stop = StopFlag::new();
    let flag = stop.clone();
    ctrlc::set_handler(move || flag.stop()).unwrap();
    run(
        &mut trainer(iterations),
        &place(folder.as_ref()),
        &stop,
        |_, _| {},
    )
    .unwrap();
}

fn command(test: &str, folder: &Path, iterations: u64, threads: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(ITERATIONS, iterations.to_string())
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn start(folder: &Path, iterations: u64, threads: usize) -> Child {
    command("child", folder, iterations, threads)
        .spawn()
        .unwrap()
}

fn tensors(checkpoint: &Path) -> Vec<(String, Vec<u32>)> {
    let all = candle_core::safetensors::load(checkpoint, &Device::Cpu).unwrap();
    bits(&all.into_iter().collect())
}

fn newest(folder: &Path, iterations: u64) -> Vec<(String, Vec<u32>)> {
    let path = list_checkpoints(folder).unwrap().pop().unwrap();
    assert_eq!(read_checkpoint_state(&path).unwrap().iteration, iterations);
    tensors(&path)
}

#[test]
fn one_thread_or_two_the_bits_are_the_same() {
    let [one, two] = [0; 2].map(|_| tempfile::tempdir().unwrap());
    for (folder, threads) in [(&one, 1), (&two, 2)] {
        assert!(start(folder.path(), 12, threads).wait().unwrap().success());
    }
    assert_eq!(newest(one.path(), 12), newest(two.path(), 12));
}

/// Kills runs with SIGKILL at random moments until `kills` have struck a process that was running, and compares the end with
/// an undisturbed run's. Gives a log.
fn killed(kills: u32, iterations: u64) -> String {
    let mut log = String::new();
    let [whole, broken] = [0; 2].map(|_| tempfile::tempdir().unwrap());
    let begin = Instant::now();
    assert!(start(whole.path(), iterations, 2).wait().unwrap().success());
    let length = begin.elapsed();
    let seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    writeln!(log, "undisturbed: {iterations} iterations, a checkpoint each, {length:.2?}; seed of the moments {seed}").unwrap();
    // All lives together are about two thirds of the undisturbed run.
    let longest = length.mul_f64(4.0 / 3.0 / f64::from(kills));
    let mut struck = 0;
    while struck < kills {
        let mut child = start(broken.path(), iterations, 1 + struck as usize % 2);
        let moment = longest.mul_f64(rng.random());
        std::thread::sleep(moment);
        if child.try_wait().unwrap().is_some() {
            writeln!(log, "the run ended before {kills} kills").unwrap();
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        struck += 1;
        let mut left: Vec<String> = std::fs::read_dir(broken.path())
            .map(|all| {
                all.map(|e| e.unwrap().file_name().into_string().unwrap())
                    .collect()
            })
            .unwrap_or_default();
        left.retain(|name| name.ends_with(".tmp"));
        let there = list_checkpoints(broken.path()).unwrap_or_default();
        let mut readable = Vec::new();
        for path in &there {
            let mut trainer = trainer(iterations);
            trainer.resume(path).unwrap();
            readable.push(trainer.iteration());
        }
        writeln!(log, "kill {struck:2} after {moment:7.1?}: checkpoints {readable:?} readable, left behind {left:?}").unwrap();
    }
    assert!(
        start(broken.path(), iterations, 1)
            .wait()
            .unwrap()
            .success()
    );
    let same = newest(broken.path(), iterations) == newest(whole.path(), iterations);
    writeln!(
        log,
        "{struck} kills; at the end the same bits as undisturbed: {same}"
    )
    .unwrap();
    print!("{log}");
    assert!(same);
    log
}

#[test]
fn a_few_kills_change_nothing() {
    killed(3, 40);
}

#[test]
#[ignore = "half a minute or more"]
fn twenty_kills_change_nothing() {
    assert!(killed(20, 800).contains("\n20 kills; "));
}

fn wait_for(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_and_sigterm_save_and_end_cleanly() {
    for signal in ["-INT", "-TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.jsonl");
        let mut child = start(folder.path(), 1_000_000, 1);
        wait_for(|| std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() > 3));
        let sent = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        assert!(child.wait().unwrap().success(), "{signal}");
        let made = read_checkpoint_state(folder.path()).unwrap().iteration;
        let lines = std::fs::read_to_string(&log).unwrap().lines().count();
        assert_eq!(lines as u64, made);

        let mut again = trainer(made + 2);
        let ended = run(
            &mut again,
            &place(folder.path()),
            &StopFlag::new(),
            |_, _| {},
        );
        assert_eq!(ended.unwrap(), Ended::Finished);
        let mut whole = trainer(made + 2);
        (0..made + 2).for_each(|_| drop(whole.step().unwrap()));
        assert_eq!(
            bits(&again.weights().unwrap()),
            bits(&whole.weights().unwrap())
        );
    }
}

/// Not a test of its own: trains on a disk that is too small for two checkpoints.
#[test]
#[ignore = "run by the test that starts it"]
fn child_on_a_full_disk() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder: &Path = folder.as_ref();
    let error = run(&mut trainer(9), &place(folder), &StopFlag::new(), |_, _| {}).unwrap_err();
    println!("error: {error}: {:?}", std::error::Error::source(&error));
    let Error::Io {
        path,
        source: cause,
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(cause.kind(), std::io::ErrorKind::StorageFull);
    assert!(
        path.ends_with("step-00000002.safetensors"),
        "{}",
        path.display()
    );
    // The old one is still there and whole, and nothing half-written is left.
    assert_eq!(list_checkpoints(folder).unwrap().len(), 1);
    let mut again = trainer(9);
    again.resume(folder).unwrap();
    assert_eq!(again.iteration(), 1);
    let names = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name());
    assert!(
        names
            .into_iter()
            .all(|n| !n.to_string_lossy().ends_with(".tmp"))
    );
    println!("all seen");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_the_old_checkpoint_stays() {
    let folder = tempfile::tempdir().unwrap();
    let size = std::fs::metadata(trainer(1).checkpoint(folder.path(), 1).unwrap())
        .unwrap()
        .len();
    // The first checkpoint of a run has moments too: three times what there is at the start, and half of that again.
    let mount = format!(
        "mount -t tmpfs -o size={} tmpfs \"$0\" && exec \"$@\"",
        size * 3
    );
    let within = |folder: &Path| {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &mount])
            .arg(folder);
        command
    };
    let disk = tempfile::tempdir().unwrap();
    let possible = within(disk.path()).arg("true").output();
    if !possible.is_ok_and(|o| o.status.success()) {
        println!("skipped: this system lets no ordinary user mount a small disk");
        return;
    }
    let inner = command("child_on_a_full_disk", disk.path(), 9, 1);
    let mut outer = within(disk.path());
    outer.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        outer.env(name, value.unwrap());
    }
    let output = outer.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("all seen"),
        "{text}"
    );
    println!(
        "{}",
        text.lines()
            .find(|l| l.contains("error: "))
            .unwrap_or_default()
    );
}
