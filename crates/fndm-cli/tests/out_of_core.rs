//! `detect --out-of-core`: the bytes of a run in memory, in a memory that hardly grows with a patient's slices; and nobody who fails stops
//! another.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "regressions/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fndm::data::affine;
use ndarray::{Axis, Slice};
use support::{Place, Ran, files, fndm, model};

const SEQUENCES: [&str; 4] = ["flair", "t1", "t1ce", "t2"];

fn detect(place: &Place, method: &str, output: &str, more: &[&str]) -> Command {
    let mut command = fndm(&place.root(), &["detect", "--data", "data", "--model"]);
    command.arg(model()).args(["--method", method]);
    command.args(["--output", output]).args(more);
    command
}

/// The results of all patients, by their paths; not the records of the cohort, nor the page of all.
fn results(place: &Place, output: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = place.path(output);
    let all = files(&folder).into_iter();
    let below = all.map(|(path, bytes)| (path.strip_prefix(&folder).unwrap().to_owned(), bytes));
    below
        .filter(|(path, _)| path.components().count() > 1 && !path.starts_with("_cohort"))
        .collect()
}

fn same(place: &Place, method: &str, more: &[&str]) {
    let run = |output: &str, ahead: &[&str]| {
        let mut command = detect(place, method, output, more);
        Ran::of(&command.args(ahead).output().unwrap()).ends_with(0);
        results(place, output)
    };
    let (memory, disk) = (run("memory", &[]), run("disk", &["--out-of-core"]));
    assert!(memory.len() > 6, "{:?}", memory.keys());
    let names = |all: &BTreeMap<PathBuf, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&memory), names(&disk));
    for (path, bytes) in &memory {
        assert!(disk[path] == *bytes, "{}", path.display());
    }
    for output in ["memory", "disk"] {
        fs::remove_dir_all(place.path(output)).unwrap();
    }
}

/// Patients whose volumes lie along other axes, are of odd sizes, or are packed or not.
fn odd_patients(slices: usize) -> Place {
    let place = Place::new();
    for (seed, codes) in ["RAS", "LPI", "ASR", "SLP"].into_iter().enumerate() {
        let folder = format!("data/p{seed}");
        place.patient(&folder, seed as u64, slices);
        let codes: Vec<char> = codes.chars().collect();
        for sequence in SEQUENCES {
            place.change(&format!("{folder}/p{seed}_{sequence}.nii.gz"), |volume| {
                for (axis, left) in [(0, seed), (1, 2 * seed)] {
                    volume
                        .data
                        .slice_axis_inplace(Axis(axis), Slice::from(left..));
                }
                *volume = affine::reorient(volume, [codes[0], codes[1], codes[2]]).unwrap();
            });
        }
    }
    place
}

#[test]
fn the_bytes_are_those_of_a_run_in_memory() {
    let place = odd_patients(5);
    same(&place, "student", &[]);
    same(&place, "student", &["--report", "model"]);
    same(&place, "flair", &["--report", "none"]);
}

/// Rows that hold all slices while their networks run.
#[test]
fn so_they_are_of_the_diffusion() {
    let place = odd_patients(2);
    for seed in 1..3 {
        fs::remove_dir_all(place.path(format!("data/p{seed}"))).unwrap();
    }
    same(&place, "fndm", &["--steps", "2", "--batch", "1"]);
    same(&place, "memory", &[]);
}

/// The peak of a run's resident memory in MB, as the system has it: never lower from one look to the next.
#[cfg(target_os = "linux")]
fn peak(place: &Place, output: &str) -> f64 {
    let mut command = detect(place, "student", output, &["--out-of-core"]);
    command.env("RAYON_NUM_THREADS", "2");
    command.stdout(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(number) = line.and_then(|line| line.trim().strip_suffix(" kB")) {
            peak = number.trim().parse::<f64>().unwrap() / 1024.;
        }
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success());
            return peak;
        }
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn memory_hardly_grows_with_the_slices_of_a_patient() {
    let of = |slices: usize| {
        let place = Place::new();
        place.patient("data/p0", 0, slices);
        peak(&place, "out")
    };
    let (few, many) = (of(32), of(288));
    println!("{few:.0} MB of 32 slices, {many:.0} of 288");
    // A slice of four sequences takes 64 kB as it is read; 0.36 MB were taken when all of it was held, several times over.
    assert!(many - few < 0.1 * 256., "{few:.0} and {many:.0} MB");
}

