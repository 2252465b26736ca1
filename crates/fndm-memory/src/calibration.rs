use serde::{Deserialize, Serialize};

use crate::coarse_config::CoarseConfig;
use crate::smooth::{Edge, Smoothing};
use crate::{Error, Result};

/// The distribution of the smoothed scores of healthy pixels: thresholds for any quantile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Probabilities, ascending from 0 to 1, dense towards 1.
    pub probabilities: Vec<f64>,
    /// The score at each probability.
    pub scores: Vec<f32>,
    /// Number of pixels.
    pub pixels: u64,
    /// Number of slices.
    pub slices: usize,
    /// The smoothing of the maps.
    pub smoothing: Smoothing,
    /// What the smoothing saw beyond the image.
    pub edge: Edge,
    /// By how many pixels the head was eroded.
    pub head_erosion: usize,
}

impl Calibration {
    /// From all values of healthy pixels; the config's quantile becomes a knot, so that its threshold is exact.
    pub(crate) fn new(mut values: Vec<f32>, slices: usize, config: &CoarseConfig) -> Result<Self> {
        if values.is_empty() {
            return Err(Error::Empty {
                what: "the set of healthy head pixels",
            });
        }
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::non_finite("healthy scores", None));
        }
        values.sort_unstable_by(f32::total_cmp);
        let mut probabilities: Vec<f64> = (0..=990).map(|i| f64::from(i) / 1000.0).collect();
        probabilities.extend((9901..=10_000).map(|i| f64::from(i) / 10_000.0));
        probabilities.push(config.quantile);
        probabilities.sort_unstable_by(f64::total_cmp);
        probabilities.dedup();
        let last = values.len() - 1;
        let scores = probabilities
            .iter()
            .map(|p| {
                let at = p * last as f64;
                let low = (at as usize).min(last);
                let (a, b) = (
                    f64::from(values[low]),
                    f64::from(values[(low + 1).min(last)]),
                );
                (a + (at - low as f64) * (b - a)) as f32
            })
            .collect();
        Ok(Self {
            probabilities,
            scores,
            pixels: values.len() as u64,
            slices,
            smoothing: config.smoothing,
            edge: config.edge,
            head_erosion: config.head_erosion,
        })
    }

    /// The score below which this part of the healthy pixels lies, interpolated linearly between the kept ones.
    ///
    /// # Errors
    /// When the quantile isn't within [0, 1].
    pub fn threshold(&self, quantile: f64) -> Result<f32> {
        let wrong = || {
            Error::config(
                "coarse.quantile",
                format!("expected 0 to 1, got {quantile}"),
            )
        };
        if !(0.0..=1.0).contains(&quantile) {
            return Err(wrong());
        }
        let next = self.probabilities.partition_point(|p| *p < quantile);
        let point = |i: usize| Some((*self.probabilities.get(i)?, *self.scores.get(i)?));
        let (p1, s1) = point(next).ok_or_else(wrong)?;
        let Some((p0, s0)) = next
            .checked_sub(1)
            .and_then(point)
            .filter(|_| p1 > quantile)
        else {
            return Ok(s1);
        };
        let part = (quantile - p0) / (p1 - p0);
        Ok((f64::from(s0) + part * (f64::from(s1) - f64::from(s0))) as f32)
    }

    /// Whether this came from a sound calibration; a file can hold anything.
    pub(crate) fn is_sound(&self) -> bool {
        self.probabilities.len() == self.scores.len()
            && self.probabilities.first() == Some(&0.0)
            && self.probabilities.last() == Some(&1.0)
            && self.probabilities.is_sorted()
            && self.scores.is_sorted()
            && self.scores.iter().all(|v| v.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(quantile: f64) -> Calibration {
        let values = (0..=1000).rev().map(|i| i as f32).collect();
        let config = CoarseConfig {
            quantile,
            ..CoarseConfig::default()
        };
        Calibration::new(values, 1, &config).unwrap()
    }

    #[test]
    fn thresholds_of_evenly_spread_values_are_their_quantiles() {
        let c = calibration(0.987_65);
        for q in [0.0, 0.25, 0.5, 0.9, 0.987_65, 0.995, 0.9999, 1.0] {
            let t = c.threshold(q).unwrap();
            assert!((f64::from(t) - 1000.0 * q).abs() < 1e-3, "{q}: {t}");
        }
    }

    #[test]
    fn a_quantile_out_of_range_is_an_error() {
        let c = calibration(0.5);
        assert!(c.threshold(-0.1).is_err());
        assert!(c.threshold(1.1).is_err());
        assert!(c.threshold(f64::NAN).is_err());
    }
}
