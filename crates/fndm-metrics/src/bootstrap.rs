//! How sure a mean is: bootstrap by patient.

use crate::error::{Error, Result};
use crate::score::{Score, Undefined};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the bootstrap draws.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootstrapConfig {
    /// The number of resamples. Default: 2000.
    pub resamples: usize,
    /// The interval's confidence, between 0 and 1. Default: 0.95.
    pub confidence: f64,
    /// The seed. The same seed gives the same bits on any number of threads. Default: 0.
    pub seed: u64,
}

impl Default for BootstrapConfig {
    fn default() -> Self {
        Self {
            resamples: 2000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

impl BootstrapConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// If there is no resample, or the confidence is not between 0 and 1.
    pub fn check(&self) -> Result<()> {
        if self.resamples == 0 {
            return Err(Error::Parameter {
                what: "bootstrap resamples",
                expected: "at least 1",
                found: 0.0,
            });
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return Err(Error::Parameter {
                what: "bootstrap confidence",
                expected: "between 0 and 1",
                found: self.confidence,
            });
        }
        Ok(())
    }
}

/// A mean with its confidence interval, and what it was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Interval {
    /// The mean of all defined scores; every slice or volume counts alike.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// The confidence that was asked for.
    pub confidence: f64,
    /// The number of patients with a defined score: what was drawn from.
    pub patients: usize,
    /// The number of defined scores.
    pub counted: usize,
    /// How many scores were left out, by reason.
    pub skipped: BTreeMap<Undefined, usize>,
}

/// A percentile bootstrap of the mean score, drawing whole patients with replacement.
///
/// Slices of one patient are alike: drawing slices one by one makes intervals too narrow. Scores
/// come with their patient; undefined ones, and values that are NaN or infinite, are left out and
/// counted.
///
/// ```
/// use fndm_metrics::{BootstrapConfig, Score, bootstrap_mean};
///
/// let scores = [("a", 0.5), ("a", 0.7), ("b", 0.9), ("c", 0.4), ("d", 0.6)];
/// let scores = scores.map(|(patient, dice)| (patient, Score::Value(dice)));
/// let interval = bootstrap_mean(scores, &BootstrapConfig::default())?;
/// assert!(interval.low < interval.mean && interval.mean < interval.high);
/// assert_eq!(interval.patients, 4);
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
///
/// # Errors
/// [`Error::Parameter`] if the config is out of range; [`Error::TooFew`] if fewer than two patients
/// have a defined score: what one patient's mean would be in others is not to be had from that
/// patient alone, and an interval of no width would say that it is certain.
pub fn bootstrap_mean<K: Ord>(
    scores: impl IntoIterator<Item = (K, Score)>,
    config: &BootstrapConfig,
) -> Result<Interval> {
    config.check()?;
    let mut patients: BTreeMap<K, (f64, usize)> = BTreeMap::new();
    let mut skipped = BTreeMap::new();
    for (patient, score) in scores {
        match score.finite() {
            Score::Value(value) => {
                let entry = patients.entry(patient).or_default();
                entry.0 += value;
                entry.1 += 1;
            }
            Score::Undefined(reason) => *skipped.entry(reason).or_insert(0) += 1,
        }
    }
    let sums: Vec<(f64, usize)> = patients.into_values().collect();
    let few = Error::TooFew {
        what: "patients with a defined score, for a bootstrap interval",
        least: 2,
        found: sums.len(),
    };
    if sums.len() < 2 {
        return Err(few);
    }
    let mean = mean_of(sums.iter().copied()).ok_or(few)?;
    let (low, high) = percentile_interval(&sums, config);
    Ok(Interval {
        mean,
        low,
        high,
        confidence: config.confidence,
        patients: sums.len(),
        counted: sums.iter().map(|sum| sum.1).sum(),
        skipped,
    })
}

fn mean_of(sums: impl Iterator<Item = (f64, usize)>) -> Option<f64> {
    let (sum, count) = sums.fold((0.0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    (count > 0).then(|| sum / count as f64)
}

/// The interval between the two percentiles of the resampled means. `sums` holds the sum and the
/// count of each patient's scores, one at least.
fn percentile_interval(sums: &[(f64, usize)], config: &BootstrapConfig) -> (f64, f64) {
    let mut means: Vec<f64> = (0..config.resamples as u64)
        .into_par_iter()
        .filter_map(|resample| {
            // A stream for each resample: the order in which threads draw does not matter.
            let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
            rng.set_stream(resample);
            mean_of((0..sums.len()).map(|_| sums[rng.random_range(0..sums.len())]))
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let tail = 0.5 * (1.0 - config.confidence);
    (quantile(&means, tail), quantile(&means, 1.0 - tail))
}

/// A quantile of sorted values, linear between the two nearest; NaN of none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share * last as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(n: usize) -> Vec<(usize, Score)> {
        (0..n)
            .map(|i| (i, Score::Value((i as f64 * 0.7).sin())))
            .collect()
    }

    #[test]
    fn the_width_is_that_of_theory() {
        // The standard error of a mean of n alike: the interval's half is close to 1.96 of it.
        let scores = scores(400);
        let values: Vec<f64> = scores.iter().filter_map(|s| s.1.value()).collect();
        let mean = values.iter().sum::<f64>() / 400.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 400.0;
        let error = (variance / 400.0).sqrt();
        let interval = bootstrap_mean(scores, &BootstrapConfig::default()).unwrap();
        let half = 0.5 * (interval.high - interval.low);
        assert!((half / (1.96 * error) - 1.0).abs() < 0.1, "{half} {error}");
        assert!((interval.mean - mean).abs() < 1e-12);
    }

    #[test]
    fn slices_of_a_patient_stay_together() {
        // A hundred copies of each slice are no more patients: the interval stays as it was.
        let few = scores(10);
        let many: Vec<_> = few.iter().flat_map(|&s| vec![s; 100]).collect();
        let config = BootstrapConfig::default();
        let few = bootstrap_mean(few, &config).unwrap();
        let many = bootstrap_mean(many, &config).unwrap();
        assert_eq!((many.patients, many.counted), (10, 1000));
        assert!((few.low - many.low).abs() < 1e-12 && (few.high - many.high).abs() < 1e-12);
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
        let config = BootstrapConfig {
            seed: 7,
            ..BootstrapConfig::default()
        };
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build()
                .unwrap()
                .install(|| bootstrap_mean(scores(30), &config).unwrap())
        };
        assert_eq!(on(1), on(3));
        let other = BootstrapConfig { seed: 8, ..config };
        assert_ne!(on(1), bootstrap_mean(scores(30), &other).unwrap());
    }

    #[test]
    fn skipped_scores_are_counted_and_bad_configs_refused() {
        let scores = [
            (1, Score::Value(0.5)),
            (2, Score::Undefined(Undefined::BothEmpty)),
            (3, Score::Value(0.5)),
            (4, Score::Value(f64::NAN)),
        ];
        let interval = bootstrap_mean(scores, &BootstrapConfig::default()).unwrap();
        assert_eq!((interval.patients, interval.counted), (2, 2));
        assert_eq!(interval.skipped[&Undefined::BothEmpty], 1);
        assert_eq!(interval.skipped[&Undefined::NotFinite], 1);
        assert_eq!((interval.low, interval.high), (0.5, 0.5));
        // One patient, or none, has no interval, and the error says how many there were.
        for (found, few) in [(1, &scores[..2]), (0, &scores[1..2])] {
            match bootstrap_mean(few.to_vec(), &BootstrapConfig::default()) {
                Err(Error::TooFew {
                    least: 2, found: f, ..
                }) => assert_eq!(f, found),
                other => panic!("{other:?}"),
            }
        }
        for bad in [
            BootstrapConfig {
                resamples: 0,
                ..BootstrapConfig::default()
            },
            BootstrapConfig {
                confidence: 1.0,
                ..BootstrapConfig::default()
            },
        ] {
            assert!(bootstrap_mean(scores, &bad).is_err());
        }
    }
}
