//! Which file is the lesion mask, and what a mask is.

use std::fs;

use fndm::data::nifti;

use crate::support::{Place, model, read};

/// A brain mask is no lesion mask.
#[test]
fn n03_brain_masks() {
    for name in ["p1_flair_bet_mask", "p1_desc-brain_mask"] {
        let place = Place::new();
        place.scan("data/p1", 1);
        let mut volume = read(&place.path("data/p1/p1_flair.nii.gz"));
        volume.data.mapv_inplace(|v| f32::from(v > 0.));
        nifti::write_mask(place.path(format!("data/p1/{name}.nii.gz")), &volume).unwrap();
        place
            .run(&["inspect", "data"])
            .ends_with(0)
            .says(&["mask 0", "no mask"]);
        place
            .evaluate("data", "out")
            .ends_with(1)
            .tells(&["no lesion mask"]);
        assert!(place.names("out").is_empty());
    }
}

/// Our own result, written into the patient's folder, is not the truth that it is judged by.
#[test]
fn n03_own_results() {
    let place = Place::new();
    place.scan("c/p2", 2);
    place
        .detect(&["--patient", "c/p2", "--output", "c/p2/out"])
        .ends_with(0);
    assert!(place.path("c/p2/out/p2/p2_mask.nii.gz").is_file());
    place
        .evaluate("c", "out")
        .ends_with(1)
        .tells(&["left out p2: no lesion mask"]);
    // And in its place it doesn't hinder the next run.
    place
        .detect(&["--patient", "c/p2", "--output", "c/p2/out"])
        .ends_with(0);
}

/// A mask that was resampled has ringing everywhere: what counts is above 0.5, in every program, and the range is told.
#[test]
fn n07_a_resampled_mask() {
    let place = Place::new();
    place.patient("data/p1", 1, 6);
    place.patient("plain/p1", 1, 6);
    place.change("data/p1/p1_seg.nii.gz", |volume| {
        volume
            .data
            .mapv_inplace(|v| if v > 0. { 1.23 } else { 0.1 });
    });
    let line = |data: &str| {
        let ran = place.run(&["inspect", data]);
        let line = ran.out.lines().find(|line| line.contains("diseased"));
        (line.unwrap_or_default().to_string(), ran)
    };
    let (plain, _) = line("plain");
    let (ringing, ran) = line("data");
    assert!(!plain.is_empty());
    assert_eq!(ringing, plain);
    // Nothing is said silently: the values are told.
    let told = format!("{}{}", ran.out, ran.err);
    assert!(told.contains("0.1") && told.contains("1.23"), "{told}");
    place
        .run(&["metrics", "data/p1/p1_seg.nii.gz", "plain/p1/p1_seg.nii.gz"])
        .ends_with(0)
        .says(&["1.0000"]);
}

/// `detect` looks at no lesion mask: not at one on another grid, not at a broken one, not at two.
#[test]
fn n15_detect_needs_no_mask() {
    let place = Place::new();
    place.patient("in/p1", 1, 3);
    let seg = "in/p1/p1_seg.nii.gz";
    let detect = || {
        place
            .detect(&["--patient", "in/p1", "--output", "out"])
            .ends_with(0)
    };
    place.change(seg, |volume| volume.affine[0][3] += 40.);
    detect();
    place.put(seg, "");
    detect();
    fs::copy(place.path(seg), place.path("in/p1/p1_lesion_mask.nii.gz")).unwrap();
    detect();
}

/// An anomaly map is easily given in place of its mask.
#[test]
fn a_map_that_is_compared_as_a_mask_is_told() {
    let place = Place::new();
    place.patient("p1", 1, 6);
    let compare = |result: &str| place.run(&["metrics", result, "p1/p1_seg.nii.gz"]);
    assert_eq!(compare("p1/p1_seg.nii.gz").ends_with(0).err, "");
    place.change("p1/p1_flair.nii.gz", |volume| {
        let most = volume.data.iter().copied().fold(0., f32::max);
        volume.data.mapv_inplace(|v| v / most);
    });
    compare("p1/p1_flair.nii.gz")
        .ends_with(0)
        .tells(&["p1_flair.nii.gz: the lesion mask isn't binary"]);
}

