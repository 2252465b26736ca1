//! Whole runs: checkpoints, logs, validation, a clean end.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::check;
use crate::group::{agree, any};
use crate::{
    Error, EventWriter, JsonLines, Result, StepReport, StopFlag, Task, TimeRange, Trainer,
    write_loss_curve,
};

/// Where and how often a run is saved, logged and validated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Folder of the checkpoints and logs.
    pub folder: PathBuf,
    /// Iterations between checkpoints; the last state is always saved.
    pub checkpoint_every: u64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Iterations between lines of `log.jsonl`.
    pub log_every: u64,
    /// Whether the same is also written as `TensorBoard` event files.
    pub events: bool,
    /// Whether the loss curve is drawn as `loss.png` and `loss.svg` with every checkpoint.
    pub curve: bool,
    /// Iterations between validations, for [`run_validated`].
    pub validate_every: u64,
    /// What the scores of validations are made by, in any words: a best state that other words stand beside isn't held against new ones,
    /// since their scores can't be compared.
    pub validated_by: Option<String>,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("run"),
            checkpoint_every: 500,
            keep: 2,
            log_every: 1,
            events: false,
            curve: false,
            validate_every: 1000,
            validated_by: None,
        }
    }
}

impl RunConfig {
    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        for (every, field) in [
            (self.checkpoint_every, "checkpoint_every"),
            (self.log_every, "log_every"),
            (self.validate_every, "validate_every"),
        ] {
            check(every > 0, field, "1 or more", every)?;
        }
        Ok(())
    }
}

/// What a validation found. Its line in `validation.jsonl` has the iteration too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// What the best checkpoint is chosen by, the higher the better: a Dice, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The loss by range of timesteps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<TimeRange>,
}

/// A validation and where it belongs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ValidationLine {
    /// Iterations made.
    pub iteration: u64,
    /// What was found.
    #[serde(flatten)]
    pub validation: Validation,
}

/// Why [`run`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The config's iterations or time are used up.
    Finished,
    /// The flag was set.
    Stopped,
}

/// Trains until the config's end or until `stop` is set, with checkpoints and a log; `progress` sees every iteration.
///
/// A folder that holds checkpoints is resumed from the newest. In a group every process calls this with the same config; the
/// first one writes, and all end where one is asked to.
///
/// # Errors
/// Those of [`Trainer::step`], [`Trainer::checkpoint`] and [`Trainer::resume`].
pub fn run<T: Task>(
    trainer: &mut Trainer<T>,
    config: &RunConfig,
    stop: &StopFlag,
    mut progress: impl FnMut(&Trainer<T>, &StepReport),
) -> Result<Ended> {
    try_run(trainer, config, stop, |trainer, report| {
        progress(trainer, report);
        Ok::<(), Error>(())
    })
}

/// As [`run`], with a `progress` that may fail, by saving a model, say: its first error ends the run.
///
/// # Errors
/// Those of [`run`], and `progress`'s own. The checkpoints made so far remain.
pub fn try_run<T: Task, E: From<Error>>(
    trainer: &mut Trainer<T>,
    config: &RunConfig,
    stop: &StopFlag,
    progress: impl FnMut(&Trainer<T>, &StepReport) -> Result<(), E>,
) -> Result<Ended, E> {
    session(trainer, config, stop, progress, None)
}

/// As [`try_run`], with a validation every `validate_every` iterations and after the last, in the first process of a group.
///
/// The results go to `validation.jsonl`, and the state with the highest score to `best.safetensors`, which
/// [`Trainer::resume`] and [`read_checkpoint_ema`](crate::read_checkpoint_ema) can read.
///
/// # Errors
/// Those of [`try_run`], and `validate`'s own.
pub fn run_validated<T: Task, E: From<Error>>(
    trainer: &mut Trainer<T>,
    config: &RunConfig,
    stop: &StopFlag,
    progress: impl FnMut(&Trainer<T>, &StepReport) -> Result<(), E>,
    mut validate: impl FnMut(&Trainer<T>) -> Result<Validation, E>,
) -> Result<Ended, E> {
    session(trainer, config, stop, progress, Some(&mut validate))
}

type Validate<'a, T, E> = &'a mut dyn FnMut(&Trainer<T>) -> Result<Validation, E>;

