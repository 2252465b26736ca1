use ndarray::{Array2, Array3, Axis, Slice};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::{check, check_share};

/// Changes of a slice that leave its label true: a mirror image, and small shifts of contrast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Probability of a left-right flip (along the last axis).
    pub flip: f64,
    /// Each channel is raised to `exp(u)`, u uniform in `[-gamma, gamma]`, on the scale where background is 0 and 1 the top.
    pub gamma: f64,
    /// Each channel is multiplied by `1 + u`, u uniform in `[-gain, gain]`, on the same scale, and clipped to 1.
    pub gain: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            flip: 0.5,
            gamma: 0.05,
            gain: 0.05,
        }
    }
}

impl Augmentation {
    /// No change at all.
    pub const NONE: Self = Self {
        flip: 0.0,
        gamma: 0.0,
        gain: 0.0,
    };

    pub(crate) fn check(&self) -> Result<()> {
        check_share(self.flip, "augmentation.flip")?;
        check(
            (0.0..=1.0).contains(&self.gamma),
            "augmentation.gamma",
            "0 to 1",
            self.gamma,
        )?;
        check(
            (0.0..1.0).contains(&self.gain),
            "augmentation.gain",
            "0 to below 1",
            self.gain,
        )
    }

    /// Changes `image` (C, H, W) in `[-1, 1]` and flips `head` (H, W) with it.
    pub(crate) fn apply(
        &self,
        rng: &mut impl Rng,
        image: &mut Array3<f32>,
        head: &mut Array2<bool>,
    ) {
        // Every draw happens whatever the settings, so that changing one leaves the others' numbers.
        if rng.random::<f64>() < self.flip {
            let reversed = Slice::new(0, None, -1);
            *image = image.slice_axis(Axis(2), reversed).to_owned();
            *head = head.slice_axis(Axis(1), reversed).to_owned();
        }
        for mut channel in image.outer_iter_mut() {
            let exponent = (self.gamma * (2.0 * rng.random::<f64>() - 1.0)).exp() as f32;
            let gain = (1.0 + self.gain * (2.0 * rng.random::<f64>() - 1.0)) as f32;
            if self.gamma > 0.0 || self.gain > 0.0 {
                channel.mapv_inplace(|x| {
                    let unit = (0.5 * (x + 1.0)).clamp(0.0, 1.0);
                    (gain * unit.powf(exponent)).min(1.0).mul_add(2.0, -1.0)
                });
            }
        }
    }
}
