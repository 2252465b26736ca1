//! Counts of two binary masks, and the overlap metrics made of them.

use crate::error::{Result, same_shape};
use crate::score::{Score, Undefined};
use ndarray::{ArrayView, Dimension, Zip};
use serde::{Deserialize, Serialize};

/// The four counts of a result against a reference.
///
/// Counts add up: the sum over slices is the count of the volume.
///
/// ```
/// use fndm_metrics::{Confusion, Score};
///
/// let result = [true, true, false, false];
/// let reference = [true, false, true, false];
/// let counts = Confusion::of_slices(&result, &reference)?;
/// assert_eq!(counts.dice(), Score::Value(0.5));
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Confusion {
    /// True in both.
    #[serde(rename = "tp")]
    pub true_positive: u64,
    /// True in the result alone.
    #[serde(rename = "fp")]
    pub false_positive: u64,
    /// True in the reference alone.
    #[serde(rename = "fn")]
    pub false_negative: u64,
    /// False in both.
    #[serde(rename = "tn")]
    pub true_negative: u64,
}

impl Confusion {
    /// Counts two masks of any dimension.
    ///
    /// # Errors
    /// If their shapes differ.
    pub fn of<D: Dimension>(
        result: &ArrayView<'_, bool, D>,
        reference: &ArrayView<'_, bool, D>,
    ) -> Result<Self> {
        same_shape("result mask", reference.shape(), result.shape())?;
        if let (Some(result), Some(reference)) = (result.as_slice(), reference.as_slice()) {
            return Ok(Self::count(result, reference));
        }
        let mut counts = [0u64; 4];
        Zip::from(result).and(reference).for_each(|&a, &b| {
            counts[usize::from(a) * 2 + usize::from(b)] += 1;
        });
        Ok(Self {
            true_positive: counts[3],
            false_positive: counts[2],
            false_negative: counts[1],
            true_negative: counts[0],
        })
    }

    /// Counts two lists of pixels.
    ///
    /// # Errors
    /// If their lengths differ.
    pub fn of_slices(result: &[bool], reference: &[bool]) -> Result<Self> {
        same_shape("result mask", &[reference.len()], &[result.len()])?;
        Ok(Self::count(result, reference))
    }

    /// Three sums over plain slices: the compiler makes vectors of them.
    fn count(result: &[bool], reference: &[bool]) -> Self {
        let (mut both, mut found, mut wanted) = (0u64, 0u64, 0u64);
        for (a, b) in result.chunks(1 << 12).zip(reference.chunks(1 << 12)) {
            let (mut chunk_both, mut chunk_found, mut chunk_wanted) = (0u32, 0u32, 0u32);
            for (&a, &b) in a.iter().zip(b) {
                chunk_both += u32::from(a & b);
                chunk_found += u32::from(a);
                chunk_wanted += u32::from(b);
            }
            both += u64::from(chunk_both);
            found += u64::from(chunk_found);
            wanted += u64::from(chunk_wanted);
        }
        Self {
            true_positive: both,
            false_positive: found - both,
            false_negative: wanted - both,
            true_negative: result.len() as u64 + both - found - wanted,
        }
    }

    /// The number of voxels.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.true_positive + self.false_positive + self.false_negative + self.true_negative
    }

    /// Dice's coefficient, `2 TP / (2 TP + FP + FN)`. Undefined when both masks are empty; 0 when
    /// one of them is. medpy `dc`, `SimpleITK` `GetDiceCoefficient`, surface-distance
    /// `compute_dice_coefficient`.
    #[must_use]
    pub fn dice(&self) -> Score {
        self.ratio(
            2 * self.true_positive,
            2 * self.true_positive + self.false_positive + self.false_negative,
        )
    }

    /// Jaccard's index, `TP / (TP + FP + FN)`. Undefined when both masks are empty.
    #[must_use]
    pub fn jaccard(&self) -> Score {
        self.ratio(
            self.true_positive,
            self.true_positive + self.false_positive + self.false_negative,
        )
    }

    /// Precision (positive predictive value), `TP / (TP + FP)`. Undefined when the result is empty.
    #[must_use]
    pub fn precision(&self) -> Score {
        self.ratio(self.true_positive, self.true_positive + self.false_positive)
    }

    /// Recall (sensitivity, true positive rate), `TP / (TP + FN)`. Undefined when the reference is
    /// empty.
    #[must_use]
    pub fn recall(&self) -> Score {
        self.ratio(self.true_positive, self.true_positive + self.false_negative)
    }

    /// Specificity (true negative rate), `TN / (TN + FP)`. Undefined when the reference is full.
    #[must_use]
    pub fn specificity(&self) -> Score {
        let negatives = self.true_negative + self.false_positive;
        if negatives == 0 {
            return Score::Undefined(Undefined::ReferenceFull);
        }
        Score::Value(self.true_negative as f64 / negatives as f64)
    }

    /// Volumetric similarity, `1 - |FP - FN| / (2 TP + FP + FN)` (Taha and Hanbury 2015).
    /// Undefined when both masks are empty. It compares sizes alone: two masks of equal size that
    /// do not touch score 1.
    #[must_use]
    pub fn volumetric_similarity(&self) -> Score {
        self.ratio(
            self.false_positive.abs_diff(self.false_negative),
            2 * self.true_positive + self.false_positive + self.false_negative,
        )
        .map(|difference| 1.0 - difference)
    }

    /// Relative volume difference, `(FP - FN) / (TP + FN)`: negative when the result is smaller.
    /// medpy `ravd`. Undefined when the reference is empty.
    #[must_use]
    pub fn relative_volume_difference(&self) -> Score {
        let difference = self.false_positive as f64 - self.false_negative as f64;
        self.ratio(1, self.true_positive + self.false_negative)
            .map(|inverse| difference * inverse)
    }

    fn ratio(&self, numerator: u64, denominator: u64) -> Score {
        if denominator > 0 {
            return Score::Value(numerator as f64 / denominator as f64);
        }
        // A denominator is zero only where one mask or both have no voxel.
        let result_empty = self.true_positive + self.false_positive == 0;
        let reference_empty = self.true_positive + self.false_negative == 0;
        Score::Undefined(match (result_empty, reference_empty) {
            (true, true) => Undefined::BothEmpty,
            (true, false) => Undefined::ResultEmpty,
            _ => Undefined::ReferenceEmpty,
        })
    }
}

