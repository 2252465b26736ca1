use ndarray::{Array3, ArrayView2, ArrayViewMut2};
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::{check, check_share};

/// Changes of slices and what is known of their pixels: a mirror image, turning, scaling, shifting, and changes of the
/// intensities of each sequence. Numbers drawn are normal, with the deviations that are given here.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PixelAugmentation {
    /// Probability of a left-right flip.
    pub flip: f64,
    /// Angle in radians.
    pub rotation: f64,
    /// Scale: the slice is seen `1 + n` times smaller.
    pub scale: f64,
    /// Shift along each axis, as a share of half the side.
    pub shift: f64,
    /// Each sequence is raised to `exp(n)` on the scale where background is 0 and 1 the top.
    pub gamma: f64,
    /// Each sequence is multiplied by `1 + n`.
    pub gain: f64,
    /// Added to each sequence.
    pub offset: f64,
    /// Added to each pixel.
    pub noise: f64,
}

impl Default for PixelAugmentation {
    fn default() -> Self {
        Self {
            flip: 0.5,
            rotation: 0.15,
            scale: 0.1,
            shift: 0.05,
            gamma: 0.25,
            gain: 0.1,
            offset: 0.1,
            noise: 0.03,
        }
    }
}

impl PixelAugmentation {
    /// No change at all.
    pub const NONE: Self = Self {
        flip: 0.0,
        rotation: 0.0,
        scale: 0.0,
        shift: 0.0,
        gamma: 0.0,
        gain: 0.0,
        offset: 0.0,
        noise: 0.0,
    };

    /// A flip in every second sample.
    pub const FLIP: Self = Self {
        flip: 0.5,
        ..Self::NONE
    };

    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        check_share(self.flip, "augmentation.flip")?;
        for (value, field, most) in [
            (self.rotation, "augmentation.rotation", 4.0),
            (self.scale, "augmentation.scale", 0.3),
            (self.shift, "augmentation.shift", 1.0),
            (self.gamma, "augmentation.gamma", 1.0),
            (self.gain, "augmentation.gain", 1.0),
            (self.offset, "augmentation.offset", 1.0),
            (self.noise, "augmentation.noise", 1.0),
        ] {
            check(
                (0.0..=most).contains(&value),
                field,
                &format!("0 to {most}"),
                value,
            )?;
        }
        Ok(())
    }

    /// Draws where pixels come from. Every draw happens whatever the settings, so that changing one leaves the others' numbers.
    pub(super) fn draw_place(&self, rng: &mut impl Rng) -> Place {
        let flipped = rng.random::<f64>() < self.flip;
        let mut normal = |deviation: f64| deviation * rng.sample::<f64, _>(StandardNormal);
        let angle = normal(self.rotation);
        // Four deviations of the largest scale would turn the slice inside out.
        let size = (1.0 + normal(self.scale)).max(0.2);
        let shift = [normal(self.shift), normal(self.shift)];
        let mirror = if flipped { -1.0 } else { 1.0 };
        let (sin, cos) = angle.sin_cos();
        Place {
            matrix: [
                [size * cos, size * sin * mirror],
                [-size * sin, size * cos * mirror],
            ],
            shift,
        }
    }

    /// Changes the intensities of planes `(K C, H, W)` in `[-1, 1]`, alike in all K slices of each of the `sequences`.
    pub(super) fn change_intensities(
        &self,
        rng: &mut impl Rng,
        image: &mut Array3<f32>,
        sequences: usize,
    ) {
        let changes: Vec<[f32; 3]> = (0..sequences)
            .map(|_| {
                let mut normal = |deviation: f64| deviation * rng.sample::<f64, _>(StandardNormal);
                let exponent = normal(self.gamma).exp() as f32;
                [
                    exponent,
                    (1.0 + normal(self.gain)) as f32,
                    normal(self.offset) as f32,
                ]
            })
            .collect();
        for (k, mut plane) in image.outer_iter_mut().enumerate() {
            let [exponent, gain, offset] = changes[k % sequences];
            if self.gamma > 0.0 {
                plane.mapv_inplace(|v| {
                    let unit = (0.5 * (v + 1.0)).clamp(0.0, 1.0);
                    unit.powf(exponent).mul_add(2.0, -1.0)
                });
            }
            if self.gain > 0.0 || self.offset > 0.0 {
                plane.mapv_inplace(|v| v.mul_add(gain, offset));
            }
        }
        if self.noise > 0.0 {
            let deviation = self.noise as f32;
            image.mapv_inplace(|v| v + deviation * rng.sample::<f32, _>(StandardNormal));
        }
    }
}

/// Where each pixel of a changed slice comes from: `matrix (y, x) + shift`, about the middle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    matrix: [[f64; 2]; 2],
    /// In units of half the side.
    shift: [f64; 2],
}

impl Place {
    /// Where the pixel at row `y` and column `x` of a slice `(h, w)` comes from.
    fn source(&self, (y, x): (usize, usize), (h, w): (usize, usize)) -> (f64, f64) {
        let (my, mx) = ((h as f64 - 1.0) / 2.0, (w as f64 - 1.0) / 2.0);
        let (v, u) = (y as f64 - my, x as f64 - mx);
        let [[yy, yx], [xy, xx]] = self.matrix;
        let [sy, sx] = self.shift;
        (
            yy * v + yx * u + my + sy * h as f64 / 2.0,
            xy * v + xx * u + mx + sx * w as f64 / 2.0,
        )
    }

