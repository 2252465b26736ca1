use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What became of the predictions in one range of probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReliabilityBin {
    /// The range, which has its lower end and not its upper one; the last has both.
    pub range: [f64; 2],
    /// Predictions in it.
    pub count: usize,
    /// Their mean; 0 of none.
    pub predicted: f64,
    /// The share of them that is positive; 0 of none.
    pub observed: f64,
}

/// How well probabilities mean what they say: a reliability diagram, and two figures of it.
///
/// ```
/// use fndm_metrics::Reliability;
/// let found = Reliability::of(&[0.1, 0.1, 0.9, 0.9], &[false, false, true, false], 2)?;
/// assert_eq!(found.bins[1].observed, 0.5);
/// assert!((found.expected_calibration_error - 0.25).abs() < 1e-6);
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reliability {
    /// The ranges of equal width, from 0 to 1.
    pub bins: Vec<ReliabilityBin>,
    /// Mean distance of predicted and observed, each bin by its count (Naeini et al. 2015): 0 to 1, 0 is best.
    pub expected_calibration_error: f64,
    /// Mean square of probability less label (Brier 1950): 0 to 1, 0 is best.
    pub brier: f64,
}

impl Reliability {
    /// Compares probabilities, 0 to 1, with what came true, in so many ranges of equal width.
    ///
    /// # Errors
    /// If the lengths differ, there is none, or a probability isn't within 0 to 1; for no range.
    pub fn of(probabilities: &[f32], labels: &[bool], bins: usize) -> Result<Self> {
        if probabilities.len() != labels.len() {
            return Err(Error::Shape {
                what: "labels",
                expected: vec![probabilities.len()],
                found: vec![labels.len()],
            });
        }
        if probabilities.is_empty() {
            return Err(Error::NoValues {
                what: "probabilities",
            });
        }
        if bins == 0 {
            return Err(Error::Parameter {
                what: "bins",
                expected: "1 or more",
                found: 0.,
            });
        }
        let mut found: Vec<ReliabilityBin> = (0..bins)
            .map(|i| ReliabilityBin {
                range: [i, i + 1].map(|i| i as f64 / bins as f64),
                count: 0,
                predicted: 0.,
                observed: 0.,
            })
            .collect();
        let mut brier = 0.;
        for (&probability, &label) in probabilities.iter().zip(labels) {
            if !(0. ..=1.).contains(&probability) {
                return Err(Error::Parameter {
                    what: "probability",
                    expected: "0 to 1",
                    found: f64::from(probability),
                });
            }
            let (p, label) = (f64::from(probability), f64::from(u8::from(label)));
            let bin = &mut found[((p * bins as f64) as usize).min(bins - 1)];
            bin.count += 1;
            bin.predicted += p;
            bin.observed += label;
            brier += (p - label) * (p - label);
        }
        let total = probabilities.len() as f64;
        let mut error = 0.;
        for bin in found.iter_mut().filter(|bin| bin.count > 0) {
            error += (bin.predicted - bin.observed).abs();
            bin.predicted /= bin.count as f64;
            bin.observed /= bin.count as f64;
        }
        Ok(Self {
            bins: found,
            expected_calibration_error: error / total,
            brier: brier / total,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_counted_by_hand() {
        let p = [0., 0.05, 0.3, 0.3, 0.75, 1.];
        let labels = [false, true, false, false, true, true];
        let found = Reliability::of(&p, &labels, 4).unwrap();
        let counts: Vec<usize> = found.bins.iter().map(|b| b.count).collect();
        assert_eq!(counts, [2, 2, 0, 2]);
        let observed: Vec<f64> = found.bins.iter().map(|b| b.observed).collect();
        assert_eq!(observed, [0.5, 0., 0., 1.]);
        // |0.05 - 1| + |0.6 - 0| + |1.75 - 2|, of six.
        assert!((found.expected_calibration_error - 1.8 / 6.).abs() < 1e-6);
        let brier = 0.95f64.powi(2) + 2. * 0.3f64.powi(2) + 0.25f64.powi(2);
        assert!((found.brier - brier / 6.).abs() < 1e-6);
    }

    #[test]
    fn probabilities_that_mean_themselves_have_no_error() {
        // Of 100 with probability k %, k are positive.
        let (mut p, mut labels) = (Vec::new(), Vec::new());
        for k in 0..=100u16 {
            for i in 0..100 {
                p.push(f32::from(k) / 100.);
                labels.push(i < k);
            }
        }
        let found = Reliability::of(&p, &labels, 10).unwrap();
        assert!(found.expected_calibration_error < 1e-6, "{found:?}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(Reliability::of(&[0.5], &[true, false], 2).is_err());
        assert!(Reliability::of(&[], &[], 2).is_err());
        assert!(Reliability::of(&[0.5], &[true], 0).is_err());
        for bad in [-0.1, 1.1, f32::NAN] {
            assert!(Reliability::of(&[bad], &[true], 2).is_err());
        }
    }
}
