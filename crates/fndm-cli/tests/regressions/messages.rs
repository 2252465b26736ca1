//! Messages that help.

use crate::support::{Place, Ran, committed};

#[test]
fn n21_a_byte_order_mark() {
    let place = Place::new();
    place.patient("d/a", 1, 3);
    std::fs::copy(committed("21/splits.json"), place.path("d/splits.json")).unwrap();
    place
        .run(&["inspect", "d"])
        .ends_with(0)
        .says(&["splits: train 1"]);
}

#[test]
fn n21_checkpoints() {
    let place = Place::new();
    let convert = |name: &str| {
        let file = committed(name).display().to_string();
        let ran = place.run(&["convert", &file, "x.safetensors"]).ends_with(1);
        assert!(place.names("").is_empty());
        ran.tells(&[&file])
    };
    convert("21/deflated.pt").tells(&["compressed"]);
    convert("21/legacy_cut.pt").tells(&["cut short"]);
}

#[test]
fn n21_the_data_folder_as_a_patient() {
    let place = Place::new();
    place.scan("uid/a.1", 0);
    place.scan("uid/a.2", 1);
    let ran = place
        .detect(&["--patient", "uid", "--output", "out"])
        .ends_with(1)
        .tells(&["--data"]);
    assert!(!ran.err.contains("remove"), "{}", ran.err);
}

/// The same one folder deeper.
#[test]
fn n21_groups_as_a_patient() {
    let place = Place::new();
    place.scan("grades/HGG/a", 0);
    place.scan("grades/HGG/b", 1);
    let ran = place
        .detect(&["--patient", "grades", "--output", "out"])
        .ends_with(1)
        .tells(&["--data"]);
    assert!(!ran.err.contains("another name"), "{}", ran.err);
}

#[test]
fn n21_files_by_name() {
    let place = Place::new();
    place.scan("a", 0);
    let detect = |files: &[&str]| {
        let mut arguments = vec!["--id", "a", "--output", "out"];
        for file in files {
            arguments.extend(["--file", *file]);
        }
        place.detect(&arguments).ends_with(1)
    };
    detect(&["t2=", "flair=x", "t1=x", "t1ce=x"]).tells(&["error: --file t2=: expected a path"]);
    detect(&["flair=x"]).tells(&["--file flair=x: no such file"]);
    detect(&["flair"]).tells(&["--file flair: expected SEQUENCE=FILE"]);
    let flair = "flair=a/a_flair.nii.gz";
    detect(&[flair, flair]).tells(&["flair is given twice"]);
    detect(&["pd=a/a_flair.nii.gz"]).tells(&["pd", "the model takes flair, t1, t1ce, t2"]);
    detect(&[flair]).tells(&["--file t1=FILE"]);
}

/// The chain of causes, each once, and no backtrace whatever the environment says.
#[test]
fn n21_an_error_is_told_once() {
    let place = Place::new();
    let command = |value: &str| {
        let mut command = place.detect_command(&["--patient", "nowhere", "--output", "out"]);
        command.env("RUST_BACKTRACE", value);
        let ran = crate::support::Ran::of(&command.output().unwrap()).ends_with(1);
        ran.err
    };
    let plain = command("0");
    assert_eq!(plain, "error: --patient nowhere: expected a folder\n");
    assert_eq!(command("1"), plain);
    // An error that comes from candle, which puts backtraces into its messages: a broken file of weights.
    let model = crate::support::model();
    std::fs::create_dir(place.path("model")).unwrap();
    for entry in std::fs::read_dir(model).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, place.path("model").join(path.file_name().unwrap())).unwrap();
        }
    }
    let weights = place.path("model/memory.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let mut command = crate::support::fndm(
        &place.root(),
        &["detect", "--model", "model", "--patient", "x"],
    );
    command.env("RUST_BACKTRACE", "full");
    let ran = crate::support::Ran::of(&command.output().unwrap()).ends_with(1);
    assert!(ran.err.contains("memory.safetensors"), "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert_eq!(
        ran.err.matches("memory.safetensors").count(),
        1,
        "{}",
        ran.err
    );
}

#[test]
fn the_fault_of_a_single_patient_is_told_once() {
    let place = Place::new();
    place.patient("p", 1, 3);
    place.put("p/p_t1.nii.gz", "no volume");
    let ran = place
        .detect(&["--patient", "p", "--output", "out"])
        .ends_with(1)
        .tells(&["p: p/p_t1.nii.gz: "]);
    assert_eq!(ran.err.matches("p_t1.nii.gz").count(), 1, "{}", ran.err);
}

/// What makes no sense, or would count for nothing, is refused before there is a folder.
#[test]
fn options_that_a_student_alone_knows_nothing_of() {
    let place = Place::new();
    let alone = ["train", "--student-alone", "--output", "m", "--phantom"];
    let wrong: [&[&str]; 3] = [
        &["0"],
        &["2", "--z-low", "0.9", "--z-high", "0.1"],
        &["2", "--student-iterations", "0"],
    ];
    for wrong in wrong {
        place.run(&[&alone[..], wrong].concat()).ends_with(1);
        assert!(place.names("").is_empty(), "{wrong:?}");
    }
    for option in [["--lr", "nan"], ["--batch", "0"], ["--contrast", "false"]] {
        let all = [
            "train",
            "--student-alone",
            "--phantom",
            "2",
            "--output",
            "m",
        ];
        place
            .run(&[&all[..], &option].concat())
            .ends_with(1)
            .tells(&["--student-alone", option[0]]);
        assert!(place.names("").is_empty());
    }
}

/// A row of a table is what its parts are.
#[test]
fn parts_of_a_row_that_has_others_are_refused() {
    let place = Place::new();
    place.patient("data/p1", 1, 2);
    let mut command = place.evaluate_command("data", "out");
    command.args(["--nm", "false"]);
    Ran::of(&command.output().unwrap())
        .ends_with(1)
        .tells(&["--nm false: the row fndm has true"]);
    assert!(place.names("out").is_empty());
}

/// A card that nobody could rely on is told before the training.
#[test]
fn a_card_without_words_is_told_at_once() {
    let place = Place::new();
    place.put("card.json", r#"{"authors": ""}"#);
    place
        .run(&[
            "train",
            "--student-alone",
            "--phantom",
            "3",
            "--card",
            "card.json",
            "--output",
            "model",
        ])
        .ends_with(1)
        .tells(&["--card", "authors"]);
    assert!(!place.path("model").exists());
}
