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

/// Adam, its rate, gradient clipping and moving averages.
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
    /// The gradient of all parameters together is scaled down to this Euclidean norm.
    pub clip: Option<f64>,
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
            clip: None,
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
        let decay = self.weight_decay;
        let no_growth = decay.is_finite() && decay >= 0.0;
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
            (no_growth, "optimizer.weight_decay", "0 or above", decay),
            (above_0(clip), "optimizer.clip", "a norm above 0", clip),
        ] {
            check(ok, field, range, value)?;
        }
        self.ema.check()?;
        if let RateSchedule::Cosine { final_share } = self.rate {
            check_share(final_share, "optimizer.rate.cosine.final_share")?;
        }
        Ok(())
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
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                self.lr * (final_share + (1.0 - final_share) * cosine)
            }
            _ => self.lr,
        }
    }
}