/// Others are done, and those that can't be read are named with their errors.
fn fails(place: &Place, command: &mut Command, failed: &[(&str, &str)], done: &[&str]) {
    let ran = Ran::of(&command.output().unwrap()).ends_with(2);
    let record = place.json("out/_cohort/shard-1-of-1/shard.json");
    assert_eq!(record["failed"].as_object().unwrap().len(), failed.len());
    for (id, words) in failed {
        let error = record["failed"][id].as_str().unwrap_or_default();
        assert!(error.contains(words), "{id}: {error}");
        assert!(ran.err.contains(error), "{}", ran.err);
        assert!(!place.path(format!("out/{id}")).exists());
    }
    for id in done {
        assert!(
            place.path(format!("out/{id}/record.json")).is_file(),
            "{id}"
        );
    }
}

#[cfg(unix)]
#[test]
fn what_cannot_be_read_stops_nobody() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    for seed in 0..5 {
        place.patient(format!("data/p{seed}"), seed, 2);
    }
    let file = |n: usize| place.path(format!("data/p{n}/p{n}_t1ce.nii.gz"));
    for n in 1..4 {
        fs::remove_file(file(n)).unwrap();
    }
    fs::create_dir(file(1)).unwrap();
    symlink(place.path("nowhere"), file(2)).unwrap();
    let made = Command::new("mkfifo").arg(file(3)).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("no mkfifo: a folder takes the pipe's place");
        symlink(place.path("data"), file(3)).unwrap();
    }
    for more in [
        &["--shard", "1/1"][..],
        &["--shard", "1/1", "--out-of-core", "--again"],
    ] {
        let failed = [("p1", "t1ce"), ("p2", "p2_t1ce.nii.gz"), ("p3", "t1ce")];
        fails(
            &place,
            &mut detect(&place, "student", "out", more),
            &failed,
            &["p0", "p4"],
        );
    }
}

/// Files and folders that this user may not read. The superuser may read everything, so the program runs as nobody then, where there is
/// a program that makes it do so.
#[cfg(unix)]
#[test]
fn what_may_not_be_read_stops_nobody() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    for seed in 0..3 {
        place.patient(format!("data/p{seed}"), seed, 2);
    }
    place.put("list.txt", "p0\np1\np2\n");
    let allow = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(place.path("out")).unwrap();
    allow(&place.root(), 0o755);
    allow(&place.path("out"), 0o777);
    allow(&place.path("data/p1/p1_t1.nii.gz"), 0);
    allow(&place.path("data/p2"), 0);
    let more = ["--shard", "1/1", "--out-of-core", "--list", "list.txt"];
    let mut command = detect(&place, "student", "out", &more);
    let reads_all = fs::read_dir(place.path("data/p2")).is_ok();
    if reads_all {
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let mut as_nobody = Command::new("setpriv");
        as_nobody.args(user).arg(command.get_program());
        let tried = as_nobody.arg("--version").output();
        if !tried.is_ok_and(|ran| ran.status.success()) {
            println!("not tried: this user reads everything, and nobody can't run the program");
            return;
        }
        let mut as_nobody = Command::new("setpriv");
        as_nobody
            .args(user)
            .arg(command.get_program())
            .args(command.get_args());
        as_nobody.current_dir(place.root());
        command = as_nobody;
    }
    let failed = [("p1", "p1_t1.nii.gz"), ("p2", "data/p2")];
    fails(&place, &mut command, &failed, &["p0"]);
    allow(&place.path("data/p2"), 0o755);
}
