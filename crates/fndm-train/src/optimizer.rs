use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::{check, check_share};

/// How the learning rate goes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RateSchedule {
    /// Stays at `lr`.
    #[default]
    Constant,
    /// Half a cosine from `lr` at the end of the warm-up to `final_share * lr` at the last iteration. Needs `iterations`.
    Cosine {
        /// What is left of the rate at the end, 0 to 1.
        final_share: f64,
    },
    /// Half a cosine that falls once an epoch, from `lr` in epoch 0 to `final_share * lr` after the last. In the first
    /// `warm_epochs` the rate grows linearly instead, with every batch, from `warm_from * lr` to what the cosine has after them
    /// (as Gudovskiy et al. 2022 train). Goes without `warm_up`.
    EpochCosine {
        /// Epochs of the whole run.
        epochs: u64,
        /// Epochs of the linear beginning.
        warm_epochs: u64,
        /// Share of the rate that the linear beginning starts with, 0 to 1.
        warm_from: f64,
        /// What is left of the rate after the last epoch, 0 to 1.
        final_share: f64,
        /// Batches in an epoch.
        batches: u64,
        /// Iterations that are made of one batch.
        steps: u64,
    },
}

/// How a gradient moves a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum UpdateRule {
    /// Adam (Kingma and Ba 2015).
    #[default]
    Adam,
    /// Adam with the largest second moment so far (Reddi et al. 2018).
    AmsGrad,
    /// Gradient descent.
    Sgd {
        /// What is kept of the last step's direction, 0 to below 1.
        momentum: f64,
    },
}

impl UpdateRule {
    /// The names in checkpoints of what is remembered of a parameter.
    pub(crate) fn running(self) -> &'static [&'static str] {
        match self {
            Self::Adam => &["adam.first/", "adam.second/"],
            Self::AmsGrad => &["adam.first/", "adam.second/", "adam.largest/"],
            Self::Sgd { momentum } => match momentum {
                0.0 => &[],
                _ => &["sgd.momentum/"],
            },
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Exponential moving averages of the parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmaConfig {
    /// One average per decay; the first is the one that `ema_tensors` gives.
    pub decays: Vec<f64>,
    /// Whether the decay of update n (from 0) is at most `(1 + n) / (10 + n)`, so that the first random weights are soon forgotten.
    pub warm_up: bool,
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self {
            decays: vec![0.9999],
            warm_up: true,
        }
    }
}

impl EmaConfig {
    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        check(
            !self.decays.is_empty(),
            "optimizer.ema.decays",
            "one decay or more",
            "none",
        )?;
        for (i, decay) in self.decays.iter().enumerate() {
            check(
                (0.0..1.0).contains(decay) && !self.decays[..i].contains(decay),
                "optimizer.ema.decays",
                "different decays, each 0 to below 1",
                decay,
            )?;
        }
        Ok(())
    }

    /// The decay of update `n`, counted from 0.
    #[must_use]
    pub fn decay(&self, decay: f64, n: u64) -> f64 {
        if !self.warm_up {
            return decay;
        }
        let n = n as f64;
        decay.min((1.0 + n) / (10.0 + n))
    }
}

/// What to do when a loss or a gradient is infinite or not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NonFinite {
    /// End with an error that names the iteration and the batch.
    #[default]
    Stop,
    /// Leave the weights as they are and go on, but end when it happens more than `at_most` times in a row.
    Skip {
        /// Most iterations in a row.
        at_most: u32,
    },
}

/// The optimiser, its rate, gradient clipping and moving averages.
///
/// The default is the paper's: Adam, 1e-4, constant, no clipping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// The rate grows linearly over so many iterations.
    pub warm_up: u64,
    /// The rate after that.
    pub rate: RateSchedule,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: above 0 this is `AdamW` (Loshchilov and Hutter 2019).
    pub weight_decay: f64,
    /// Coupled weight decay: so many times the parameter is added to its gradient, after clipping. What `PyTorch`'s `Adam` and
    /// `SGD` call weight decay.
    #[serde(skip_serializing_if = "is_default")]
    pub l2: f64,
    /// How a gradient moves a parameter.
    #[serde(skip_serializing_if = "is_default")]
    pub rule: UpdateRule,
    /// Whether a loss may leave parameters without a gradient. They then stay as they are, whatever they did before; otherwise that
    /// is an error.
    #[serde(skip_serializing_if = "is_false")]
    pub absent_gradients: bool,
    /// The gradient of all parameters together is scaled down to this Euclidean norm.
    pub clip: Option<f64>,
    /// Added to the norm that is compared with `clip`, as `PyTorch` does with 1e-6.
    #[serde(skip_serializing_if = "is_default")]
    pub clip_eps: f64,
    /// Moving averages.
    pub ema: EmaConfig,
    /// What to do about a loss that isn't finite.
    pub non_finite: NonFinite,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            lr: 1e-4,
            warm_up: 0,
            rate: RateSchedule::Constant,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            l2: 0.0,
            rule: UpdateRule::Adam,
            absent_gradients: false,
            clip: None,
            clip_eps: 0.0,
            ema: EmaConfig::default(),
            non_finite: NonFinite::Stop,
        }
    }
}

