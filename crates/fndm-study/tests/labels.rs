//! Bits from tables and folders: the same model as from the masks that the bits are made of, and no mask looked at.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fndm::candle_core::Device;
use fndm::data::labels::{Labels, SliceOrder, SlicesFrom, TableOptions};
use fndm::data::phantom::PhantomConfig;
use fndm::data::{Limits, Preprocess, SliceSet, nifti};
use fndm::files::chain;
use fndm::memory::{ContrastConfig, MemoryConfig};
use fndm::models::{ClassifierConfig, UNetConfig};
use fndm::{DetectConfig, FeatureConfig, Method};
use fndm_study::train::{ClassifierTrainConfig, DiffusionConfig, StopFlag};
use fndm_study::{
    LabelSource, Source, TrainPlan, TrainingPlace, TrainingRecord, ValidationPlan, train_model,
    train_slices,
};

const SIZE: usize = 32;
const PATIENTS: [&str; 3] = ["HGG/a", "HGG/b", "LGG/a"];

/// The file of a sequence or mask of a patient, below the data folder.
fn file(id: &str, what: &str) -> PathBuf {
    let name = id.rsplit('/').next().unwrap();
    Path::new(id).join(format!("{name}_{what}.nii.gz"))
}

fn preprocess() -> Preprocess {
    Preprocess {
        image_size: SIZE,
        ..Preprocess::default()
    }
}

fn plan(source: Source, labels: LabelSource) -> TrainPlan {
    let sequences = ["flair", "t1"].map(String::from).to_vec();
    let channels = sequences.len();
    TrainPlan {
        source,
        labels,
        sequences,
        preprocess: preprocess(),
        classifier: ClassifierConfig {
            image_size: SIZE,
            channel_mult: vec![1., 1.],
            attention_resolutions: vec![2],
            ..ClassifierConfig::small_64(channels)
        },
        classifier_training: ClassifierTrainConfig {
            batch: 2,
            iterations: Some(2),
            time_budget_s: None,
            ..ClassifierTrainConfig::default()
        },
        features: FeatureConfig {
            blocks: vec![1, 2],
            ..FeatureConfig::default()
        },
        memory: MemoryConfig {
            budget_bytes: 1 << 17,
            ..MemoryConfig::default()
        },
        contrast: Some(ContrastConfig::default()),
        unet: UNetConfig {
            image_size: SIZE,
            channel_mult: vec![1., 1.],
            attention_resolutions: vec![2],
            num_classes: Some(2),
            ..UNetConfig::small_64(2 * channels + 1, channels)
        },
        diffusion_training: DiffusionConfig {
            batch: 2,
            iterations: Some(2),
            time_budget_s: None,
            ..DiffusionConfig::default()
        },
        pasted_by: None,
        separate: BTreeMap::new(),
        student: None,
        detect: BTreeMap::from([(
            Method::Fndm,
            DetectConfig {
                steps: 2,
                ..DetectConfig::default()
            },
        )]),
        validation: None,
        seed: 3,
    }
}

/// Three phantom patients on disk, and a table of the bits of their masks.
struct Data {
    folder: tempfile::TempDir,
}

impl Data {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = PhantomConfig {
            slices: 12,
            ..PhantomConfig::default()
        };
        let mut table = String::from("patient,slice1,label\n");
        for (seed, id) in PATIENTS.iter().enumerate() {
            let patient = config.patient(40 + seed as u64).unwrap();
            let root = folder.path().join("data");
            fs::create_dir_all(root.join(id)).unwrap();
            let file = |what: &str| root.join(file(id, what));
            for (name, volume) in &patient.sequences {
                nifti::write_map(file(name), volume).unwrap();
            }
            let mask = patient.mask.as_ref().unwrap();
            nifti::write_mask(file("seg"), mask).unwrap();
            for (z, slice) in mask.data.axis_iter(ndarray::Axis(2)).enumerate() {
                let bit = u8::from(slice.iter().any(|&v| v > 0.5));
                table += &format!("{id},{},{bit}\n", z + 1);
            }
        }
        fs::write(folder.path().join("labels.csv"), table).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self) -> Source {
        Source::folder(&self.path("data"), None, None).unwrap()
    }

    fn table(&self) -> LabelSource {
        LabelSource::Table {
            path: self.path("labels.csv"),
            slices_from: None,
            order: SliceOrder::Stored,
        }
    }

    fn spoil_masks(&self) {
        for id in PATIENTS {
            fs::write(self.path("data").join(file(id, "seg")), b"no mask at all").unwrap();
        }
    }
}

