//! What an empty mask means: a policy that the caller states.

use crate::error::{Error, Result};
use crate::score::{Score, Undefined};
use serde::{Deserialize, Serialize};

/// What to count for a case whose metric is undefined because a mask is empty.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyPolicy {
    /// Leave the case out of the mean; [`Aggregate`](crate::Aggregate) counts it with its reason.
    #[default]
    Skip,
    /// Count this value: 1 for a Dice of two empty masks, say.
    Value(f64),
    /// Count the length of the image's diagonal: a penalty for distances. The `BraTS` challenge
    /// uses it (373.13 mm for 240 x 240 x 155 voxels of 1 mm).
    ImageDiagonal,
}

/// A policy for each way in which masks can be empty. The default skips, and so counts, them all.
///
/// ```
/// use fndm_metrics::{EmptyPolicy, EmptyRules, Score, Undefined};
///
/// let rules = EmptyRules {
///     both_empty: EmptyPolicy::Value(0.0),
///     result_empty: EmptyPolicy::ImageDiagonal,
///     reference_empty: EmptyPolicy::Skip,
/// };
/// let missed = Score::Undefined(Undefined::ResultEmpty);
/// assert_eq!(rules.apply(missed, 373.0), Score::Value(373.0));
/// assert_eq!(rules.apply(Score::Value(4.0), 373.0), Score::Value(4.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmptyRules {
    /// Neither mask has a voxel.
    pub both_empty: EmptyPolicy,
    /// The result has none, the reference has some: everything was missed.
    pub result_empty: EmptyPolicy,
    /// The reference has none, the result has some: everything is false.
    pub reference_empty: EmptyPolicy,
}

impl EmptyRules {
    /// The same policy for the three cases.
    #[must_use]
    pub fn all(policy: EmptyPolicy) -> Self {
        Self {
            both_empty: policy,
            result_empty: policy,
            reference_empty: policy,
        }
    }

    /// The score under these rules. `diagonal` is [`image_diagonal`], in the units of the metric;
    /// it is used by [`EmptyPolicy::ImageDiagonal`] alone. Undefined scores that have nothing to
    /// do with empty masks stay undefined.
    #[must_use]
    pub fn apply(&self, score: Score, diagonal: f64) -> Score {
        let policy = match score {
            Score::Undefined(Undefined::BothEmpty) => self.both_empty,
            Score::Undefined(Undefined::ResultEmpty) => self.result_empty,
            Score::Undefined(Undefined::ReferenceEmpty) => self.reference_empty,
            _ => return score,
        };
        match policy {
            EmptyPolicy::Skip => score,
            EmptyPolicy::Value(value) => Score::Value(value),
            EmptyPolicy::ImageDiagonal => Score::Value(diagonal),
        }
    }
}

impl From<EmptyPolicy> for EmptyRules {
    fn from(policy: EmptyPolicy) -> Self {
        Self::all(policy)
    }
}

/// The length of the image's diagonal, `sqrt(sum (n_i s_i)^2)`, in the units of the spacing.
///
/// # Errors
/// If there is not one spacing per axis, from 1e-50 to 1e50.
pub fn image_diagonal(shape: &[usize], spacing: &[f64]) -> Result<f64> {
    check_spacing(shape.len(), spacing)?;
    let sum: f64 = shape
        .iter()
        .zip(spacing)
        .map(|(&n, &s)| (n as f64 * s).powi(2))
        .sum();
    Ok(sum.sqrt())
}

/// Checks that there is one positive spacing per axis, neither so small nor so large that squares of
/// distances have no number.
pub(crate) fn check_spacing(axes: usize, spacing: &[f64]) -> Result<()> {
    if spacing.len() == axes && spacing.iter().all(|s| (1e-50..=1e50).contains(s)) {
        return Ok(());
    }
    Err(Error::Spacing {
        axes,
        found: spacing.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_diagonal_is_that_of_brats() {
        let diagonal = image_diagonal(&[240, 240, 155], &[1.0; 3]).unwrap();
        assert!((diagonal - 373.128_664_6).abs() < 1e-6);
    }

    #[test]
    fn a_spacing_must_be_positive_and_complete() {
        assert!(image_diagonal(&[2, 2], &[1.0]).is_err());
        assert!(image_diagonal(&[2, 2], &[1.0, 0.0]).is_err());
        assert!(image_diagonal(&[2, 2], &[1.0, f64::NAN]).is_err());
        assert!(image_diagonal(&[2, 2], &[1.0, 1e-60]).is_err());
        assert!(image_diagonal(&[2, 2], &[1.0, 1e60]).is_err());
    }

    #[test]
    fn skipping_keeps_the_reason() {
        let score = Score::Undefined(Undefined::BothEmpty);
        assert_eq!(EmptyRules::default().apply(score, 1.0), score);
        let rules = EmptyRules::from(EmptyPolicy::Value(1.0));
        assert_eq!(rules.apply(score, 0.0), Score::Value(1.0));
        let other = Score::Undefined(Undefined::NoPositive);
        assert_eq!(rules.apply(other, 0.0), other);
    }
}
