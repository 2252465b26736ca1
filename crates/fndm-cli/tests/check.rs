//! `fndm check`, `describe` and `model-card`, as a user runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fndm::data::{nifti, phantom::PhantomConfig};
use serde_json::Value;
use tempfile::TempDir;

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets")
}

fn fndm(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fndm"));
    command.args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Phantoms of the model's kind; the second one's header has voxels ten times too large.
fn data() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (seed, id) in [(10_004, "a"), (10_005, "b")] {
        let patient = PhantomConfig::default().patient(seed).unwrap();
        let place = folder.path().join(id);
        fs::create_dir(&place).unwrap();
        for (name, mut volume) in patient.sequences {
            if id == "b" {
                let rows = volume.affine.iter_mut().take(3);
                rows.flatten().for_each(|v| *v *= 10.);
            }
            let file = place.join(format!("{id}_{name}.nii.gz"));
            nifti::write_map(file, &volume).unwrap();
        }
    }
    folder
}

/// A copy of the phantom's model with a student alone, which is small.
fn model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "model.json",
        "data.json",
        "metadata.json",
        "student.safetensors",
    ] {
        fs::copy(
            assets().join("phantom").join(name),
            folder.path().join(name),
        )
        .unwrap();
    }
    let path = folder.path().join("model.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let fields = config.as_object_mut().unwrap();
    fields.remove("unet");
    fields.remove("classifier");
    fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
    folder
}

#[test]
fn lights_reasons_and_exit_codes() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    let model = assets().join("phantom");
    let json = out.path().join("check.json");
    let all = [
        "check",
        "--model",
        text(&model),
        "--data",
        text(data.path()),
    ];
    let ran = fndm(&[&all[..], &["--json", text(&json)]].concat());
    assert_eq!(ran.status.code(), Some(2), "{}", told(&ran));
    let said = said(&ran);
    assert!(
        said.contains("green  a") && said.contains("red    b"),
        "{said}"
    );
    assert!(
        said.contains("mm between rows") && said.contains("What to do:"),
        "{said}"
    );
    let whole: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(whole["red"], 1);
    assert_eq!(whole["patients"][1]["light"], "red");
    assert_eq!(whole["patients"][1]["findings"][0]["aspect"], "voxel_size");
    // A file that is there stays.
    let again = fndm(&[&all[..], &["--json", text(&json)]].concat());
    assert_eq!(again.status.code(), Some(1));
    // One patient, as a folder and as files.
    let a = data.path().join("a");
    let one = fndm(&["check", "--model", text(&model), "--patient", text(&a)]);
    assert_eq!(one.status.code(), Some(0), "{}", told(&one));
    let files: Vec<String> = ["flair", "t1", "t1ce", "t2"]
        .iter()
        .flat_map(|s| {
            [
                "--file".to_owned(),
                format!("{s}={}/a_{s}.nii.gz", text(&a)),
            ]
        })
        .collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let same = fndm(&[&["check", "--model", text(&model)], &files[..]].concat());
    assert_eq!(same.status.code(), Some(0), "{}", told(&same));
    // A sequence that isn't there is told with what the others show.
    fs::remove_file(a.join("a_t1.nii.gz")).unwrap();
    let less = fndm(&["check", "--model", text(&model), "--patient", text(&a)]);
    assert_eq!(less.status.code(), Some(2));
    assert!(
        self::said(&less).contains("t1 is missing"),
        "{}",
        self::said(&less)
    );
}

