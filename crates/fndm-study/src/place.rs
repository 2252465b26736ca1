use std::path::Path;

use candle_core::Device;
use fndm_train::StopFlag;

/// Where a training works, and what ends it: what every training takes beside its plan.
#[derive(Debug, Clone, Copy)]
pub struct TrainingPlace<'a> {
    /// The folder of the results. A training that was stopped goes on from the checkpoints there.
    pub folder: &'a Path,
    /// Where the networks compute.
    pub device: &'a Device,
    /// Ends the training once it is set.
    pub stop: &'a StopFlag,
}

impl<'a> TrainingPlace<'a> {
    /// All three.
    #[must_use]
    pub fn new(folder: &'a Path, device: &'a Device, stop: &'a StopFlag) -> Self {
        Self {
            folder,
            device,
            stop,
        }
    }
}
