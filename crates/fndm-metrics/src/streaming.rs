//! Ranking metrics of more pixels than fit in memory: a histogram per class, and how far the
//! answer can be off.

use crate::error::{Error, Result};
use crate::ranking::{BestDice, check, pixels_of};
use crate::real::Real;
use crate::score::{Score, Undefined};
use ndarray::{ArrayView, Dimension};
use serde::{Deserialize, Serialize};

/// Counts of positive and negative scores in equal bins, with one more bin below and one above.
///
/// Pixels of different bins are ranked exactly; only the order within a bin is unknown. So every
/// answer comes with bounds that hold for certain, whatever the data: no choice of bins can make it
/// silently wrong, only wide. With `P` positives, `N` negatives, and `p`, `n` of them in bin `b`, the
/// AUROC is off by at most `sum_b p n / (2 P N)`; for scores spread evenly over `B` bins that is
/// `1 / (2 B)`. Histograms of parts are merged by
/// [`RankingHistogram::merge`].
///
/// ```
/// use fndm_metrics::RankingHistogram;
///
/// let mut histogram = RankingHistogram::new(0.0, 1.0, 1000)?;
/// histogram.add(&[0.1f32, 0.4], &[false, false])?;
/// histogram.add(&[0.35f32, 0.8], &[true, true])?;
/// let auroc = histogram.auroc().unwrap();
/// assert_eq!((auroc.low, auroc.value, auroc.high), (0.75, 0.75, 0.75));
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankingHistogram {
    low: f64,
    high: f64,
    /// Below, the bins, above.
    positives: Vec<u64>,
    negatives: Vec<u64>,
}

/// A value and the bounds between which the exact one lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounded {
    /// The value if all scores of a bin were equal.
    pub value: f64,
    /// The exact value is at least this.
    pub low: f64,
    /// The exact value is at most this.
    pub high: f64,
}

impl RankingHistogram {
    /// Equal bins from `low` to `high`. Scores outside are ranked too, in one bin on each side.
    ///
    /// # Errors
    /// If the range is not finite and ascending, or `bins` is 0 or more than 2^24.
    pub fn new(low: f64, high: f64, bins: usize) -> Result<Self> {
        let width = (high - low) / bins as f64;
        if !(low.is_finite() && width.is_finite() && low + width > low) {
            return Err(Error::Parameter {
                what: "width of a histogram's bins",
                expected: "a finite range, ascending, wide enough for its bins",
                found: width,
            });
        }
        if bins > 1 << 24 {
            return Err(Error::Parameter {
                what: "number of a histogram's bins",
                expected: "1 to 2^24",
                found: bins as f64,
            });
        }
        Ok(Self {
            low,
            high,
            positives: vec![0; bins + 2],
            negatives: vec![0; bins + 2],
        })
    }

    /// The lower edge of bin `i` (1 is the first inside the range).
    fn edge(&self, i: usize) -> f64 {
        let bins = self.positives.len() - 2;
        if i == 0 {
            return f64::NEG_INFINITY;
        }
        self.low + (self.high - self.low) * ((i - 1) as f64 / bins as f64)
    }

    /// The bin whose edges hold the score: exact, so that an edge can serve as a threshold.
    fn bin(&self, score: f64) -> usize {
        let last = self.positives.len() - 1;
        let guess = (score - self.low) / (self.high - self.low) * (last - 1) as f64 + 1.0;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let mut bin = (guess.max(0.0) as usize).min(last);
        while score < self.edge(bin) {
            bin -= 1;
        }
        while bin < last && score >= self.edge(bin + 1) {
            bin += 1;
        }
        bin
    }

    /// Counts more pixels.
    ///
    /// # Errors
    /// If the lengths differ or a score is NaN or infinite; then nothing is counted.
    pub fn add<T: Real>(&mut self, scores: &[T], labels: &[bool]) -> Result<()> {
        check(scores, labels, 0)?;
        for (score, &label) in scores.iter().zip(labels) {
            let bin = self.bin(score.as_f64());
            if label {
                self.positives[bin] += 1;
            } else {
                self.negatives[bin] += 1;
            }
        }
        Ok(())
    }

