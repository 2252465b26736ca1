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
    /// In proportion to the root mean square of the latest losses (Nichol and Dhariwal 2021, section 3.3), for the diffusion
    /// model alone. Each sample is weighted by the inverse of its timestep's probability, so the objective stays that of
    /// [`Uniform`](Self::Uniform); only its variance changes.
    LossAware {
        /// Ranges of timesteps of equal length that share their losses, 1 to T.
        ranges: usize,
        /// Latest losses kept of each range. Until every range has that many, timesteps are uniform.
        history: usize,
        /// Share of the timesteps that is drawn uniformly whatever the losses, above 0 to 1.
        uniform: f64,
        /// Iterations between changes of the distribution.
        refresh: u64,
    },
}

impl TimeSampling {
    /// Loss-aware sampling of 100 ranges with 10 losses each, 1 % uniform, refreshed every 100 iterations.
    pub const LOSS_AWARE: Self = Self::LossAware {
        ranges: 100,
        history: 10,
        uniform: 0.01,
        refresh: 100,
    };

    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Uniform => Ok(()),
            Self::Power { exponent } => check(
                exponent.is_finite() && exponent > 0.0,
                "times.power.exponent",
                "above 0",
                exponent,
            ),
            Self::LossAware {
                ranges,
                history,
                uniform,
                refresh,
            } => {
                let field = "times.loss_aware.ranges";
                check((1..=65_536).contains(&ranges), field, "1 to 65536", ranges)?;
                let field = "times.loss_aware.history";
                check(
                    (1..=65_536).contains(&history),
                    field,
                    "1 to 65536",
                    history,
                )?;
                let field = "times.loss_aware.uniform";
                let fits = uniform > 0.0 && uniform <= 1.0;
                check(fits, field, "above 0 to 1", uniform)?;
                let field = "times.loss_aware.refresh";
                check(refresh > 0, field, "1 or more", refresh)
            }
        }
    }

    /// A discrete timestep in `0..steps`; uniform where the distribution hangs on losses, none of which are known here.
    #[must_use]
    pub fn draw(self, rng: &mut impl Rng, steps: usize) -> usize {
        let u: f64 = rng.random();
        let u = match self {
            Self::Uniform | Self::LossAware { .. } => u,
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
    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(self) -> Result<()> {
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
