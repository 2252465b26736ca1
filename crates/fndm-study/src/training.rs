//! From patients to a model folder: classifier, memory bank, diffusion model, in this order.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use fndm_data::{PatientSlices, Preprocess, SliceSet};
use fndm_memory::{
    ClassifierFeatures, Contrast, ContrastConfig, HealthyModel, MemoryBank, MemoryConfig,
    intensities,
};
use fndm_models::{ClassifierConfig, StateDict, UNetConfig};
use fndm_train::{
    Alone, ClassifierTrainConfig, ClassifierTrainer, DiffusionConfig, DiffusionTrainer, Ended,
    Group, RunConfig, StepReport, StopFlag, Task, Trainer, Validation, agree, made_by_the_first,
};
use ndarray::{Array3, Axis};
use serde::{Deserialize, Serialize};

use fndm::model_folder::{self, weight_bytes};
use fndm::{
    DetectConfig, Detector, FeatureConfig, Method, ModelConfig, SeparateModel, StudentConfig,
    batch_tensor,
};

use crate::plan_check::check_output;
use crate::student::{StudentPlan, StudentStage, train_student};
use crate::validation::{ValidationPlan, ValidationRecord, Validator};
use crate::{
    CohortEvent, Error, LabelRecord, LabelSource, LeftOut, PatientBits, Patients, Result, Source,
    TrainingPlace, Truth,
};

/// One training patient in this many is held apart from the memory bank: its healthy slices calibrate the threshold.
const CALIBRATION_SHARE: usize = 8;

/// A class of fewer slices than this teaches nothing.
const FEWEST_SLICES: usize = 2;

/// Iterations between checkpoints.
const CHECKPOINT_EVERY: u64 = 500;

/// Iterations that the recorded loss is the mean of.
const RECENT: usize = 200;

/// Everything that decides what comes out of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainPlan {
    /// The patients.
    pub source: Source,
    /// Where the bit of each slice comes from.
    #[serde(default)]
    pub labels: LabelSource,
    /// The sequences, in the order of the images' channels.
    pub sequences: Vec<String>,
    /// From volumes to slices.
    pub preprocess: Preprocess,
    /// The classifier.
    pub classifier: ClassifierConfig,
    /// Its training.
    pub classifier_training: ClassifierTrainConfig,
    /// The classifier's features that go into the memory bank.
    pub features: FeatureConfig,
    /// The memory bank.
    pub memory: MemoryConfig,
    /// The Gaussians of healthy and diseased slices beside the bank; none to leave them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contrast: Option<ContrastConfig>,
    /// The noise-prediction network.
    pub unet: UNetConfig,
    /// Its training.
    pub diffusion_training: DiffusionConfig,
    /// Rows of the ablation that get a noise-prediction network of their own, trained after the first one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub separate: BTreeMap<Method, SeparatePlan>,
    /// The student, trained last; none to leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student: Option<StudentPlan>,
    /// How each row of the ablation is run by default.
    pub detect: BTreeMap<Method, DetectConfig>,
    /// Validation while the diffusion model trains; none to write the last state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationPlan>,
    /// Seed of the weights, the order of the slices, and all noise.
    pub seed: u64,
}

/// A noise-prediction network for one row of the ablation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeparatePlan {
    /// The network. Its input channels say what it is shown: C (nothing), 2C (the image).
    pub unet: UNetConfig,
    /// Its training, which has the first network's schedule.
    pub training: DiffusionConfig,
}

/// What came of one network's training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecord {
    /// Optimiser steps.
    pub iterations: u64,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Mean loss of the last iterations (at most 200) of the last session; `None` where that had none.
    pub loss: Option<f64>,
}

/// What a student was trained on, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentRecord {
    /// The command line that made it.
    pub command: String,
    /// The plan.
    pub plan: StudentPlan,
    /// The patients: those that it learned from, and those held apart.
    pub patients: Vec<String>,
    /// Those that weren't used.
    pub left_out: Vec<LeftOut>,
    /// Where every bit came from.
    pub labels: LabelRecord,
    /// Wall time in seconds, of the last session.
    pub seconds: f64,
}

