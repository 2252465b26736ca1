use fndm_data::corrupt::PseudoLesion;
use serde::{Deserialize, Serialize};

use super::PixelAugmentation;
use crate::error::check;
use crate::{EmaConfig, OptimizerConfig, RateSchedule, Result};

/// How an image is compared with what it should be, pixel by pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageLoss {
    /// Absolute difference.
    L1,
    /// Squared difference.
    #[default]
    L2,
}

/// Training of a lesion remover on healthy slices.
///
/// Every slice has a pseudo-lesion, in all that the network sees: it is never shown that what it sees may be right, nor
/// told where or how strong the change is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoverConfig {
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
    /// What is put in to be taken out.
    pub lesion: PseudoLesion,
    /// The loss.
    pub loss: ImageLoss,
    /// Weight of a pixel outside of the head, where one inside has 1.
    pub background_weight: f64,
    /// What a pixel well inside a pseudo-lesion weighs more.
    pub region_weight: f64,
    /// Augmentation, before the pseudo-lesion.
    pub augmentation: PixelAugmentation,
    /// Batches prepared ahead.
    pub prefetch: usize,
}

impl Default for RemoverConfig {
    fn default() -> Self {
        Self {
            batch: 12,
            accumulation: 1,
            iterations: None,
            time_budget_s: None,
            optimizer: optimizer(0.01, 0.99),
            lesion: PseudoLesion::default(),
            loss: ImageLoss::L2,
            background_weight: 0.05,
            region_weight: 0.0,
            augmentation: PixelAugmentation {
                gamma: 0.2,
                ..PixelAugmentation::FLIP
            },
            prefetch: 4,
        }
    }
}

/// For a few thousand iterations. A cosine needs the number of iterations, so that the rate is constant unless it is asked for.
pub(super) fn optimizer(weight_decay: f64, decay: f64) -> OptimizerConfig {
    OptimizerConfig {
        lr: 1e-3,
        warm_up: 100,
        rate: RateSchedule::Constant,
        weight_decay,
        clip: Some(1.0),
        ema: EmaConfig {
            decays: vec![decay],
            warm_up: true,
        },
        ..OptimizerConfig::default()
    }
}

impl RemoverConfig {
    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        self.loop_config().check()?;
        self.lesion.check()?;
        for (weight, field) in [
            (self.background_weight, "background_weight"),
            (self.region_weight, "region_weight"),
        ] {
            check((0.0..=1e4).contains(&weight), field, "0 to 10000", weight)?;
        }
        self.augmentation.check()
    }
}
