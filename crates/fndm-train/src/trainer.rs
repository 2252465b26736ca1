use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::check;
use crate::{Error, EventWriter, JsonLines, RateSchedule, Result, StepReport, StopFlag};

/// A training run that can go one iteration on, be saved, and be resumed to the same bits.
pub trait Trainer {
    /// One iteration: forward and backward passes, optimiser, moving averages.
    ///
    /// # Errors
    /// [`Error::NonFinite`] by policy; [`Error::NoGradient`]; a failed tensor operation.
    fn step(&mut self) -> Result<StepReport>;

    /// Iterations made.
    fn iteration(&self) -> u64;

    /// Seconds since the first iteration, plus those of earlier sessions.
    fn elapsed_s(&self) -> f64;

    /// Whether the config's number of iterations or its time has been reached.
    fn finished(&self) -> bool;

    /// Iterations of the whole run, where the config says so.
    fn iterations(&self) -> Option<u64>;

    /// Saves everything into `folder` as `step-XXXXXXXX.safetensors`, and keeps the newest `keep` (at least 1) there.
    ///
    /// The file is complete or absent, whatever happens while it is written.
    ///
    /// # Errors
    /// When the folder can't be written, a full disk for one. Then the checkpoints that were there remain.
    fn checkpoint(&self, folder: &Path, keep: usize) -> Result<PathBuf>;

    /// Goes back to a checkpoint file, or to the newest one in a folder.
    ///
    /// # Errors
    /// [`Error::Changed`] when it was made with another config, network, seed or data. Only `iterations` (at a constant rate),
    /// `time_budget_s` and `prefetch` may differ. [`Error::Checkpoint`] when it can't be read; the trainer is then as before.
    fn resume(&mut self, path: &Path) -> Result<()>;
}

/// Settings that can't change the weights of a given iteration.
pub(crate) const MAY_CHANGE: &[&str] = &["config.time_budget_s", "config.prefetch"];

/// Adds the number of iterations, which only a cosine rate looks at.
pub(crate) fn may_change(always: &'static [&'static str], rate: RateSchedule) -> Vec<&'static str> {
    let mut names = always.to_vec();
    if rate == RateSchedule::Constant {
        names.push("config.iterations");
    }
    names
}

pub(crate) fn config_value(config: &impl Serialize) -> Result<Value> {
    serde_json::to_value(config).map_err(|e| Error::Config {
        field: "config",
        expected: "values that JSON can hold".to_owned(),
        got: e.to_string(),
    })
}

pub(crate) fn finished(
    trainer: &impl Trainer,
    iterations: Option<u64>,
    time_budget_s: Option<f64>,
) -> bool {
    iterations.is_some_and(|n| trainer.iteration() >= n)
        || time_budget_s.is_some_and(|s| trainer.elapsed_s() >= s)
}

/// Where and how often a run is saved and logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Folder of the checkpoints and of `log.jsonl`.
    pub folder: PathBuf,
    /// Iterations between checkpoints; the last state is always saved.
    pub checkpoint_every: u64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Iterations between lines of the log.
    pub log_every: u64,
    /// Whether the same is also written as `TensorBoard` event files.
    pub events: bool,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("run"),
            checkpoint_every: 500,
            keep: 2,
            log_every: 1,
            events: false,
        }
    }
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
/// A folder that holds checkpoints is resumed from the newest.
///
/// # Errors
/// Those of [`Trainer::step`], [`Trainer::checkpoint`] and [`Trainer::resume`].
pub fn run<T: Trainer>(
    trainer: &mut T,
    config: &RunConfig,
    stop: &StopFlag,
    mut progress: impl FnMut(&T, &StepReport),
) -> Result<Ended> {
    try_run(trainer, config, stop, |trainer, report| {
        progress(trainer, report);
        Ok::<(), Error>(())
    })
}

/// As [`run`], with a `progress` that may fail, by validating or saving a model, say: its first error ends the run.
///
/// # Errors
/// Those of [`run`], and `progress`'s own. The checkpoints made so far remain.
pub fn try_run<T: Trainer, E: From<Error>>(
    trainer: &mut T,
    config: &RunConfig,
    stop: &StopFlag,
    mut progress: impl FnMut(&T, &StepReport) -> Result<(), E>,
) -> Result<Ended, E> {
    check(
        config.checkpoint_every > 0,
        "checkpoint_every",
        "1 or more",
        0,
    )?;
    check(config.log_every > 0, "log_every", "1 or more", 0)?;
    let folder = &config.folder;
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    if !crate::list_checkpoints(folder)?.is_empty() {
        trainer.resume(folder)?;
    }
    let mut log = JsonLines::open(&folder.join("log.jsonl"), trainer.iteration())?;
    let mut events = match config.events {
        true => Some(EventWriter::open(folder, trainer.iteration())?),
        false => None,
    };
    let mut saved = trainer.iteration();
    let ended = loop {
        if trainer.finished() {
            break Ended::Finished;
        }
        if stop.is_set() {
            break Ended::Stopped;
        }
        let report = trainer.step()?;
        if report.iteration % config.log_every == 0 {
            log.write(&report)?;
            if let Some(events) = &mut events {
                events.scalars(report.iteration, &scalars(&report))?;
            }
        }
        progress(trainer, &report)?;
        if report.iteration % config.checkpoint_every == 0 {
            trainer.checkpoint(folder, config.keep)?;
            saved = report.iteration;
        }
    };
    if saved != trainer.iteration() {
        trainer.checkpoint(folder, config.keep)?;
    }
    Ok(ended)
}

fn scalars(report: &StepReport) -> Vec<(&'static str, f64)> {
    let mut values = vec![
        ("loss", report.loss),
        ("gradient_norm", report.gradient_norm),
        ("rate", report.rate),
        ("step_s", report.step_s),
        ("wait_s", report.wait_s),
    ];
    values.extend(report.accuracy.map(|accuracy| ("accuracy", accuracy)));
    values
}