fn at<'a>(folder: &'a Path, stop: &'a StopFlag) -> TrainingPlace<'a> {
    TrainingPlace::new(folder, &Device::Cpu, stop)
}

fn train(plan: &TrainPlan, folder: &Path) -> fndm_study::Result<TrainingRecord> {
    let stop = StopFlag::new();
    let record = train_model(plan, at(folder, &stop), "test", &mut |_| {})?;
    Ok(record.expect("nobody stopped it"))
}

#[test]
fn a_table_of_the_masks_bits_gives_the_same_bytes_and_reads_no_mask() {
    let data = Data::new();
    let source = data.source();
    let masks = train(
        &plan(source.clone(), LabelSource::Masks),
        &data.path("masks"),
    )
    .unwrap();
    // From here on no mask can be read.
    data.spoil_masks();
    let table = train(&plan(source, data.table()), &data.path("table")).unwrap();
    for file in [
        "model.json",
        "unet.safetensors",
        "classifier.safetensors",
        "memory.safetensors",
        "contrast.safetensors",
    ] {
        let bytes = |folder: &str| fs::read(data.path(folder).join(file)).unwrap();
        assert!(bytes("masks") == bytes("table"), "{file}");
    }
    assert_eq!(masks.labels.patients, table.labels.patients);
    assert!(masks.labels.source.contains("masks"));
    assert!(table.labels.source.contains("labels.csv"));
    let read = TrainingRecord::read(&data.path("table")).unwrap();
    assert_eq!(read.labels, table.labels);
    let total: usize = table
        .labels
        .patients
        .iter()
        .map(|p| p.healthy + p.diseased)
        .sum();
    assert_eq!(total, table.healthy_slices + table.diseased_slices);
}

/// A program's own arrays, without any file.
#[test]
fn slices_of_a_program_give_the_same_bytes() {
    let data = Data::new();
    let source = data.source();
    let masks = plan(source.clone(), LabelSource::Masks);
    train(&masks, &data.path("masks")).unwrap();

    let labels = Labels::read(
        data.path("labels.csv"),
        &TableOptions::default(),
        &Limits::default(),
    )
    .unwrap();
    let patients = (0..3).map(|i| source.sequences(i, &masks.sequences).unwrap());
    let cut = SliceSet::from_labelled(patients, &preprocess(), &labels).unwrap();
    let ids: Vec<&String> = cut.patient.iter().map(|&p| &cut.ids[p]).collect();
    let set = SliceSet::new(cut.images.clone(), cut.labels.clone(), &ids, &cut.sequences)
        .and_then(|set| set.with_head(cut.head.clone()))
        .unwrap();
    let given = Source::Given {
        patients: set.ids.clone(),
    };
    let run = |plan: &TrainPlan, set: SliceSet| {
        let folder = data.path("given");
        let stop = StopFlag::new();
        train_slices(plan, set, at(&folder, &stop), "test", &mut |_| {})
    };
    let own = plan(given, LabelSource::Given);
    let record = run(&own, set.clone()).unwrap().unwrap();
    assert_eq!(record.labels.source, "the calling program");
    let bytes = |folder: &str, file: &str| fs::read(data.path(folder).join(file)).unwrap();
    for file in ["unet.safetensors", "contrast.safetensors"] {
        assert!(bytes("masks", file) == bytes("given", file), "{file}");
    }
    // Of slices alone nobody knows what volumes are like: there are no statistics to check new ones by.
    let config = |folder: &str| -> (serde_json::Value, bool) {
        let mut config: serde_json::Value =
            serde_json::from_slice(&bytes(folder, "model.json")).unwrap();
        let statistics = config.as_object_mut().unwrap().remove("data_statistics");
        (config, statistics == Some(true.into()))
    };
    let (masks_config, given_config) = (config("masks"), config("given"));
    assert_eq!(masks_config.0, given_config.0);
    assert_eq!((masks_config.1, given_config.1), (true, false));

    // Another size, and a plan that names files.
    let small = set.images.slice(ndarray::s![.., .., ..16, ..16]).to_owned();
    let small = SliceSet::new(small, set.labels.clone(), &ids, &set.sequences).unwrap();
    assert!(chain(&run(&own, small).unwrap_err()).contains("32 x 32"));
    assert!(chain(&run(&masks, set).unwrap_err()).contains("source and labels"));
    assert!(train(&own, &data.path("nowhere")).is_err());
}

