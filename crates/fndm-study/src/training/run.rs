//! The run of one network's training: where it lies, and what is recorded of it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use fndm::Method;
use fndm_train::{Ended, RunConfig, StepReport, StopFlag, Task, Trainer, Validation};

use super::record::StageRecord;
use crate::Result;

/// Iterations between checkpoints.
pub(super) const CHECKPOINT_EVERY: u64 = 500;

/// Iterations that the recorded loss is the mean of.
const RECENT: usize = 200;

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

/// A validation.
pub(super) struct Validate<'a, T: Task> {
    /// Iterations between two.
    pub(super) every: u64,
    /// See [`RunConfig::validated_by`].
    pub(super) by: String,
    /// What to do then.
    pub(super) validate: &'a mut dyn FnMut(&Trainer<T>) -> Result<Validation>,
}

/// What to do after an iteration, by which so large a share of the budget is used.
pub(super) type OnStep<'a, T> = &'a mut dyn FnMut(&Trainer<T>, &StepReport, f64) -> Result<()>;

/// Trains to the end or until `stop` is set, with checkpoints, logs and a loss curve in `folder`. The path is that of the best state by the
/// validation, where one was found.
pub(super) fn run_stage<T: Task>(
    trainer: &mut Trainer<T>,
    folder: &Path,
    stop: &StopFlag,
    on_step: OnStep<'_, T>,
    validate: Option<Validate<'_, T>>,
) -> Result<(Ended, StageRecord, Option<PathBuf>)> {
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
    let validates = validate.is_some();
    let ended = match validate {
        Some(validation) => {
            config.validate_every = validation.every;
            config.validated_by = Some(validation.by);
            fndm_train::run_validated(trainer, &config, stop, progress, validation.validate)?
        }
        None => fndm_train::try_run(trainer, &config, stop, progress)?,
    };
    if ended == Ended::Stopped {
        // Another process may have been told so, and this one not.
        stop.stop();
    }
    let record = StageRecord {
        iterations: trainer.iteration(),
        seconds: trainer.elapsed_s(),
        loss: (!recent.is_empty()).then(|| recent.iter().sum::<f64>() / recent.len() as f64),
    };
    let best = match validates && trainer.group().rank() == 0 {
        true => fndm_train::best_state(trainer, &config)?,
        false => None,
    };
    Ok((ended, record, best))
}
