//! A brain mask of the user's, from the training to the mask that is written.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "regressions/support.rs"]
mod support;

use std::fs;

use fndm::data::{Limits, Volume, nifti};
use serde_json::Value;
use support::{Place, Ran, fndm};

/// Patients whose brain is what FLAIR shows in a disc around the middle of each slice.
fn place() -> Place {
    let place = Place::new();
    for seed in 0..5 {
        place.patient(format!("data/p{seed}"), seed, 12);
        brain(&place, &format!("data/p{seed}"), &format!("p{seed}"));
    }
    place
}

fn read(place: &Place, name: &str) -> Volume {
    nifti::read(place.path(name), &Limits::default()).unwrap()
}

fn brain(place: &Place, folder: &str, id: &str) {
    let mut mask = read(place, &format!("{folder}/{id}_flair.nii.gz"));
    let (width, height, _) = mask.data.dim();
    for ((i, j, _), value) in mask.data.indexed_iter_mut() {
        let (x, y) = (
            i as f32 / width as f32 - 0.5,
            j as f32 / height as f32 - 0.5,
        );
        *value = f32::from(u8::from(x.hypot(y) < 0.3));
    }
    nifti::write_mask(place.path(format!("{folder}/{id}_brain.nii.gz")), &mask).unwrap();
}

fn run(place: &Place, arguments: &[&str]) -> Ran {
    Ran::of(&fndm(&place.root(), arguments).output().unwrap())
}

fn train(place: &Place) {
    let plan = r#"{"apart": 0, "cross": null}"#;
    run(
        place,
        &[
            "train",
            "--data",
            "data",
            "--sequences",
            "flair,t1",
            "--image-size",
            "64",
            "--brain-mask",
            "brain",
            "--student-alone",
            "--student-iterations",
            "2",
            "--student-plan",
            plan,
            "--output",
            "model",
        ],
    )
    .ends_with(0);
    let text = fs::read_to_string(place.path("model/model.json")).unwrap();
    let model: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(model["preprocess"]["brain_mask"], "brain");
    assert_eq!(model["sequences"], serde_json::json!(["flair", "t1"]));
}

#[test]
fn nothing_outside_of_the_brain_is_seen_or_marked() {
    let place = place();
    train(&place);
    let detect = ["detect", "--model", "model", "--data", "data", "--output"];
    run(&place, &[&detect[..], &["out"]].concat()).ends_with(0);
    let anomaly = read(&place, "out/p1/p1_anomaly.nii.gz");
    let brain_of = read(&place, "data/p1/p1_brain.nii.gz");
    assert!(anomaly.data.iter().any(|&v| v > 0.));
    // 64 pixels of a slice are 64 of the phantom: nothing is between the grids.
    for (&value, &inside) in anomaly.data.iter().zip(&brain_of.data) {
        assert!(inside > 0. || value == 0.);
    }

    // What lies outside makes no difference; the same bytes come of one volume at a time.
    for (name, by) in [("flair", 7.), ("t1", 0.2)] {
        for id in ["p0", "p1", "p2", "p3", "p4"] {
            let mask = read(&place, &format!("data/{id}/{id}_brain.nii.gz"));
            place.change(&format!("data/{id}/{id}_{name}.nii.gz"), |volume| {
                for (value, &inside) in volume.data.iter_mut().zip(&mask.data) {
                    if inside == 0. {
                        *value = *value * by + 100.;
                    }
                }
            });
        }
    }
    run(&place, &[&detect[..], &["again", "--out-of-core"]].concat()).ends_with(0);
    for id in ["p0", "p1", "p2", "p3", "p4"] {
        for what in ["mask", "anomaly"] {
            let of = |output: &str| read(&place, &format!("{output}/{id}/{id}_{what}.nii.gz"));
            assert_eq!(of("out").data, of("again").data, "{id} {what}");
        }
    }
    let split = r#"{"train": [], "val": ["p0", "p1"], "test": []}"#;
    place.put("data/splits.json", split);
    let evaluate = [
        "evaluate",
        "--model",
        "model",
        "--data",
        "data",
        "--methods",
        "student",
    ];
    run(&place, &[&evaluate[..], &["--output", "scores"]].concat()).ends_with(0);
}

#[test]
fn a_patient_without_one_is_told() {
    let place = place();
    fs::remove_file(place.path("data/p3/p3_brain.nii.gz")).unwrap();
    train(&place);
    let words = ["p3_brain.nii.gz"];
    run(
        &place,
        &[
            "detect", "--model", "model", "--data", "data", "--output", "out",
        ],
    )
    .ends_with(2)
    .tells(&words);
    assert!(place.path("out/p2/p2_mask.nii.gz").is_file() && !place.path("out/p3").exists());
    run(
        &place,
        &[
            "detect",
            "--model",
            "model",
            "--patient",
            "data/p3",
            "--output",
            "one",
        ],
    )
    .ends_with(1)
    .tells(&words);
    let files = ["flair=data/p2/p2_flair.nii.gz", "t1=data/p2/p2_t1.nii.gz"];
    let given = ["detect", "--model", "model", "--id", "x", "--output", "x"];
    let given = [&given[..], &["--file", files[0], "--file", files[1]]].concat();
    run(&place, &given)
        .ends_with(1)
        .tells(&["expected --file brain=FILE"]);
    let brain = ["--file", "brain=data/p2/p2_brain.nii.gz"];
    run(&place, &[&given[..], &brain].concat()).ends_with(0);
    let mask = |path: &str| read(&place, path).data;
    assert_eq!(mask("x/x/x_mask.nii.gz"), mask("out/p2/p2_mask.nii.gz"));
    // Looked at before a training, and by a model's check.
    run(
        &place,
        &["inspect", "data", "flair,t1", "--brain-mask", "brain"],
    )
    .ends_with(2)
    .says(&["p3", "brain not found"]);
    run(&place, &["check", "--model", "model", "--data", "data"]).ends_with(2);
    // One who asks for another's.
    run(
        &place,
        &["inspect", "data", "flair", "--brain-mask", "flair"],
    )
    .ends_with(1);
}
