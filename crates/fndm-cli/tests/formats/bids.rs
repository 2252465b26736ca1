//! A BIDS data set in, a derivative out.

use std::fs;
use std::path::Path;
use std::process::Command;

use fndm::data::nifti;
use serde_json::Value;

use crate::common::{fndm, model, patient, plain_mask, read, text, told};

const SUFFIXES: [(&str, &str); 4] = [
    ("flair", "FLAIR"),
    ("t1", "T1w"),
    ("t1ce", "ce-gadolinium_T1w"),
    ("t2", "T2w"),
];

/// A data set of two subjects: one of two sessions, of which the second has two runs of FLAIR; and one without T2.
fn write_tree(root: &Path) {
    let write = |prefix: &str, seed: u64| {
        let folder = root.join(prefix.replace("_ses", "/ses")).join("anat");
        fs::create_dir_all(&folder).unwrap();
        for (name, volume) in &patient(seed).sequences {
            let suffix = SUFFIXES.iter().find(|(own, _)| own == name).unwrap().1;
            let stem = folder.join(format!("{prefix}_{suffix}"));
            nifti::write_map(stem.with_extension("nii.gz"), volume).unwrap();
        }
        folder
    };
    let description = r#"{"Name": "phantoms", "BIDSVersion": "1.10.0", "DatasetType": "raw"}"#;
    write("sub-01_ses-pre", 40_000);
    let folder = write("sub-01_ses-post", 40_001);
    let run = |n: usize| folder.join(format!("sub-01_ses-post_run-{n}_FLAIR.nii.gz"));
    let flair = folder.join("sub-01_ses-post_FLAIR.nii.gz");
    fs::copy(&flair, run(1)).unwrap();
    fs::rename(&flair, run(2)).unwrap();
    let folder = write("sub-02", 40_002);
    fs::remove_file(folder.join("sub-02_T2w.nii.gz")).unwrap();
    fs::write(root.join("dataset_description.json"), description).unwrap();
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_tree_gives_a_derivative() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("raw");
    write_tree(&root);
    let output = root.join("derivatives/fndm");
    let command = |more: &[&str]| {
        let model = model();
        let all = ["detect", "--model", text(&model), "--bids", text(&root)];
        let output = ["--output", text(&output)];
        fndm(&[&all[..], &output, more].concat())
    };
    let out = command(&[]);
    let said = told(&out);
    assert_eq!(out.status.code(), Some(2), "{said}");
    for expected in [
        "sub-01/ses-pre: flair is sub-01/ses-pre/anat/sub-01_ses-pre_FLAIR.nii.gz",
        "t1ce is sub-01/ses-pre/anat/sub-01_ses-pre_ce-gadolinium_T1w.nii.gz",
        "flair could be sub-01_ses-post_run-1_FLAIR or sub-01_ses-post_run-2_FLAIR: choose by a filter, as flair:run=1",
        "sequence t2 not found",
        "1 of 3 patients done",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let folder = output.join("sub-01/ses-pre/anat");
    let mask = read(&folder.join("sub-01_ses-pre_label-lesion_mask.nii.gz"));
    let plain = plain_mask(place.path(), &patient(40_000));
    assert_eq!(mask.data, plain.data);
    let map = read(&folder.join("sub-01_ses-pre_desc-anomaly_probseg.nii.gz"));
    assert!(map.data.iter().all(|v| (0.0..=1.0).contains(v)));
    let sidecar = json(&folder.join("sub-01_ses-pre_label-lesion_mask.json"));
    assert_eq!(sidecar["Type"], "Lesion");
    assert_eq!(
        sidecar["Sources"][0],
        "bids:raw:sub-01/ses-pre/anat/sub-01_ses-pre_FLAIR.nii.gz"
    );
    let description = json(&output.join("dataset_description.json"));
    assert_eq!(description["DatasetType"], "derivative");
    assert_eq!(description["GeneratedBy"][0]["Name"], "fndm");

    // The filter that was proposed; results are no data, and the tree is read as before.
    let out = command(&["--bids-filter", "flair:run=1", "ses=post"]);
    let said = told(&out);
    assert!(out.status.success(), "{said}");
    assert!(output.join("sub-01/ses-post/anat").is_dir());
    assert!(output.join("sub-01/ses-pre/anat").is_dir());
    validate(&output);

    // What a user wrote beside the subjects stays; what a run knows of itself is renewed.
    let mut theirs = description;
    theirs["Authors"] = serde_json::json!(["A. Reader"]);
    theirs["GeneratedBy"][0]["Version"] = "0.0.0".into();
    let path = output.join("dataset_description.json");
    fs::write(&path, theirs.to_string()).unwrap();
    fs::write(output.join("README.md"), "notes").unwrap();
    let list = place.path().join("list.txt");
    fs::write(&list, "sub-01/ses-pre\nsub-01/ses-post\nsub-03\n").unwrap();
    let out = command(&["--list", text(&list)]);
    let said = told(&out);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("README.md is left as it is"), "{said}");
    assert_eq!(
        fs::read_to_string(output.join("README.md")).unwrap(),
        "notes"
    );
    let now = json(&path);
    assert_eq!(now["Authors"][0], "A. Reader");
    assert_eq!(now["GeneratedBy"][0]["Version"], env!("CARGO_PKG_VERSION"));
    // A session that is there and can't be used isn't one that isn't there.
    assert!(said.contains("sub-01/ses-post: flair could be"), "{said}");
    assert!(
        said.contains("patient sub-03 is listed, but isn't in the data"),
        "{said}"
    );
}

