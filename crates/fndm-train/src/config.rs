use std::path::Path;

use fndm_data::corrupt::{CorruptionMix, Donors, PseudoLesion};
use fndm_data::freeform::MaskMix;
use fndm_models::{ClassifierConfig, UNetConfig};
use fndm_solver::{Prediction, ScheduleConfig};
use serde::{Deserialize, Serialize};

use crate::classifier::check_fits;
use crate::diffusion::{check_image, check_labels, conditions};
use crate::error::{check, check_share};
use crate::{
    Augmentation, CoarseJitter, LossWeight, OptimizerConfig, RateSchedule, Result, TimeSampling,
    check_resume,
};

/// How often a sample is trained with its conditions withheld, that is, all zeros.
///
/// One network then serves every row of the paper's ablation: all conditions (CG + NM + MB), no coarse map (CG + NM), and neither (CG).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConditionDropout {
    /// Probability that the conditioning image and the coarse map are both withheld.
    pub image_and_coarse: f64,
    /// Probability that the coarse map alone is withheld.
    pub coarse: f64,
    /// Whether the image stays corrupted where the coarse map alone is withheld. If not, such a sample is one of the
    /// uncorrupted: the network then takes an empty coarse map to mean that all of the image is to be trusted.
    pub corrupt_without_coarse: bool,
}

impl Default for ConditionDropout {
    fn default() -> Self {
        Self {
            image_and_coarse: 0.15,
            coarse: 0.1,
            corrupt_without_coarse: false,
        }
    }
}

impl ConditionDropout {
    /// Conditions are always given.
    pub const NONE: Self = Self {
        image_and_coarse: 0.0,
        coarse: 0.0,
        corrupt_without_coarse: false,
    };

    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        check_share(self.image_and_coarse, "condition_dropout.image_and_coarse")?;
        check_share(self.coarse, "condition_dropout.coarse")?;
        check_share(
            self.image_and_coarse + self.coarse,
            "condition_dropout.image_and_coarse + condition_dropout.coarse",
        )
    }
}

/// The arithmetic of forward and backward passes. Weights, optimiser and averages are in f32 whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Compute {
    /// 32 bits.
    #[default]
    F32,
    /// bf16, with norms, embeddings, softmax and loss in f32. Half the memory, and faster on GPUs that have it. CPUs compute
    /// on weights and activations rounded to bf16, which is slower than f32: for tests.
    Bf16,
}

impl Compute {
    pub(crate) fn dtype(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::Bf16 => candle_core::DType::BF16,
        }
    }
}

