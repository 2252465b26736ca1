//! A patient is what the user calls it, and has results of its own.

use std::collections::BTreeSet;
#[cfg(unix)]
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::support::Place;

#[test]
fn n04_dots_and_groups_are_kept() {
    let place = Place::new();
    for (seed, id) in ["1.3.6.101", "1.3.6.202", "sub-03.v1", "sub-03.v2"]
        .iter()
        .enumerate()
    {
        place.scan(&format!("uid/{id}"), seed as u64);
    }
    place
        .detect(&["--data", "uid", "--output", "out"])
        .ends_with(0)
        .says(&["4 of 4 patients done"]);
    assert_eq!(
        place.names("out"),
        [
            "1.3.6.101",
            "1.3.6.202",
            "_cohort",
            "report.html",
            "sub-03.v1",
            "sub-03.v2"
        ]
    );
    assert!(place.path("out/sub-03.v2/sub-03.v2_mask.nii.gz").is_file());

    for (seed, id) in [
        "HGG/Brats_001",
        "HGG/Brats_002",
        "LGG/Brats_001",
        "LGG/Brats_002",
    ]
    .iter()
    .enumerate()
    {
        place.scan(&format!("grades/{id}"), seed as u64);
    }
    place
        .detect(&["--data", "grades", "--output", "graded"])
        .ends_with(0)
        .says(&["4 of 4 patients done"]);
    assert_eq!(
        place.names("graded"),
        ["HGG", "LGG", "_cohort", "report.html"]
    );
    for grade in ["HGG", "LGG"] {
        assert_eq!(
            place.names(&format!("graded/{grade}")),
            ["Brats_001", "Brats_002"]
        );
        let report = place.json(&format!("graded/{grade}/Brats_001/Brats_001_report.json"));
        assert_eq!(report["patient"], format!("{grade}/Brats_001"));
    }
}

#[cfg(unix)]
#[test]
fn n04_links_are_named_by_themselves() {
    let place = Place::new();
    place.scan("store/a/scan", 0);
    place.scan("store/b/scan", 1);
    std::fs::create_dir(place.path("links")).unwrap();
    symlink(place.path("store/a/scan"), place.path("links/pat1")).unwrap();
    symlink(place.path("store/b/scan"), place.path("links/pat2")).unwrap();
    place
        .detect(&["--data", "links", "--output", "out"])
        .ends_with(0)
        .says(&["2 of 2 patients done"]);
    assert_eq!(
        place.names("out"),
        ["_cohort", "pat1", "pat2", "report.html"]
    );
    place
        .detect(&["--patient", "links/pat2", "--output", "one"])
        .ends_with(0);
    assert_eq!(place.names("one"), ["pat2"]);
}

#[test]
fn n04_files_need_an_id() {
    let place = Place::new();
    place.scan("a", 0);
    let texts: Vec<String> = ["flair", "t1", "t1ce", "t2"]
        .map(|name| format!("{name}=a/a_{name}.nii.gz"))
        .to_vec();
    let mut arguments = vec!["--output", "out"];
    for text in &texts {
        arguments.extend(["--file", text.as_str()]);
    }
    place
        .detect(&arguments)
        .ends_with(1)
        .tells(&["--file", "--id"]);
    assert!(place.names("out").is_empty());
    for bad in ["", "../x", "/x", "a/../b", "x/", "."] {
        let mut with = arguments.clone();
        with.extend(["--id", bad]);
        place.detect(&with).ends_with(1).tells(&["--id"]);
    }
    arguments.extend(["--id", "clinic/anna"]);
    place.detect(&arguments).ends_with(0);
    assert!(place.path("out/clinic/anna/anna_mask.nii.gz").is_file());
}

/// Patients of one name in two groups are two patients, in the interval and in the tables.
#[test]
fn n05_patients_of_one_name_are_two() {
    let place = Place::new();
    let ids = [
        "HGG/Brats_001",
        "HGG/Brats_002",
        "LGG/Brats_001",
        "LGG/Brats_002",
    ];
    for (seed, id) in ids.iter().enumerate() {
        place.patient(format!("same/{id}"), seed as u64, 3);
        let apart = id.replace("LGG/Brats_00", "LGG/Brats_10");
        place.patient(format!("apart/{apart}"), seed as u64, 3);
    }
    place.evaluate("same", "out/same").ends_with(0);
    place.evaluate("apart", "out/apart").ends_with(0);
    let interval = |name: &str| {
        place.json(&format!("out/{name}/report.json"))["rows"][0]["dice_interval"].clone()
    };
    assert!(interval("apart").is_array());
    assert_eq!(interval("same"), interval("apart"));
    let cases = place.json("out/same/cases.json");
    let mut named = BTreeSet::new();
    patients(&cases, &mut named);
    assert!(named.len() > 2, "{named:?}");
    assert!(
        named.iter().all(|id| ids.contains(&id.as_str())),
        "{named:?}"
    );
}

/// Every value under a key `patient`.
fn patients(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("patient").and_then(Value::as_str).map(String::from));
            map.values().for_each(|v| patients(v, found));
        }
        Value::Array(all) => all.iter().for_each(|v| patients(v, found)),
        _ => {}
    }
}