fn session<T: Task, E: From<Error>>(
    trainer: &mut Trainer<T>,
    config: &RunConfig,
    stop: &StopFlag,
    mut progress: impl FnMut(&Trainer<T>, &StepReport) -> Result<(), E>,
    mut validate: Option<Validate<'_, T, E>>,
) -> Result<Ended, E> {
    config.check()?;
    let group = trainer.group().clone();
    let group = group.as_ref();
    let folder = &config.folder;
    agree(group, begin(trainer, folder))?;
    // Only the first process writes.
    let opened = match group.rank() {
        0 => Logs::open(config, trainer, validate.is_some()).map(Some),
        _ => Ok(None),
    };
    let mut logs = agree(group, opened)?;
    let begun = trainer.iteration();
    let mut saved = begun;
    let mut validated = None;
    let ended = loop {
        if any(group, trainer.finished())? {
            // The time may have run out after the last iteration, or nothing that was there before counts.
            let none = logs.as_ref().is_some_and(|logs| logs.best.is_none());
            let now = trainer.iteration();
            let due = any(group, validated != Some(now) && (now != begun || none))?;
            if let (Some(validate), true) = (&mut validate, due) {
                validate_now(trainer, config, &mut logs, validate)?;
            }
            break Ended::Finished;
        }
        if any(group, stop.is_set())? {
            break Ended::Stopped;
        }
        // Asked before: an iteration that failed may count as made or not.
        let iteration = trainer.iteration() + 1;
        let report = match trainer.step() {
            Ok(report) => report,
            Err(error) => {
                if let Some(logs) = &mut logs {
                    // The step's own error is the one to tell.
                    let _ = logs.failed(iteration, &error);
                }
                return Err(error.into());
            }
        };
        let told = match &mut logs {
            Some(logs) => logs.step(config, &report),
            None => Ok(()),
        };
        agree(group, told)?;
        agree(group, progress(trainer, &report))?;
        let last = any(group, trainer.finished())?;
        if let Some(validate) = &mut validate
            && (last || report.iteration.is_multiple_of(config.validate_every))
        {
            validate_now(trainer, config, &mut logs, validate)?;
            validated = Some(report.iteration);
        }
        if report.iteration.is_multiple_of(config.checkpoint_every) {
            trainer.checkpoint(folder, config.keep)?;
            saved = report.iteration;
            agree(group, draw(logs.is_some(), config))?;
        }
    };
    if saved != trainer.iteration() {
        trainer.checkpoint(folder, config.keep)?;
        agree(group, draw(logs.is_some(), config))?;
    }
    Ok(ended)
}

/// Validates the state as it is, and keeps it where it is the best so far.
fn validate_now<T: Task, E: From<Error>>(
    trainer: &Trainer<T>,
    config: &RunConfig,
    logs: &mut Option<Logs>,
    validate: &mut Validate<'_, T, E>,
) -> Result<(), E> {
    let (group, iteration) = (trainer.group().as_ref(), trainer.iteration());
    let better = match logs {
        Some(logs) => validate(trainer).and_then(|found| Ok(logs.validation(iteration, found)?)),
        None => Ok(None),
    };
    let better = agree(group, better)?;
    if any(group, better.is_some())? {
        trainer.save(&config.folder.join(BEST))?;
    }
    if let (Some(logs), Some(score)) = (logs, better) {
        logs.best(&config.folder, iteration, score)?;
    }
    Ok(())
}

/// The best state of a validated run.
const BEST: &str = "best.safetensors";

/// The best state so far of the run that `trainer` is in, with its score's entry: one that the same training came by, at this iteration or
/// before, by a validation that this one's scores can be compared with. A state of another run that was in the folder before is none.
fn best_of<T: Task>(trainer: &Trainer<T>, config: &RunConfig) -> Result<Option<Best>> {
    let Some(best) = read_best(&config.folder.join("best.json"))? else {
        return Ok(None);
    };
    let (iteration, score) = (best.iteration, best.score);
    let (before, now) = (&best.validated_by, &config.validated_by);
    let reason = if !(before.is_none() || now.is_none() || before == now) {
        "another validation than before".to_owned()
    } else if iteration > trainer.iteration() {
        format!("the run is at iteration {}", trainer.iteration())
    } else {
        match trainer.fitting(&config.folder.join(BEST)) {
            Ok(state) if state.iteration == iteration => return Ok(Some(best)),
            Ok(state) => format!("its state is of iteration {}", state.iteration),
            Err(error) => fndm_files::chain(&error),
        }
    };
    tracing::warn!(iteration, score, reason, "a best state that doesn't count");
    Ok(None)
}

