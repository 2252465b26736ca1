//! From patients to a model folder, stage by stage. What a stage gives, the next ones take.

mod add_student;
mod classifier;
mod coarse;
mod describe;
mod diffusion;
mod distill;
mod draft;
mod event;
mod load;
mod record;
mod run;
mod student;
mod told;
mod validation;

use std::sync::Arc;

use fndm::{Detector, Method, model_folder};
use fndm_data::SliceSet;
use fndm_train::{Alone, Ended, Group, agree, made_by_the_first};

pub use add_student::{StudentBase, add_student};
pub use describe::describe;
pub use distill::{Direction, DistillPlan, DistillRecord, distill};
pub use event::TrainEvent;
pub use record::{StageRecord, StudentRecord, TrainingRecord};
pub(crate) use run::{RUNS, Run, run_folder};
pub use validation::{ValidationPlan, ValidationRecord, ValidationScore};

use crate::plan_check::check_output;
use crate::{Error, Result, TrainPlan, TrainingPlace};
use classifier::ClassifierStage;
use coarse::CoarseStage;
use diffusion::{DiffusionStage, SeparateStage};
use draft::Draft;
use event::OnEvent;
use load::{given, load};
use student::{StudentTraining, better_row};
use validation::Validator;

/// Trains by `plan` and writes the model folder. Checkpoints, logs (`log.jsonl`, `TensorBoard` events) and loss curves go to
/// `training` in it; a run that was stopped goes on from the checkpoints when it is called again with the same plan. With a
/// validation in the plan, the model is the best state by it. Where the place's flag is set while the diffusion model trains, the
/// model so far is written. A model that was in the folder before is replaced at one moment, by a whole one.
///
/// The whole plan is checked first, and whether the folder can be written: nothing is read before that. `command`, the command line
/// as a rule, stands in the record.
///
/// # Errors
/// When no patient can be used, a setting makes no sense, or a file can't be written.
pub fn train_model(
    plan: &TrainPlan,
    place: TrainingPlace<'_>,
    command: &str,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<TrainingRecord>> {
    train_model_in(Arc::new(Alone), plan, place, command, on_event)
}

/// As [`train_model`], in one of several processes that train together. All call this alike; the first one writes.
///
/// # Errors
/// As [`train_model`], or when the processes don't agree.
pub fn train_model_in(
    group: Arc<dyn Group>,
    plan: &TrainPlan,
    place: TrainingPlace<'_>,
    command: &str,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<TrainingRecord>> {
    train(group, plan, None, place, command, on_event)
}

/// As [`train_model`], from slices of one's own. The plan's source is [`Source::Given`](crate::Source::Given) and its labels are
/// [`LabelSource::Given`](crate::LabelSource::Given); `preprocess` in it says what the model takes at detection.
///
/// # Errors
/// As [`train_model`], or when the slices aren't of the plan's size, sequences and patients.
pub fn train_slices(
    plan: &TrainPlan,
    set: SliceSet,
    place: TrainingPlace<'_>,
    command: &str,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<TrainingRecord>> {
    train(Arc::new(Alone), plan, Some(set), place, command, on_event)
}

/// What every stage of a training needs.
struct Training<'a> {
    plan: &'a TrainPlan,
    set: Arc<SliceSet>,
    group: Arc<dyn Group>,
    place: TrainingPlace<'a>,
}

impl Training<'_> {
    /// Whether this process is the one that writes.
    fn writes(&self) -> bool {
        self.group.rank() == 0
    }

    /// Lets the first process work, and fails in all where that fails.
    fn first_alone(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = match self.writes() {
            true => work(),
            false => Ok(()),
        };
        agree(self.group.as_ref(), done)
    }
}

fn train(
    group: Arc<dyn Group>,
    plan: &TrainPlan,
    set: Option<SliceSet>,
    place: TrainingPlace<'_>,
    command: &str,
    on_event: OnEvent<'_>,
) -> Result<Option<TrainingRecord>> {
    // All that can be told is told before the first patient is read. Processes that wait for each other end together.
    let together = group.as_ref();
    let checked = plan
        .check_for(group.size())
        .and_then(|()| check_output(plan, place.folder, group.rank() == 0));
    agree(together, checked)?;
    let loaded = match set {
        Some(set) => given(plan, set),
        None => {
            let (source, labels) = (&plan.source, &plan.labels);
            load(source, labels, &plan.sequences, &plan.preprocess, on_event)
        }
    };
    let loaded = agree(together, loaded)?;
    let record = TrainingRecord::begin(plan, command, &loaded)?;
    let validator = match &plan.validation {
        Some(validation) => {
            let loaded =
                Validator::load(validation, &plan.labels, &plan.sequences, &plan.preprocess);
            Some(agree(together, loaded)?)
        }
        None => None,
    };
    let statistics = told::statistics(&loaded.profiles, &plan.source)?;
    let training = Training {
        plan,
        set: Arc::new(loaded.set),
        group,
        place,
    };
    let mut draft = Draft::new(plan, place, record, statistics);

    let stage = ClassifierStage {
        training: &training,
    };
    let Some(classifier) = stage.run(on_event)? else {
        return Ok(None);
    };
    draft.record.classifier = classifier.record;
    draft.add_weights(model_folder::CLASSIFIER, classifier.weights.tensors())?;

    let stage = CoarseStage {
        training: &training,
        features: classifier.features,
    };
    let Some(coarse) = stage.run(on_event)? else {
        return Ok(None);
    };
    draft.record.memory_rows = coarse.bank.len();
    for (name, bytes) in coarse.files {
        draft.add(name, bytes);
    }

    let stage = DiffusionStage {
        training: &training,
        classifier: classifier.weights,
        bank: coarse.bank,
        contrast: coarse.contrast,
        validator: validator.as_ref(),
    };
    let unet = stage.run(&mut draft, on_event)?;
    (draft.record.diffusion, draft.record.validation) = (unet.record, unet.validation);
    training.first_alone(|| {
        draft.add_weights(model_folder::UNET, &unet.weights)?;
        draft.write()
    })?;
    if unet.ended == Ended::Stopped {
        return Ok(Some(draft.record));
    }

    for (&method, plan) in &plan.separate {
        let stage = SeparateStage {
            training: &training,
            method,
            plan,
        };
        let unet = stage.run(on_event)?;
        if unet.ended == Ended::Stopped {
            break;
        }
        draft.record.separate.insert(method, unet.record);
        training.first_alone(|| {
            draft.add_weights(&model_folder::separate(method), &unet.weights)?;
            draft.write()
        })?;
    }

    let Some(student) = &plan.student else {
        return Ok(Some(draft.record));
    };
    // A small network: one process trains it, and stops where any is told to.
    let made = made_by_the_first(training.group.as_ref(), place.stop, |stopped| {
        let mut on_event = |event: TrainEvent<'_>| {
            on_event(event);
            if stopped() {
                place.stop.stop();
            }
        };
        let stage = StudentTraining {
            plan: student,
            set: &training.set,
            labels: &loaded.labels,
            left_out: &loaded.left_out,
            command,
            place,
        };
        let Some((trained, record)) = stage.run(&mut on_event)? else {
            return Ok(None);
        };
        draft.record.student = Some(record);
        draft.add_weights(model_folder::STUDENT, trained.weights.tensors())?;
        draft.student = Some((trained.config.clone(), Method::Student));
        draft.write()?;
        // Patients are examined by what the validation finds better; without one, by the student.
        let Some(validator) = &validator else {
            return Ok(Some(Vec::new()));
        };
        let detector = Detector::load(place.folder, place.device)?;
        let better = better_row(validator, &detector, &mut on_event)?;
        if better != Method::Student {
            draft.student = Some((trained.config, better));
            draft.write()?;
        }
        Ok::<_, Error>(Some(Vec::new()))
    })?;
    if made.is_none() {
        place.stop.stop();
    }
    Ok(Some(draft.record))
}
