use candle_core::{DType, Device, Tensor};
use fndm_metrics::{Confusion, Score, average_precision};
use ndarray::{Array3, ArrayView3, Axis, Slice};

use super::{LEAST_VOXELS, without_small};
use crate::{Error, Result};

/// Thresholds are thousandths, from 0.
const THRESHOLDS: usize = 1000;

/// The authors' figures.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// Average precision of all pixels.
    pub average_precision: f64,
    /// The best Dice over the whole set.
    pub best_dice: f64,
    /// The threshold that gives it: the lowest of the best.
    pub best_threshold: f32,
    /// Dice at that threshold without small components.
    pub dice_after_components: f64,
    /// What is found then, `(N, H, W)`.
    pub mask: Array3<bool>,
}

/// Rounded to half precision.
fn halved(values: Vec<f32>) -> Result<Vec<f32>> {
    let count = values.len();
    let half = Tensor::from_vec(values, count, &Device::Cpu)?.to_dtype(DType::F16)?;
    Ok(half.to_dtype(DType::F32)?.to_vec1()?)
}

/// Dice, 0 where there is nothing to be found.
fn value(score: Score) -> f64 {
    match score {
        Score::Value(value) => value,
        Score::Undefined(_) => 0.0,
    }
}

/// Scores and masks `(N, H, W)` of patients with so many slices each, one after another, judged as the authors do: scores and thresholds in
/// half precision, then components of the scores above the best threshold, patient by patient.
///
/// # Errors
/// When the shapes don't fit, a score isn't finite, or no pixel is a lesion's.
#[allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]
pub fn evaluate(
    scores: ArrayView3<'_, f32>,
    masks: ArrayView3<'_, bool>,
    slices_per_patient: &[usize],
) -> Result<Evaluation> {
    let slices = scores.len_of(Axis(0));
    if scores.dim() != masks.dim() || slices_per_patient.iter().sum::<usize>() != slices {
        return Err(Error::shape(
            "scores",
            format!("{:?} of patients with {slices_per_patient:?}", masks.dim()),
            scores.dim(),
        ));
    }
    if scores.iter().any(|v| !v.is_finite()) {
        return Err(Error::NonFinite {
            what: "the scores".to_owned(),
        });
    }
    let truth: Vec<bool> = masks.iter().copied().collect();
    if !truth.contains(&true) {
        return Err(Error::config("masks", "a pixel of a lesion", "none"));
    }
    let half = halved(scores.iter().copied().collect())?;
    let average_precision = average_precision(&half, &truth)?;
    let exact: Vec<f32> = (0..THRESHOLDS)
        .map(|x| (x as f64 / 1000.0) as f32)
        .collect();
    let (best_dice, at) = best_dice(&half, &truth, &halved(exact.clone())?);
    let best_threshold = exact[at];
    let mut found = scores.mapv(|v| v > best_threshold);
    let mut start = 0;
    for &count in slices_per_patient {
        let part = Slice::from(start..start + count);
        let kept = without_small(found.slice_axis(Axis(0), part), LEAST_VOXELS)?;
        found.slice_axis_mut(Axis(0), part).assign(&kept);
        start += count;
    }
    Ok(Evaluation {
        average_precision: value(average_precision),
        best_dice,
        best_threshold,
        dice_after_components: value(Confusion::of(&found.view(), &masks)?.dice()),
        mask: found,
    })
}

/// The best Dice of pixels strictly above one of the thresholds, which ascend, and the place of the first that gives it.
fn best_dice(scores: &[f32], truth: &[bool], thresholds: &[f32]) -> (f64, usize) {
    // How many of the pixels, and of those of lesions, are above each threshold and none higher.
    let mut counts = vec![[0u64; 2]; thresholds.len() + 1];
    for (score, &lesion) in scores.iter().zip(truth) {
        let below = thresholds.partition_point(|t| t < score);
        counts[below][0] += 1;
        counts[below][1] += u64::from(lesion);
    }
    let lesions = truth.iter().filter(|&&lesion| lesion).count() as u64;
    let (mut above, mut right) = (0u64, 0u64);
    let mut best = (0.0, 0);
    for n in (0..thresholds.len()).rev() {
        above += counts[n + 1][0];
        right += counts[n + 1][1];
        let dice = 2.0 * right as f64 / (above + lesions).max(1) as f64;
        if dice >= best.0 {
            best = (dice, n);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_lesion_there_is_nothing_to_judge_by() {
        let scores = Array3::from_shape_fn((2, 4, 4), |(n, y, x)| (n + y + x) as f32 / 10.0);
        let mut masks = Array3::from_elem((2, 4, 4), false);
        let error = evaluate(scores.view(), masks.view(), &[2]).unwrap_err();
        assert!(error.to_string().contains("a pixel of a lesion"), "{error}");
        masks[[0, 1, 1]] = true;
        assert!(evaluate(scores.view(), masks.view(), &[2]).is_ok());
    }
}