/// Where the best state so far lies, of the run that `trainer` is in: [`run_validated`] has written it, and
/// [`read_checkpoint_ema`](crate::read_checkpoint_ema) reads it. `None` where there is none yet, or one of another run or another validation.
///
/// # Errors
/// When `best.json` can't be read.
pub fn best_state<T: Task>(trainer: &Trainer<T>, config: &RunConfig) -> Result<Option<PathBuf>> {
    Ok(best_of(trainer, config)?.map(|_| config.folder.join(BEST)))
}

fn begin<T: Task>(trainer: &mut Trainer<T>, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    if crate::list_checkpoints(folder)?.is_empty() {
        return Ok(());
    }
    trainer.resume(folder)
}

fn draw(writes: bool, config: &RunConfig) -> Result<()> {
    let folder = &config.folder;
    if !(config.curve && writes) {
        return Ok(());
    }
    for name in ["loss.png", "loss.svg"] {
        match write_loss_curve(&folder.join("log.jsonl"), &folder.join(name)) {
            // A log of no or few lines is no reason to end a run.
            Err(Error::Data { .. }) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The files that tell of a run.
struct Logs {
    log: JsonLines,
    validation: Option<JsonLines>,
    events: Option<EventWriter>,
    best: Option<f64>,
    validated_by: Option<String>,
}

/// Contents of `best.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Best {
    iteration: u64,
    score: f64,
    /// See [`RunConfig::validated_by`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    validated_by: Option<String>,
}

impl Logs {
    fn open<T: Task>(config: &RunConfig, trainer: &Trainer<T>, validated: bool) -> Result<Self> {
        let (folder, iteration) = (&config.folder, trainer.iteration());
        let open = |name: &str| JsonLines::open(&folder.join(name), iteration);
        let events = || EventWriter::open(folder, iteration);
        let best = match validated {
            true => best_of(trainer, config)?,
            false => None,
        };
        Ok(Self {
            log: open("log.jsonl")?,
            validation: validated.then(|| open("validation.jsonl")).transpose()?,
            events: config.events.then(events).transpose()?,
            best: best.map(|best| best.score),
            validated_by: config.validated_by.clone(),
        })
    }

    fn step(&mut self, config: &RunConfig, report: &StepReport) -> Result<()> {
        // What was skipped is always told.
        if !report.iteration.is_multiple_of(config.log_every) && !report.skipped {
            return Ok(());
        }
        self.log.write(report)?;
        match &mut self.events {
            Some(events) => events.scalars(report.iteration, &scalars(report)),
            None => Ok(()),
        }
    }

    fn failed(&mut self, iteration: u64, error: &Error) -> Result<()> {
        let line = serde_json::json!({ "iteration": iteration, "error": fndm_files::chain(error) });
        self.log.write(&line)
    }

    /// The score, where it is the best so far.
    fn validation(&mut self, iteration: u64, found: Validation) -> Result<Option<f64>> {
        let score = found.score.filter(|score| score.is_finite());
        if let Some(events) = &mut self.events {
            let mut values: Vec<(String, f64)> = Vec::new();
            values.extend(score.map(|score| ("validation/score".to_owned(), score)));
            for range in &found.ranges {
                let name = format!("validation/loss_{:04}", range.from);
                values.push((name, range.loss));
            }
            let named: Vec<(&str, f64)> = values.iter().map(|(n, v)| (n.as_str(), *v)).collect();
            events.scalars(iteration, &named)?;
        }
        if let Some(log) = &mut self.validation {
            log.write(&ValidationLine {
                iteration,
                validation: found,
            })?;
        }
        Ok(score.filter(|&score| self.best.is_none_or(|best| score > best)))
    }

    /// After the checkpoint: a process that is killed in between validates again.
    fn best(&mut self, folder: &Path, iteration: u64, score: f64) -> Result<()> {
        let path = folder.join("best.json");
        let best = Best {
            iteration,
            score,
            validated_by: self.validated_by.clone(),
        };
        fndm_files::write_json(&path, &best)?;
        self.best = Some(score);
        tracing::info!(iteration, score, "best state so far");
        Ok(())
    }
}

fn read_best(path: &Path) -> Result<Option<Best>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::checkpoint(path, e.to_string()))
}

fn scalars(report: &StepReport) -> Vec<(&'static str, f64)> {
    let mut values = vec![
        ("loss", report.loss),
        ("gradient_norm", report.gradient_norm),
        ("rate", report.rate),
        ("step_s", report.step_s),
        ("wait_s", report.wait_s),
        ("optimizer_s", report.optimizer_s),
    ];
    values.extend(report.accuracy.map(|accuracy| ("accuracy", accuracy)));
    values
}
