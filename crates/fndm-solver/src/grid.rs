//! Where the times of a run lie between its ends.

use serde::{Deserialize, Serialize};

use crate::{Error, NoiseSchedule, Result};

/// How the times of a run are spread.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Grid {
    /// Evenly in t. The usual choice for large images.
    #[default]
    UniformTime,
    /// Evenly in t, moved to the nearest training times, so that a network sees only times that it was trained at.
    /// Sampling over `0..=1` these are the trailing steps of Lin et al. 2024. The span's ends stay as they are, and times
    /// that fall together are dropped.
    Trailing,
    /// Evenly in lambda.
    UniformLambda,
    /// Evenly in the square root of t: denser near the data.
    QuadraticTime,
    /// Evenly in (sigma / alpha)^(1 / rho) (Karras et al. 2022, eq. 5, where rho is 7).
    Karras {
        /// The exponent.
        rho: f64,
    },
    /// These times, rising or falling, whichever the direction of the run. Repeated times are dropped.
    /// Their ends must be the span's, and `steps` one less than their number.
    Explicit(Vec<f64>),
}

impl Grid {
    /// The Karras grid with its paper's exponent.
    #[must_use]
    pub fn karras() -> Self {
        Self::Karras { rho: 7.0 }
    }

    pub(crate) fn check(&self, steps: usize) -> Result<()> {
        match self {
            Self::UniformTime | Self::Trailing | Self::UniformLambda | Self::QuadraticTime => {
                Ok(())
            }
            Self::Karras { rho } => {
                if (1.0..=1000.0).contains(rho) {
                    Ok(())
                } else {
                    Err(Error::config("grid.rho", "1 to 1000", rho))
                }
            }
            Self::Explicit(times) => {
                if times.len() != steps + 1 {
                    return Err(Error::config(
                        "grid",
                        format!("{} explicit times for {steps} steps", steps + 1),
                        format!("{} times", times.len()),
                    ));
                }
                let rising = times.windows(2).all(|w| w[0] <= w[1]);
                let falling = times.windows(2).all(|w| w[0] >= w[1]);
                if rising || falling {
                    Ok(())
                } else {
                    Err(Error::config(
                        "grid",
                        "explicit times that only rise or only fall",
                        format!("{times:?}"),
                    ))
                }
            }
        }
    }

    /// `n + 1` times from `from` to `to`, both exactly included. Only explicit times take no heed of `n`.
    pub(crate) fn times(
        &self,
        schedule: &NoiseSchedule,
        from: f64,
        to: f64,
        n: usize,
    ) -> Result<Vec<f64>> {
        if from == to {
            return Ok(vec![from]);
        }
        if matches!(self, Self::UniformLambda | Self::Karras { .. }) {
            let (low, high) = (from.min(to), from.max(to));
            if low <= 0.0 {
                return Err(Error::span("a span above t = 0 for a grid in lambda", low));
            }
            if schedule.lambda(high) == f64::NEG_INFINITY {
                return Err(Error::span(
                    "a span that ends before pure noise for a grid in lambda",
                    high,
                ));
            }
        }
        let even = |a: f64, b: f64, back: &dyn Fn(f64) -> f64| -> Vec<f64> {
            let mut times: Vec<f64> = (0..=n)
                .map(|i| back(a + (b - a) * (i as f64 / n as f64)))
                .collect();
            times[0] = from;
            times[n] = to;
            times
        };
        let mut times = match self {
            Self::UniformTime => even(from, to, &|t| t),
            Self::Trailing => {
                let steps = schedule.steps() as f64;
                even(from, to, &|t| (t * steps).round_ties_even() / steps)
            }
            Self::QuadraticTime => even(from.sqrt(), to.sqrt(), &|r| r * r),
            Self::UniformLambda => even(schedule.lambda(from), schedule.lambda(to), &|l| {
                schedule.lambda_inverse(l)
            }),
            Self::Karras { rho } => {
                let root = |t: f64| (-schedule.lambda(t) / rho).exp();
                even(root(from), root(to), &|r| {
                    schedule.lambda_inverse(-rho * r.ln())
                })
            }
            Self::Explicit(times) => {
                let mut times = times.clone();
                if (times[0] <= times[times.len() - 1]) != (from <= to) {
                    times.reverse();
                }
                let near = |a: f64, b: f64| (a - b).abs() <= 1e-9;
                let (first, last) = (times[0], times[times.len() - 1]);
                if !near(first, from) || !near(last, to) {
                    return Err(Error::span(
                        format!("the ends of the explicit grid, {first} and {last}"),
                        format!("{from} and {to}"),
                    ));
                }
                let end = times.len() - 1;
                times[0] = from;
                times[end] = to;
                times
            }
        };
        // Rounding in the inverse of lambda must not turn a time around or lead outside the span.
        let (low, high) = (from.min(to), from.max(to));
        let mut last = from;
        for t in &mut times {
            *t = t.clamp(low, high);
            *t = if from <= to { t.max(last) } else { t.min(last) };
            last = *t;
        }
        times.dedup();
        Ok(times)
    }
}