    /// Whether nothing moves.
    fn rests(&self) -> bool {
        self.matrix == [[1.0, 0.0], [0.0, 1.0]] && self.shift == [0.0, 0.0]
    }

    /// The weights and places of the four pixels that each pixel of a slice `(h, w)` is made of.
    pub(super) fn plan(&self, size: (usize, usize)) -> Plan {
        let (h, w) = size;
        if self.rests() {
            return Plan { corners: None };
        }
        let mut corners = Vec::with_capacity(h * w);
        for y in 0..h {
            for x in 0..w {
                let (sy, sx) = self.source((y, x), size);
                let (fy, fx) = (sy.floor(), sx.floor());
                let (ty, tx) = ((sy - fy) as f32, (sx - fx) as f32);
                let mut places = [0_u32; 4];
                let mut weights = [0_f32; 4];
                for k in 0..4 {
                    let (dy, dx) = (k / 2, k % 2);
                    let (py, px) = (fy + dy as f64, fx + dx as f64);
                    let there = py >= 0.0 && px >= 0.0 && py < h as f64 && px < w as f64;
                    if there {
                        places[k] = (py as usize * w + px as usize) as u32;
                        let along = |t: f32, d: usize| if d == 0 { 1.0 - t } else { t };
                        weights[k] = along(ty, dy) * along(tx, dx);
                    }
                }
                corners.push((places, weights));
            }
        }
        Plan {
            corners: Some(corners),
        }
    }
}

/// A change of place, worked out for all pixels of a slice.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// None where nothing moves.
    corners: Option<Vec<([u32; 4], [f32; 4])>>,
}

impl Plan {
    /// `from` at its new place, in `to`; `beyond` stands for what lies outside of the slice.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "views are passed by value, as ndarray does"
    )]
    pub(super) fn apply(
        &self,
        from: ArrayView2<'_, f32>,
        mut to: ArrayViewMut2<'_, f32>,
        beyond: f32,
    ) {
        let Some(corners) = &self.corners else {
            to.assign(&from);
            return;
        };
        let from = from.as_standard_layout();
        let Some(values) = from.as_slice() else {
            return;
        };
        for (to, (places, weights)) in to.iter_mut().zip(corners) {
            // A pixel that lands on another as a whole stays as it is, to the bit.
            let mut sum = beyond * (1.0 - weights.iter().sum::<f32>());
            for (&place, &weight) in places.iter().zip(weights) {
                sum += weight * values[place as usize];
            }
            *to = sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::random::{Purpose, generator};

    fn ramp(h: usize, w: usize) -> Array2<f32> {
        Array2::from_shape_fn((h, w), |(y, x)| 0.3 * y as f32 - 0.2 * x as f32)
    }

    fn moved(place: &Place, from: &Array2<f32>) -> Array2<f32> {
        let mut to = Array2::zeros(from.dim());
        place
            .plan(from.dim())
            .apply(from.view(), to.view_mut(), -1.0);
        to
    }

    #[test]
    fn no_augmentation_changes_nothing_and_a_flip_is_the_mirror_image() {
        let mut rng = generator(1, Purpose::Validation, 0);
        let image = ramp(6, 9);
        let none = PixelAugmentation::NONE.draw_place(&mut rng);
        assert!(none.rests());
        assert_eq!(moved(&none, &image), image);
        let flip = PixelAugmentation {
            flip: 1.0,
            ..PixelAugmentation::NONE
        };
        let out = moved(&flip.draw_place(&mut rng), &image);
        for ((y, x), &v) in out.indexed_iter() {
            assert_eq!(v, image[[y, 8 - x]]);
        }
        let mut planes = Array3::from_elem((4, 3, 3), 0.25);
        PixelAugmentation::NONE.change_intensities(&mut rng, &mut planes, 2);
        assert!(planes.iter().all(|&v| v == 0.25));
    }

    /// A linear image stays linear under bilinear sampling, so that the right value is known everywhere inside.
    #[test]
    fn pixels_come_from_where_the_matrix_says() {
        let all = PixelAugmentation::default();
        let image = ramp(17, 17);
        let mut inside = 0;
        for index in 0..40 {
            let place = all.draw_place(&mut generator(2, Purpose::Validation, index));
            let out = moved(&place, &image);
            for ((y, x), &v) in out.indexed_iter() {
                let (sy, sx) = place.source((y, x), (17, 17));
                if (0.0..=16.0).contains(&sy) && (0.0..=16.0).contains(&sx) {
                    assert!((f64::from(v) - (0.3 * sy - 0.2 * sx)).abs() < 1e-4);
                    inside += 1;
                } else if sy < -1.0 || sx < -1.0 || sy > 17.0 || sx > 17.0 {
                    assert_eq!(v, -1.0);
                }
            }
        }
        assert!(inside > 40 * 150, "{inside}");
    }

    #[test]
    fn all_slices_of_a_sequence_change_alike() {
        let contrast = PixelAugmentation {
            noise: 0.0,
            ..PixelAugmentation::default()
        };
        let before = Array3::from_shape_fn((6, 2, 3), |(_, y, x)| 0.3 * (y + x) as f32 - 0.5);
        let mut image = before.clone();
        contrast.change_intensities(&mut generator(3, Purpose::Validation, 0), &mut image, 2);
        for k in 0..6 {
            let plane = |k: usize| image.index_axis(ndarray::Axis(0), k).to_owned();
            assert_eq!(plane(k), plane(k % 2));
        }
        assert_ne!(image, before);
    }
}
