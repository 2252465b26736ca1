//! Rivals: settings from a file, fits that are kept, the layout of the paper's table.

use candle_core::Device;
use fndm_baselines::PostProcessing;
use fndm_data::phantom::PhantomConfig;
use fndm_data::{PatientSlices, Preprocess, SliceSet};
use fndm_study::rivals::{
    LatexRow, PostGrid, RawCase, TableSettings, fit_or_load, latex, raw_map, rival_map, search,
};
use fndm_study::train::StopFlag;
use fndm_study::{Case, Level, TrainingPlace, evaluate};

fn settings(changes: &str, post: &str) -> String {
    format!(
        r#"{{"format": 1, "seed": 1, "rows": [{{"method": "dae", "features": "none", "changes": {changes},
        "post": {{"smoothing": 1.0, "z_smoothing": 0.7, "head_erosion": 2, "map_power": 1.0, "threshold": "volume"{post}}}}}]}}"#
    )
}

/// As small as it goes.
const CHANGES: &str = r#"{"network": {"in_channels": 3, "out_channels": 3, "depth": 2, "width_log2": 2}, "noise": {"resolution": 4}, "epochs": 2, "batch": 8}"#;

fn read(text: &str) -> Result<TableSettings, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rivals.json");
    std::fs::write(&file, text).unwrap();
    TableSettings::read(&file).map_err(|e| fndm_files::chain(&e))
}

fn patients() -> Vec<PatientSlices> {
    let phantom = PhantomConfig {
        size: 32,
        slices: 12,
        ..PhantomConfig::default()
    };
    let preprocess = Preprocess {
        image_size: 32,
        ..Preprocess::default()
    };
    (0..3)
        .map(|seed| {
            let mut patient = phantom.patient(seed).unwrap();
            patient.sequences.retain(|(name, _)| name != "t2");
            preprocess.apply(&patient).unwrap()
        })
        .collect()
}

