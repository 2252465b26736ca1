use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use fndm_data::SliceSet;
use fndm_memory::FeatureExtractor;
use fndm_models::Limits;
use fndm_train::{Ended, RunConfig, StopFlag, Task, Trainer};

use crate::{Baseline, Error, Result};

/// Features that several methods may share.
pub type Extractor = Arc<dyn FeatureExtractor + Send + Sync>;

/// How a method is fitted.
#[derive(Debug, Clone)]
pub struct Fit {
    /// All chance follows from it.
    pub seed: u64,
    /// Where it is computed.
    pub device: Device,
    /// Where a training keeps its checkpoints, from the newest of which it goes on; without it nothing is written.
    pub run: Option<RunConfig>,
    /// Ends a training early.
    pub stop: StopFlag,
}

impl Fit {
    /// On this device, writing nothing.
    #[must_use]
    pub fn new(seed: u64, device: &Device) -> Self {
        Self {
            seed,
            device: device.clone(),
            run: None,
            stop: StopFlag::default(),
        }
    }

    /// Keeps checkpoints.
    #[must_use]
    pub fn in_run(mut self, run: RunConfig) -> Self {
        self.run = Some(run);
        self
    }

    /// Runs a training to its end.
    pub(crate) fn train<T: Task>(&self, trainer: &mut Trainer<T>) -> Result<()> {
        if let Some(run) = &self.run {
            return match fndm_train::run(trainer, run, &self.stop, |_, _| {})? {
                Ended::Finished => Ok(()),
                Ended::Stopped => Err(Error::Stopped),
            };
        }
        while !trainer.finished() {
            if self.stop.is_set() {
                return Err(Error::Stopped);
            }
            trainer.step()?;
        }
        Ok(())
    }
}

/// A method with its settings, before it has seen a slice.
pub trait Method: std::fmt::Debug {
    /// The name that tables have it under.
    fn name(&self) -> &'static str;

    /// Fits the method to the healthy slices of a set; the diseased ones are not looked at.
    ///
    /// # Errors
    /// When no slice is healthy, a setting is out of its range, or the training fails or is stopped.
    fn fit(&self, slices: &SliceSet, fit: &Fit) -> Result<Box<dyn Baseline>>;

    /// Reads what [`Baseline::save`] of a method fitted to the same features wrote into `folder`.
    ///
    /// # Errors
    /// When there is no such file, it isn't whole or isn't of this method, or the features are others.
    fn load(&self, folder: &Path, limits: &Limits, device: &Device) -> Result<Box<dyn Baseline>>;
}