/// The official validator, `bids-validator-deno`; skipped out loud where it's missing.
fn validate(folder: &Path) {
    let named = std::env::var_os("FNDM_BIDS_VALIDATOR");
    let program = named.unwrap_or_else(|| "bids-validator-deno".into());
    let out = match Command::new(&program).arg(folder).output() {
        Ok(out) => out,
        Err(error) => {
            eprintln!(
                "skipped: no {}: {error}; name it by FNDM_BIDS_VALIDATOR",
                program.display()
            );
            return;
        }
    };
    let said = told(&out);
    println!("{said}");
    assert!(out.status.success() && !said.contains("[ERROR]"), "{said}");
    assert!(said.contains("Summary"), "{said}");
}

#[test]
fn data_sets_of_others_are_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("raw");
    write_tree(&root);
    let out = fndm(&[
        "detect",
        "--model",
        text(&model()),
        "--data",
        text(&root),
        "--bids-filter",
        "run=1",
    ]);
    assert!(told(&out).contains("cannot be used with"), "{}", told(&out));
    // The address of a data set is one, whatever its path.
    let spaced = place.path().join("raw data");
    write_tree(&spaced);
    let found = place.path().join("found");
    fs::create_dir(&found).unwrap();
    fs::write(found.join("README.md"), "mine").unwrap();
    let own = self::model();
    let out = fndm(&[
        "detect",
        "--model",
        text(&own),
        "--bids",
        text(&spaced),
        "--output",
        text(&found),
        "--bids-filter",
        "sub=01",
        "ses=pre",
        "--volume-scale",
        "3:0.05",
    ]);
    assert!(out.status.success(), "{}", told(&out));
    assert_eq!(fs::read_to_string(found.join("README.md")).unwrap(), "mine");
    let url = json(&found.join("dataset_description.json"))["DatasetLinks"]["raw"].clone();
    assert!(url.as_str().unwrap().ends_with("/raw%20data"), "{url}");
    // What was brought to the scale of its volume is no probability.
    let anat = found.join("sub-01/ses-pre/anat");
    assert!(
        anat.join("sub-01_ses-pre_desc-anomaly_map.nii.gz")
            .is_file()
    );
    // Into the raw data itself, and into another program's derivative.
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    let theirs = r#"{"Name": "x", "BIDSVersion": "1.9.0", "GeneratedBy": [{"Name": "fmriprep"}]}"#;
    fs::write(other.join("dataset_description.json"), theirs).unwrap();
    for output in [&root, &other] {
        let before = fs::read_to_string(output.join("dataset_description.json")).unwrap();
        let model = model();
        let out = fndm(&[
            "detect",
            "--model",
            text(&model),
            "--bids",
            text(&root),
            "--output",
            text(output),
        ]);
        assert_eq!(out.status.code(), Some(1), "{}", told(&out));
        let after = fs::read_to_string(output.join("dataset_description.json")).unwrap();
        assert_eq!(before, after);
    }
}
