//! What counts of the difference between a slice and its healthy reconstruction.

use ndarray::{Array3, Array4, Axis};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which differences of a sequence count in the anomaly map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResidualSide {
    /// All, by their absolute value.
    #[default]
    Both,
    /// Where the slice is brighter than its healthy reconstruction.
    Brighter,
    /// Where it is darker.
    Darker,
    /// None: the sequence helps to reconstruct, and no more.
    Neither,
}

impl ResidualSide {
    /// Whether these are the sides of so many sequences: one for each, or none at all, which is both sides of each. One must count.
    ///
    /// # Errors
    /// If not.
    pub fn check(sides: &[Self], sequences: usize) -> Result<()> {
        if sides.is_empty() {
            return Ok(());
        }
        if sides.len() != sequences {
            let expected = format!("none, or one for each of {sequences} sequences");
            return Err(Error::option("residual sides", expected, sides.len()));
        }
        if sides.iter().all(|&side| side == Self::Neither) {
            let expected = "at least one sequence that counts";
            return Err(Error::option("residual sides", expected, "none"));
        }
        Ok(())
    }

    /// What counts of a difference, slice less reconstruction. NaN stays NaN.
    #[must_use]
    pub fn of(self, difference: f32) -> f32 {
        match self {
            Self::Both => difference.abs(),
            Self::Brighter => at_least_0(difference),
            Self::Darker => at_least_0(-difference),
            Self::Neither => 0.,
        }
    }

    /// The sum over sequences of what counts: `(N, C, H, W)` to `(N, H, W)`. Sequences beyond the last side count on both sides. Nothing
    /// counts for more than `limit` in one sequence.
    #[must_use]
    pub fn sum(sides: &[Self], mut differences: Array4<f32>, limit: f32) -> Array3<f32> {
        for (c, mut plane) in differences.axis_iter_mut(Axis(1)).enumerate() {
            let side = sides.get(c).copied().unwrap_or_default();
            plane.mapv_inplace(|v| at_most(side.of(v), limit));
        }
        differences.sum_axis(Axis(1))
    }
}

/// As `f32::min`, which takes the limit for NaN: here NaN stays NaN.
pub(crate) fn at_most(value: f32, limit: f32) -> f32 {
    if value > limit { limit } else { value }
}

/// As `f32::max`, which takes 0 for NaN: here NaN stays NaN.
pub(crate) fn at_least_0(value: f32) -> f32 {
    if value < 0. { 0. } else { value }
}
