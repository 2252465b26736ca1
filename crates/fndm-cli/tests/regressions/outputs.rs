//! Nothing of a user's is removed, replaced or changed, and an old result stays until the new one is whole.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Place, files, model};

#[test]
fn n01_an_output_that_is_an_input_is_refused() {
    let place = Place::new();
    place.patient("data/p1", 1, 3);
    place.put("data/p1/notes.txt", "mine");
    let before = place.snapshot(&[]);
    for arguments in [
        ["--data", "data", "--output", "data"],
        ["--patient", "data/p1", "--output", "data"],
        ["--patient", "data/p1", "--output", "data/p1/.."],
    ] {
        place.detect(&arguments).ends_with(1).tells(&[
            "error: the output data",
            "is the input",
            "p1",
        ]);
        assert_eq!(place.snapshot(&[]), before);
    }
    // Files that the user names, one by one.
    let file = |name: &str| format!("{name}=data/p1/p1_{name}.nii.gz");
    let named: Vec<String> = ["flair", "t1", "t1ce", "t2"].map(file).to_vec();
    let mut arguments = vec!["--id", "p1", "--output", "data"];
    for text in &named {
        arguments.extend(["--file", text.as_str()]);
    }
    place.detect(&arguments).ends_with(1).tells(&["data/p1"]);
    assert_eq!(place.snapshot(&[]), before);
    // The other programs that write folders.
    place
        .evaluate("data", "data")
        .ends_with(1)
        .tells(&["is the input"]);
    place
        .evaluate("data", "data/p1")
        .ends_with(1)
        .tells(&["is the input"]);
    place
        .evaluate("data", ".")
        .ends_with(1)
        .tells(&["holds the input"]);
    place
        .run(&[
            "train",
            "--data",
            "data",
            "--sequences",
            "flair",
            "--output",
            "data",
        ])
        .ends_with(1);
    assert_eq!(place.snapshot(&[]), before);
}

#[test]
fn n01_a_folder_that_is_not_ours_is_refused() {
    let place = Place::new();
    place.patient("data/p1", 1, 3);
    place.put("out/p1/notes.txt", "mine");
    place.put("model/weights.txt", "mine");
    let before = place.snapshot(&[]);
    place
        .detect(&["--data", "data", "--output", "out"])
        .ends_with(1)
        .tells(&["out/p1", "did not write"]);
    place
        .evaluate("data", "out/p1")
        .ends_with(1)
        .tells(&["out/p1"]);
    place
        .run(&["train", "--phantom", "2", "--output", "model"])
        .ends_with(1)
        .tells(&["model", "did not write"]);
    place
        .run(&["quickstart", "--patients", "1", "--output", "model"])
        .ends_with(1)
        .tells(&["model", "did not write"]);
    assert_eq!(place.snapshot(&[]), before);
}

#[test]
fn n01_a_result_is_replaced_unless_a_user_changed_it() {
    let place = Place::new();
    place.patient("data/p1", 1, 3);
    let detect = || place.detect(&["--data", "data", "--output", "out"]);
    detect().ends_with(0);
    detect().ends_with(0);
    assert_eq!(place.names("out"), ["_cohort", "p1", "report.html"]);
    // A mask that was corrected by hand.
    place.change("out/p1/p1_mask.nii.gz", |volume| volume.data.fill(1.));
    let before = place.snapshot(&[]);
    detect()
        .ends_with(1)
        .tells(&["p1_mask.nii.gz", "was changed"]);
    assert_eq!(place.snapshot(&[]), before);
    // A table of an evaluation isn't replaced by a training, nor the other way.
    place.evaluate("data", "report").ends_with(0);
    place
        .run(&["train", "--phantom", "2", "--output", "report"])
        .ends_with(1)
        .tells(&["report", "evaluate"]);
}

/// Results inside the data: allowed, for marked folders are passed over by everything that reads data.
#[test]
fn n01_results_inside_the_data_are_no_data() {
    let place = Place::new();
    place.patient("data/p1", 1, 3);
    let detect = || place.detect(&["--data", "data", "--output", "data/out"]);
    detect().ends_with(0).says(&["1 of 1 patient"]);
    detect().ends_with(0).says(&["1 of 1 patient"]);
    place
        .run(&["inspect", "data"])
        .ends_with(0)
        .says(&["data: 1 patient\n"]);
}

#[test]
fn n01_a_file_that_exists_is_not_replaced() {
    let place = Place::new();
    place.patient("data/p1", 1, 3);
    let seg = "data/p1/p1_seg.nii.gz";
    place.put("table.md", "mine");
    let before = place.snapshot(&[]);
    for output in [seg, "table.md"] {
        place
            .run(&["metrics", seg, seg, "--output", output])
            .ends_with(1)
            .tells(&[output]);
        assert_eq!(place.snapshot(&[]), before);
    }
    // Not even where it is asked for.
    place
        .run(&["metrics", seg, seg, "--output", seg, "--overwrite"])
        .ends_with(1)
        .tells(&["is the input"]);
    place
        .run(&["inspect", "data", "--sheet", seg, "--overwrite"])
        .ends_with(1)
        .tells(&["inside the input"]);
    let weights = model().join("unet.safetensors");
    fs::copy(&weights, place.path("unet.safetensors")).unwrap();
    for again in [
        &["unet.safetensors", "unet.safetensors"][..],
        &["unet.safetensors", "./unet.safetensors", "--overwrite"],
    ] {
        let mut arguments = vec!["convert"];
        arguments.extend(again);
        place.run(&arguments).ends_with(1).tells(&["is the input"]);
    }
    assert_eq!(
        fs::read(place.path("unet.safetensors")).unwrap(),
        fs::read(weights).unwrap()
    );
    place
        .run(&["metrics", seg, seg, "--output", "table.md", "--overwrite"])
        .ends_with(0);
    assert!(
        fs::read_to_string(place.path("table.md"))
            .unwrap()
            .contains("Dice")
    );
}

/// Killed in the middle of the computing: the old result is whole, and the next run cleans up.
#[test]
fn n01_killed_while_detecting() {
    let place = Place::new();
    place.patient("data/p1", 1, 3);
    place
        .detect(&["--data", "data", "--output", "out"])
        .ends_with(0);
    let old = files(&place.path("out/p1"));
    let mut command = place.detect_command(&["--data", "data", "--output", "out", "--batch", "1"]);
    // clap takes the last of two.
    command
        .args(["--seed", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    while place.names("out").len() < 5 {
        assert!(begun.elapsed() < Duration::from_secs(120));
        if let Some(ended) = child.try_wait().unwrap() {
            panic!("ended too early: {ended}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(files(&place.path("out/p1")), old);
    place
        .detect(&["--data", "data", "--output", "out"])
        .ends_with(0);
    assert_eq!(place.names("out"), ["_cohort", "p1", "report.html"]);
}

/// The folder that the program was started in is gone: that is told, for a path can't be made of nothing.
#[cfg(unix)]
#[test]
fn the_current_folder_was_removed() {
    let place = Place::new();
    let (gone, program) = (place.path("gone"), env!("CARGO_BIN_EXE_fndm"));
    std::fs::create_dir(&gone).unwrap();
    let script = format!(
        "cd '{0}' && rmdir '{0}' && exec '{program}' phantom --patients 1 --output out",
        gone.display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output();
    let ran = crate::support::Ran::of(&output.unwrap());
    ran.ends_with(1).tells(&["cannot find"]);
}
