//! What can be checked is checked before the first iteration.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Place, Ran, fndm, model};

/// Runs a training that would take a day, and gives it half a minute (debug builds are slow to start) to tell what is wrong with it.
fn train(place: &Place, output: &str, arguments: &[&str]) -> Ran {
    let mut command = fndm(
        &place.root(),
        &["train", "--phantom", "2", "--image-size", "32"],
    );
    command.args(["--classifier-minutes", "1440", "--output", output]);
    command.args(arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{arguments:?}: not told");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ran::of(&child.wait_with_output().unwrap())
}

#[test]
fn n19_the_whole_plan_is_checked() {
    let place = Place::new();
    for arguments in [
        &["--noise-level", "7"][..],
        &["--steps", "0"],
        &["--solver", "ddim", "--order", "2"],
        &["--order", "9"],
        &["--width", "31"],
        &["--batch", "0"],
        &["--minutes=-1"],
        &["--feature-blocks", "99"],
        &["--position-weight", "nan"],
        &["--memory-bytes", "1"],
        &["--validate-every", "0"],
        &["--classifier-batch", "0"],
        &["--lr", "nan"],
        &["--sequences", "flair,t7"],
        &["--sequences", "flair,flair"],
        &["--z-low", "0.9", "--z-high", "0.1"],
        &["--plan", "{\"unet\": {\"no_such_key\": 1}}"],
    ] {
        let ran = train(&place, "model", arguments);
        assert_eq!(ran.code, Some(1), "{arguments:?}: {}", ran.err);
        assert!(ran.err.starts_with("error: "), "{arguments:?}: {}", ran.err);
    }
    // Nothing was begun.
    assert!(place.names("model").iter().all(|name| name == ".fndm.json"));
}

#[cfg(target_os = "linux")]
#[test]
fn n19_outputs_that_cannot_be_written() {
    let place = Place::new();
    place.patient("d/p1", 1, 3);
    train(&place, "/proc/x", &[])
        .ends_with(1)
        .tells(&["error: cannot write /proc/x"]);
    let mut evaluate = place.evaluate_command("d", "/proc/x");
    let ran = Ran::of(&evaluate.output().unwrap())
        .ends_with(1)
        .tells(&["/proc/x"]);
    assert!(ran.out.is_empty(), "told after the reading: {}", ran.out);
    let ran = place
        .detect(&["--data", "d", "--output", "/proc/x"])
        .ends_with(1);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    let ran = ran.tells(&["error: cannot write /proc/x"]);
    assert!(ran.out.is_empty(), "{}", ran.out);
    let seg = "d/p1/p1_seg.nii.gz";
    place
        .run(&["metrics", seg, seg, "--output", "/proc/x.md"])
        .ends_with(1)
        .tells(&["/proc/x.md"]);
    place
        .run(&["inspect", "d", "--sheet", "/proc/x.png"])
        .ends_with(1)
        .tells(&["/proc/x.png"]);
}

#[test]
fn n19_options_of_every_program() {
    let place = Place::new();
    place.patient("d/p1", 1, 3);
    let model = model().display().to_string();
    let reproduce = |what: &[&str]| {
        let mut arguments = vec!["reproduce", what[0], "--model", &model, "--data", "d"];
        arguments.extend(["--split", "all", "--output", "out"]);
        arguments.extend(&what[1..]);
        let ran = place.run(&arguments).ends_with(1);
        assert!(ran.out.is_empty(), "told after the reading: {}", ran.out);
        assert!(place.names("out").is_empty());
        ran
    };
    reproduce(&["table2", "--rows", "typo"]).tells(&["--rows", "typo", "fndm"]);
    reproduce(&["fig4", "--steps", "5,0"]).tells(&["steps"]);
    reproduce(&["settings", "--set", "{\"steps\": 0}"]).tells(&["steps"]);
    reproduce(&["settings", "--set", "{\"stops\": 1}"]).tells(&["stops"]);
    for arguments in [
        &["--noise-level", "7"][..],
        &["--order", "9"],
        &["--batch", "0"],
    ] {
        place
            .detect(&[&["--data", "d"], arguments].concat())
            .ends_with(1);
    }
    // An unknown option is an error like any other: 1, not the 2 of "a part was done".
    place
        .detect(&["--data", "d", "--no-such-option"])
        .ends_with(1);
    place.run(&["--version"]).ends_with(0);
}