#[test]
fn detection_warns_and_goes_on_or_stops_where_asked_to() {
    let (data, out, model) = (data(), tempfile::tempdir().unwrap(), model());
    let b = data.path().join("b");
    let output = out.path().join("detect");
    let all = [
        "detect",
        "--model",
        text(model.path()),
        "--patient",
        text(&b),
    ];
    let all = [&all[..], &["--output", text(&output)]].concat();
    let strict = fndm(&[&all[..], &["--strict"]].concat());
    assert_eq!(strict.status.code(), Some(1), "{}", told(&strict));
    assert!(told(&strict).contains("--strict") && !output.join("b").exists());
    let ran = fndm(&all);
    assert_eq!(ran.status.code(), Some(0), "{}", told(&ran));
    assert!(told(&ran).contains("b: red (voxel size)"), "{}", told(&ran));
    let report = fs::read(output.join("b/b_report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["input_check"]["light"], "red");
    // Also where it was examined before.
    let strict = fndm(&[&all[..], &["--strict"]].concat());
    assert_eq!(strict.status.code(), Some(1), "{}", told(&strict));
    assert!(told(&strict).contains("--strict"), "{}", told(&strict));
    // And the page says it.
    let page = fs::read_to_string(output.join("b/report.html")).unwrap();
    assert!(page.contains("like the training data") && page.contains("voxel size"));
}

/// The verdict is a part of the results: with other statistics they are made again.
#[test]
fn other_statistics_are_another_result() {
    let (data, out, model) = (data(), tempfile::tempdir().unwrap(), model());
    let output = out.path().join("detect");
    let all = [
        "detect",
        "--model",
        text(model.path()),
        "--data",
        text(data.path()),
    ];
    let all = [&all[..], &["--output", text(&output), "--report", "none"]].concat();
    let first = fndm(&all);
    assert!(
        said(&first).contains("2 of 2 patients done by"),
        "{}",
        said(&first)
    );
    let again = fndm(&all);
    assert!(said(&again).contains("(2 before)"), "{}", said(&again));
    let path = model.path().join("data.json");
    let statistics = fs::read_to_string(&path).unwrap();
    fs::write(&path, statistics.replacen("phantoms of", "others of", 1)).unwrap();
    let changed = fndm(&all);
    assert!(
        said(&changed).contains("2 of 2 patients done by"),
        "{}",
        said(&changed)
    );
}

/// What an earlier version wrote: it can be read, and says that it can be made anew.
#[test]
fn older_statistics_are_told() {
    let (data, model) = (data(), model());
    let path = model.path().join("data.json");
    let mut statistics: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    statistics["format"] = 1.into();
    statistics.as_object_mut().unwrap().remove("scalp");
    let standing = statistics["standing"].as_object_mut().unwrap();
    standing.remove("margins");
    fs::write(&path, serde_json::to_vec(&statistics).unwrap()).unwrap();
    let a = data.path().join("a");
    let ran = fndm(&[
        "check",
        "--model",
        text(model.path()),
        "--patient",
        text(&a),
    ]);
    assert_eq!(ran.status.code(), Some(0), "{}", told(&ran));
    assert!(
        told(&ran).contains("older version") && told(&ran).contains("fndm describe"),
        "{}",
        told(&ran)
    );
}

#[test]
fn a_model_without_statistics_gets_them() {
    let (data, model) = (data(), model());
    let path = model.path().join("model.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("data_statistics");
    fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
    let check = [
        "check",
        "--model",
        text(model.path()),
        "--data",
        text(data.path()),
    ];
    let before = fndm(&check);
    assert_eq!(before.status.code(), Some(1));
    assert!(told(&before).contains("fndm describe"), "{}", told(&before));
    // A file that isn't the model's isn't written over.
    let describe = [
        "describe",
        "--model",
        text(model.path()),
        "--data",
        text(data.path()),
    ];
    let describe = [&describe[..], &["--split", "all"]].concat();
    let refused = fndm(&describe);
    assert_eq!(refused.status.code(), Some(1));
    assert!(told(&refused).contains("data.json"), "{}", told(&refused));
    fs::remove_file(model.path().join("data.json")).unwrap();
    let done = fndm(&describe);
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    assert!(
        said(&done).contains("2 patients measured"),
        "{}",
        said(&done)
    );
    let after = fndm(&check);
    assert!(
        matches!(after.status.code(), Some(0 | 2)),
        "{}",
        told(&after)
    );
}

#[test]
fn a_card_is_shown_and_added_to() {
    let (model, out) = (model(), tempfile::tempdir().unwrap());
    let shown = fndm(&["model-card", text(model.path())]);
    assert_eq!(shown.status.code(), Some(0), "{}", told(&shown));
    assert!(said(&shown).starts_with("# ") && said(&shown).contains("## Intended use"));
    let given = out.path().join("card.json");
    fs::write(
        &given,
        r#"{"authors": "A. Nobody", "eval_metrics": {"Dice": 0.5}}"#,
    )
    .unwrap();
    let set = fndm(&["model-card", text(model.path()), "--set", text(&given)]);
    assert_eq!(set.status.code(), Some(0), "{}", told(&set));
    let json = fndm(&["model-card", text(model.path()), "--json"]);
    let card: Value = serde_json::from_str(&said(&json)).unwrap();
    assert_eq!(card["authors"], "A. Nobody");
    assert_eq!(card["eval_metrics"]["Dice"], 0.5);
    // What can't be a card, or isn't there.
    fs::write(&given, r#"{"authors": 3}"#).unwrap();
    let wrong = fndm(&["model-card", text(model.path()), "--set", text(&given)]);
    assert_eq!(wrong.status.code(), Some(1));
    fs::write(&given, r#"{"task": ""}"#).unwrap();
    let empty = fndm(&["model-card", text(model.path()), "--set", text(&given)]);
    assert!(told(&empty).contains("task"), "{}", told(&empty));
    let nowhere = fndm(&["model-card", text(out.path())]);
    assert_eq!(nowhere.status.code(), Some(1));
}

/// The keys that the MONAI bundle specification makes mandatory, but for the versions of programs that made nothing here.
#[test]
fn committed_cards_have_the_keys_of_monais_bundles() {
    for model in ["lgg", "phantom"] {
        let path = assets().join(model).join("metadata.json");
        let card: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        for key in ["version", "task", "description", "authors", "copyright"] {
            let said = card[key].as_str().unwrap_or_default();
            assert!(!said.is_empty() && said != "not said", "{model}: {key}");
        }
        let format = &card["network_data_format"];
        let tensors = format["inputs"].as_object().unwrap().values();
        for tensor in tensors.chain(format["outputs"].as_object().unwrap().values()) {
            let keys = [
                "type",
                "format",
                "modality",
                "num_channels",
                "spatial_shape",
                "dtype",
                "value_range",
                "is_patch_data",
                "channel_def",
            ];
            for key in keys {
                assert!(!tensor[key].is_null(), "{model}: {key}");
            }
            let channels = tensor["channel_def"].as_object().unwrap().len() as u64;
            assert_eq!(tensor["num_channels"], channels);
        }
    }
}

/// "1 patient", and a picture with the legend that the others have.
#[test]
fn one_patient_is_inspected() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    fs::remove_dir_all(data.path().join("b")).unwrap();
    let sheet = out.path().join("heads.png");
    let ran = fndm(&["inspect", text(data.path()), "--sheet", text(&sheet)]);
    let words = said(&ran);
    assert!(
        words.contains("all: 1 patient, 24 slices") && !words.contains("1 patients"),
        "{words}{}",
        told(&ran)
    );
    let file = std::io::BufReader::new(fs::File::open(&sheet).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    // Ten slices of 64 px, drawn twice as large; titles, a caption, one row, and a legend of three lines or more.
    let row = 4 + 2 * 64;
    assert_eq!(info.width, 4 + 10 * row);
    assert!(info.height >= row + 5 * 16, "{}", info.height);
    // The outline's colour is in the picture and in the legend.
    let coloured = |y: u32| {
        let line = &pixels[(y * info.width * 3) as usize..((y + 1) * info.width * 3) as usize];
        line.chunks_exact(3)
            .any(|p| p[0] > 120 && p[2] < 100 && p[0] > p[2] + 60)
    };
    assert!((32..32 + row).any(coloured) && (32 + row..info.height).any(coloured));
}