/// Training of the diffusion model by objective (5) of the paper.
///
/// The default is for short trainings on a CPU. [`DiffusionConfig::paper`] has the paper's constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionConfig {
    /// Noise schedule.
    pub schedule: ScheduleConfig,
    /// What the network predicts; the loss is on that. The paper predicts the noise, v is better at high noise after short training.
    pub prediction: Prediction,
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
    /// Timesteps.
    pub times: TimeSampling,
    /// Weight of a sample by its timestep.
    pub loss_weight: LossWeight,
    /// Weight of the pixels inside the corrupted region, relative to 1 outside.
    pub region_weight: f64,
    /// Conditions withheld at random.
    pub condition_dropout: ConditionDropout,
    /// Probability that the label is withheld. Needs a network with one class more than there are labels: the last one means "no label".
    pub label_dropout: f64,
    /// The regions to corrupt.
    pub masks: MaskMix,
    /// What is done to the conditioning image in them.
    pub corruption: CorruptionMix,
    /// Pseudo-lesions in the place of `masks` and `corruption`. What they cover by half or more is the region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lesion: Option<PseudoLesion>,
    /// Whether the state too is made of the corrupted image, while the target stays the clean one. The network then learns to
    /// trust neither; so what both show at test is no proof that it belongs there. It takes a network that predicts `x_0`:
    /// noise and v would have to make up for the lesion, and grow without bound at low noise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub corrupt_state: bool,
    /// Whether the network gives the change from the conditioning image to `x_0`, in place of `x_0` itself. To leave healthy tissue
    /// alone is then to give nothing. It takes a network that predicts `x_0` and always sees the image.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub from_image: bool,
    /// Share of the samples that have an empty mask and an uncorrupted conditioning image.
    pub empty_mask: f64,
    /// How the coarse map differs from the corrupted region.
    pub jitter: CoarseJitter,
    /// Augmentation.
    pub augmentation: Augmentation,
    /// Share of diseased slices in what is drawn; none means that every slice comes equally often.
    pub diseased_share: Option<f64>,
    /// Gradient checkpointing: activations inside a block are dropped and computed again in the backward pass. Memory of the
    /// blocks' outputs instead of all activations, for more time.
    pub recompute: bool,
    /// The arithmetic of forward and backward passes.
    pub compute: Compute,
    /// Batches prepared ahead.
    pub prefetch: usize,
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleConfig::default(),
            prediction: Prediction::V,
            batch: 8,
            accumulation: 1,
            iterations: None,
            time_budget_s: None,
            optimizer: OptimizerConfig {
                lr: 3e-4,
                warm_up: 100,
                clip: Some(1.0),
                ema: crate::EmaConfig {
                    decays: vec![0.999],
                    warm_up: true,
                },
                ..OptimizerConfig::default()
            },
            times: TimeSampling::Uniform,
            loss_weight: LossWeight::Uniform,
            region_weight: 1.0,
            condition_dropout: ConditionDropout::default(),
            label_dropout: 0.0,
            masks: MaskMix::default(),
            corruption: CorruptionMix::default(),
            lesion: None,
            corrupt_state: false,
            from_image: false,
            empty_mask: 0.2,
            jitter: CoarseJitter::default(),
            augmentation: Augmentation::default(),
            diseased_share: Some(0.5),
            recompute: false,
            compute: Compute::F32,
            prefetch: 4,
        }
    }
}

impl DiffusionConfig {
    /// The paper's constants: noise prediction, Adam at 1e-4, batch 3, 130,000 iterations, conditions never withheld.
    #[must_use]
    pub fn paper() -> Self {
        Self {
            prediction: Prediction::Noise,
            batch: 3,
            iterations: Some(130_000),
            optimizer: OptimizerConfig::default(),
            condition_dropout: ConditionDropout::NONE,
            empty_mask: 0.0,
            jitter: CoarseJitter::NONE,
            augmentation: Augmentation::NONE,
            diseased_share: None,
            ..Self::default()
        }
    }

