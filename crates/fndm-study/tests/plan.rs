//! A plan is checked as a whole, before the first patient is read; processes that build a memory bank together end together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

#[path = "../../fndm-train/tests/common/threads.rs"]
mod threads;

use fndm::candle_core::Device;
use fndm::data::Preprocess;
use fndm::data::phantom::PhantomConfig;
use fndm::files::chain;
use fndm::memory::{ContrastConfig, MemoryConfig};
use fndm::models::{ClassifierConfig, UNetConfig};
use fndm::{CoarseSource, DetectConfig, FeatureConfig, Method, model_folder};
use fndm_study::train::{
    ClassifierTrainConfig, ConditionDropout, DiffusionConfig, Group, StopFlag,
};
use fndm_study::{
    Error, LabelSource, SeparatePlan, Source, TrainEvent, TrainPlan, TrainingPlace, ValidationPlan,
    train_model, train_model_in,
};
use threads::ThreadGroup;

const SIZE: usize = 32;

/// A small plan whose patients aren't there.
fn plan() -> TrainPlan {
    let sequences = ["flair", "t1"].map(String::from).to_vec();
    let channels = sequences.len();
    let unet = |inputs: usize, classes: usize| UNetConfig {
        image_size: SIZE,
        channel_mult: vec![1., 1.],
        attention_resolutions: vec![2],
        num_classes: Some(classes),
        ..UNetConfig::small_64(inputs, channels)
    };
    let training = |label_dropout: f64| DiffusionConfig {
        batch: 2,
        iterations: Some(2),
        condition_dropout: ConditionDropout::NONE,
        label_dropout,
        ..DiffusionConfig::default()
    };
    let nowhere = |patient: &str| Source::Folder {
        path: "/no/such/folder".into(),
        patients: vec![patient.to_owned()],
    };
    TrainPlan {
        source: nowhere("a"),
        labels: LabelSource::Masks,
        sequences,
        preprocess: Preprocess {
            image_size: SIZE,
            ..Preprocess::default()
        },
        classifier: ClassifierConfig {
            image_size: SIZE,
            channel_mult: vec![1., 1.],
            attention_resolutions: vec![2],
            ..ClassifierConfig::small_64(channels)
        },
        classifier_training: ClassifierTrainConfig {
            batch: 2,
            iterations: Some(2),
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
        unet: unet(2 * channels + 1, 2),
        diffusion_training: training(0.),
        pasted_by: None,
        separate: BTreeMap::from([(
            Method::Cg,
            SeparatePlan {
                unet: unet(channels, 3),
                training: training(0.5),
            },
        )]),
        student: None,
        detect: BTreeMap::from([(
            Method::Fndm,
            DetectConfig {
                steps: 2,
                ..DetectConfig::default()
            },
        )]),
        validation: Some(ValidationPlan {
            source: nowhere("b"),
            every: 2,
            slices: 2,
        }),
        seed: 1,
    }
}

fn fndm(plan: &mut TrainPlan) -> &mut DetectConfig {
    plan.detect.get_mut(&Method::Fndm).unwrap()
}

fn cg(plan: &mut TrainPlan) -> &mut SeparatePlan {
    plan.separate.get_mut(&Method::Cg).unwrap()
}

fn phantom(first_seed: u64, patients: u64) -> Source {
    Source::Phantom {
        config: PhantomConfig {
            slices: 12,
            ..PhantomConfig::default()
        },
        first_seed,
        patients,
    }
}

/// What is wrong, and the words that tell of it.
type Wrong = (fn(&mut TrainPlan), &'static [&'static str]);

