//! Networks that give NaN or infinity make no mask; a model folder is read strictly; a slice's maps don't hang on the others.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fndm::candle_core::{DType, Device, Tensor};
use fndm::data::phantom::PhantomConfig;
use fndm::data::{Patient, PatientSlices};
use fndm::files::chain;
use fndm::models::{Limits, StateDict};
use fndm::ndarray::Axis;
use fndm::{CoarseSource, DetectConfig, Detector, Error, SliceMaps};
use tempfile::TempDir;

fn assets(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../assets")
        .join(name)
}

fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(assets(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

/// A copy of quickstart's model, every value of some tensors of one file replaced.
fn broken(file: &str, value: f32, which: impl Fn(&str) -> bool) -> TempDir {
    let folder = copy("phantom");
    let path = folder.path().join(file);
    let state = StateDict::read(&path, &Limits::default()).unwrap();
    let mut changed = 0;
    let tensors: BTreeMap<String, Tensor> = state
        .tensors()
        .iter()
        .map(|(name, tensor)| {
            if !which(name) {
                return (name.clone(), tensor.clone());
            }
            changed += 1;
            let new = Tensor::full(value, tensor.shape(), &Device::Cpu).unwrap();
            (name.clone(), new.to_dtype(tensor.dtype()).unwrap())
        })
        .collect();
    assert!(changed > 0);
    StateDict::new(tensors).save(&path).unwrap();
    folder
}

fn patient() -> Patient {
    let phantom = PhantomConfig {
        slices: 2,
        ..PhantomConfig::default()
    };
    let mut patient = phantom.patient(31).unwrap();
    patient.id = "HGG/Brats_001".to_owned();
    patient
}

fn settings(detector: &Detector) -> DetectConfig {
    DetectConfig {
        steps: 2,
        ..detector.config().detect_config(fndm::Method::Fndm)
    }
}

fn fails(folder: &TempDir) -> Error {
    let detector = Detector::load(folder.path(), &Device::Cpu).unwrap();
    detector
        .detect_with(&patient(), &settings(&detector), &mut |_| {})
        .map(|found| found.mask.data.sum())
        .unwrap_err()
}

#[test]
fn a_network_that_gives_nan_or_infinity_is_named() {
    let all = |_: &str| true;
    // The largest number of half precision: activations overflow.
    for (file, value, which) in [
        ("unet.safetensors", f32::NAN, &all as &dyn Fn(&str) -> bool),
        ("unet.safetensors", 65_504., &all),
        ("unet.safetensors", f32::INFINITY, &|name: &str| {
            name == "input_blocks.0.0.weight"
        }),
        ("classifier.safetensors", f32::NAN, &|name: &str| {
            name.starts_with("out")
        }),
    ] {
        let folder = broken(file, value, which);
        let error = fails(&folder);
        let Error::NetworkNotFinite {
            network,
            patient,
            slice,
            step,
            steps,
            ..
        } = &error
        else {
            panic!("{file} of {value}: {}", chain(&error));
        };
        assert_eq!(*network, folder.path().join(file).display().to_string());
        assert_eq!(
            (patient.as_str(), *slice, *step, *steps),
            ("HGG/Brats_001", 0, 1, 2)
        );
        let text = error.to_string();
        let direction = match file.starts_with("unet") {
            true => "while encoding",
            false => "while sampling",
        };
        for words in [file, "HGG/Brats_001", "slice 0", "step 1 of 2", direction] {
            assert!(text.contains(words), "{words} in {text}");
        }
    }
}

#[test]
fn features_that_are_not_finite_name_the_classifier() {
    let folder = broken("classifier.safetensors", f32::NAN, |_| true);
    let error = fails(&folder);
    assert!(matches!(error, Error::Coarse { .. }), "{error}");
    let text = chain(&error);
    for words in ["classifier.safetensors", "HGG/Brats_001", "slice 0", "NaN"] {
        assert_eq!(text.matches(words).count(), 1, "{words} in {text}");
    }
}

#[test]
fn an_image_that_is_not_finite_is_named() {
    let detector = Detector::load(assets("phantom"), &Device::Cpu).unwrap();
    let mut slices = detector.slices(&patient()).unwrap();
    slices.images[[1, 0, 5, 5]] = f32::NAN;
    let config = settings(&detector);
    let error = detector.examine(&slices, &config, &mut |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("HGG/Brats_001, slice 1"), "{text}");
    assert!(detector.coarse_map(&slices, &config).is_err());
}

fn subset(slices: &PatientSlices, indices: &[usize]) -> PatientSlices {
    PatientSlices {
        images: slices.images.select(Axis(0), indices),
        z: indices.iter().map(|&i| slices.z[i]).collect(),
        head: slices.head.select(Axis(0), indices),
        mask: None,
        labels: None,
        ..slices.clone()
    }
}

/// Validation, pictures and tables look at some slices: they are to see what all of them together show.
#[test]
fn a_slice_has_the_same_maps_whatever_is_examined_with_it() {
    let detector = Detector::load(assets("phantom"), &Device::Cpu).unwrap();
    let phantom = PhantomConfig {
        slices: 5,
        ..PhantomConfig::default()
    };
    let slices = detector.slices(&phantom.patient(31).unwrap()).unwrap();
    // Fresh noise that matters; one slice a batch, for the sums of a larger one may be split otherwise.
    let config = DetectConfig {
        region_noise: Some(1.),
        batch: 1,
        ..settings(&detector)
    };
    let whole = detector.examine(&slices, &config, &mut |_| {}).unwrap();
    assert!(whole.x_seg.iter().any(|&inside| inside));
    let indices = [1, 3, 4];
    let some = detector
        .examine(&subset(&slices, &indices), &config, &mut |_| {})
        .unwrap();
    assert_eq!(some.x_seg, whole.x_seg.select(Axis(0), &indices));
    let healthy = |maps: &SliceMaps| maps.healthy.clone().unwrap();
    assert_eq!(healthy(&some), healthy(&whole).select(Axis(0), &indices));
    // The coarse map, which weighs it, is made of all slices at once.
    let anomaly = whole.anomaly.select(Axis(0), &indices);
    let largest = anomaly.iter().fold(0f32, |most, &v| most.max(v));
    for (a, b) in some.anomaly.iter().zip(&anomaly) {
        assert!((a - b).abs() <= 1e-4 * largest, "{a} {b}");
    }

    let other = DetectConfig { seed: 1, ..config };
    let other = detector.examine(&slices, &other, &mut |_| {}).unwrap();
    assert_ne!(healthy(&other), healthy(&whole), "the noise has no effect");
}

#[test]
fn a_model_folder_is_read_strictly() {
    // A tensor too many.
    let folder = copy("phantom");
    let path = folder.path().join("unet.safetensors");
    let state = StateDict::read(&path, &Limits::default()).unwrap();
    let mut tensors = state.tensors().clone();
    let one = Tensor::zeros(1, DType::F16, &Device::Cpu).unwrap();
    tensors.insert("input_blocks.99.weight".to_owned(), one);
    StateDict::new(tensors).save(&path).unwrap();
    let text = chain(&Detector::load(folder.path(), &Device::Cpu).unwrap_err());
    for words in ["unet.safetensors", "unexpected input_blocks.99.weight"] {
        assert_eq!(text.matches(words).count(), 1, "{words} in {text}");
    }

    // Another model's contrast, which this one's model.json doesn't speak of.
    let folder = copy("phantom");
    let stray = folder.path().join("contrast.safetensors");
    fs::copy(assets("lgg").join("contrast.safetensors"), &stray).unwrap();
    let detector = Detector::load(folder.path(), &Device::Cpu).unwrap();
    let config = DetectConfig {
        coarse_source: CoarseSource::Contrast,
        ..settings(&detector)
    };
    let slices = detector.slices(&patient()).unwrap();
    let error = detector.coarse_map(&slices, &config).unwrap_err();
    assert!(
        error.to_string().contains("without contrast.safetensors"),
        "{error}"
    );

    // One that model.json speaks of must be there.
    let folder = copy("lgg");
    Detector::load(folder.path(), &Device::Cpu).unwrap();
    fs::remove_file(folder.path().join("contrast.safetensors")).unwrap();
    let error = Detector::load(folder.path(), &Device::Cpu).unwrap_err();
    assert!(
        error.to_string().contains("contrast.safetensors"),
        "{error}"
    );
}
