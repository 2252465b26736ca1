//! The committed weights: both model folders load, stay within their size, and examine a patient by every row.

use std::path::{Path, PathBuf};

use fndm::candle_core::Device;
use fndm::data::phantom::PhantomConfig;
use fndm::{DetectConfig, Detector, Method};
use fndm_study::{Source, examine_case};

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets")
}

/// Bytes of all files below a folder, but for what a training leaves there.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .filter(|entry| entry.file_name() != "training")
        .map(|entry| match entry.path() {
            path if path.is_dir() => size(&path),
            path => path.metadata().unwrap().len(),
        })
        .sum()
}

/// A student takes at most 2 MB, everything else together at most 30.
#[test]
fn weights_are_small() {
    let student = |model: &str| {
        let path = assets().join(model).join("student.safetensors");
        path.metadata().unwrap().len()
    };
    let students = ["lgg", "phantom"].map(student);
    assert!(students.iter().all(|&b| b <= 2_000_000), "{students:?}");
    let others = size(&assets()) - students.iter().sum::<u64>();
    assert!(others <= 30_000_000, "{others} bytes");
}

#[test]
fn the_glioma_model_examines_a_patient_by_every_row() {
    let detector = Detector::load(assets().join("lgg"), &Device::Cpu).unwrap();
    let sequences = &detector.config().sequences;
    assert_eq!(sequences.join(","), "flair,t1,t1ce");
    assert_eq!(detector.config().separate.len(), 2);
    let source = Source::Phantom {
        config: PhantomConfig {
            slices: 3,
            ..PhantomConfig::default()
        },
        first_seed: 77,
        patients: 1,
    };
    let slices = detector
        .slices(&source.patient(0, sequences).unwrap())
        .unwrap();
    for method in Method::ALL {
        let config = DetectConfig {
            steps: 3,
            ..detector.config().detect_config(method)
        };
        let (case, maps) = examine_case(&detector, method, &config, &slices, &mut |_| {}).unwrap();
        assert!(case.anomaly.iter().all(|v| v.is_finite()), "{method:?}");
        let networks = !matches!(method, Method::Flair | Method::Memory);
        assert_eq!(maps.is_some(), networks);
    }
}