#[test]
fn what_makes_no_sense_is_told_before_anything_is_fitted() {
    let wrong = |text: &str, part: &str| {
        let error = read(text).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    assert!(read(&settings(CHANGES, "")).is_ok());
    wrong(&settings(r#"{"epoch": 3}"#, ""), "epoch");
    wrong(&settings(r#"{"epochs": "many"}"#, ""), "many");
    wrong(&settings("7", ""), "settings of dae");
    wrong(&settings(CHANGES, r#", "sigma": 1"#), "sigma");
    let power = settings(CHANGES, "").replace(r#""map_power": 1.0"#, r#""map_power": 0.0"#);
    wrong(&power, "map_power");
    wrong(
        &settings(CHANGES, "").replace(r#""format": 1"#, r#""format": 2"#),
        "format",
    );
    let features = settings(CHANGES, "").replace(r#""none""#, r#"{"classifier": {"blocks": [3]}}"#);
    wrong(&features, "none for dae");
    wrong("{", "rivals.json");
}

#[test]
fn a_fit_is_kept_and_belongs_to_its_settings_and_slices() {
    let folder = tempfile::tempdir().unwrap();
    let (device, stop) = (Device::Cpu, StopFlag::new());
    let place = TrainingPlace::new(folder.path(), &device, &stop);
    let patients = patients();
    let set = SliceSet::from_patients(patients.iter().take(2).cloned()).unwrap();
    let plan = |text: &str| {
        let plan = read(text).unwrap().plan(folder.path(), &[], &device);
        plan.unwrap().rows.remove(0)
    };
    let row = plan(&settings(CHANGES, ""));
    let first = fit_or_load(&row, &set, 1, place).unwrap().unwrap();
    assert!(!first.reused && first.record.bytes > 0);
    let again = fit_or_load(&row, &set, 1, place).unwrap().unwrap();
    assert!(again.reused);
    assert_eq!(first.record, again.record);
    let map = |fitted: &fndm_study::rivals::FittedRival| {
        let found = raw_map(fitted.baseline.as_ref(), &patients[2], &device);
        found.unwrap().0
    };
    assert_eq!(map(&first), map(&again));

    // Another way to a mask is no other fit; other settings, slices or seeds are.
    let post = settings(CHANGES, "").replace(r#""smoothing": 1.0"#, r#""smoothing": 2.0"#);
    assert!(
        fit_or_load(&plan(&post), &set, 1, place)
            .unwrap()
            .unwrap()
            .reused
    );
    let longer = settings(&CHANGES.replace(r#""epochs": 2"#, r#""epochs": 3"#), "");
    assert!(
        !fit_or_load(&plan(&longer), &set, 1, place)
            .unwrap()
            .unwrap()
            .reused
    );
    assert!(!fit_or_load(&row, &set, 2, place).unwrap().unwrap().reused);
    let fewer = SliceSet::from_patients(patients.iter().take(1).cloned()).unwrap();
    assert!(!fit_or_load(&row, &fewer, 1, place).unwrap().unwrap().reused);

    // A run that was told to stop leaves nothing that looks whole.
    let place = TrainingPlace::new(folder.path(), &device, &stop);
    stop.stop();
    assert!(fit_or_load(&row, &set, 3, place).unwrap().is_none());
    let place = TrainingPlace {
        stop: &StopFlag::new(),
        ..place
    };
    assert!(!fit_or_load(&row, &set, 3, place).unwrap().unwrap().reused);
}

#[test]
fn the_search_scores_as_the_evaluation_does_and_finds_the_best() {
    let patients = patients();
    // The truth, blurred and with the skull as bright.
    let map = |slices: &PatientSlices| {
        let truth = slices.mask.as_ref().unwrap();
        let rim = slices.eroded_head(3);
        let mut map = truth.mapv(|t| if t { 1.0 } else { 0.1 });
        for ((v, &head), &inner) in map.iter_mut().zip(&slices.head).zip(&rim) {
            if head && !inner {
                *v = 3.0;
            }
        }
        map
    };
    let cases: Vec<RawCase<'_>> = patients
        .iter()
        .map(|slices| RawCase {
            slices,
            map: map(slices),
            milliseconds: 0.,
        })
        .collect();
    let grid = PostGrid {
        smoothing: vec![0.0, 1.0],
        z_smoothing: vec![0.0],
        head_erosion: vec![0, 3],
        map_power: vec![1.0],
    };
    let found = search(&cases, &grid).unwrap();
    assert_eq!(found.len(), 4);
    assert!(found.windows(2).all(|two| two[0].mean() >= two[1].mean()));
    // Without smoothing and without the rim the truth is there.
    assert_eq!(
        (found[0].post.smoothing, found[0].post.head_erosion),
        (0.0, 3)
    );
    for found in &found {
        let examined: Vec<Case> = cases
            .iter()
            .map(|case| {
                let map = rival_map(case.map.clone(), 0., &found.post, case.slices).unwrap();
                Case::new(case.slices, &map).unwrap()
            })
            .collect();
        let mean = |level| evaluate("x", level, &examined, 0, 0).unwrap().row.dice_otsu;
        assert!((mean(Level::Slice).unwrap() - found.slice).abs() < 1e-12);
        assert!((mean(Level::Volume).unwrap() - found.volume).abs() < 1e-12);
    }
}

#[test]
fn the_papers_layout_marks_the_best_and_escapes_names() {
    let patients = patients();
    let evaluations = |erosion: usize| {
        let cases: Vec<Case> = patients
            .iter()
            .map(|slices| {
                let truth = slices.mask.as_ref().unwrap();
                let post = PostProcessing {
                    head_erosion: erosion,
                    smoothing: erosion as f64,
                    ..PostProcessing::none()
                };
                let map = truth.mapv(|t| f32::from(u8::from(t)));
                Case::new(slices, &rival_map(map, 0., &post, slices).unwrap()).unwrap()
            })
            .collect();
        let of = |level| evaluate("x", level, &cases, 0, 0).unwrap();
        (of(Level::Slice), of(Level::Volume))
    };
    let (good, bad) = (evaluations(0), evaluations(3));
    let rows = [
        LatexRow {
            title: "A & B",
            backbone: "net_1",
            slice: &good.0,
            volume: &good.1,
        },
        LatexRow {
            title: "C",
            backbone: "-",
            slice: &bad.0,
            volume: &bad.1,
        },
    ];
    let text = latex(&rows);
    assert!(
        text.contains(r"A \& B & net\_1 & \textbf{1.000} & \textbf{0.00} & \textbf{1.000} &"),
        "{text}"
    );
    let second = text.lines().find(|line| line.starts_with("C &")).unwrap();
    assert!(!second.contains("textbf"), "{second}");
    assert_eq!(second.matches('&').count(), 7);
}