const WRONG: &[Wrong] = &[
    (|p| fndm(p).noise_level = 7., &["noise level", "FNDM"]),
    (|p| fndm(p).steps = 0, &["steps"]),
    (|p| fndm(p).order = 9, &["order"]),
    (|p| fndm(p).coarse_dilation = 65, &["dilation", "64"]),
    (
        |p| {
            p.contrast = None;
            fndm(p).coarse_source = CoarseSource::Contrast;
        },
        &["coarse source"],
    ),
    (
        |p| p.unet.model_channels = 31,
        &["diffusion model", "multiple of 32"],
    ),
    (|p| p.unet.in_channels = 7, &["diffusion model", "channels"]),
    (
        |p| p.diffusion_training.batch = 0,
        &["diffusion model", "batch"],
    ),
    (
        |p| p.diffusion_training.time_budget_s = Some(-60.),
        &["diffusion model", "time_budget_s"],
    ),
    (
        |p| p.diffusion_training.iterations = None,
        &["diffusion model", "iterations, time_budget_s"],
    ),
    (
        |p| p.diffusion_training.iterations = Some(0),
        &["diffusion model", "iterations"],
    ),
    (
        |p| p.diffusion_training.optimizer.lr = f64::NAN,
        &["diffusion model", "lr"],
    ),
    (
        |p| p.classifier_training.batch = 0,
        &["classifier", "batch"],
    ),
    (
        |p| p.classifier.model_channels = 31,
        &["classifier", "multiple of 32"],
    ),
    (
        |p| p.classifier_training.schedule = fndm::solver::ScheduleConfig::cosine(1000),
        &["classifier", "schedule"],
    ),
    (
        |p| p.features.blocks = vec![99],
        &["memory bank", "features.blocks", "99"],
    ),
    (
        |p| p.features.blocks = Vec::new(),
        &["memory bank", "features.blocks"],
    ),
    (
        |p| p.features.model_time = f64::NAN,
        &["memory bank", "model_time"],
    ),
    (
        |p| p.memory.position_weight = f64::NAN,
        &["memory bank", "position_weight"],
    ),
    (
        |p| p.memory.budget_bytes = 1,
        &["memory bank", "budget is 1 bytes"],
    ),
    (
        |p| p.contrast.as_mut().unwrap().batch_size = 0,
        &["contrast", "batch_size"],
    ),
    (|p| cg(p).training.batch = 0, &["CG", "batch"]),
    (|p| cg(p).unet.num_classes = Some(2), &["CG", "3 classes"]),
    (
        |p| cg(p).training.schedule = fndm::solver::ScheduleConfig::cosine(1000),
        &["CG", "schedule"],
    ),
    (
        |p| {
            let own = cg(p).clone();
            p.separate.insert(Method::Flair, own);
        },
        &["separate"],
    ),
    (
        |p| p.validation.as_mut().unwrap().every = 0,
        &["validation", "every"],
    ),
    (
        |p| p.validation.as_mut().unwrap().slices = 0,
        &["validation", "slices"],
    ),
    (
        |p| p.validation.as_mut().unwrap().source = phantom(u64::MAX - 2, 5),
        &["validation", "first seed"],
    ),
    (
        |p| p.source = phantom(u64::MAX, 1),
        &["patients", "first seed"],
    ),
    (|p| p.source = phantom(0, u64::MAX), &["patients"]),
    (|p| p.source = phantom(0, 0), &["patients"]),
    (
        |p| {
            p.source = Source::Folder {
                path: "/no/such/folder".into(),
                patients: vec!["a".into(), "b".into(), "a".into()],
            };
        },
        &["patients", "each named once", "a"],
    ),
    (|p| p.sequences = Vec::new(), &["sequences"]),
    (|p| p.sequences[1] = "flair".into(), &["sequences", "flair"]),
    (
        |p| {
            p.source = phantom(0, 2);
            p.sequences[1] = "flare".into();
        },
        &["sequences", "flare"],
    ),
    (|p| p.preprocess.image_size = 0, &["image_size"]),
    (|p| p.preprocess.image_size = 64, &["image_size"]),
];

fn at<'a>(folder: &'a Path, stop: &'a StopFlag) -> TrainingPlace<'a> {
    TrainingPlace::new(folder, &Device::Cpu, stop)
}

fn refused(plan: &TrainPlan, folder: &Path) -> Error {
    let stop = StopFlag::new();
    let mut events = |event: TrainEvent<'_>| panic!("{event:?}");
    train_model(plan, at(folder, &stop), "test", &mut events).unwrap_err()
}

