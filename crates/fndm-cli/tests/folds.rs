//! Cross-validation by the program: the student, its bound and the whole method, trained on some patients and examined on the others.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "regressions/support.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;

use fndm_data::{Limits, nifti};
use serde_json::Value;
use support::{Place, Ran, fndm};

const SMALL: [&str; 13] = [
    "--sequences",
    "flair,t1,t1ce,t2",
    "--image-size",
    "32",
    "--iterations",
    "1",
    "--classifier-iterations",
    "1",
    "--memory-bytes",
    "20000",
    "--batch",
    "2",
    "--cosine",
];

fn place(patients: u64) -> Place {
    let place = Place::new();
    for seed in 0..patients {
        place.patient(format!("data/p{seed}"), seed, 12);
    }
    place
}

fn run(place: &Place, options: &[&str], train: &[&str]) -> Ran {
    let mut command = fndm(
        &place.root(),
        &["reproduce", "folds", "--data", "data", "--output", "out"],
    );
    command.args(["--iterations", "1", "--plan", r#"{"apart": 0}"#]);
    command.args(options);
    if !train.is_empty() {
        command.arg("--").args(train);
    }
    Ran::of(&command.output().unwrap())
}

/// A file of the results.
fn json(place: &Place, name: &str) -> Value {
    let text = fs::read_to_string(place.path("out").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn every_method_is_examined_on_patients_that_it_was_not_trained_on() {
    let place = place(4);
    let options = [
        "--folds",
        "2",
        "--fold",
        "1",
        "--bound",
        "--whole",
        "--flair",
        "0.9:1,0.9:3:clear",
    ];
    run(&place, &options, &SMALL).ends_with(0);
    let read = |name: &str| json(&place, name);
    let ids = |value: &Value| -> BTreeSet<String> {
        let ids = value.as_array().unwrap().iter();
        ids.map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    let folds = read("folds.json");
    let (other, held_out) = (ids(&folds["folds"][0]), ids(&folds["folds"][1]));
    assert_eq!((other.len(), held_out.len()), (2, 2));
    assert!(other.is_disjoint(&held_out));
    // Trained on the one, judged on the other.
    let model = read("fold1/model/training.json");
    assert_eq!(ids(&model["plan"]["source"]["patients"]), other);
    let cases = read("folds_cases.json");
    let mut rows = BTreeSet::new();
    for evaluation in cases.as_array().unwrap() {
        let row = &evaluation["row"];
        rows.insert(row["method"].as_str().unwrap().to_owned());
        for case in evaluation["cases"].as_array().unwrap() {
            assert!(held_out.contains(case["patient"].as_str().unwrap()));
            assert_eq!(
                row["level"] == "volume",
                case["lesions"].is_object(),
                "{case}"
            );
        }
        if row["level"] == "volume" {
            let found = row["lesion_sensitivity"].as_f64().unwrap();
            assert!((0. ..=1.).contains(&found));
        }
    }
    for row in [
        "student",
        "bound",
        "remover",
        "fndm",
        "cg_nm",
        "memory",
        "flair_0.9_1",
        "flair_0.9_3_clear",
    ] {
        assert!(rows.contains(row), "{row} of {rows:?}");
    }
}

/// Lesions that are small and bright are taught by brightness alone: no remover is trained, and none has a row.
#[test]
fn small_bright_lesions_have_a_teacher_of_their_own() {
    let place = place(4);
    let options = [
        "--folds",
        "2",
        "--only",
        "0",
        "--lesions",
        "small-bright",
        "--whole",
    ];
    run(&place, &options, &SMALL).ends_with(0);
    let read = |name: &str| json(&place, name);
    let plan = read("folds_plan.json");
    assert_eq!(plan["teacher"]["intensity_by_slice"], true);
    assert_eq!(plan["teacher"]["remover_power"], 0.);
    assert!(place.path("out/fold0/student").exists());
    assert!(!place.path("out/fold0/remover").exists());
    assert!(place.path("out/folds.png").is_file());
    let csv = fs::read_to_string(place.path("out/folds.csv")).unwrap();
    assert!(csv.contains("teacher") && csv.contains("student") && !csv.contains("remover"));
    // The whole method is for the same lesions: what it pastes is cut by the teacher, and its coarse map is the student's.
    let model = read("fold0/model/training.json");
    assert_eq!(model["plan"]["pasted_by"], plan["teacher"]);
    assert_eq!(model["plan"]["student"], plan);
    let lesion = &model["plan"]["diffusion_training"]["lesion"];
    assert_eq!(lesion["radius"], serde_json::json!([0.5, 2.5]));
    assert_eq!(model["plan"]["detect"]["fndm"]["coarse_source"], "student");
    // One row of the student, not the fold's and the model's.
    let patients = read("fold0/model/training.json")["plan"]["source"]["patients"].clone();
    let cases = read("folds_cases.json");
    let students = cases.as_array().unwrap().iter().filter(|e| {
        let row = &e["row"];
        row["method"] == "student" && row["level"] == "volume"
    });
    let counts: Vec<usize> = students
        .map(|e| e["cases"].as_array().unwrap().len())
        .collect();
    assert_eq!(counts, [4 - patients.as_array().unwrap().len()]);
}

/// All that is no lesion is judged normal in one patient of each fold: each row's pixels there are of one kind or the other.
#[test]
fn pixels_judged_normal_are_counted_apart() {
    let place = place(6);
    let mut lesion = 0;
    for id in ["p0", "p3"] {
        let file = |what: &str| place.path(format!("data/{id}/{id}_{what}.nii.gz"));
        let mut mask = nifti::read(file("seg"), &Limits::default()).unwrap();
        lesion += mask.data.iter().filter(|&&v| v > 0.).count();
        mask.data.mapv_inplace(|v| 1. - v);
        nifti::write_mask(file("nwmh"), &mask).unwrap();
    }
    assert!(lesion > 0);
    let options = ["--folds", "2", "--normal", "nwmh"];
    run(&place, &options, &SMALL[..4]).ends_with(0).says(&[
        "in 2 patients with pixels that were judged normal",
        "folds.csv, folds_normal.json, folds.png to",
    ]);
    let counts = json(&place, "folds_normal.json");
    for row in ["contrast", "remover", "teacher", "student"] {
        let of = |kind: &str| counts[row][kind].as_u64().unwrap();
        assert_eq!(of("marked"), of("lesion") + of("normal"), "{row}");
        assert!(of("normal") <= of("all_normal"));
    }
    // The phantom's slices are larger than 32 pixels: how much of it is no lesion there is told by a row that has nothing to do with it.
    assert_eq!(
        counts["contrast"]["all_normal"],
        counts["student"]["all_normal"]
    );
    // Without the option its file is of another run.
    run(&place, &options[..2], &SMALL[..4]).ends_with(0);
    assert!(!place.path("out/folds_normal.json").exists());
    run(&place, &["--folds", "2", "--normal", "caps"], &SMALL[..4])
        .ends_with(1)
        .tells(&["--normal caps: expected a patient with <id>_caps.nii.gz"]);
}

/// Nothing to draw is no error.
#[test]
fn a_fold_without_a_lesion_has_no_picture() {
    let place = place(4);
    for id in ["p0", "p1", "p2", "p3"] {
        let file = place.path(format!("data/{id}/{id}_seg.nii.gz"));
        let mut mask = nifti::read(&file, &Limits::default()).unwrap();
        if id == "p0" {
            mask.data.fill(0.);
            nifti::write_mask(&file, &mask).unwrap();
        }
    }
    let folds = r#"{"seed": 1, "folds": [["p0"], ["p1", "p2", "p3"]]}"#;
    fs::write(place.path("alone.json"), folds).unwrap();
    run(
        &place,
        &["--folds", "alone.json", "--only", "0"],
        &SMALL[..4],
    )
    .ends_with(0)
    .says(&["folds.csv to"]);
    assert!(!place.path("out/folds.png").exists());
}

#[test]
fn options_that_make_no_sense_are_told_before_anything_is_trained() {
    let place = place(2);
    for (options, train, words) in [
        (&["--folds", "3"][..], &SMALL[..], "number of folds"),
        (&["--folds", "2", "--only", "2"], &SMALL, "--only"),
        (&["--folds", "2", "--flair", "2:1"], &SMALL, "--flair"),
        (&["--folds", "2", "--whole"], &[], "OPTIONS OF TRAIN"),
        (
            &["--folds", "2"],
            &["--sequences", "flair", "--data", "x"],
            "error: options of train: the argument '--data <DIR>'",
        ),
        (&["--folds", "missing.json"], &SMALL, "missing.json"),
        (
            &["--folds", "2", "--lesions", "small-bright"],
            &["--sequences", "t1,t2", "--image-size", "32"],
            "expected flair among the sequences, got t1, t2",
        ),
        (
            &["--folds", "2"],
            &["--sequences", "flair", "--lesions", "small-bright"],
            "options of train: --lesions and",
        ),
        (
            &["--folds", "2"],
            &["--sequences", "flair", "--student-iterations", "9"],
            "got --iterations among them",
        ),
        (
            &["--folds", "2"],
            &[
                "--sequences",
                "flair",
                "--plan",
                r#"{"student": {"seed": 2}}"#,
            ],
            "got \"student\" in --plan",
        ),
        (
            &["--folds", "2", "--only", "0,0"],
            &SMALL,
            "--only: expected each fold once, got 0 twice",
        ),
        (
            &["--folds", "2", "--flair", "0.98:8,0.98:8"],
            &SMALL,
            "--flair: expected each row once, got 0.98:8 twice",
        ),
        (
            &["--folds", "2"],
            &["--sequences", "flair", "--brain-mask", "seg"],
            "a name that isn't one of lesion masks",
        ),
    ] {
        run(&place, options, train).ends_with(1).tells(&[words]);
        assert!(!place.path("out/fold0").exists());
    }
}
