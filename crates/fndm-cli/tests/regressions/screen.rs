//! A reader that goes, a disk that is full, a folder that can't be read: the work is done all the same.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::support::{Place, Ran, fndm, model};

/// Runs with a standard output whose reader has gone.
fn closed(mut command: Command) -> Ran {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    Ran::of(&child.wait_with_output().unwrap())
}

/// Runs with a full disk behind standard output.
fn full(mut command: Command) -> Ran {
    let disk = File::options().write(true).open("/dev/full").unwrap();
    Ran::of(&command.stdout(disk).output().unwrap())
}

#[test]
fn n14_results_are_written_whoever_reads_the_words() {
    let place = Place::new();
    place.patient("data/p1", 1, 3);
    let seg = "data/p1/p1_seg.nii.gz";
    let weights = model().join("classifier.safetensors").display().to_string();
    type Run = fn(Command) -> Ran;
    let mut ways: Vec<(&str, Run, i32)> = vec![("closed", closed, 0)];
    if cfg!(target_os = "linux") {
        ways.push(("full", full, 1));
    } else {
        eprintln!("left out: a full disk needs /dev/full");
    }
    for (way, run, code) in ways {
        let root = place.root();
        let check = |ran: Ran, file: &str| {
            let ran = ran.ends_with(code);
            assert!(place.path(way).join(file).is_file(), "{file}");
            if code == 1 {
                ran.tells(&["standard output"]);
            } else {
                assert!(!ran.err.contains("error"), "{}", ran.err);
            }
        };
        let out = |name: &str| format!("{way}/{name}");
        check(
            run(place.evaluate_command("data", &out("ev"))),
            "ev/report.json",
        );
        let detect = ["--data", "data", "--output", &out("d")].map(String::from);
        let detect: Vec<&str> = detect.iter().map(String::as_str).collect();
        check(run(place.detect_command(&detect)), "d/p1/p1_mask.nii.gz");
        check(
            run(fndm(
                &root,
                &["metrics", seg, seg, "--output", &out("t.md")],
            )),
            "t.md",
        );
        check(
            run(fndm(&root, &["convert", &weights, &out("x.safetensors")])),
            "x.safetensors",
        );
        check(
            run(fndm(&root, &["inspect", "data", "--sheet", &out("s.png")])),
            "s.png",
        );
        run(fndm(&root, &["--help"])).ends_with(code);
        run(fndm(&root, &["detect", "--help"])).ends_with(code);
        run(fndm(&root, &["completions", "bash"])).ends_with(code);
    }
}

/// Standard error gone too: the exit code says it.
#[test]
fn n14_nobody_listens() {
    let place = Place::new();
    place.scan("data/p1", 1);
    place.put("data/p2/p2_flair.nii.gz", "broken");
    let mut command = place.detect_command(&["--data", "data", "--output", "out"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert!(place.path("out/p1/p1_mask.nii.gz").is_file());
}

/// One folder that can't be read is told, and the others go on.
#[cfg(unix)]
#[test]
fn n16_an_unreadable_folder() {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let mode = |name: &str, mode: u32| {
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    place.scan("d/p1", 1);
    fs::create_dir(place.path("d/lost+found")).unwrap();
    fs::create_dir(place.path("open")).unwrap();
    mode("d/lost+found", 0o000);
    mode("", 0o755);
    mode("open", 0o777);
    let run = |words: &[&str]| -> Option<Ran> {
        let root = fs::read_dir(place.path("d/lost+found")).is_ok();
        if !root {
            return Some(place.run(words));
        }
        // Root reads everything: as nobody, then, if the program can be started by nobody.
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(env!("CARGO_BIN_EXE_fndm"));
        command.current_dir(place.root()).args(words);
        let output = command.output().ok()?;
        let started = !matches!(output.status.code(), Some(126 | 127));
        started.then(|| Ran::of(&output))
    };
    let model = model().canonicalize().unwrap().display().to_string();
    let mut detect = vec!["detect", "--steps", "2", "--model", &model];
    detect.extend(["--data", "d", "--output", "open/out"]);
    let Some(ran) = run(&detect) else {
        eprintln!(
            "left out: root can't be anybody else here (no setpriv, or a program in a private folder)"
        );
        mode("d/lost+found", 0o755);
        return;
    };
    ran.ends_with(2)
        .tells(&["d/lost+found"])
        .says(&["1 of 2 patients"]);
    assert!(place.path("open/out/p1/p1_mask.nii.gz").is_file());
    run(&["inspect", "d"])
        .unwrap()
        .ends_with(2)
        .says(&["d/lost+found", "d: 1 patient"]);
    mode("d/lost+found", 0o755);
}

/// A patient whose folder isn't named in UTF-8 is told, and the others go on.
#[cfg(target_os = "linux")]
#[test]
fn n16_a_name_that_is_not_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    place.scan("u/p1", 1);
    place.patient(OsStr::from_bytes(b"u/M\xfcller"), 2, 3);
    place
        .detect(&["--data", "u", "--output", "out"])
        .ends_with(2)
        .tells(&["ller", "UTF-8"])
        .says(&["1 of 2 patients done"]);
    assert_eq!(place.names("out"), ["_cohort", "p1", "report.html"]);
    place.run(&["inspect", "u"]).ends_with(2).says(&["UTF-8"]);
    // Such a name in an output or an option is no reason to panic.
    let mut command = place.detect_command(&["--patient", "u/p1", "--output"]);
    command.arg(OsStr::from_bytes(b"out\xff"));
    Ran::of(&command.output().unwrap()).ends_with(0);
    assert!(
        place
            .path(OsStr::from_bytes(b"out\xff/p1/p1_mask.nii.gz"))
            .is_file()
    );
}
