use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::check;

/// How the timestep of a training sample is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TimeSampling {
    /// Uniform in `0..T`, the paper's.
    #[default]
    Uniform,
    /// `T * u^exponent`, u uniform: an exponent below 1 leans to high noise, one above 1 to low noise.
    Power {
        /// Above 0.
        exponent: f64,
    },
}

impl TimeSampling {
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Uniform => Ok(()),
            Self::Power { exponent } => check(
                exponent.is_finite() && exponent > 0.0,
                "times.power.exponent",
                "above 0",
                exponent,
            ),
        }
    }

    /// A discrete timestep in `0..steps`.
    #[must_use]
    pub fn draw(self, rng: &mut impl Rng, steps: usize) -> usize {
        let u: f64 = rng.random();
        let u = match self {
            Self::Uniform => u,
            Self::Power { exponent } => u.powf(exponent),
        };
        ((u * steps as f64) as usize).min(steps.saturating_sub(1))
    }
}

/// The weight of a sample's squared error, by its noise level.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LossWeight {
    /// 1, the paper's omega.
    #[default]
    Uniform,
    /// Min-SNR (Hang et al. 2023, eq. 8 and its forms for noise and v): on the scale of `x0`, `min(SNR, gamma)`.
    MinSnr {
        /// Above 0; that paper's choice is 5.
        gamma: f64,
    },
}

impl LossWeight {
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Uniform => Ok(()),
            Self::MinSnr { gamma } => check(
                gamma.is_finite() && gamma > 0.0,
                "loss_weight.min_snr.gamma",
                "above 0",
                gamma,
            ),
        }
    }
}
