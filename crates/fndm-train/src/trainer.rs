use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Group, Result, StepReport};

/// A training run that can go one iteration on, be saved, and be resumed to the same bits.
pub trait Trainer {
    /// One iteration: forward and backward passes, optimiser, moving averages.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) by policy; [`Error::NoGradient`](crate::Error::NoGradient); a failed
    /// tensor operation. The weights are then as they were.
    fn step(&mut self) -> Result<StepReport>;

    /// Iterations made.
    fn iteration(&self) -> u64;

    /// Seconds since the first iteration, plus those of earlier sessions.
    fn elapsed_s(&self) -> f64;

    /// Whether the config's number of iterations or its time has been reached.
    fn finished(&self) -> bool;

    /// Iterations of the whole run, where the config says so.
    fn iterations(&self) -> Option<u64>;

    /// The processes that train together: [`Alone`](crate::Alone) where there is one.
    fn group(&self) -> &Arc<dyn Group>;

    /// Saves everything into `folder` as `step-XXXXXXXX.safetensors`, and keeps the newest `keep` (at least 1) there.
    ///
    /// The file is complete or absent, whatever happens while it is written. In a group all processes call this, and the
    /// first one writes.
    ///
    /// # Errors
    /// When the folder can't be written, a full disk for one. Then the checkpoints that were there remain.
    fn checkpoint(&self, folder: &Path, keep: usize) -> Result<PathBuf>;

    /// Saves everything under a name of its own, as [`checkpoint`](Self::checkpoint) does.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    fn save(&self, path: &Path) -> Result<()>;

    /// Goes back to a checkpoint file, or to the newest one in a folder.
    ///
    /// # Errors
    /// [`Error::Changed`](crate::Error::Changed) or [`Error::Patients`](crate::Error::Patients) when it was made with another
    /// config, network, seed or data. Only `iterations` (at a constant rate), `time_budget_s`, `prefetch` and
    /// `optimizer.non_finite` may differ. [`Error::Checkpoint`](crate::Error::Checkpoint) when it can't be read. The trainer is
    /// then as before.
    fn resume(&mut self, path: &Path) -> Result<()>;
}
