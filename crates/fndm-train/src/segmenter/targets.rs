use fndm_data::SliceSet;
use ndarray::{Array3, Axis, Zip};

use super::unfit;
use crate::{Result, hash};

/// What a student should say of every pixel, and how much each pixel counts. On slices without a lesion nothing is diseased
/// and every pixel counts: the one exact label of pixels that the bits of slices give.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelTargets {
    target: Array3<f32>,
    weight: Array3<f32>,
}

impl PixelTargets {
    /// Targets `(N, H, W)` from 0 (healthy) to 1 (lesion) with weights of 0 or more, for the slices of `set`. Those of slices
    /// with label 0 are not looked at.
    ///
    /// # Errors
    /// When the shapes don't fit, or a value is out of its range.
    pub fn new(set: &SliceSet, mut target: Array3<f32>, mut weight: Array3<f32>) -> Result<Self> {
        let (n, _, h, w) = set.images.dim();
        if target.dim() != (n, h, w) || weight.dim() != (n, h, w) {
            return Err(unfit(
                &format!("targets and weights of shape {:?}", (n, h, w)),
                format!("{:?} and {:?}", target.dim(), weight.dim()),
            ));
        }
        set.check()?;
        for (i, &label) in set.labels.iter().enumerate() {
            if label == 0 {
                target.index_axis_mut(Axis(0), i).fill(0.0);
                weight.index_axis_mut(Axis(0), i).fill(1.0);
            }
        }
        if let Some(value) = target.iter().find(|v| !(0.0..=1.0).contains(*v)) {
            return Err(unfit("targets from 0 to 1", value.to_string()));
        }
        if let Some(value) = weight.iter().find(|v| !(0.0..=1e6).contains(*v)) {
            return Err(unfit("weights from 0 to 1000000", value.to_string()));
        }
        Ok(Self { target, weight })
    }

    /// The masks of a teacher: above the slice's threshold and `inside`, on slices with label 1. Pixels inside whose score is
    /// within the share `band` of the threshold, on either side, don't count. Maps and `inside` are `(N, H, W)`.
    ///
    /// # Errors
    /// When the shapes don't fit, a score isn't finite, or the band isn't within 0 to below 1.
    pub fn from_teacher(
        set: &SliceSet,
        maps: &Array3<f32>,
        inside: &Array3<bool>,
        thresholds: &[f32],
        band: f64,
    ) -> Result<Self> {
        if maps.dim() != inside.dim() || thresholds.len() != maps.dim().0 {
            return Err(unfit(
                "a map, an inside and a threshold for every slice",
                format!(
                    "{:?}, {:?} and {}",
                    maps.dim(),
                    inside.dim(),
                    thresholds.len()
                ),
            ));
        }
        if !(0.0..1.0).contains(&band) {
            return Err(unfit("a band from 0 to below 1", band.to_string()));
        }
        if let Some(value) = maps.iter().find(|v| !v.is_finite()) {
            return Err(unfit("finite scores", value.to_string()));
        }
        let mut target = Array3::zeros(maps.dim());
        let mut weight = Array3::ones(maps.dim());
        for (i, &threshold) in thresholds.iter().enumerate() {
            let reach = band as f32 * threshold.abs();
            Zip::from(target.index_axis_mut(Axis(0), i))
                .and(weight.index_axis_mut(Axis(0), i))
                .and(maps.index_axis(Axis(0), i))
                .and(inside.index_axis(Axis(0), i))
                .for_each(|target, weight, &score, &inside| {
                    if inside {
                        *target = f32::from(u8::from(score > threshold));
                        if (score - threshold).abs() < reach {
                            *weight = 0.0;
                        }
                    }
                });
        }
        Self::new(set, target, weight)
    }

    /// What is wanted, `(N, H, W)`.
    #[must_use]
    pub fn target(&self) -> &Array3<f32> {
        &self.target
    }

    /// How much it counts, `(N, H, W)`.
    #[must_use]
    pub fn weight(&self) -> &Array3<f32> {
        &self.weight
    }

    /// Whether they are of these slices, as far as shapes and labels tell.
    pub(super) fn check(&self, set: &SliceSet) -> Result<()> {
        set.check()?;
        let (n, _, h, w) = set.images.dim();
        if self.target.dim() != (n, h, w) {
            return Err(unfit(
                &format!("targets of shape {:?}", (n, h, w)),
                format!("{:?}", self.target.dim()),
            ));
        }
        let wrong = set.labels.iter().enumerate().find(|&(i, &label)| {
            label == 0 && self.target.index_axis(Axis(0), i).iter().any(|&t| t > 0.0)
        });
        match wrong {
            Some((i, _)) => Err(unfit(
                "targets of 0 on slices with label 0",
                format!("others at slice {i}"),
            )),
            None => Ok(()),
        }
    }

    /// FNV-1a of all values.
    pub(super) fn hash(&self) -> u64 {
        let values = self.target.iter().chain(&self.weight);
        hash::of_words(values.map(|value| value.to_bits()))
    }
}
