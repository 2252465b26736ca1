//! The pages that `detect` and `evaluate` write.

#[allow(dead_code, reason = "shared with the other tests")]
#[path = "regressions/support.rs"]
mod support;

use std::fs;

use fndm::data::nifti;
use fndm::data::phantom::PhantomConfig;
use fndm_study::fndm_report::is_unchanged_page;
use support::{Place, model};

const STUDENT: [&str; 2] = ["--method", "student"];

fn text(place: &Place, name: &str) -> String {
    fs::read_to_string(place.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// `detect` by the student, the quickest.
fn detect(place: &Place, arguments: &[&str]) -> support::Ran {
    let all = [&STUDENT[..], arguments].concat();
    place.detect(&all)
}

#[test]
fn detect_writes_a_page_for_each_patient_and_one_of_all() {
    let place = Place::new();
    // A name that would be markup, and one below another folder.
    let hostile = "<img src=x onerror=alert(1)>";
    place.scan(&format!("data/{hostile}"), 1);
    place.scan("data/HGG/p2", 2);
    detect(&place, &["--data", "data", "--output", "out"]).ends_with(0);
    let index = text(&place, "out/report.html");
    let own = text(&place, &format!("out/{hostile}/report.html"));
    for page in [&index, &own] {
        assert!(is_unchanged_page(page));
        assert!(page.contains("Not a medical device"));
        assert!(!page.contains("<img src=x") && !page.contains("://"));
        assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;"));
    }
    assert!(index.contains("href=\"HGG/p2/report.html\""));
    assert!(index.contains("href=\"%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E/report.html\""));
    let deep = text(&place, "out/HGG/p2/report.html");
    // What the page says of volumes is what the JSON file says.
    let json = place.json("out/HGG/p2/p2_report.json");
    let mask = support::read(&place.path("out/HGG/p2/p2_mask.nii.gz"));
    let voxels = mask.data.iter().filter(|&&v| v > 0.).count();
    assert_eq!(json["mask_voxels"], voxels);
    let parts = json["lesions"].as_array().unwrap();
    let sum: f64 = parts.iter().map(|part| part["mm3"].as_f64().unwrap()).sum();
    assert!((sum - json["mask_mm3"].as_f64().unwrap()).abs() < 1e-6 * sum.max(1.));
    assert!(deep.contains(&format!("<td>{voxels}</td>")));
    // The same command, the same bytes.
    detect(&place, &["--data", "data", "--output", "out"]).ends_with(0);
    assert_eq!(text(&place, "out/report.html"), index);
    assert_eq!(text(&place, "out/HGG/p2/report.html"), deep);
}

#[test]
fn the_page_of_all_is_never_written_over_a_file_of_another() {
    let place = Place::new();
    place.scan("data/p1", 1);
    place.put("out/report.html", "mine");
    detect(&place, &["--data", "data", "--output", "out"])
        .ends_with(1)
        .tells(&["report.html", "wasn't written by fndm"]);
    assert_eq!(text(&place, "out/report.html"), "mine");
    assert_eq!(place.names("out"), ["report.html"]);
    // One patient alone has no page of all, and without pages there is none to write.
    detect(&place, &["--patient", "data/p1", "--output", "out"]).ends_with(0);
    detect(
        &place,
        &["--data", "data", "--output", "out", "--report", "none"],
    )
    .ends_with(0);
    assert_eq!(text(&place, "out/report.html"), "mine");
    assert!(!place.path("out/p1/report.html").exists());
    // A page that was changed by hand stays too.
    detect(&place, &["--data", "data", "--output", "new"]).ends_with(0);
    let changed = text(&place, "new/report.html").replace("Patients", "My patients");
    place.put("new/report.html", &changed);
    detect(&place, &["--data", "data", "--output", "new"]).ends_with(1);
    assert_eq!(text(&place, "new/report.html"), changed);
}

#[test]
fn a_patient_of_the_name_of_the_page_is_told_before_anything_is_computed() {
    let place = Place::new();
    place.scan("data/report.html", 1);
    detect(&place, &["--data", "data", "--output", "out"])
        .ends_with(1)
        .tells(&["patient report.html", "--report none"]);
    assert!(place.names("out").is_empty());
}

#[test]
fn who_is_left_out_stands_in_the_page_of_all() {
    let place = Place::new();
    place.scan("data/p1", 1);
    place.scan("data/p2", 2);
    place.put("data/p2/p2_t1.nii.gz", "no volume");
    detect(&place, &["--data", "data", "--output", "out"]).ends_with(2);
    let index = text(&place, "out/report.html");
    assert!(index.contains("1 patient."));
    let left_out = index.split("id=\"left-out\"").nth(1).unwrap();
    assert!(left_out.contains("<strong>p2</strong>") && left_out.contains("p2_t1.nii.gz"));
}

#[test]
fn evaluate_writes_pages_whose_figures_are_those_of_the_table() {
    let place = Place::new();
    for seed in 1..=3 {
        place.patient(format!("data/p{seed}"), seed, 6);
    }
    let run = || {
        let mut command = support::fndm(&place.root(), &["evaluate", "--split", "all"]);
        command.args([
            "--methods",
            "student,flair",
            "--data",
            "data",
            "--output",
            "out",
        ]);
        command.arg("--model").arg(model());
        support::Ran::of(&command.output().unwrap()).ends_with(0);
    };
    run();
    let index = text(&place, "out/report.html");
    for words in [
        "Differences between methods",
        "Dice by the size",
        "Worst slices",
        "Best slices",
        "<svg",
    ] {
        assert!(index.contains(words), "{words}");
    }
    assert!(is_unchanged_page(&index) && !index.contains("://"));
    // No time stands in a page; the figures of the table do.
    let json = place.json("out/report.json");
    let row = &json["rows"][0];
    for name in ["dice_otsu", "auroc", "dice_mask"] {
        let figure = format!("<td>{:.3}</td>", row[name].as_f64().unwrap());
        assert!(index.contains(&figure), "{name} {figure}");
    }
    // The mean of the patients' Dice is that of the table of volumes.
    let volume = json["volumes"][0]["dice_mask"].as_f64().unwrap();
    let mut sum = 0.;
    for n in 1..=3 {
        let name = format!("out/patients/{n:04}_p{n}.html");
        assert!(index.contains(&format!("href=\"patients/{n:04}_p{n}.html\"")));
        let page = text(&place, &name);
        assert!(page.contains("truth") && page.contains("href=\"../report.html\""));
        let row = page.split("Figures of this patient").nth(1).unwrap();
        let row = row.split("student</th><td>").nth(1).unwrap();
        sum += row.split('<').next().unwrap().parse::<f64>().unwrap();
    }
    assert!((sum / 3. - volume).abs() < 1e-3, "{sum} {volume}");
    // The same command, the same bytes.
    let names = ["out/report.html", "out/patients/0001_p1.html"];
    let before = names.map(|name| text(&place, name));
    run();
    assert!(before == names.map(|name| text(&place, name)));
}

#[test]
fn a_page_is_on_the_grid_that_was_asked_for() {
    let place = Place::new();
    let config = PhantomConfig {
        size: 96,
        slices: 3,
        ..PhantomConfig::default()
    };
    for (sequence, volume) in config.patient(30_001).unwrap().sequences {
        fs::create_dir_all(place.path("data/p1")).unwrap();
        nifti::write_map(place.path(format!("data/p1/p1_{sequence}.nii.gz")), &volume).unwrap();
    }
    for (images, side) in [("volumes", 96), ("model", 64)] {
        let output = ["--output", images, "--report", images];
        detect(&place, &[&["--data", "data"][..], &output].concat()).ends_with(0);
        let page = text(&place, &format!("{images}/p1/report.html"));
        let frame = format!("\"frame\":{{\"rows\":{side},\"columns\":{side},");
        assert!(page.contains(&frame), "{frame}");
        assert!(
            place
                .path(format!("{images}/p1/p1_thumbnail.png"))
                .is_file()
        );
    }
}

/// Parts of a cohort write pages that `collect` leads to, and they are those of an undivided run.
#[test]
fn collect_writes_the_page_of_all_parts() {
    let place = Place::new();
    for seed in 1..=3 {
        place.scan(&format!("data/p{seed}"), seed);
    }
    for shard in ["1/2", "2/2"] {
        detect(
            &place,
            &["--data", "data", "--output", "out/parts", "--shard", shard],
        )
        .ends_with(0);
    }
    assert!(!place.path("out/parts/report.html").exists());
    place
        .run(&["collect", "out/parts", "--output", "out/joined"])
        .ends_with(0);
    let index = text(&place, "out/joined/report.html");
    assert!(is_unchanged_page(&index) && index.contains("3 patients."));
    detect(&place, &["--data", "data", "--output", "whole"]).ends_with(0);
    for id in ["p1", "p2", "p3"] {
        let link = format!("href=\"../parts/{id}/report.html\"");
        assert!(index.contains(&link), "{link}");
        let part = text(&place, &format!("out/parts/{id}/report.html"));
        assert!(
            part == text(&place, &format!("whole/{id}/report.html")),
            "{id}"
        );
    }
}