#[test]
fn every_wrong_value_is_told_before_a_file_is_read() {
    plan().check().unwrap();
    let mut untold = Vec::new();
    for (change, words) in WRONG {
        let mut plan = plan();
        change(&mut plan);
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("model");
        let text = chain(&refused(&plan, &output));
        let told = words.iter().all(|word| text.contains(word));
        if !told || text.contains("no/such") || output.exists() {
            untold.push(format!("{words:?}: {text}"));
        }
    }
    assert!(untold.is_empty(), "{untold:#?}");
    // Nothing but the patients is wrong: now they are looked for.
    let folder = tempfile::tempdir().unwrap();
    let stop = StopFlag::new();
    let mut notes = Vec::new();
    let mut listen = |event: TrainEvent<'_>| {
        if let TrainEvent::Note(note) = event {
            notes.push(note);
        }
    };
    let plan = plan();
    train_model(&plan, at(folder.path(), &stop), "test", &mut listen).unwrap_err();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("a: "), "{notes:?}");
}

#[test]
fn a_batch_is_divided_among_the_processes() {
    plan().check_for(2).unwrap();
    let text = chain(&plan().check_for(3).unwrap_err());
    assert!(
        text.contains("batch: expected a multiple of the 3 processes"),
        "{text}"
    );
}

#[test]
fn an_output_that_cannot_be_is_told_at_once() {
    // Files where a folder should be.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let text = chain(&refused(&plan(), &file.join("model")));
    assert!(text.contains("file"), "{text}");
    #[cfg(target_os = "linux")]
    {
        let text = chain(&refused(&plan(), Path::new("/proc/x")));
        assert!(text.contains("/proc/x"), "{text}");
    }
    // A model.json, or weights, that aren't ours.
    for name in [model_folder::CONFIG, model_folder::UNET] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), "mine").unwrap();
        let text = chain(&refused(&plan(), folder.path()));
        assert!(text.contains(name), "{text}");
        let kept = std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(kept, b"mine");
    }
}

/// What `f` gives in each of `size` processes, which are threads here.
fn together<R: Send>(size: usize, f: impl Fn(ThreadGroup) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let f = &f;
        let started: Vec<_> = ThreadGroup::all(size)
            .into_iter()
            .map(|group| scope.spawn(move || f(group)))
            .collect();
        started.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn small() -> TrainPlan {
    TrainPlan {
        source: phantom(0, 3),
        separate: BTreeMap::new(),
        validation: None,
        ..plan()
    }
}

/// A signal that reaches one process alone while the first one builds the bank: all end, and none waits for ever.
#[test]
fn processes_that_wait_for_the_memory_bank_stop_together() {
    for stopper in [0, 1] {
        let folder = tempfile::tempdir().unwrap();
        let ended = together(2, |group| {
            let (rank, stop) = (group.rank(), StopFlag::new());
            let mut built = 0;
            let ended = train_model_in(
                Arc::new(group),
                &small(),
                at(folder.path(), &stop),
                "test",
                &mut |event| match event {
                    // The last event before the bank is that of the classifier's last iteration.
                    // The training is finished, so that this stops what comes next.
                    TrainEvent::Classifier(report, _)
                        if report.iteration == 2 && rank == 1 && stopper == 1 =>
                    {
                        stop.stop();
                    }
                    TrainEvent::Memory(_) => {
                        built += 1;
                        if stopper == 0 {
                            stop.stop();
                        }
                        // Long enough for the other process to be asked.
                        std::thread::sleep(std::time::Duration::from_millis(150));
                    }
                    TrainEvent::Diffusion(..) => panic!("went on"),
                    _ => {}
                },
            );
            assert_eq!(built > 0, rank == 0, "the first process builds the bank");
            ended.unwrap().is_none()
        });
        assert_eq!(ended, [true, true], "stopped by {stopper}");
        assert!(!folder.path().join(model_folder::CONFIG).exists());
    }
}

#[test]
fn two_processes_write_one_model_whole() {
    let folder = tempfile::tempdir().unwrap();
    let records = together(2, |group| {
        let stop = StopFlag::new();
        train_model_in(
            Arc::new(group),
            &small(),
            at(folder.path(), &stop),
            "test",
            &mut |_| {},
        )
        .unwrap()
        .unwrap()
    });
    assert_eq!(records[0].memory_rows, records[1].memory_rows);
    fndm::Detector::load(folder.path(), &Device::Cpu).unwrap();

    // Another training into the same folder with the same checkpoints, but another seed: told at once.
    let other = TrainPlan { seed: 2, ..small() };
    let text = chain(&refused(&other, folder.path()));
    assert!(text.contains("seed = 1"), "{text}");
}