impl OptimizerConfig {
    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        let above_0 = |x: f64| x.is_finite() && x > 0.0;
        let below_1 = |x: &f64| (0.0..1.0).contains(x);
        let clip = self.clip.unwrap_or(1.0);
        let from_0 = |x: f64| x.is_finite() && x >= 0.0;
        let (decay, l2, clip_eps) = (self.weight_decay, self.l2, self.clip_eps);
        let momentum = match self.rule {
            UpdateRule::Sgd { momentum } => momentum,
            UpdateRule::Adam | UpdateRule::AmsGrad => 0.0,
        };
        for (ok, field, range, value) in [
            (above_0(self.lr), "optimizer.lr", "a rate above 0", self.lr),
            (
                below_1(&self.beta1),
                "optimizer.beta1",
                "0 to below 1",
                self.beta1,
            ),
            (
                below_1(&self.beta2),
                "optimizer.beta2",
                "0 to below 1",
                self.beta2,
            ),
            (above_0(self.eps), "optimizer.eps", "above 0", self.eps),
            (from_0(decay), "optimizer.weight_decay", "0 or above", decay),
            (from_0(l2), "optimizer.l2", "0 or above", l2),
            (
                below_1(&momentum),
                "optimizer.rule.sgd.momentum",
                "0 to below 1",
                momentum,
            ),
            (above_0(clip), "optimizer.clip", "a norm above 0", clip),
            (
                from_0(clip_eps),
                "optimizer.clip_eps",
                "0 or above",
                clip_eps,
            ),
        ] {
            check(ok, field, range, value)?;
        }
        self.ema.check()?;
        match self.rate {
            RateSchedule::Constant => Ok(()),
            RateSchedule::Cosine { final_share } => {
                check_share(final_share, "optimizer.rate.cosine.final_share")
            }
            RateSchedule::EpochCosine {
                epochs,
                warm_epochs,
                warm_from,
                final_share,
                batches,
                steps,
            } => {
                check_share(final_share, "optimizer.rate.epoch_cosine.final_share")?;
                check_share(warm_from, "optimizer.rate.epoch_cosine.warm_from")?;
                check(
                    warm_epochs <= epochs,
                    "optimizer.rate.epoch_cosine.warm_epochs",
                    &format!("at most the {epochs} epochs"),
                    warm_epochs,
                )?;
                check(
                    epochs > 0 && batches > 0 && steps > 0,
                    "optimizer.rate.epoch_cosine",
                    "1 or more epochs, batches and steps",
                    format!("{epochs}, {batches} and {steps}"),
                )?;
                check(
                    self.warm_up == 0,
                    "optimizer.warm_up",
                    "0, for the rate has a warm-up of its own",
                    self.warm_up,
                )
            }
        }
    }

    /// What the gradients are multiplied by where all together have this norm.
    pub(crate) fn clip_scale(&self, norm: f64) -> f64 {
        match self.clip {
            Some(clip) => (clip / (norm + self.clip_eps)).min(1.0),
            None => 1.0,
        }
    }

    /// The learning rate of iteration `i`, counted from 0, of a run of `iterations`.
    #[must_use]
    pub fn rate_at(&self, i: u64, iterations: Option<u64>) -> f64 {
        if i < self.warm_up {
            return self.lr * (i + 1) as f64 / self.warm_up as f64;
        }
        match (self.rate, iterations) {
            (RateSchedule::Cosine { final_share }, Some(n)) => {
                let length = n.saturating_sub(self.warm_up).max(1) as f64;
                let progress = ((i - self.warm_up) as f64 / length).min(1.0);
                self.lr * half_cosine(final_share, progress)
            }
            (
                RateSchedule::EpochCosine {
                    epochs,
                    warm_epochs,
                    warm_from,
                    final_share,
                    batches,
                    steps,
                },
                _,
            ) => {
                let batch = i / steps.max(1);
                let epoch = batch / batches.max(1);
                let cosine =
                    |epoch: u64| half_cosine(final_share, (epoch as f64 / epochs as f64).min(1.0));
                let share = if epoch < warm_epochs {
                    let progress = batch as f64 / (warm_epochs * batches) as f64;
                    warm_from + progress * (cosine(warm_epochs) - warm_from)
                } else {
                    cosine(epoch)
                };
                self.lr * share
            }
            (RateSchedule::Constant | RateSchedule::Cosine { .. }, _) => self.lr,
        }
    }
}

/// Half a cosine from 1 to `end` over a progress of 0 to 1.
fn half_cosine(end: f64, progress: f64) -> f64 {
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
    end + (1.0 - end) * cosine
}