    /// Counts the pixels of an image of any dimension and memory layout.
    ///
    /// # Errors
    /// If the shapes differ or a score is NaN or infinite; then nothing is counted.
    pub fn add_arrays<T: Real, D: Dimension>(
        &mut self,
        scores: &ArrayView<'_, T, D>,
        labels: &ArrayView<'_, bool, D>,
    ) -> Result<()> {
        let (scores, labels) = pixels_of(scores, labels)?;
        self.add(&scores, &labels)
    }

    /// Adds the counts of another histogram of the same bins.
    ///
    /// # Errors
    /// If the bins differ.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.low, self.high) != (other.low, other.high) {
            return Err(Error::Parameter {
                what: "range of the histogram to merge",
                expected: "the same range",
                found: other.low,
            });
        }
        crate::error::same_shape(
            "histogram bins",
            &[self.positives.len()],
            &[other.positives.len()],
        )?;
        let add = |into: &mut [u64], from: &[u64]| {
            for (into, from) in into.iter_mut().zip(from) {
                *into += from;
            }
        };
        add(&mut self.positives, &other.positives);
        add(&mut self.negatives, &other.negatives);
        Ok(())
    }

    fn totals(&self) -> (u64, u64) {
        (self.positives.iter().sum(), self.negatives.iter().sum())
    }

    /// The area under the ROC curve. The bounds are `sum p_b n_b / (2 P N)` to each side, over the
    /// bins' counts: pairs of one bin may all be in order or all out of order.
    ///
    /// # Errors
    /// The reason, if a class is missing.
    pub fn auroc(&self) -> std::result::Result<Bounded, Undefined> {
        let (positive, negative) = self.totals();
        if positive == 0 {
            return Err(Undefined::NoPositive);
        }
        if negative == 0 {
            return Err(Undefined::NoNegative);
        }
        let (mut below, mut in_order, mut tied) = (0u64, 0u128, 0u128);
        for (&p, &n) in self.positives.iter().zip(&self.negatives) {
            in_order += u128::from(p) * u128::from(below);
            tied += u128::from(p) * u128::from(n);
            below += n;
        }
        let pairs = positive as f64 * negative as f64;
        let (in_order, tied) = (in_order as f64, tied as f64);
        Ok(Bounded {
            value: (in_order + 0.5 * tied) / pairs,
            low: in_order / pairs,
            high: (in_order + tied) / pairs,
        })
    }

    /// Average precision. The lower bound has every negative of a bin before its positives, and
    /// these one by one; the upper has the positives first, as one threshold.
    ///
    /// # Errors
    /// The reason, if no pixel is positive.
    pub fn average_precision(&self) -> std::result::Result<Bounded, Undefined> {
        let (positive, _) = self.totals();
        if positive == 0 {
            return Err(Undefined::NoPositive);
        }
        let (mut found, mut wrong) = (0u64, 0u64);
        let (mut value, mut low, mut high) = (0.0, 0.0, 0.0);
        for (&p, &n) in self.positives.iter().zip(&self.negatives).rev() {
            for one in 1..=p {
                low += (found + one) as f64 / (found + one + wrong + n) as f64;
            }
            found += p;
            if p > 0 {
                high += p as f64 * (found as f64 / (found + wrong) as f64);
                value += p as f64 * (found as f64 / (found + wrong + n) as f64);
            }
            wrong += n;
        }
        let all = positive as f64;
        Ok(Bounded {
            value: value / all,
            low: low / all,
            high: high / all,
        })
    }

    /// The best Dice of the thresholds at the bins' lower edges. Thresholds inside a bin may be
    /// better, so it is a lower bound of [`Ranking::best_dice`](crate::Ranking::best_dice); the
    /// threshold does give this Dice.
    #[must_use]
    pub fn best_dice(&self) -> BestDice<f64> {
        let (positive, _) = self.totals();
        if positive == 0 {
            return BestDice {
                dice: Score::Undefined(Undefined::NoPositive),
                threshold: None,
            };
        }
        let (mut found, mut marked) = (0u64, 0u64);
        let mut best = (f64::NEG_INFINITY, 0);
        for (bin, (&p, &n)) in self.positives.iter().zip(&self.negatives).enumerate().rev() {
            found += p;
            marked += p + n;
            let dice = (2 * found) as f64 / (positive + marked) as f64;
            if dice > best.0 {
                best = (dice, bin);
            }
        }
        BestDice {
            dice: Score::Value(best.0),
            threshold: Some(self.edge(best.1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Confusion, Ranking};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_exact_value_lies_within_the_bounds(
            pixels in prop::collection::vec((-1.5f64..1.5, any::<bool>()), 1..80),
            bins in 1usize..40,
        ) {
            let (scores, labels): (Vec<f64>, Vec<bool>) = pixels.into_iter().unzip();
            let mut histogram = RankingHistogram::new(-1.0, 1.0, bins).unwrap();
            let half = scores.len() / 2;
            histogram.add(&scores[..half], &labels[..half]).unwrap();
            let mut rest = RankingHistogram::new(-1.0, 1.0, bins).unwrap();
            rest.add(&scores[half..], &labels[half..]).unwrap();
            histogram.merge(&rest).unwrap();

            let exact = Ranking::of(&scores, &labels).unwrap();
            let within = |bounded: std::result::Result<Bounded, Undefined>, exact: Score| {
                match (bounded, exact) {
                    (Ok(b), Score::Value(exact)) => {
                        b.low - 1e-12 <= exact && exact <= b.high + 1e-12
                            && b.low - 1e-12 <= b.value && b.value <= b.high + 1e-12
                    }
                    (Err(a), Score::Undefined(b)) => a == b,
                    _ => false,
                }
            };
            prop_assert!(within(histogram.auroc(), exact.auroc()));
            prop_assert!(within(histogram.average_precision(), exact.average_precision()));

            let best = histogram.best_dice();
            if let (Score::Value(dice), Some(threshold)) = (best.dice, best.threshold) {
                let mask: Vec<bool> = scores.iter().map(|&s| s >= threshold).collect();
                let counts = Confusion::of_slices(&mask, &labels).unwrap();
                prop_assert_eq!(counts.dice(), Score::Value(dice));
                prop_assert!(dice <= exact.best_dice().dice.value().unwrap());
            }
        }
    }

    #[test]
    fn the_error_of_even_scores_is_half_a_bin() {
        let scores: Vec<f64> = (0..20_000)
            .map(|i| (f64::from(i) + 0.5) / 20_000.0)
            .collect();
        let labels: Vec<bool> = (0..20_000).map(|i| i * i % 7 < 2).collect();
        for bins in [10, 100, 1000] {
            let mut histogram = RankingHistogram::new(0.0, 1.0, bins).unwrap();
            histogram.add(&scores, &labels).unwrap();
            let auroc = histogram.auroc().unwrap();
            let error = 0.5 * (auroc.high - auroc.low);
            assert!(
                (error * 2.0 * bins as f64 - 1.0).abs() < 0.05,
                "{bins}: {error}"
            );
        }
    }

    #[test]
    fn bad_ranges_are_errors() {
        assert!(RankingHistogram::new(0.0, 0.0, 4).is_err());
        assert!(RankingHistogram::new(0.0, 1.0, 0).is_err());
        assert!(RankingHistogram::new(f64::NAN, 1.0, 4).is_err());
        assert!(RankingHistogram::new(0.0, 1.0, (1 << 24) + 1).is_err());
        let mut histogram = RankingHistogram::new(0.0, 1.0, 4).unwrap();
        assert!(histogram.add(&[f32::NAN], &[true]).is_err());
        assert!(
            histogram
                .merge(&RankingHistogram::new(0.0, 1.0, 5).unwrap())
                .is_err()
        );
        assert!(
            histogram
                .merge(&RankingHistogram::new(0.0, 2.0, 4).unwrap())
                .is_err()
        );
    }
}