/// What a model doesn't look at counts in no figure, and that is told.
#[test]
fn lesion_in_slices_that_are_not_used_is_told() {
    let place = Place::new();
    place.patient("data/p1", 1, 6);
    place.change("data/p1/p1_seg.nii.gz", |volume| {
        volume.data.fill(0.);
        // The third axis is that of the slices.
        volume.data[[30, 30, 1]] = 1.;
        volume.data[[30, 30, 5]] = 1.;
        volume.data[[31, 30, 5]] = 1.;
    });
    place
        .run(&["inspect", "data"])
        .ends_with(0)
        .says(&["6 of 6 (1 to 6)"]);
    place
        .run(&["inspect", "data", "--z", "0,0.5"])
        .ends_with(2)
        .says(&[
            "3 of 6 (1 to 3)",
            "p1: 2 of 3 lesion voxels lie in slices that aren't used",
        ]);
}

/// The Dice over whole volumes is that of the files that `detect` writes, with lesion in slices that the model doesn't use.
#[test]
fn dice_over_whole_volumes_is_that_of_the_files() {
    let place = Place::new();
    for seed in [1, 2] {
        let name = format!("p{seed}");
        place.patient(format!("data/{name}"), seed, 12);
    }
    for file in fs::read_dir(model()).unwrap() {
        let file = file.unwrap().path();
        let bytes = fs::read(&file).unwrap();
        place.put(
            &format!("model/{}", file.file_name().unwrap().to_str().unwrap()),
            bytes,
        );
    }
    let mut config = place.json("model/model.json");
    config["preprocess"]["z_range"] = serde_json::json!([0.0, 0.5]);
    place.put("model/model.json", config.to_string());
    place
        .run(&[
            "evaluate",
            "--model",
            "model",
            "--data",
            "data",
            "--split",
            "all",
            "--methods",
            "student,flair",
            "--output",
            "evaluated",
        ])
        .ends_with(0)
        .says(&["whole volume", "Per volume with a lesion (2)"]);
    place
        .run(&[
            "detect", "--model", "model", "--method", "student", "--data", "data", "--output",
            "found",
        ])
        .ends_with(0);
    let mut dice = 0.;
    for name in ["p1", "p2"] {
        let truth = read(&place.path(format!("data/{name}/{name}_seg.nii.gz"))).data;
        let mask = read(&place.path(format!("found/{name}/{name}_mask.nii.gz"))).data;
        let pairs = || mask.iter().zip(&truth).map(|(a, b)| (*a > 0.5, *b > 0.5));
        let both = pairs().filter(|&(a, b)| a && b).count();
        let either: usize = pairs().map(|(a, b)| usize::from(a) + usize::from(b)).sum();
        dice += 2. * both as f64 / either as f64 / 2.;
    }
    let report = place.json("evaluated/report.json");
    let volumes = &report["volumes"][0];
    let whole = volumes["dice_whole"].as_f64().unwrap();
    assert!((whole - dice).abs() < 1e-12, "{whole} {dice}");
    // What isn't looked at isn't found.
    assert!(whole < volumes["dice_mask"].as_f64().unwrap());
    assert!(report["rows"][0]["dice_whole"].is_null());
}

/// Which of two is meant isn't guessed.
#[test]
fn two_masks_of_one_name_are_refused() {
    let place = Place::new();
    for folder in ["results", "references"] {
        place.patient(format!("{folder}/p1"), 1, 2);
        fs::rename(
            place.path(format!("{folder}/p1/p1_seg.nii.gz")),
            place.path(format!("{folder}/a.nii.gz")),
        )
        .unwrap();
    }
    let compare = || place.run(&["metrics", "results", "references"]);
    compare().ends_with(0);
    for folder in ["results", "references"] {
        let twin = place.path(format!("{folder}/a.nii"));
        nifti::write_mask(&twin, &read(&place.path(format!("{folder}/a.nii.gz")))).unwrap();
        compare()
            .ends_with(1)
            .tells(&["two masks of the name a: ", "a.nii.gz"]);
        fs::remove_file(twin).unwrap();
    }
}
