//! Two methods on the same cases.

use crate::bootstrap::{BootstrapConfig, Interval, bootstrap_mean};
use crate::error::{Error, Result};
use crate::score::{Score, Undefined};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The difference of two methods, case by case and patient by patient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Paired {
    /// The mean of `first - second` over the cases where both are defined, and its bootstrap
    /// interval by patient. Its `skipped` counts the cases where one is not, by the reason of the
    /// first that is not.
    pub difference: Interval,
    /// Patients whose mean difference is above 0.
    pub first_higher: usize,
    /// Patients whose mean difference is below 0.
    pub second_higher: usize,
    /// Patients whose mean difference is 0.
    pub equal: usize,
    /// Two-sided p of Wilcoxon's signed-rank test on the patients' mean differences; see
    /// [`wilcoxon_signed_rank`]. None if they are all 0.
    pub wilcoxon_p: Option<f64>,
}

/// Compares two methods on the same cases: patient, score of the first method, score of the
/// second. The test's unit is the patient, for slices of one patient are alike.
///
/// ```
/// use fndm_metrics::{BootstrapConfig, Score, paired_comparison};
///
/// let cases = (0..8).map(|patient| {
///     let hard = f64::from(patient) / 10.0;
///     (patient, Score::Value(0.95 - hard), Score::Value(0.9 - 1.1 * hard))
/// });
/// let paired = paired_comparison(cases, &BootstrapConfig::default())?;
/// assert_eq!(paired.first_higher, 8);
/// assert_eq!(paired.wilcoxon_p, Some(2.0 / 256.0));
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
///
/// # Errors
/// If the config is out of range, or fewer than two patients have a case with both scores defined.
pub fn paired_comparison<K: Ord + Clone>(
    cases: impl IntoIterator<Item = (K, Score, Score)>,
    config: &BootstrapConfig,
) -> Result<Paired> {
    let differences: Vec<(K, Score)> = cases
        .into_iter()
        .map(|(patient, first, second)| {
            let difference = match (first.finite(), second.finite()) {
                (Score::Value(first), Score::Value(second)) => {
                    Score::Value(first - second).finite()
                }
                (Score::Undefined(reason), _) | (_, Score::Undefined(reason)) => {
                    Score::Undefined(reason)
                }
            };
            (patient, difference)
        })
        .collect();
    let mut patients: BTreeMap<K, (f64, usize)> = BTreeMap::new();
    for (patient, difference) in &differences {
        if let Score::Value(value) = difference {
            let entry = patients.entry(patient.clone()).or_default();
            entry.0 += value;
            entry.1 += 1;
        }
    }
    let means: Vec<f64> = patients
        .values()
        .map(|&(sum, count)| sum / count as f64)
        .collect();
    let difference = bootstrap_mean(differences, config)?;
    Ok(Paired {
        difference,
        first_higher: means.iter().filter(|&&mean| mean > 0.0).count(),
        second_higher: means.iter().filter(|&&mean| mean < 0.0).count(),
        equal: means.iter().filter(|&&mean| mean == 0.0).count(),
        wilcoxon_p: wilcoxon_signed_rank(&means)?.value(),
    })
}

/// Up to this number of differences the distribution of the ranks is counted out.
const EXACT_UP_TO: usize = 200;