impl std::ops::Add for Confusion {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            true_positive: self.true_positive + other.true_positive,
            false_positive: self.false_positive + other.false_positive,
            false_negative: self.false_negative + other.false_negative,
            true_negative: self.true_negative + other.true_negative,
        }
    }
}

impl std::iter::Sum for Confusion {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |a, b| a + b)
    }
}

macro_rules! of_masks {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// If the shapes differ.
        pub fn $name<D: Dimension>(
            result: &ArrayView<'_, bool, D>,
            reference: &ArrayView<'_, bool, D>,
        ) -> Result<Score> {
            Ok(Confusion::of(result, reference)?.$name())
        }
    )*};
}

of_masks! {
    /// [`Confusion::dice`] of two masks.
    dice,
    /// [`Confusion::jaccard`] of two masks.
    jaccard,
    /// [`Confusion::precision`] of two masks.
    precision,
    /// [`Confusion::recall`] of two masks.
    recall,
    /// [`Confusion::specificity`] of two masks.
    specificity,
    /// [`Confusion::volumetric_similarity`] of two masks.
    volumetric_similarity,
    /// [`Confusion::relative_volume_difference`] of two masks.
    relative_volume_difference,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, Array3, s};

    #[test]
    fn strided_views_count_as_plain_ones() {
        let result = Array3::from_shape_fn((4, 6, 5), |(x, y, z)| (x * y + z) % 3 == 0);
        let reference = Array3::from_shape_fn((4, 6, 5), |(x, y, z)| (x + y * z) % 2 == 0);
        let plain = Confusion::of(&result.view(), &reference.view()).unwrap();
        let turned = Confusion::of(
            &result.view().reversed_axes(),
            &reference.view().reversed_axes(),
        );
        assert_eq!(plain, turned.unwrap());
        assert_eq!(plain.total(), 120);
        let slices: Confusion = (0..4)
            .map(|x| {
                Confusion::of(
                    &result.slice(s![x, .., ..]),
                    &reference.slice(s![x, .., ..]),
                )
                .unwrap()
            })
            .sum();
        assert_eq!(plain, slices);
    }

    #[test]
    fn empty_masks_name_their_reason() {
        let empty = Array2::from_elem((3, 3), false);
        let full = Array2::from_elem((3, 3), true);
        let both = Confusion::of(&empty.view(), &empty.view()).unwrap();
        assert_eq!(both.dice(), Score::Undefined(Undefined::BothEmpty));
        assert_eq!(
            both.volumetric_similarity(),
            Score::Undefined(Undefined::BothEmpty)
        );
        let missed = Confusion::of(&empty.view(), &full.view()).unwrap();
        assert_eq!(missed.dice(), Score::Value(0.0));
        assert_eq!(missed.precision(), Score::Undefined(Undefined::ResultEmpty));
        assert_eq!(missed.volumetric_similarity(), Score::Value(0.0));
        let invented = Confusion::of(&full.view(), &empty.view()).unwrap();
        assert_eq!(
            invented.recall(),
            Score::Undefined(Undefined::ReferenceEmpty)
        );
        assert_eq!(
            missed.specificity(),
            Score::Undefined(Undefined::ReferenceFull)
        );
    }

    #[test]
    fn shapes_must_agree() {
        let a = Array2::from_elem((3, 3), false);
        let b = Array2::from_elem((3, 4), false);
        let error = dice(&a.view(), &b.view()).unwrap_err().to_string();
        assert!(
            error.contains("[3, 4]") && error.contains("[3, 3]"),
            "{error}"
        );
        assert!(Confusion::of_slices(&[true], &[]).is_err());
    }
}