    /// Lesions are to be removed: healthy slices alone, each with a pseudo-lesion in all that the network sees, the clean slice
    /// its target every time. §2 of the paper has it so ("a health image x0 is transformed into a diseased image").
    ///
    /// Best with a network that isn't shown x_seg (of 2C input channels): one that is relies on it, and leaves alone what it misses.
    /// With lesions pasted from diseased slices 1200 iterations; with drawn ones alone 800, for a longer training learns what these are
    /// told by, and leaves real ones alone (docs/experiments.md).
    #[must_use]
    pub fn removing(lesion: PseudoLesion) -> Self {
        Self {
            prediction: Prediction::X0,
            iterations: Some(1200),
            optimizer: OptimizerConfig {
                lr: 1e-3,
                warm_up: 100,
                weight_decay: 0.01,
                clip: Some(1.0),
                ema: crate::EmaConfig {
                    decays: vec![0.99],
                    warm_up: true,
                },
                ..OptimizerConfig::default()
            },
            lesion: Some(lesion),
            corrupt_state: true,
            from_image: true,
            empty_mask: 0.0,
            diseased_share: Some(0.0),
            condition_dropout: ConditionDropout::NONE,
            augmentation: Augmentation {
                gamma: 0.2,
                ..Augmentation::default()
            },
            ..Self::default()
        }
    }

    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        self.loop_config().check()?;
        check_diseased_share(self.diseased_share)?;
        check(
            self.prediction != Prediction::Score,
            "prediction",
            "noise, x0 or v: the score grows without bound at low noise",
            self.prediction,
        )?;
        self.times.check()?;
        self.loss_weight.check()?;
        check(
            self.region_weight.is_finite() && self.region_weight > 0.0,
            "region_weight",
            "above 0",
            self.region_weight,
        )?;
        self.condition_dropout.check()?;
        check_share(self.label_dropout, "label_dropout")?;
        check_share(self.empty_mask, "empty_mask")?;
        self.masks.check()?;
        self.corruption.check()?;
        if let Some(lesion) = &self.lesion {
            lesion.check()?;
        }
        check(
            !(self.corrupt_state || self.from_image) || self.prediction == Prediction::X0,
            "prediction",
            "x0 where the state is corrupted, or the image is what the output is added to",
            self.prediction,
        )?;
        check(
            !self.from_image || self.condition_dropout.image_and_coarse == 0.0,
            "condition_dropout.image_and_coarse",
            "0 where the output is added to the image",
            self.condition_dropout.image_and_coarse,
        )?;
        self.jitter.check()?;
        self.augmentation.check()
    }

    /// Whether there are lesions to paste where some are to be, of slices of this shape (C, H, W).
    pub(crate) fn check_donors(&self, donors: Option<&Donors>, shape: [usize; 3]) -> Result<()> {
        match &self.lesion {
            Some(lesion) => Ok(lesion.check_donors(donors, shape)?),
            None => Ok(()),
        }
    }

    /// Whether a training by this config can begin: the config itself, its noise schedule, and whether `model` is a network for
    /// slices of so many channels. Nothing is read and no network is built.
    ///
    /// # Errors
    /// The first thing that doesn't fit.
    pub fn check_model(&self, model: &UNetConfig, channels: usize) -> Result<()> {
        self.check()?;
        self.schedule.build()?;
        model.check()?;
        check_image(self, conditions(model, channels)?)?;
        check_labels(self, model)
    }

    /// Whether a run of these settings can go on from the newest checkpoint in `folder`, slices apart. A folder that isn't there
    /// or has no checkpoints is a new run.
    ///
    /// # Errors
    /// As [`Trainer::resume`](crate::Trainer::resume).
    pub fn check_resume(&self, model: &UNetConfig, seed: u64, folder: &Path) -> Result<()> {
        check_resume(folder, "diffusion", self, model, seed)
    }
}

/// Training of the classifier: cross entropy on noised slices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierTrainConfig {
    /// Noise schedule: the diffusion model's.
    pub schedule: ScheduleConfig,
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
    /// Timesteps. A lean to low noise makes the features at low noise better, which a memory bank can use.
    pub times: TimeSampling,
    /// Share of the wanted probability that is spread over both labels (label smoothing), 0 to below 1.
    pub label_smoothing: f64,
    /// Augmentation.
    pub augmentation: Augmentation,
    /// Share of diseased slices in what is drawn; none means that every slice comes equally often.
    pub diseased_share: Option<f64>,
    /// Gradient checkpointing: activations inside a block are dropped and computed again in the backward pass. Memory of the
    /// blocks' outputs instead of all activations, for more time.
    pub recompute: bool,
    /// The arithmetic of forward and backward passes.
    pub compute: Compute,
    /// Batches prepared ahead.
    pub prefetch: usize,
}

impl Default for ClassifierTrainConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleConfig::default(),
            batch: 10,
            accumulation: 1,
            iterations: None,
            time_budget_s: None,
            optimizer: OptimizerConfig {
                lr: 3e-4,
                warm_up: 100,
                weight_decay: 0.05,
                clip: Some(1.0),
                ema: crate::EmaConfig {
                    decays: vec![0.999],
                    warm_up: true,
                },
                ..OptimizerConfig::default()
            },
            times: TimeSampling::Uniform,
            label_smoothing: 0.0,
            augmentation: Augmentation {
                gamma: 0.1,
                gain: 0.1,
                ..Augmentation::default()
            },
            diseased_share: Some(0.5),
            recompute: false,
            compute: Compute::F32,
            prefetch: 4,
        }
    }
}

