//! Bits from tables and folders, through the programs.

use crate::support::{Place, Ran};

const QUICK: [&str; 10] = [
    "--sequences",
    "flair,t1",
    "--image-size",
    "32",
    "--classifier-iterations",
    "2",
    "--iterations",
    "2",
    "--output",
    "model",
];

fn train(arguments: &[&str]) -> Vec<&'static str> {
    let mut all = vec!["train"];
    all.extend(
        arguments
            .iter()
            .map(|a| -> &'static str { (*a).to_string().leak() }),
    );
    all.extend(QUICK);
    all
}

fn patients() -> Place {
    let place = Place::new();
    place.patient("d/a", 1, 6);
    place.patient("d/b", 2, 6);
    place
}

#[test]
fn a_table_alone_trains_and_judges() {
    let place = patients();
    // No mask can be read.
    place.put("d/a/a_seg.nii.gz", "no mask");
    place.put("d/b/b_seg.nii.gz", "no mask");
    place.put(
        "l.csv",
        "patient;slice1;label\na;1-3;healthy\na;4-6;diseased\nb;;healthy\n",
    );
    place
        .run(&["inspect", "d", "--labels", "l.csv"])
        .ends_with(0)
        .says(&[
            "3 healthy, 3 diseased, 0 unknown",
            "labels: the table l.csv",
        ]);
    place
        .run(&train(&["--data", "d", "--labels", "l.csv"]))
        .ends_with(0)
        .says(&["9 healthy and 3 diseased slices by the table l.csv"]);
    let record = place.json("model/training.json");
    assert_eq!(record["labels"]["patients"][0]["diseased"], 3);
    place
        .run(&[
            "evaluate",
            "--model",
            "model",
            "--data",
            "d",
            "--labels",
            "l.csv",
            "--split",
            "all",
            "--methods",
            "flair",
            "--output",
            "ev",
        ])
        .ends_with(0)
        .says(&["No masks: by the table l.csv", "AUROC of the slice"]);
    assert_eq!(place.json("ev/report.json")["rows"][0]["diseased"], 3);
}

#[test]
fn a_table_that_is_read_is_never_written_over() {
    let place = patients();
    place.put("l.csv", "patient,label\na,0\nb,1\n");
    let before = place.snapshot(&[]);
    place
        .run(&[
            "inspect",
            "d",
            "--labels",
            "l.csv",
            "--sheet",
            "l.csv",
            "--overwrite",
        ])
        .ends_with(1)
        .tells(&["l.csv", "input"]);
    assert_eq!(place.snapshot(&[]), before);
}

/// Nothing is written for a table that can't be used.
#[test]
fn a_wrong_table_leaves_nothing_behind() {
    let place = patients();
    place.put("l.csv", "patient,slice0,label\na,1,1\nc,1,0\n");
    let before = place.snapshot(&[]);
    place
        .run(&train(&["--data", "d", "--labels", "l.csv"]))
        .ends_with(1)
        .tells(&["l.csv: line 3: patient c: no such patient"]);
    assert_eq!(place.snapshot(&[]), before);
    assert!(!place.path("model").exists());
    place
        .run(&train(&["--healthy", "d", "--diseased", "d"]))
        .ends_with(1)
        .tells(&["no volume is healthy and diseased"]);
    assert!(!place.path("model").exists());
}

/// Exit 2: some patients were used and others couldn't be read.
#[test]
fn an_unreadable_patient_is_in_the_exit_code() {
    let place = patients();
    place.patient("d/c", 3, 6);
    place.put("d/c/c_t1.nii.gz", "no volume");
    place.put(
        "l.csv",
        "patient,slice1,label\na,1-3,0\na,4-6,1\nb,1-6,0\nc,1-6,0\n",
    );
    place
        .run(&train(&["--data", "d", "--labels", "l.csv"]))
        .ends_with(2)
        .tells(&["left out c: "]);
}

#[test]
fn a_split_that_is_none_is_something_wrong() {
    let place = patients();
    place.put("d/splits.json", r#"{"train": ["a", "nope"]}"#);
    place.run(&["inspect", "d"]).ends_with(2).says(&[
        "splits: WRONG",
        "something is wrong:",
        "splits.json: patient nope",
    ]);
}

#[test]
fn a_sequence_that_one_patient_lacks_is_something_wrong() {
    let place = patients();
    place.run(&["inspect", "d"]).ends_with(0);
    std::fs::remove_file(place.path("d/b/b_t1.nii.gz")).unwrap();
    place.run(&["inspect", "d"]).ends_with(2).says(&[
        "something is wrong with 1 patient:",
        "b: no t1, which 1 of 2 patients have",
    ]);
    // Whoever names sequences is told of those alone.
    place.run(&["inspect", "d", "flair"]).ends_with(0);
}

#[test]
fn a_split_that_would_count_for_nothing_is_refused() {
    let place = patients();
    let mut evaluate = place.evaluate_command("d", "out");
    evaluate.args(["--split-file", "nope.json"]);
    Ran::of(&evaluate.output().unwrap())
        .ends_with(1)
        .tells(&["--split-file nope.json", "--split all"]);
    assert!(!place.path("out").exists());
}