/// The two-sided p of Wilcoxon's signed-rank test (1945) that differences are symmetric about 0.
///
/// Zeros are left out, ties get their mean rank. Up to 200 differences the p is exact, ties
/// included: the share of all sign patterns whose rank sum is at least as far from the middle. Above, the normal
/// approximation with the correction for ties and for continuity. Undefined if all are 0.
///
/// # Errors
/// If a difference is NaN or infinite.
pub fn wilcoxon_signed_rank(differences: &[f64]) -> Result<Score> {
    if let Some(position) = differences.iter().position(|d| !d.is_finite()) {
        return Err(Error::NotFinite {
            what: "differences",
            found: differences[position],
            position,
        });
    }
    let mut sorted: Vec<f64> = differences.iter().copied().filter(|&d| d != 0.0).collect();
    if sorted.is_empty() {
        return Ok(Score::Undefined(Undefined::NoDifference));
    }
    sorted.sort_by(|a, b| a.abs().total_cmp(&b.abs()));

    // Twice the ranks are whole numbers, mean ranks of ties included.
    let mut twice_ranks: Vec<usize> = Vec::with_capacity(sorted.len());
    let mut ties = 0.0;
    for group in sorted.chunk_by(|a, b| a.abs() == b.abs()) {
        let before = twice_ranks.len();
        let size = group.len();
        twice_ranks.extend(std::iter::repeat_n(2 * before + size + 1, size));
        ties += (size as f64).powi(3) - size as f64;
    }
    let positive: usize = sorted
        .iter()
        .zip(&twice_ranks)
        .filter(|(difference, _)| **difference > 0.0)
        .map(|(_, &rank)| rank)
        .sum();
    let total: usize = twice_ranks.iter().sum();
    // The rank sum farther from the middle, by symmetry.
    let extreme = positive.max(total - positive);

    Ok(Score::Value(if sorted.len() <= EXACT_UP_TO {
        exact_p(&twice_ranks, extreme)
    } else {
        normal_p(sorted.len(), ties, extreme)
    }))
}

/// The share of all sign patterns whose rank sum is as far from the middle as `extreme`. All in
/// twice the ranks.
fn exact_p(twice_ranks: &[usize], extreme: usize) -> f64 {
    let total: usize = twice_ranks.iter().sum();
    // probability[s]: of the sum s over all sign patterns so far.
    let mut probability = vec![0.0; total + 1];
    probability[0] = 1.0;
    for &rank in twice_ranks {
        for sum in (0..=total).rev() {
            let with = sum.checked_sub(rank).map_or(0.0, |from| probability[from]);
            probability[sum] = 0.5 * (probability[sum] + with);
        }
    }
    (2.0 * probability[extreme..].iter().sum::<f64>()).min(1.0)
}

/// The normal approximation for `count` ranks; `ties` is the sum of `t^3 - t` over groups of ties.
fn normal_p(count: usize, ties: f64, extreme: usize) -> f64 {
    let n = count as f64;
    let mean = n * (n + 1.0) / 4.0;
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
    let distance = (0.5 * extreme as f64 - mean - 0.5).max(0.0);
    erfc(distance / (2.0 * variance).sqrt())
}