impl ClassifierTrainConfig {
    /// The paper's constants: Adam at 1e-4, batch 10, 150,000 iterations.
    #[must_use]
    pub fn paper() -> Self {
        Self {
            iterations: Some(150_000),
            optimizer: OptimizerConfig::default(),
            augmentation: Augmentation::NONE,
            diseased_share: None,
            ..Self::default()
        }
    }

    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        self.loop_config().check()?;
        check_diseased_share(self.diseased_share)?;
        self.times.check()?;
        check(
            !matches!(self.times, TimeSampling::LossAware { .. }),
            "times",
            "uniform or power: the classifier's loss has no weights that would undo the sampling",
            self.times,
        )?;
        check(
            (0.0..1.0).contains(&self.label_smoothing),
            "label_smoothing",
            "0 to below 1",
            self.label_smoothing,
        )?;
        self.augmentation.check()
    }

    /// As [`DiffusionConfig::check_model`].
    ///
    /// # Errors
    /// The first thing that doesn't fit.
    pub fn check_model(&self, model: &ClassifierConfig, channels: usize) -> Result<()> {
        self.check()?;
        self.schedule.build()?;
        model.check()?;
        check_fits(model, channels)
    }

    /// As [`DiffusionConfig::check_resume`].
    ///
    /// # Errors
    /// As [`Trainer::resume`](crate::Trainer::resume).
    pub fn check_resume(&self, model: &ClassifierConfig, seed: u64, folder: &Path) -> Result<()> {
        check_resume(folder, "classifier", self, model, seed)
    }
}

/// What every trainer needs of its task's config, whatever is trained.
///
/// A config of one's own may hold it with `#[serde(flatten)]`, so that checkpoints have its fields where resuming looks for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoopConfig {
    /// Samples per forward pass, of all processes together.
    pub batch: usize,
    /// Forward passes per optimiser step.
    pub accumulation: usize,
    /// Iterations (optimiser steps) of the whole run.
    pub iterations: Option<u64>,
    /// Seconds of the whole run, resumed sessions added up.
    pub time_budget_s: Option<f64>,
    /// Optimiser.
    pub optimizer: OptimizerConfig,
    /// Batches prepared ahead.
    pub prefetch: usize,
}

impl Default for LoopConfig {
    fn default() -> Self {
        Self {
            batch: 8,
            accumulation: 1,
            iterations: None,
            time_budget_s: None,
            optimizer: OptimizerConfig::default(),
            prefetch: 4,
        }
    }
}

impl LoopConfig {
    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        for (value, most, field, range) in [
            (self.batch, 65_536, "batch", "1 to 65536"),
            (self.accumulation, 65_536, "accumulation", "1 to 65536"),
            (self.prefetch, 1024, "prefetch", "1 to 1024"),
        ] {
            check((1..=most).contains(&value), field, range, value)?;
        }
        if let Some(budget) = self.time_budget_s {
            check(budget > 0.0, "time_budget_s", "seconds above 0", budget)?;
        }
        // A run of none would give the random weights that it begins with.
        check(
            self.iterations != Some(0),
            "iterations",
            "1 or more, or none",
            self.iterations.unwrap_or_default(),
        )?;
        self.optimizer.check()?;
        let cosine = matches!(self.optimizer.rate, RateSchedule::Cosine { .. });
        check(
            !cosine || self.iterations.is_some(),
            "iterations",
            "a number, which a cosine rate needs",
            self.iterations,
        )
    }
}

/// The loop's settings of configs that hold them as fields of their own.
macro_rules! loop_config {
    ($($config:ty),*) => {$(
        impl $config {
            /// A whole run of so many iterations, with a rate that falls to nothing at its end.
            #[must_use]
            pub fn of(iterations: u64) -> Self {
                let mut config = Self {
                    iterations: Some(iterations),
                    ..Self::default()
                };
                config.optimizer.rate = $crate::RateSchedule::Cosine { final_share: 0.0 };
                config
            }

            /// What the trainer itself needs of these settings.
            #[must_use]
            pub fn loop_config(&self) -> $crate::LoopConfig {
                $crate::LoopConfig {
                    batch: self.batch,
                    accumulation: self.accumulation,
                    iterations: self.iterations,
                    time_budget_s: self.time_budget_s,
                    optimizer: self.optimizer.clone(),
                    prefetch: self.prefetch,
                }
            }
        }
    )*};
}

loop_config!(
    DiffusionConfig,
    ClassifierTrainConfig,
    crate::RemoverConfig,
    crate::StudentConfig
);

pub(crate) fn check_diseased_share(share: Option<f64>) -> Result<()> {
    share.map_or(Ok(()), |share| check_share(share, "diseased_share"))
}
