//! A student: one evaluation a slice, taught from the bit of each slice.
//!
//! Two teachers that err differently look at the training slices: the [`Contrast`](fndm_memory::Contrast) of healthy and diseased
//! slices, by Gaussians that haven't seen the patient, and a remover of lesions, which was trained on healthy slices alone and
//! changes what it doesn't know from there. The masks of their geometric mean, and the healthy slices, which have none, teach a
//! small network. Patients held apart calibrate it, again by their bits.
//!
//! Small lesions that are bright where tissue isn't have another teacher: how far a pixel is above its slice's median
//! ([`StudentPlan::small_bright`]).

mod folds;
mod models;
mod plan;
pub(crate) mod teacher;

use std::sync::Arc;

use candle_core::{DType, Device};
use fndm::StudentConfig;
use fndm::student::weighted_product;
use fndm_data::SliceSet;
use fndm_models::{Segmenter, StateDict};
use fndm_train::{
    Ended, PixelTargets, RunConfig, SegmenterTask, SegmenterTrainer, StepReport, run,
};
use ndarray::{Array3, Axis};

pub use folds::{FoldCases, FoldMaps, FoldRow, examine_fold};
pub use models::ModelTeacher;
pub use plan::{CrossConfig, QuantileScope, StudentPlan, TeacherConfig};
pub use teacher::teach;

use crate::donors::donors_for;
use crate::{Error, Result, TrainingPlace};
use teacher::{product, ranks, targets, teachers, with_disputes};

/// A student as it comes out of its training: what [`fndm::DetectorBuilder::student`] takes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TrainedStudent {
    /// The network, and what its numbers mean.
    pub config: StudentConfig,
    /// Its weights.
    pub weights: StateDict,
    /// The remover of lesions, where it was one of its teachers.
    pub remover: Option<Segmenter>,
}

/// The trainings of a student, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StudentStage {
    /// The network that removes lesions.
    Remover,
    /// The student of the even patients, for the second round.
    Even,
    /// The student of the odd patients.
    Odd,
    /// The student itself.
    Student,
}

impl StudentStage {
    /// The name of the folder of its checkpoints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Remover => "remover",
            Self::Even => "even",
            Self::Odd => "odd",
            Self::Student => "student",
        }
    }
}

/// Trains the remover and the student on slices with their bits. Checkpoints go to `remover` and `student` in the place's folder; a
/// run that was stopped goes on from there. `progress` sees every iteration, and the share of the stage that is done.
///
/// Gives nothing where the place's flag was set before the end.
///
/// # Errors
/// When the plan doesn't fit the slices, a training fails, or the folder can't be written.
pub fn train_student(
    plan: &StudentPlan,
    set: &SliceSet,
    place: TrainingPlace<'_>,
    mut progress: impl FnMut(StudentStage, &StepReport, f64),
) -> Result<Option<TrainedStudent>> {
    set.check()?;
    let (_, sequences, size, _) = set.images.dim();
    plan.check_slices(sequences, size)?;
    let device = place.device;
    let (apart, learned) = plan.parts(set);
    let apart = set.select(&apart)?;
    let set = Arc::new(set.select(&learned)?);
    let remover = match plan.teacher.remover_power > 0. {
        true => {
            let trained = train_remover(plan, &set, place, &mut |report, share| {
                progress(StudentStage::Remover, report, share);
            })?;
            match trained {
                Some(remover) => Some(remover),
                None => return Ok(None),
            }
        }
        false => None,
    };
    let said = teachers(&plan.teacher, remover.as_ref(), &set, device)?;
    let mut maps = product(&said)?;

    let mut train = |stage: StudentStage, iterations, set: Arc<SliceSet>, targets| {
        let lesson = Lesson {
            name: stage.name(),
            iterations,
            targets,
            set,
        };
        lesson.train(plan, place, &mut |report, share| {
            progress(stage, report, share);
        })
    };
    if let Some(cross) = &plan.cross {
        let ranks = ranks(&set);
        let mut unseen = Array3::zeros(maps.dim());
        let halves = [StudentStage::Even, StudentStage::Odd];
        for (half, stage) in halves.into_iter().enumerate() {
            let (own, others): (Vec<usize>, Vec<usize>) =
                (0..set.len()).partition(|&n| ranks[n] % 2 == half);
            let part = Arc::new(set.select(&own)?);
            let targets = targets(&plan.teacher, &part, &maps.select(Axis(0), &own))?;
            let Some(trainer) = train(stage, Some(cross.iterations), part, targets)? else {
                return Ok(None);
            };
            let found = plan.probability(&trainer.ema_network()?, &set.select(&others)?, device)?;
            for (&n, map) in others.iter().zip(found.outer_iter()) {
                unseen.index_axis_mut(Axis(0), n).assign(&map);
            }
        }
        maps = weighted_product(&[(&maps, 1. - cross.power), (&unseen, cross.power)])?;
    }
    let iterations = plan.student_training.iterations;
    let agreed = targets(&plan.teacher, &set, &maps)?;
    let targets = with_disputes(&plan.teacher, &set, &said, agreed)?;
    let Some(trainer) = train(StudentStage::Student, iterations, set, targets)? else {
        return Ok(None);
    };
    let (config, weights) = calibrated(plan, &trainer, &apart, device)?;
    Ok(Some(TrainedStudent {
        config,
        weights,
        remover,
    }))
}

