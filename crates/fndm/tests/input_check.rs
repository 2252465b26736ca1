//! The committed models judge patients: those that they are for, and others.

use std::path::{Path, PathBuf};

use fndm::data::phantom::PhantomConfig;
use fndm::data::profile::{Aspect, DataStatistics, Light, Verdict};
use fndm::data::{Limits, Patient, Side, Splits, list_patients, read_sequences};
use fndm::{InputCheck, ModelConfig, model_folder};

fn assets(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../assets")
        .join(name)
}

fn check(name: &str) -> InputCheck {
    let check = InputCheck::load(assets(name)).unwrap();
    check.expect("a model with data.json")
}

/// The pack's folder, or `None` (told out loud) where it is not there.
fn pack(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("FNDM_DATA").map_or(root, PathBuf::from);
    let folder = root.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {} is not there", folder.display());
    None
}

fn judge(check: &InputCheck, root: &Path, id: &str, sequences: &[&str]) -> Verdict {
    let names: Vec<String> = sequences.iter().map(|&name| name.to_owned()).collect();
    let patient = read_sequences(root.join(id), &names, &Limits::default()).unwrap();
    check.patient(&patient)
}

fn has(verdict: &Verdict, aspect: Aspect, words: &str) -> bool {
    let mut all = verdict.findings.iter();
    all.any(|f| f.aspect == aspect && f.reason.contains(words))
}

#[test]
fn phantoms_are_what_the_phantoms_model_knows() {
    let check = check("phantom");
    let config = PhantomConfig::default();
    let lights = (10_000..10_010).map(|seed| check.patient(&config.patient(seed).unwrap()).light);
    let lights: Vec<Light> = lights.collect();
    let green = lights.iter().filter(|l| **l == Light::Green).count();
    assert!(green >= 7 && !lights.contains(&Light::Red), "{lights:?}");
    // A phantom is no patient of the other model, whatever its sequences are called.
    let verdict = self::check("lgg").patient(&Patient {
        sequences: config.patient(1).unwrap().sequences[..3].to_vec(),
        ..config.patient(1).unwrap()
    });
    assert_ne!(verdict.light, Light::Green, "{verdict:#?}");
}

#[test]
fn what_cannot_be_measured_is_red() {
    let check = check("phantom");
    let mut patient = PhantomConfig::default().patient(3).unwrap();
    patient.sequences[0].1.data[[0, 0, 0]] = f32::NAN;
    let verdict = check.patient(&patient);
    assert_eq!(verdict.light, Light::Red);
    assert!(has(&verdict, Aspect::Sequences, "NaN"), "{verdict:#?}");
}

#[test]
fn gliomas_that_were_held_apart_are_mostly_green() {
    let Some(root) = pack("lgg128") else { return };
    let check = check("lgg");
    let splits = Splits::read(root.join("splits.json"), &Limits::default()).unwrap();
    let ids = splits.side(Side::Val);
    let verdicts: Vec<Verdict> = ids
        .iter()
        .map(|id| judge(&check, &root, id, &["flair", "t1", "t1ce"]))
        .collect();
    // One of them has a sequence under two names.
    let copies = |v: &&Verdict| has(v, Aspect::Copies, "one image");
    assert_eq!(verdicts.iter().filter(copies).count(), 1);
    let green = verdicts.iter().filter(|v| v.light == Light::Green).count();
    assert!(green * 2 > verdicts.len(), "{verdicts:#?}");
}

#[test]
fn stripped_heads_are_told_from_whole_ones() {
    let check = check("lgg");
    for (name, sequences) in [
        ("brats_gli1", &["flair", "t1", "t1ce"][..]),
        ("brats_mini", &["flair", "t1ce"][..]),
    ] {
        let Some(root) = pack(name) else { continue };
        for id in list_patients(&root).unwrap().ids {
            let verdict = judge(&check, &root, &id, sequences);
            assert_eq!(verdict.light, Light::Red, "{verdict:#?}");
            assert!(has(&verdict, Aspect::Skull, "stripped"), "{verdict:#?}");
        }
    }
}

#[test]
fn a_model_without_statistics_says_so_and_a_broken_record_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let config = assets("phantom").join(model_folder::CONFIG);
    let mut config = ModelConfig::read(&config).unwrap();
    config.data_statistics = false;
    config.write(&folder.join(model_folder::CONFIG)).unwrap();
    assert!(InputCheck::load(folder).unwrap().is_none());
    config.data_statistics = true;
    config.write(&folder.join(model_folder::CONFIG)).unwrap();
    let missing = InputCheck::load(folder).unwrap_err().to_string();
    assert!(missing.contains("data.json"), "{missing}");
    std::fs::write(folder.join(model_folder::DATA), "{}").unwrap();
    assert!(InputCheck::load(folder).is_err());
    assert!(InputCheck::load(folder.join("nowhere")).is_err());
}

/// What is committed was learned from the patients that the models were trained on.
#[test]
fn the_committed_statistics_say_whose_they_are() {
    for (name, patients, source) in [
        ("lgg", 63, "63 patients of lgg128"),
        ("phantom", 400, "phantoms of seeds 0 to 399"),
    ] {
        let path = model_folder::file(&assets(name), model_folder::DATA).unwrap();
        let statistics = DataStatistics::read(&path).unwrap();
        assert_eq!(statistics.patients, patients);
        assert_eq!(statistics.source, source);
        assert!(path.metadata().unwrap().len() < 64 << 10);
    }
}