#[test]
fn the_best_state_is_chosen_by_bits_where_there_are_no_masks() {
    let data = Data::new();
    data.spoil_masks();
    let of = |patients: &[&str]| Source::Folder {
        path: data.path("data"),
        patients: patients.iter().map(ToString::to_string).collect(),
    };
    let mut plan = plan(of(&PATIENTS[1..]), data.table());
    let validation = |source| ValidationPlan {
        source,
        every: 1,
        slices: 3,
    };
    // By patients that it trains on nothing could be chosen.
    plan.validation = Some(validation(of(&PATIENTS[..2])));
    let error = chain(&plan.check().unwrap_err());
    assert!(
        error.contains("validation") && error.contains("HGG/b"),
        "{error}"
    );
    plan.validation = Some(validation(of(&PATIENTS[..1])));
    let record = train(&plan, &data.path("model")).unwrap();
    let chosen = record.validation.unwrap();
    assert!((0. ..=1.).contains(&chosen.score), "{}", chosen.score);
}

#[test]
fn what_is_unknown_is_left_out_and_what_is_wrong_stops_everything() {
    let data = Data::new();
    let path = data.path("few.csv");
    let table = || LabelSource::Table {
        path: path.clone(),
        slices_from: Some(SlicesFrom::Zero),
        order: SliceOrder::Stored,
    };
    let run = |text: &str| {
        fs::write(&path, text).unwrap();
        let _ = fs::remove_dir_all(data.path("few"));
        train(&plan(data.source(), table()), &data.path("few"))
    };
    let record = run("id,slice,label\nHGG/a,3-5,1\nHGG/a,9,0\nLGG/a,4-6,0\n").unwrap();
    assert_eq!((record.healthy_slices, record.diseased_slices), (4, 3));
    let left_out = &record.left_out;
    assert_eq!(left_out.len(), 1);
    assert_eq!(left_out[0].patient, "HGG/b");
    let bits = record.labels.patients.iter().find(|p| p.patient == "HGG/a");
    assert_eq!(
        bits.map(|p| (p.healthy, p.diseased, p.unknown)),
        Some((1, 3, 8))
    );

    for (text, wanted) in [
        (
            "id,slice,label\nHGG/c,1,1\n",
            "line 2: patient HGG/c: no such patient",
        ),
        (
            "id,slice,label\nHGG/a,1,1\nLGG/a,12,0\n",
            "line 3: patient LGG/a: slice 12",
        ),
        (
            "id,slice,label\nHGG/a,1-4,1\nHGG/a,6,0\n",
            "at least 2 healthy",
        ),
    ] {
        let told = chain(&run(text).unwrap_err());
        assert!(told.contains(wanted), "{told}");
        assert!(!data.path("few").join("model.json").exists());
    }
}

#[test]
fn folders_of_healthy_and_of_diseased_volumes() {
    let data = Data::new();
    data.spoil_masks();
    let source = Source::sides(&data.path("data/LGG"), &data.path("data/HGG")).unwrap();
    assert_eq!(source.ids(), ["healthy/a", "diseased/a", "diseased/b"]);
    let record = train(&plan(source, LabelSource::Sides), &data.path("model")).unwrap();
    let kinds: Vec<bool> = record
        .labels
        .patients
        .iter()
        .map(|p| p.healthy > 0)
        .collect();
    assert_eq!(kinds, [true, false, false]);
    // No volume is both.
    let twice = Source::sides(&data.path("data/LGG"), &data.path("data/LGG"));
    let told = chain(&twice.unwrap_err());
    assert!(told.contains("healthy and diseased"), "{told}");
    // Labels of another kind don't fit.
    let wrong = plan(data.source(), LabelSource::Sides);
    assert!(train(&wrong, &data.path("wrong")).is_err());
}