/// What a model was trained on, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRecord {
    /// The command line that made it.
    pub command: String,
    /// The plan.
    pub plan: TrainPlan,
    /// The patients that were used.
    pub patients: Vec<String>,
    /// Those that weren't.
    pub left_out: Vec<LeftOut>,
    /// How many of these couldn't be read.
    #[serde(default)]
    pub unreadable: usize,
    /// Where every bit came from, and how many of each kind each patient gives.
    #[serde(default)]
    pub labels: LabelRecord,
    /// Slices with the label healthy.
    pub healthy_slices: usize,
    /// Slices with the label diseased.
    pub diseased_slices: usize,
    /// The classifier's training.
    pub classifier: StageRecord,
    /// The diffusion model's training.
    pub diffusion: StageRecord,
    /// The trainings of the rows that have a network of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub separate: BTreeMap<Method, StageRecord>,
    /// The student's training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student: Option<StudentRecord>,
    /// Rows of the memory bank.
    pub memory_rows: usize,
    /// The state that was chosen, where the plan has a validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationRecord>,
}

impl TrainingRecord {
    /// Reads the record of a model folder: `training.json`, or `model.json` of a folder of format 1, which had it within.
    ///
    /// # Errors
    /// When there is none, or it isn't valid.
    pub fn read(folder: &Path) -> Result<Self> {
        match model_folder::file(folder, model_folder::TRAINING) {
            Ok(path) => return Ok(fndm_files::read_json(&path, "record of a training")?),
            Err(fndm::Error::MissingModelFile { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let path = folder.join(model_folder::CONFIG);
        let mut value: serde_json::Value = fndm_files::read_json(&path, "model config")?;
        let record = value.get_mut("training").map(serde_json::Value::take);
        serde_json::from_value(record.unwrap_or_default())
            .map_err(|e| fndm_files::Error::json(&path, "record of a training")(e).into())
    }
}

/// What a training reports while it runs.
#[derive(Debug)]
#[non_exhaustive]
pub enum TrainEvent<'a> {
    /// Something that a user should read.
    Note(String),
    /// A patient was read: how many of how many.
    Loaded(usize, usize),
    /// An iteration of the classifier's training, and the share of its budget that is used.
    Classifier(&'a StepReport, f64),
    /// The memory bank's progress.
    Memory(fndm_memory::Progress),
    /// An iteration of the diffusion model's training, and the share of its budget that is used.
    Diffusion(&'a StepReport, f64),
    /// An iteration of the training of a network that serves one row alone, and the share of its budget that is used.
    Separate(Method, &'a StepReport, f64),
    /// An iteration of one of the student's trainings, and the share of its budget that is used.
    Student(StudentStage, &'a StepReport, f64),
    /// A validation of the diffusion model, after so many iterations.
    Validation(u64, &'a Validation),
}

/// Trains by `plan` and writes the model folder. Checkpoints, logs (`log.jsonl`, `TensorBoard` events) and loss curves go to
/// `folder/training`; a run that was stopped goes on from the checkpoints when it is called again with the same plan. With a
/// validation in the plan, the model is the best state by it. Where `stop` is set while the diffusion model trains, the model so
/// far is written. A model that was in the folder before is replaced at one moment, by a whole one.
///
/// The whole plan is checked first, and whether the folder can be written: nothing is read before that.
///
/// # Errors
/// When no patient can be used, a setting makes no sense, or a file can't be written.
pub fn train_model(
    plan: &TrainPlan,
    folder: &Path,
    command: &str,
    device: &Device,
    stop: &StopFlag,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<TrainingRecord>> {
    let alone = Arc::new(Alone);
    train_model_in(alone, plan, folder, command, device, stop, on_event)
}

/// As [`train_model`], in one of several processes that train together. All call this alike; the first one writes.
///
/// # Errors
/// As [`train_model`], or when the processes don't agree.
pub fn train_model_in(
    group: Arc<dyn Group>,
    plan: &TrainPlan,
    folder: &Path,
    command: &str,
    device: &Device,
    stop: &StopFlag,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<TrainingRecord>> {
    train_with(group, plan, None, folder, command, device, stop, on_event)
}

/// As [`train_model`], from slices of one's own. The plan's source is [`Source::Given`] and its labels are [`LabelSource::Given`];
/// `preprocess` in it says what the model takes at detection.
///
/// # Errors
/// As [`train_model`], or when the slices aren't of the plan's size, sequences and patients.
pub fn train_slices(
    plan: &TrainPlan,
    set: SliceSet,
    folder: &Path,
    command: &str,
    device: &Device,
    stop: &StopFlag,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<TrainingRecord>> {
    let alone = Arc::new(Alone);
    let set = Some(set);
    train_with(alone, plan, set, folder, command, device, stop, on_event)
}

/// The slices, where their bits came from, who was left out, and how many of those couldn't be read.
type Loaded = (SliceSet, LabelRecord, Vec<LeftOut>, usize);

/// Checks slices of the calling program against the plan, and counts them.
fn given(plan: &TrainPlan, set: SliceSet) -> Result<Loaded> {
    let size = plan.preprocess.image_size;
    let (_, _, height, width) = set.images.dim();
    let source = Source::Given {
        patients: set.ids.clone(),
    };
    if plan.source != source || plan.labels != LabelSource::Given {
        return Err(Error::Input {
            what: "source and labels of the plan".into(),
            expected: format!("those that were given, of {}", set.ids.join(", ")),
            got: format!("{:?}, {:?}", plan.source, plan.labels),
        });
    }
    if (height, width) != (size, size) || set.sequences != plan.sequences {
        return Err(Error::Input {
            what: "slices".into(),
            expected: format!("{size} x {size} pixels of {}", plan.sequences.join(", ")),
            got: format!("{height} x {width} of {}", set.sequences.join(", ")),
        });
    }
    let bits = |(p, id): (usize, &String)| {
        let of = |label: u8| {
            let both = set.patient.iter().zip(&set.labels);
            both.filter(|&(&of, &bit)| of == p && bit == label).count()
        };
        PatientBits {
            patient: id.clone(),
            healthy: of(0),
            diseased: of(1),
            unknown: 0,
        }
    };
    let labels = LabelRecord {
        source: plan.labels.words(),
        patients: set.ids.iter().enumerate().map(bits).collect(),
    };
    Ok((set, labels, Vec::new(), 0))
}

#[allow(
    clippy::needless_pass_by_value,
    clippy::too_many_arguments,
    reason = "a group belongs to its training, and every network's trainer shares it; the arguments are those of the public functions"
)]
fn train_with(
    group: Arc<dyn Group>,
    plan: &TrainPlan,
    set: Option<SliceSet>,
    folder: &Path,
    command: &str,
    device: &Device,
    stop: &StopFlag,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<TrainingRecord>> {
    let writes = group.rank() == 0;
    // All that can be told is told before the first patient is read. Processes that wait for each other end together.
    let together = group.as_ref();
    let checked = plan.check_for(group.size());
    agree(
        together,
        checked.and_then(|()| check_output(plan, folder, writes)),
    )?;
    let loaded = match set {
        Some(set) => given(plan, set),
        None => load(
            &plan.source,
            &plan.labels,
            &plan.sequences,
            &plan.preprocess,
            on_event,
        ),
    };
    let (set, labels, left_out, unreadable) = agree(together, loaded)?;
    let diseased = set.labels.iter().filter(|&&l| l == 1).count();
    let mut record = TrainingRecord {
        command: command.to_string(),
        plan: plan.clone(),
        patients: set.ids.clone(),
        left_out,
        unreadable,
        labels,
        healthy_slices: set.labels.len() - diseased,
        diseased_slices: diseased,
        classifier: StageRecord::default(),
        diffusion: StageRecord::default(),
        separate: BTreeMap::new(),
        student: None,
        memory_rows: 0,
        validation: None,
    };
    if record.healthy_slices < FEWEST_SLICES || diseased < FEWEST_SLICES {
        return Err(Error::Input {
            what: format!("slices for training, by {}", record.labels.source),
            expected: format!("at least {FEWEST_SLICES} healthy and {FEWEST_SLICES} diseased ones"),
            got: format!("{} healthy, {diseased} diseased", record.healthy_slices),
        });
    }
    let set = Arc::new(set);
    let validator = match &plan.validation {
        Some(validation) => {
            let loaded =
                Validator::load(validation, &plan.labels, &plan.sequences, &plan.preprocess);
            Some(agree(together, loaded)?)
        }
        None => None,
    };

    let mut trainer = ClassifierTrainer::new(
        &plan.classifier_training,
        &plan.classifier,
        set.clone(),
        plan.seed,
        device,
    )?
    .in_group(group.clone())?;
    let (ended, stage) = run_stage(
        &mut trainer,
        &run_folder(folder, Run::Classifier),
        stop,
        &mut |_, report, share| {
            on_event(TrainEvent::Classifier(report, share));
            Ok(())
        },
        None,
    )?;
    record.classifier = stage;
    if ended == Ended::Stopped {
        return Ok(None);
    }
    // The model's files. They stay here until the model is whole: an older model in the folder is replaced at one moment.
    let mut parts = BTreeMap::new();
    let classifier_weights = StateDict::new(trainer.ema_tensors()?);
    let weights = weight_bytes(classifier_weights.tensors())?;
    parts.insert(model_folder::CLASSIFIER.to_owned(), weights);
    let features = ClassifierFeatures {
        classifier: trainer.ema_network()?,
        blocks: plan.features.blocks.clone(),
        t: plan.features.model_time,
        weights: Some(classifier_weights.fingerprint()?),
    };
    drop(trainer);

    let built = made_by_the_first(together, stop, |stopped| {
        build_bank(plan, &set, &features, device, stopped, on_event)
    })?;
    drop(features);
    let Some(bytes) = built else { return Ok(None) };
    let bank = MemoryBank::from_bytes(&bytes)?;
    record.memory_rows = bank.len();
    parts.insert(model_folder::MEMORY.to_owned(), bytes);
    let contrast = match &plan.contrast {
        Some(config) => {
            let built = made_by_the_first(together, stop, |stopped| {
                build_contrast(config, &set, device, stopped)
            })?;
            let Some(bytes) = built else { return Ok(None) };
            let contrast = Contrast::from_bytes(&bytes)?;
            parts.insert(model_folder::CONTRAST.to_owned(), bytes);
            Some(contrast)
        }
        None => None,
    };

    let mut trainer = DiffusionTrainer::new(
        &plan.diffusion_training,
        &plan.unet,
        set.clone(),
        plan.seed,
        device,
    )?
    .in_group(group.clone())?;
    // Both hooks of the run below tell the caller.
    let on_event = RefCell::new(on_event);
    let mut validate = |trainer: &DiffusionTrainer| -> Result<Validation> {
        let Some(validator) = &validator else {
            return Ok(Validation::default());
        };
        let config = model_config(plan, &[]);
        let mut parts = Detector::builder(config)
            .device(device)
            .unet(StateDict::new(trainer.ema_tensors()?))
            .classifier(classifier_weights.clone())
            .bank(bank.clone());
        if let Some(contrast) = &contrast {
            parts = parts.contrast(contrast.clone());
        }
        let found = validator.score(trainer, &parts.build()?)?;
        let event = TrainEvent::Validation(trainer.iteration(), &found);
        (on_event.borrow_mut())(event);
        Ok(found)
    };
    let validate: &mut dyn FnMut(&DiffusionTrainer) -> Result<Validation> = &mut validate;
    let (ended, stage) = run_stage(
        &mut trainer,
        &run_folder(folder, Run::Diffusion),
        stop,
        &mut |trainer, report, share| {
            (on_event.borrow_mut())(TrainEvent::Diffusion(report, share));
            // A model that can already be tried, beside every checkpoint.
            if writes && report.iteration % CHECKPOINT_EVERY == 0 {
                let so_far = StageRecord {
                    iterations: report.iteration,
                    seconds: report.elapsed_s,
                    loss: Some(report.loss),
                };
                let record = TrainingRecord {
                    diffusion: so_far,
                    ..record.clone()
                };
                let weights = weight_bytes(&trainer.ema_tensors()?)?;
                parts.insert(model_folder::UNET.to_owned(), weights);
                write_model(folder, plan, &record, &mut parts)?;
            }
            Ok(())
        },
        plan.validation.as_ref().map(|v| (v.every, validate)),
    )?;
    record.diffusion = stage;
    let best = run_folder(folder, Run::Diffusion).join("best.safetensors");
    let weights = match &plan.validation {
        // The first process has written it.
        Some(_) if writes && best.exists() => {
            record.validation = Some(fndm_files::read_json(
                best.with_file_name("best.json"),
                "the best validation",
            )?);
            fndm_train::read_checkpoint_ema(&best, device)?
        }
        _ => trainer.ema_tensors()?,
    };
    drop(trainer);
    let on_event = on_event.into_inner();
    let written = if writes {
        parts.insert(model_folder::UNET.to_owned(), weight_bytes(&weights)?);
        write_model(folder, plan, &record, &mut parts)
    } else {
        Ok(())
    };
    agree(together, written)?;
    if ended == Ended::Stopped {
        return Ok(Some(record));
    }
    for (&method, own) in &plan.separate {
        let mut trainer =
            DiffusionTrainer::new(&own.training, &own.unet, set.clone(), plan.seed, device)?
                .in_group(group.clone())?;
        let folder_of_run = run_folder(folder, Run::Separate(method));
        let mut tell = |_: &DiffusionTrainer, report: &StepReport, share| {
            on_event(TrainEvent::Separate(method, report, share));
            Ok(())
        };
        let (ended, stage) = run_stage(&mut trainer, &folder_of_run, stop, &mut tell, None)?;
        if ended == Ended::Stopped {
            break;
        }
        record.separate.insert(method, stage);
        let written = if writes {
            let weights = weight_bytes(&trainer.ema_tensors()?)?;
            parts.insert(model_folder::separate(method), weights);
            write_model(folder, plan, &record, &mut parts)
        } else {
            Ok(())
        };
        agree(together, written)?;
    }
    let Some(student) = &plan.student else {
        return Ok(Some(record));
    };
    // A small network: one process trains it.
    let trained = if writes {
        let start = Instant::now();
        let runs = folder.join(RUNS);
        let place = TrainingPlace::new(&runs, device, stop);
        train_student(student, &set, place, |stage, report, share| {
            on_event(TrainEvent::Student(stage, report, share));
        })
        .and_then(|trained| {
            let Some(trained) = trained else {
                return Ok(());
            };
            record.student = Some(StudentRecord {
                command: command.to_owned(),
                plan: student.clone(),
                patients: record.patients.clone(),
                left_out: record.left_out.clone(),
                labels: record.labels.clone(),
                seconds: start.elapsed().as_secs_f64(),
            });
            let weights = weight_bytes(trained.weights.tensors())?;
            parts.insert(model_folder::STUDENT.to_owned(), weights);
            let mut write = |method| {
                let student = Some((trained.config.clone(), method));
                write_model_with(folder, plan, &record, student, &mut parts)
            };
            write(Method::Student)?;
            // Patients are examined by what the validation finds better; without one, by the student.
            let Some(validator) = &validator else {
                return Ok(());
            };
            let detector = Detector::load(folder, device)?;
            let of = |method| validator.score_of(&detector, method);
            let (own, whole) = (of(Method::Student)?, of(Method::Fndm)?);
            let words = |score: Option<f64>| score.map_or("none".into(), |s| format!("{s:.3}"));
            let best = if whole > own {
                Method::Fndm
            } else {
                Method::Student
            };
            on_event(TrainEvent::Note(format!(
                "validation: student {}, FNDM {}; patients are examined by {}",
                words(own),
                words(whole),
                best.title()
            )));
            if best == Method::Fndm {
                write(best)?;
            }
            Ok(())
        })
    } else {
        Ok(())
    };
    agree(together, trained)?;
    Ok(Some(record))
}

/// What a student is added to.
#[derive(Debug, Clone, PartialEq)]
pub enum StudentBase<'a> {
    /// The model in this folder: the student has its sequences and preprocessing, and stands beside its networks.
    Model(&'a Path),
    /// Nothing: the new model is the student alone.
    Nothing {
        /// The sequences, in the order of the images' channels.
        sequences: &'a [String],
        /// From volumes to slices.
        preprocess: &'a Preprocess,
    },
}

impl StudentBase<'_> {
    /// The config of the model, still without the student.
    ///
    /// # Errors
    /// When the folder has no model.
    pub fn config(&self) -> Result<ModelConfig> {
        Ok(match self {
            Self::Model(folder) => ModelConfig::read(&folder.join(model_folder::CONFIG))?,
            Self::Nothing {
                sequences,
                preprocess,
            } => ModelConfig::without_diffusion(sequences.to_vec(), (*preprocess).clone()),
        })
    }
}

/// Trains a student on patients with their bits, and writes a model with it into `folder`: that of a model's folder, which may be the
/// same, or one of the student alone. The student is the row by which the new model examines patients where none is asked for.
///
/// Checkpoints go to `folder/training`. Gives nothing where `stop` was set before the end.
///
/// # Errors
/// When there is no model where one should be, no patient can be used, a setting makes no sense, or a file can't be written.
#[allow(
    clippy::too_many_arguments,
    reason = "those of train_model, and the source and labels that stand in its plan"
)]
pub fn add_student(
    plan: &StudentPlan,
    source: &Source,
    labels: &LabelSource,
    base: &StudentBase<'_>,
    folder: &Path,
    command: &str,
    device: &Device,
    stop: &StopFlag,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<StudentRecord>> {
    let mut config = base.config()?;
    let (sequences, preprocess) = (&config.sequences, &config.preprocess);
    preprocess.check()?;
    plan.check(sequences.len(), preprocess.image_size)?;
    source.check()?;
    let (set, labels, left_out, _) = load(source, labels, sequences, preprocess, on_event)?;
    let start = Instant::now();
    let runs = folder.join(RUNS);
    let place = TrainingPlace::new(&runs, device, stop);
    let trained = train_student(plan, &set, place, |stage, report, share| {
        on_event(TrainEvent::Student(stage, report, share));
    })?;
    let Some(trained) = trained else {
        return Ok(None);
    };
    let record = StudentRecord {
        command: command.to_owned(),
        plan: plan.clone(),
        patients: set.ids.clone(),
        left_out,
        labels,
        seconds: start.elapsed().as_secs_f64(),
    };
    let mut parts = BTreeMap::new();
    for name in model_folder::names_of(&config) {
        if let StudentBase::Model(model) = base {
            let path = model_folder::file(model, &name)?;
            parts.insert(name, std::fs::read(&path).map_err(Error::io(&path))?);
        }
    }
    let weights = weight_bytes(trained.weights.tensors())?;
    parts.insert(model_folder::STUDENT.to_owned(), weights);
    let whole = match base {
        StudentBase::Model(model) => record_json(
            folder,
            &TrainingRecord {
                student: Some(record.clone()),
                ..TrainingRecord::read(model)?
            },
        ),
        StudentBase::Nothing { .. } => record_json(folder, &BTreeMap::from([("student", &record)])),
    };
    parts.insert(model_folder::TRAINING.to_owned(), whole?);
    with_student(&mut config, trained.config, Method::Student);
    model_folder::replace(folder, &config, &parts)?;
    Ok(Some(record))
}

/// The trainings of a plan.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Run {
    Classifier,
    Diffusion,
    Separate(Method),
}

/// Where the checkpoints of all trainings lie within a model folder.
pub(crate) const RUNS: &str = "training";

/// Where the checkpoints and logs of one training lie.
pub(crate) fn run_folder(folder: &Path, run: Run) -> PathBuf {
    let runs = folder.join(RUNS);
    match run {
        Run::Classifier => runs.join("classifier"),
        Run::Diffusion => runs.join("diffusion"),
        Run::Separate(method) => runs.join(format!("diffusion_{}", method.key())),
    }
}

/// The config of a model with these rows' own networks.
pub(crate) fn model_config(plan: &TrainPlan, rows: &[Method]) -> ModelConfig {
    let own = plan.separate.iter().filter(|(row, _)| rows.contains(row));
    let separate = own.map(|(&row, own)| {
        let own = SeparateModel {
            unet: own.unet.clone(),
            prediction: Some(own.training.prediction),
            from_image: own.training.from_image,
        };
        (row, own)
    });
    ModelConfig {
        format: ModelConfig::FORMAT,
        fndm_version: env!("CARGO_PKG_VERSION").to_string(),
        sequences: plan.sequences.clone(),
        preprocess: plan.preprocess.clone(),
        schedule: plan.diffusion_training.schedule.clone(),
        prediction: plan.diffusion_training.prediction,
        from_image: plan.diffusion_training.from_image,
        unet: Some(plan.unet.clone()),
        classifier: Some(plan.classifier.clone()),
        features: plan.features.clone(),
        contrast: plan.contrast.is_some(),
        student: None,
        method: Method::Fndm,
        detect: plan.detect.clone(),
        separate: separate.collect(),
    }
}

/// Puts the model that is made of `parts` into the folder, in one moment.
fn write_model(
    folder: &Path,
    plan: &TrainPlan,
    record: &TrainingRecord,
    parts: &mut BTreeMap<String, Vec<u8>>,
) -> Result<()> {
    write_model_with(folder, plan, record, None, parts)
}

fn write_model_with(
    folder: &Path,
    plan: &TrainPlan,
    record: &TrainingRecord,
    student: Option<(StudentConfig, Method)>,
    parts: &mut BTreeMap<String, Vec<u8>>,
) -> Result<()> {
    let rows: Vec<Method> = record.separate.keys().copied().collect();
    let mut config = model_config(plan, &rows);
    if let Some((student, method)) = student {
        with_student(&mut config, student, method);
    }
    let json = record_json(folder, record)?;
    parts.insert(model_folder::TRAINING.to_owned(), json);
    Ok(model_folder::replace(folder, &config, parts)?)
}

/// The settings of its row are written down: a default that changes one day changes no published model.
fn with_student(config: &mut ModelConfig, student: StudentConfig, method: Method) {
    (config.student, config.method) = (Some(student), method);
    let row = config.detect.entry(Method::Student);
    row.or_insert_with(DetectConfig::student);
}

fn record_json(folder: &Path, record: &impl Serialize) -> Result<Vec<u8>> {
    let path = folder.join(model_folder::TRAINING);
    serde_json::to_vec_pretty(record)
        .map_err(|e| fndm_files::Error::json(&path, "record of a training")(e).into())
}

fn load(
    source: &Source,
    labels: &LabelSource,
    sequences: &[String],
    preprocess: &Preprocess,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Loaded> {
    let labelling = labels.open(source)?;
    let patients = Patients {
        source,
        sequences,
        preprocess,
        truth: Truth::Bits(&labelling),
    };
    let mut all: Vec<PatientSlices> = Vec::new();
    let mut tell = |event: CohortEvent<'_>| {
        on_event(match event {
            CohortEvent::Note(id, note) => TrainEvent::Note(format!("{id}: {note}")),
            CohortEvent::LeftOut(LeftOut { patient, reason }) => {
                TrainEvent::Note(format!("left out {patient}: {reason}"))
            }
            CohortEvent::Done(done, total) => TrainEvent::Loaded(done, total),
        });
        ControlFlow::Continue(())
    };
    let cohort = patients.each(&mut tell, |read| -> Result<()> {
        all.push(read.slices);
        Ok(())
    })?;
    if all.is_empty() {
        return Err(Error::Input {
            what: "patients for training".into(),
            expected: "at least one that can be used".into(),
            got: format!("none of {}", source.ids().len()),
        });
    }
    let labels = LabelRecord {
        source: labels.words(),
        patients: cohort.bits,
    };
    let set = SliceSet::from_patients(all)?;
    Ok((set, labels, cohort.left_out, cohort.unreadable))
}

/// Iterations between validations, and what to do then.
type Validate<'a, T> = Option<(u64, &'a mut dyn FnMut(&Trainer<T>) -> Result<Validation>)>;

/// What to do after an iteration, by which so large a share of the budget is used.
type OnStep<'a, T> = &'a mut dyn FnMut(&Trainer<T>, &StepReport, f64) -> Result<()>;

fn run_stage<T: Task>(
    trainer: &mut Trainer<T>,
    folder: &Path,
    stop: &StopFlag,
    on_step: OnStep<'_, T>,
    validate: Validate<'_, T>,
) -> Result<(Ended, StageRecord)> {
    let mut config = RunConfig {
        folder: folder.to_path_buf(),
        checkpoint_every: CHECKPOINT_EVERY,
        keep: 2,
        events: true,
        curve: true,
        ..RunConfig::default()
    };
    let mut recent = VecDeque::with_capacity(RECENT);
    let progress = |trainer: &Trainer<T>, report: &StepReport| {
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(report.loss);
        on_step(trainer, report, trainer.budget_used())
    };
    let ended = match validate {
        Some((every, validate)) => {
            config.validate_every = every;
            fndm_train::run_validated(trainer, &config, stop, progress, validate)?
        }
        None => fndm_train::try_run(trainer, &config, stop, progress)?,
    };
    let record = StageRecord {
        iterations: trainer.iteration(),
        seconds: trainer.elapsed_s(),
        loss: (!recent.is_empty()).then(|| recent.iter().sum::<f64>() / recent.len() as f64),
    };
    Ok((ended, record))
}

/// The bytes of the memory bank; none where it was stopped.
fn build_bank(
    plan: &TrainPlan,
    set: &SliceSet,
    features: &ClassifierFeatures,
    device: &Device,
    stopped: &mut dyn FnMut() -> bool,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<Vec<u8>>> {
    let Shares { kept, apart, .. } = Shares::of(set);
    let mut on_progress = |progress| {
        on_event(TrainEvent::Memory(progress));
        go_on(stopped)
    };
    let (images, head) = pick(set, &kept, device)?;
    let built = MemoryBank::build(
        &plan.memory,
        features,
        &images,
        Some(head.view()),
        &mut on_progress,
    );
    let (images, head) = pick(set, &apart, device)?;
    let calibrated = built.and_then(|mut bank| {
        bank.calibrate(features, &images, head.view(), &mut on_progress)?;
        bank.to_bytes()
    });
    unless_stopped(calibrated)
}

fn go_on(stopped: &mut dyn FnMut() -> bool) -> ControlFlow<()> {
    match stopped() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

fn unless_stopped(built: fndm_memory::Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match built {
        Ok(bytes) => Ok(Some(bytes)),
        Err(fndm_memory::Error::Cancelled { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Which slices make a model of healthy tissue, and which calibrate it.
struct Shares {
    /// Healthy slices that are learned.
    kept: Vec<usize>,
    /// Healthy slices of other patients.
    apart: Vec<usize>,
    /// All slices of the patients that are learned from.
    learned: Vec<usize>,
}

impl Shares {
    fn of(set: &SliceSet) -> Self {
        let (apart, learned): (Vec<usize>, Vec<usize>) = (0..set.labels.len())
            .partition(|&i| set.patient[i] % CALIBRATION_SHARE == CALIBRATION_SHARE - 1);
        let healthy = |indices: &[usize]| -> Vec<usize> {
            let healthy = indices.iter().filter(|&&i| set.labels[i] == 0);
            healthy.copied().collect()
        };
        let (kept, apart) = (healthy(&learned), healthy(&apart));
        Self {
            // A handful of patients can't spare one: then the learned slices calibrate.
            apart: if apart.is_empty() {
                kept.clone()
            } else {
                apart
            },
            kept,
            learned,
        }
    }
}

fn pick(set: &SliceSet, indices: &[usize], device: &Device) -> Result<(Tensor, Array3<bool>)> {
    let images = set.images.select(Axis(0), indices);
    let head = set.head.select(Axis(0), indices);
    Ok((batch_tensor(&images.view(), device)?, head))
}

/// The bytes of the contrast; none where it was stopped.
fn build_contrast(
    config: &ContrastConfig,
    set: &SliceSet,
    device: &Device,
    stopped: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<u8>>> {
    let shares = Shares::of(set);
    let labels: Vec<u8> = shares.learned.iter().map(|&i| set.labels[i]).collect();
    let (images, _) = pick(set, &shares.learned, device)?;
    let mut on_progress = |_| go_on(stopped);
    let built = Contrast::build(config, &intensities, &images, &labels, &mut on_progress);
    let (images, head) = pick(set, &shares.apart, device)?;
    let calibrated = built.and_then(|mut contrast| {
        contrast.calibrate(&intensities, &images, head.view(), &mut on_progress)?;
        contrast.to_bytes()
    });
    unless_stopped(calibrated)
}