/// The complementary error function for x >= 0: the power series near 0, the continued fraction
/// (Lentz) beyond.
fn erfc(x: f64) -> f64 {
    let scale = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < 2.5 {
        // erf = 2 scale * sum of 2^n x^(2n+1) / (1 * 3 * ... * (2n + 1)): no cancellation.
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term > sum * 1e-17 {
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        return 1.0 - 2.0 * scale * sum;
    }
    // x + (1/2) / (x + (2/2) / (x + (3/2) / ...)), from the far end.
    let fraction = (1..=80)
        .rev()
        .fold(x, |tail, k| x + 0.5 * f64::from(k) / tail);
    scale / fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn erfc_of_known_values() {
        // Abramowitz and Stegun, table 7.1, and mpmath's digits beyond.
        for (x, value) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_035e-12),
        ] {
            assert!((erfc(x) / value - 1.0).abs() < 1e-11, "{x}: {}", erfc(x));
        }
    }

    proptest! {
        #[test]
        fn the_exact_p_counts_all_sign_patterns(
            differences in prop::collection::vec(-4i32..5, 1..11)
        ) {
            let values: Vec<f64> = differences.iter().map(|&d| f64::from(d)).collect();
            let nonzero: Vec<f64> = values.iter().copied().filter(|&v| v != 0.0).collect();
            let p = wilcoxon_signed_rank(&values).unwrap();
            if nonzero.is_empty() {
                prop_assert_eq!(p.value(), None);
                return Ok(());
            }
            // Mean rank of |d| by counting.
            let rank = |d: f64| {
                let below = nonzero.iter().filter(|v| v.abs() < d.abs()).count() as f64;
                let equal = nonzero.iter().filter(|v| v.abs() == d.abs()).count() as f64;
                below + 0.5 * (equal + 1.0)
            };
            let ranks: Vec<f64> = nonzero.iter().map(|&d| rank(d)).collect();
            let middle = ranks.iter().sum::<f64>() / 2.0;
            let seen: f64 = nonzero.iter().zip(&ranks).filter(|p| *p.0 > 0.0).map(|p| p.1).sum();
            let n = ranks.len();
            let mut far = 0;
            for signs in 0..1u32 << n {
                let sum: f64 = (0..n).filter(|i| signs >> i & 1 == 1).map(|i| ranks[i]).sum();
                far += usize::from((sum - middle).abs() >= (seen - middle).abs());
            }
            let brute = far as f64 / f64::from(1u32 << n);
            prop_assert!((p.value().unwrap() - brute).abs() < 1e-12, "{:?} {}", p, brute);
        }
    }

    #[test]
    fn the_normal_approximation_meets_the_exact_p() {
        // Ranks 1 to 150, and 75 pairs of ties.
        let alone: Vec<usize> = (1..=150).map(|rank| 2 * rank).collect();
        let tied: Vec<usize> = (0..150).map(|i| 4 * (i / 2) + 3).collect();
        for (ranks, ties) in [(alone, 0.0), (tied, 75.0 * 6.0)] {
            let middle = ranks.iter().sum::<usize>() / 2;
            for off in [0, 500, 2000, 4000] {
                let extreme = middle + off;
                let (exact, normal) = (exact_p(&ranks, extreme), normal_p(150, ties, extreme));
                assert!((exact - normal).abs() < 2e-3, "{off}: {exact} {normal}");
            }
        }
    }

    #[test]
    fn pairs_with_an_undefined_score_are_counted_apart() {
        let cases = [
            ("a", Score::Value(0.8), Score::Value(0.5)),
            ("a", Score::Value(0.6), Score::Value(0.7)),
            (
                "b",
                Score::Undefined(Undefined::ResultEmpty),
                Score::Value(0.1),
            ),
            ("c", Score::Value(0.5), Score::Value(0.5)),
        ];
        let paired = paired_comparison(cases, &BootstrapConfig::default()).unwrap();
        assert!((paired.difference.mean - 0.2 / 3.0).abs() < 1e-12);
        assert_eq!(paired.difference.skipped[&Undefined::ResultEmpty], 1);
        assert_eq!(
            (paired.first_higher, paired.second_higher, paired.equal),
            (1, 0, 1)
        );
        assert_eq!(paired.wilcoxon_p, Some(1.0));
        // The difference of two numbers need not be one.
        let far = [
            ("a", Score::Value(f64::MAX), Score::Value(-f64::MAX)),
            ("b", Score::Value(0.1), Score::Value(0.2)),
            ("c", Score::Value(0.1), Score::Value(0.3)),
        ];
        let paired = paired_comparison(far, &BootstrapConfig::default()).unwrap();
        assert_eq!(paired.difference.skipped[&Undefined::NotFinite], 1);
        assert_eq!((paired.first_higher, paired.second_higher), (0, 2));
        let one = paired_comparison(far[..2].to_vec(), &BootstrapConfig::default());
        assert!(matches!(one, Err(Error::TooFew { found: 1, .. })));
        assert!(wilcoxon_signed_rank(&[f64::NAN]).is_err());
        let none = Score::Undefined(Undefined::NoDifference);
        assert_eq!(wilcoxon_signed_rank(&[0.0, 0.0]).unwrap(), none);
    }
}