/// What a training tells after an iteration: its report, and the share of the training that is done.
type OnStep<'a> = &'a mut dyn FnMut(&StepReport, f64);

fn train_remover(
    plan: &StudentPlan,
    set: &Arc<SliceSet>,
    place: TrainingPlace<'_>,
    on_step: OnStep<'_>,
) -> Result<Option<Segmenter>> {
    let (training, network) = (&plan.remover_training, &plan.remover);
    let donors = donors_for(Some(&training.lesion), &plan.teacher, set, place.device)?;
    let task = SegmenterTask::remover_with(training, network, set.clone(), donors)?;
    let mut trainer = SegmenterTrainer::with_task(task, plan.seed, place.device)?;
    let name = StudentStage::Remover.name();
    Ok(match run_in(&mut trainer, place, name, on_step)? {
        Ended::Finished => Some(trainer.ema_network()?),
        Ended::Stopped => None,
    })
}

/// Slices, and what a network of the student's kind should say of them.
struct Lesson {
    /// The folder of the checkpoints.
    name: &'static str,
    /// Iterations, in place of the plan's.
    iterations: Option<u64>,
    set: Arc<SliceSet>,
    targets: PixelTargets,
}

impl Lesson {
    /// The trained network; nothing where it was stopped.
    fn train(
        self,
        plan: &StudentPlan,
        place: TrainingPlace<'_>,
        on_step: OnStep<'_>,
    ) -> Result<Option<SegmenterTrainer>> {
        let training = fndm_train::StudentConfig {
            iterations: self.iterations,
            ..plan.student_training.clone()
        };
        let lesion = training.shown.as_ref().map(|shown| &shown.lesion);
        let donors = donors_for(lesion, &plan.teacher, &self.set, place.device)?;
        let (network, targets) = (&plan.student, Arc::new(self.targets));
        let task = SegmenterTask::student_with(&training, network, self.set, targets, donors)?;
        let mut trainer = SegmenterTrainer::with_task(task, plan.seed, place.device)?;
        let ended = run_in(&mut trainer, place, self.name, on_step)?;
        Ok((ended == Ended::Finished).then_some(trainer))
    }
}

/// Runs a training with its checkpoints in a folder of this name.
fn run_in(
    trainer: &mut SegmenterTrainer,
    place: TrainingPlace<'_>,
    name: &str,
    on_step: OnStep<'_>,
) -> Result<Ended> {
    let config = RunConfig {
        folder: place.folder.join(name),
        ..RunConfig::default()
    };
    let whole = trainer.iterations().unwrap_or(1).max(1);
    Ok(run(trainer, &config, place.stop, |_, report| {
        on_step(report, report.iteration as f64 / whole as f64);
    })?)
}

/// What is added up last in a [`Segmenter`].
const LAST_BIAS: &str = "out.conv.bias";

/// A trained network as a student: its config, with a calibration by the slices that were held apart, and its weights.
fn calibrated(
    plan: &StudentPlan,
    trainer: &SegmenterTrainer,
    apart: &SliceSet,
    device: &Device,
) -> Result<(StudentConfig, StateDict)> {
    let mut tensors = trainer.ema_tensors()?;
    if plan.log_odds_shift != 0. {
        let bias = tensors.remove(LAST_BIAS).ok_or_else(|| Error::Input {
            what: "the student's weights".into(),
            expected: LAST_BIAS.into(),
            got: "none".into(),
        })?;
        let shifted = (bias + plan.log_odds_shift)?;
        tensors.insert(LAST_BIAS.into(), shifted);
    }
    let weights = StateDict::new(tensors);
    let network = Segmenter::from_state_dict(&plan.student, &weights, DType::F32, device)?;
    let config = StudentConfig {
        network: plan.student.clone(),
        mirror: plan.mirror,
        z_smoothing: plan.teacher.z_smoothing,
        calibration: plan.calibrate(&network, apart, device)?,
    };
    Ok((config, weights))
}
