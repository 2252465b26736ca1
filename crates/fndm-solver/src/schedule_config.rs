//! Noise schedules as plain values that can be written to a file.

use serde::{Deserialize, Serialize};

use crate::{Error, NoiseSchedule, Result};

/// The number of training steps that the usual linear betas, 1e-4 to 0.02, were chosen for (Ho et al. 2020).
const REFERENCE_STEPS: f64 = 1000.0;

/// Upper bound of the betas of the scaled linear and the cosine schedules (Nichol and Dhariwal 2021).
const MAX_BETA: f64 = 0.999;

/// Which noise schedule a model was trained with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ScheduleConfig {
    /// Betas rise linearly (Ho et al. 2020).
    Linear {
        /// Number of training steps.
        steps: usize,
        /// First beta.
        beta_start: f64,
        /// Last beta.
        beta_end: f64,
    },
    /// The square roots of the betas rise linearly (latent diffusion).
    ScaledLinear {
        /// Number of training steps.
        steps: usize,
        /// First beta.
        beta_start: f64,
        /// Last beta.
        beta_end: f64,
    },
    /// alpha^2 follows a squared cosine (Nichol and Dhariwal 2021, eq. 17).
    Cosine {
        /// Number of training steps.
        steps: usize,
    },
    /// The betas themselves.
    Betas {
        /// One beta per training step, each in (0, 1), the last also 1; see [`NoiseSchedule::from_betas`].
        betas: Vec<f64>,
    },
    /// Beta rises linearly in continuous time (the VP-SDE of Song et al. 2021); the model takes t in [0, 1].
    ContinuousLinear {
        /// Beta at t = 0.
        beta_min: f64,
        /// Beta at t = 1.
        beta_max: f64,
        /// How finely training samples time; sets the smallest time, 1 / steps.
        steps: usize,
    },
    /// Another schedule, rescaled to end in pure noise (Lin et al. 2024); see [`NoiseSchedule::rescaled_to_zero_snr`].
    ZeroTerminalSnr {
        /// The schedule as it was, discrete and whole.
        schedule: Box<ScheduleConfig>,
    },
    /// Another schedule without its last, noisiest steps; see [`NoiseSchedule::clipped`].
    Clipped {
        /// The whole schedule.
        schedule: Box<ScheduleConfig>,
        /// Smallest lambda that is kept.
        lambda_min: f64,
    },
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::linear(1000)
    }
}

impl ScheduleConfig {
    /// Betas from 1e-4 to 0.02, scaled by 1000 / `steps` so that every number of steps ends in about the same noise,
    /// and never above 0.999 (guided-diffusion's choice).
    #[must_use]
    pub fn linear(steps: usize) -> Self {
        let scale = REFERENCE_STEPS / steps.max(1) as f64;
        Self::Linear {
            steps,
            beta_start: (scale * 1e-4).min(MAX_BETA),
            beta_end: (scale * 0.02).min(MAX_BETA),
        }
    }

    /// The cosine schedule.
    #[must_use]
    pub fn cosine(steps: usize) -> Self {
        Self::Cosine { steps }
    }

    /// This schedule without the steps whose lambda is below `lambda_min`; -5.1 is usual for cosine.
    #[must_use]
    pub fn clipped(self, lambda_min: f64) -> Self {
        Self::Clipped {
            schedule: Box::new(self),
            lambda_min,
        }
    }

    /// This schedule, rescaled to end in pure noise.
    #[must_use]
    pub fn zero_terminal_snr(self) -> Self {
        Self::ZeroTerminalSnr {
            schedule: Box::new(self),
        }
    }

    /// The schedule.
    ///
    /// # Errors
    /// When there are no steps, a beta is outside (0, 1), or alpha falls too low to compute with.
    pub fn build(&self) -> Result<NoiseSchedule> {
        match self {
            Self::Linear {
                steps,
                beta_start,
                beta_end,
            } => NoiseSchedule::from_betas(&spaced(*steps, *beta_start, *beta_end)?),
            Self::ScaledLinear {
                steps,
                beta_start,
                beta_end,
            } => {
                let mut betas = spaced(*steps, beta_start.sqrt(), beta_end.sqrt())?;
                for beta in &mut betas {
                    *beta *= *beta;
                }
                NoiseSchedule::from_betas(&betas)
            }
            Self::Cosine { steps } => NoiseSchedule::from_betas(&cosine_betas(*steps)?),
            Self::Betas { betas } => NoiseSchedule::from_betas(betas),
            Self::ContinuousLinear {
                beta_min,
                beta_max,
                steps,
            } => NoiseSchedule::continuous_linear(*beta_min, *beta_max, *steps),
            Self::ZeroTerminalSnr { schedule } => schedule.build()?.rescaled_to_zero_snr(),
            Self::Clipped {
                schedule,
                lambda_min,
            } => schedule.build()?.clipped(*lambda_min),
        }
    }
}

/// More training steps than this are taken for a mistake.
const MAX_STEPS: usize = 1_000_000;

fn check_steps(steps: usize) -> Result<()> {
    if steps == 0 || steps > MAX_STEPS {
        return Err(Error::schedule(
            "training steps",
            format!("1 to {MAX_STEPS}"),
            steps,
        ));
    }
    Ok(())
}

/// `n` values evenly from `first` to `last`.
fn spaced(n: usize, first: f64, last: f64) -> Result<Vec<f64>> {
    check_steps(n)?;
    let gaps = (n.max(2) - 1) as f64;
    Ok((0..n)
        .map(|i| first + (last - first) * (i as f64 / gaps))
        .collect())
}

/// `beta_i` = 1 - abar((i + 1) / T) / abar(i / T), at most 0.999, with abar(t) = cos^2((t + 0.008) / 1.008 pi / 2).
fn cosine_betas(steps: usize) -> Result<Vec<f64>> {
    check_steps(steps)?;
    let abar = |i: usize| {
        let t = i as f64 / steps as f64;
        ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
            .cos()
            .powi(2)
    };
    Ok((0..steps)
        .map(|i| (1.0 - abar(i + 1) / abar(i)).min(MAX_BETA))
        .collect())
}
