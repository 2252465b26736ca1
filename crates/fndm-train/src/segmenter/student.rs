use serde::{Deserialize, Serialize};

use super::remover::optimizer;
use super::{PixelAugmentation, ShownLesions};
use crate::config::check_diseased_share;
use crate::error::check;
use crate::{OptimizerConfig, Result};

/// Training of a student on a teacher's masks: cross entropy and soft Dice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StudentConfig {
    /// Slices per forward pass, of all processes together.
    pub batch: usize,
    /// Forward passes per optimiser step.
    pub accumulation: usize,
    /// Iterations (optimiser steps) of the whole run.
    pub iterations: Option<u64>,
    /// Seconds of the whole run, resumed sessions added up.
    pub time_budget_s: Option<f64>,
    /// Optimiser.
    pub optimizer: OptimizerConfig,
    /// Weight of 1 less the soft Dice of a slice, beside its mean cross entropy.
    pub dice_weight: f64,
    /// Augmentation of slices, neighbours and targets.
    pub augmentation: PixelAugmentation,
    /// Pseudo-lesions in healthy slices; none to leave these as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shown: Option<ShownLesions>,
    /// Side in pixels of the square that is cut out of each slice drawn, from around a pixel of the target in every second diseased slice and
    /// from anywhere in the others; none for whole slices. The network has to take squares of this side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<usize>,
    /// Share of diseased slices in what is drawn; none means that every slice comes equally often.
    pub diseased_share: Option<f64>,
    /// Batches prepared ahead.
    pub prefetch: usize,
}

impl Default for StudentConfig {
    fn default() -> Self {
        Self {
            batch: 16,
            accumulation: 1,
            iterations: None,
            time_budget_s: None,
            optimizer: optimizer(1e-3, 0.995),
            dice_weight: 0.5,
            augmentation: PixelAugmentation::default(),
            shown: None,
            patch: None,
            diseased_share: Some(0.625),
            prefetch: 4,
        }
    }
}

impl StudentConfig {
    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        self.loop_config().check()?;
        check_diseased_share(self.diseased_share)?;
        let weight = self.dice_weight;
        check(
            (0.0..=1e4).contains(&weight),
            "dice_weight",
            "0 to 10000",
            weight,
        )?;
        self.shown.as_ref().map_or(Ok(()), ShownLesions::check)?;
        let patch = self.patch.unwrap_or(1);
        check(patch > 0, "patch", "1 or more", patch)?;
        self.augmentation.check()
    }
}
