use ndarray::{Array2, Array3, Axis};
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

    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
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
            // A plain copy would keep the reversed strides.
            image.invert_axis(Axis(2));
            *image = image.as_standard_layout().into_owned();
            head.invert_axis(Axis(1));
            *head = head.as_standard_layout().into_owned();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, generator};

    fn image() -> Array3<f32> {
        Array3::from_shape_fn((2, 3, 5), |(c, y, x)| {
            if x == 0 {
                -1.0
            } else {
                ((c * 15 + y * 5 + x) as f32 / 15.0) - 1.0
            }
        })
    }

    #[test]
    fn none_changes_nothing() {
        let (mut changed, mut head) = (image(), Array2::from_elem((3, 5), true));
        let mut rng = generator(1, Purpose::Validation, 0);
        Augmentation::NONE.apply(&mut rng, &mut changed, &mut head);
        assert_eq!(changed, image());
    }

    #[test]
    fn a_flip_mirrors_image_and_head() {
        let flip = Augmentation {
            flip: 1.0,
            ..Augmentation::NONE
        };
        let (mut changed, mut head) = (image(), Array2::from_elem((3, 5), false));
        head[[1, 0]] = true;
        flip.apply(
            &mut generator(1, Purpose::Validation, 0),
            &mut changed,
            &mut head,
        );
        assert!(head[[1, 4]] && !head[[1, 0]]);
        assert!(
            changed
                .indexed_iter()
                .all(|((c, y, x), &v)| v == image()[[c, y, 4 - x]])
        );
        assert!(changed.is_standard_layout());
    }

    #[test]
    fn contrast_keeps_background_order_and_range() {
        let strong = Augmentation {
            flip: 0.0,
            gamma: 0.5,
            gain: 0.5,
        };
        for index in 0..50 {
            let (mut changed, mut head) = (image(), Array2::from_elem((3, 5), true));
            let mut rng = generator(2, Purpose::Validation, index);
            strong.apply(&mut rng, &mut changed, &mut head);
            for (channel, before) in changed.outer_iter().zip(image().outer_iter()) {
                let mut pairs: Vec<(f32, f32)> = before
                    .iter()
                    .copied()
                    .zip(channel.iter().copied())
                    .collect();
                pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(pairs.windows(2).all(|p| p[0].1 <= p[1].1));
                assert!(pairs.iter().all(|p| (-1.0..=1.0).contains(&p.1)));
                assert_eq!(pairs[0], (-1.0, -1.0));
            }
        }
    }
}
