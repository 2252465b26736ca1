//! Masks of random shape: where a training slice is corrupted, in place of a lesion.
//!
//! [`FreeForm`] draws brush strokes by random walk (Yu et al., Free-Form Image Inpainting with
//! Gated Convolution, ICCV 2019). [`Blob`] draws ellipses with a wavy border. [`MaskMix`] chooses
//! between them.
//!
//! ```
//! use fndm_data::freeform::FreeForm;
//! use rand::SeedableRng;
//!
//! let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
//! let mask = FreeForm::default().draw(&mut rng, 64, 64);
//! assert_eq!(mask.dim(), (64, 64));
//! ```

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]

mod place;
mod raster;

use std::f64::consts::{PI, TAU};

use ndarray::{Array2, ArrayView2};
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Width of a brush: drawn evenly from the whole pixels `low..high`, `high` left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Brush {
    /// In pixels, whatever the image.
    Pixels {
        /// Least width.
        low: f64,
        /// Bound of the width, not reached.
        high: f64,
    },
    /// As a share of the image's side, sqrt(height * width).
    Share {
        /// Least width.
        low: f64,
        /// Bound of the width, not reached.
        high: f64,
    },
}

/// Free-form masks: zigzag strokes of a round brush.
///
/// The number of strokes, and of segments in each, is even between the two bounds. A stroke
/// starts at any pixel; its segments point in turn up and down at angles around 2 pi / 5, with a
/// normal length of mean `length` * diagonal, and end at the image's border.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FreeForm {
    /// Least and greatest number of strokes.
    pub strokes: (u32, u32),
    /// Least and greatest number of segments in a stroke.
    pub segments: (u32, u32),
    /// Width of the brush; one for the whole stroke.
    pub brush: Brush,
    /// Mean length of a segment, as a share of the image's diagonal.
    pub length: f64,
    /// Limit x by the height and y by the width, as the published code does. It matters on images
    /// that are not square alone.
    pub swapped_limits: bool,
}

impl Default for FreeForm {
    /// Strokes sized for lesions: one or two of a brush of 5 to 16 % of the image's side. They
    /// cover about 6 % of the image, whatever its size.
    fn default() -> Self {
        Self {
            strokes: (1, 2),
            segments: (2, 6),
            brush: Brush::Share {
                low: 0.05,
                high: 0.16,
            },
            length: 1.0 / 10.0,
            swapped_limits: false,
        }
    }
}

impl FreeForm {
    /// As published: 1 to 3 strokes of 4 to 11 segments, brush 12 to 40 px. That covers 15 % of a
    /// 256 px image and 45 % of a 64 px one.
    #[must_use]
    pub fn paper() -> Self {
        Self {
            strokes: (1, 3),
            segments: (4, 11),
            brush: Brush::Pixels {
                low: 12.0,
                high: 40.0,
            },
            length: 1.0 / 8.0,
            swapped_limits: true,
        }
    }

    /// As published for 256 px, with the brush scaled to an image of `size` px: the same share of
    /// the image is covered at any size.
    #[must_use]
    pub fn scaled(size: usize) -> Self {
        let scale = size as f64 / 256.0;
        Self {
            brush: Brush::Pixels {
                low: 12.0 * scale,
                high: 40.0 * scale,
            },
            swapped_limits: false,
            ..Self::paper()
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the first setting out of range.
    pub fn check(&self) -> Result<()> {
        let counts = |what: &str, (low, high): (u32, u32)| {
            if 1 <= low && low <= high && high <= 1000 {
                Ok(())
            } else {
                Err(Error::config(
                    format!("FreeForm.{what}"),
                    "1 <= least <= greatest <= 1000",
                    format!("{low}, {high}"),
                ))
            }
        };
        counts("strokes", self.strokes)?;
        counts("segments", self.segments)?;
        let (Brush::Pixels { low, high } | Brush::Share { low, high }) = self.brush;
        if !(0.0 <= low && low <= high && high <= 1e4) {
            return Err(Error::config(
                "FreeForm.brush",
                "0 <= low <= high <= 10000",
                format!("{low}, {high}"),
            ));
        }
        if !(0.0..=10.0).contains(&self.length) {
            return Err(Error::config("FreeForm.length", "0 to 10", self.length));
        }
        Ok(())
    }

    /// Draws a mask (H, W); true is inside. Never empty on a square image.
    ///
    /// Settings that [`check`](Self::check) refuses are brought into range.
    pub fn draw<R: Rng + ?Sized>(&self, rng: &mut R, h: usize, w: usize) -> Array2<bool> {
        let mut mask = Array2::from_elem((h, w), false);
        if mask.is_empty() {
            return mask;
        }
        for _ in 0..between(rng, self.strokes) {
            self.stroke(rng, &mut mask);
        }
        mask
    }

    /// As [`draw`](Self::draw), moved so that most of it lies in the head (H, W), and cut to the
    /// head. At least one pixel is inside, unless the head is empty.
    pub fn draw_in<R: Rng + ?Sized>(&self, rng: &mut R, head: ArrayView2<bool>) -> Array2<bool> {
        place::within(rng, &head, |rng, h, w| self.draw(rng, h, w))
    }

    fn stroke<R: Rng + ?Sized>(&self, rng: &mut R, mask: &mut Array2<bool>) {
        let (h, w) = mask.dim();
        let (height, width) = (h as f64, w as f64);
        let mean = height.hypot(width) * within(self.length, 0.0, 10.0);
        let deviation = (mean / 2.0).floor();
        let low = TAU / 5.0 - rng.random_range(0.0..TAU / 15.0);
        let high = TAU / 5.0 + rng.random_range(0.0..TAU / 15.0);
        let brush = self.width(rng, (height * width).sqrt());
        let (far_x, far_y) = if self.swapped_limits { (h, w) } else { (w, h) };
        let mut from = (
            rng.random_range(0..far_x) as f64,
            rng.random_range(0..far_y) as f64,
        );
        for i in 0..between(rng, self.segments) {
            let angle = rng.random_range(low..=high);
            let angle = if i % 2 == 0 { TAU - angle } else { angle };
            let normal: f64 = rng.sample(StandardNormal);
            let length = (mean + deviation * normal).clamp(0.0, 2.0 * mean);
            let to = (
                (from.0 + length * angle.cos())
                    .clamp(0.0, far_x as f64)
                    .trunc(),
                (from.1 + length * angle.sin())
                    .clamp(0.0, far_y as f64)
                    .trunc(),
            );
            raster::thick_line(mask, from, to, brush / 2.0);
            from = to;
        }
    }

    /// Width in pixels, at least one. Small scaled brushes keep their fraction of a pixel.
    fn width<R: Rng + ?Sized>(&self, rng: &mut R, side: f64) -> f64 {
        let (low, high, whole) = match self.brush {
            Brush::Pixels { low, high } => (low, high, low.fract() == 0.0 && high.fract() == 0.0),
            Brush::Share { low, high } => (low * side, high * side, false),
        };
        let low = within(low, 0.0, 1e6);
        let width = rng.random_range(low..=within(high, low, 1e6));
        if whole {
            // The bound itself has no chance, as in the published method.
            width.floor().min((high - 1.0).max(low)).max(1.0)
        } else {
            width.max(1.0)
        }
    }
}

/// A compact region: an ellipse, or a blob where its border waves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blob {
    /// Least and greatest number of regions.
    pub count: (u32, u32),
    /// Range of the area of one region, as a share of the image. Drawn evenly in its logarithm.
    pub area: (f64, f64),
    /// Greatest ratio of the long to the short axis.
    pub elongation: f64,
    /// Height of the waves of the border as a share of the radius: 0 is an ellipse.
    pub waves: f64,
}

impl Default for Blob {
    fn default() -> Self {
        Self {
            count: (1, 2),
            area: (0.01, 0.10),
            elongation: 2.0,
            waves: 0.25,
        }
    }
}

impl Blob {
    /// Plain ellipses.
    #[must_use]
    pub fn ellipse() -> Self {
        Self {
            waves: 0.0,
            ..Self::default()
        }
    }

    /// Three to eight small regions, as of multiple sclerosis.
    #[must_use]
    pub fn scattered() -> Self {
        Self {
            count: (3, 8),
            area: (0.002, 0.012),
            elongation: 1.7,
            waves: 0.15,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the first setting out of range.
    pub fn check(&self) -> Result<()> {
        let (few, many) = self.count;
        if !(1 <= few && few <= many && many <= 1000) {
            return Err(Error::config(
                "Blob.count",
                "1 <= least <= greatest <= 1000",
                format!("{few}, {many}"),
            ));
        }
        let (low, high) = self.area;
        if !(0.0 < low && low <= high && high <= 1.0) {
            return Err(Error::config(
                "Blob.area",
                "0 < low <= high <= 1",
                format!("{low}, {high}"),
            ));
        }
        if !(1.0..=20.0).contains(&self.elongation) {
            return Err(Error::config("Blob.elongation", "1 to 20", self.elongation));
        }
        if !(0.0..=0.9).contains(&self.waves) {
            return Err(Error::config("Blob.waves", "0 to 0.9", self.waves));
        }
        Ok(())
    }

    /// Draws a mask (H, W); true is inside. Never empty, unless the image is.
    ///
    /// Settings that [`check`](Self::check) refuses are brought into range.
    pub fn draw<R: Rng + ?Sized>(&self, rng: &mut R, h: usize, w: usize) -> Array2<bool> {
        let mut mask = Array2::from_elem((h, w), false);
        if mask.is_empty() {
            return mask;
        }
        for _ in 0..between(rng, self.count) {
            self.region(rng, &mut mask);
        }
        mask
    }

    /// As [`FreeForm::draw_in`].
    pub fn draw_in<R: Rng + ?Sized>(&self, rng: &mut R, head: ArrayView2<bool>) -> Array2<bool> {
        place::within(rng, &head, |rng, h, w| self.draw(rng, h, w))
    }

    fn region<R: Rng + ?Sized>(&self, rng: &mut R, mask: &mut Array2<bool>) {
        let (h, w) = mask.dim();
        let low = within(self.area.0, 1e-6, 1.0).ln();
        let high = within(self.area.1, 1e-6, 1.0).ln().max(low);
        let area = rng.random_range(low..=high).exp() * (h * w) as f64;
        let ratio = rng.random_range(1.0..=within(self.elongation, 1.0, 20.0));
        let short = (area / (PI * ratio)).sqrt().max(0.6);
        let turn = rng.random_range(0.0..PI);
        let centre = (rng.random_range(0..w) as f64, rng.random_range(0..h) as f64);
        let height = within(self.waves, 0.0, 0.9);
        // Waves of order 2 to 5 whose heights add up to at most `waves`.
        let waves = [2.0, 3.0, 4.0, 5.0].map(|order| {
            (
                order,
                0.25 * height * rng.random_range(0.4..1.0),
                rng.random_range(0.0..TAU),
            )
        });
        raster::star(
            mask,
            centre,
            (short * ratio, short),
            turn,
            1.0 + height,
            |angle| {
                let wave = |(order, height, phase): &(f64, f64, f64)| {
                    height * (order * angle + phase).sin()
                };
                1.0 + waves.iter().map(wave).sum::<f64>()
            },
        );
        mask[[centre.1 as usize, centre.0 as usize]] = true;
    }
}

/// A choice between kinds of masks, by weight.
///
/// ```
/// use fndm_data::freeform::MaskMix;
/// use rand::SeedableRng;
///
/// let head = ndarray::Array2::from_shape_fn((64, 64), |(i, j)| (10..54).contains(&i) && (14..50).contains(&j));
/// let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
/// let mask = MaskMix::default().draw_in(&mut rng, head.view());
/// assert!(mask.iter().zip(&head).any(|(m, h)| *m && *h));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskMix {
    /// Weight of brush strokes.
    pub free_form_weight: f64,
    /// Weight of blobs.
    pub blob_weight: f64,
    /// Weight of scattered small regions.
    pub scattered_weight: f64,
    /// The brush strokes.
    pub free_form: FreeForm,
    /// The blobs.
    pub blob: Blob,
    /// The scattered small regions.
    pub scattered: Blob,
}

impl Default for MaskMix {
    fn default() -> Self {
        Self {
            free_form_weight: 0.4,
            blob_weight: 0.4,
            scattered_weight: 0.2,
            free_form: FreeForm::default(),
            blob: Blob::default(),
            scattered: Blob::scattered(),
        }
    }
}

impl MaskMix {
    /// Brush strokes alone.
    #[must_use]
    pub fn only(free_form: FreeForm) -> Self {
        Self {
            free_form_weight: 1.0,
            blob_weight: 0.0,
            scattered_weight: 0.0,
            free_form,
            ..Self::default()
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the first setting out of range.
    pub fn check(&self) -> Result<()> {
        check_weights(
            "MaskMix weights",
            &[
                self.free_form_weight,
                self.blob_weight,
                self.scattered_weight,
            ],
        )?;
        self.free_form.check()?;
        self.blob.check()?;
        self.scattered.check()
    }

    /// Draws a mask (H, W) of one of the kinds.
    pub fn draw<R: Rng + ?Sized>(&self, rng: &mut R, h: usize, w: usize) -> Array2<bool> {
        match pick(
            rng,
            &[
                self.free_form_weight,
                self.blob_weight,
                self.scattered_weight,
            ],
        ) {
            0 => self.free_form.draw(rng, h, w),
            1 => self.blob.draw(rng, h, w),
            _ => self.scattered.draw(rng, h, w),
        }
    }

    /// As [`FreeForm::draw_in`].
    pub fn draw_in<R: Rng + ?Sized>(&self, rng: &mut R, head: ArrayView2<bool>) -> Array2<bool> {
        place::within(rng, &head, |rng, h, w| self.draw(rng, h, w))
    }
}

/// Weights are finite, none below zero, and not all zero.
pub(crate) fn check_weights(what: &str, weights: &[f64]) -> Result<()> {
    if weights.iter().any(|w| !w.is_finite() || *w < 0.0) || weights.iter().sum::<f64>() <= 0.0 {
        return Err(Error::config(
            what,
            "numbers of 0 or more, not all 0",
            format!("{weights:?}"),
        ));
    }
    Ok(())
}

/// An index with a chance proportional to its weight; weights that are not positive count as 0.
pub(crate) fn pick<R: Rng + ?Sized>(rng: &mut R, weights: &[f64]) -> usize {
    let weight = |w: &f64| if w.is_finite() { w.max(0.0) } else { 0.0 };
    let total: f64 = weights.iter().map(weight).sum();
    let mut left = rng.random::<f64>() * total;
    for (i, w) in weights.iter().enumerate() {
        left -= weight(w);
        if left < 0.0 {
            return i;
        }
    }
    0
}

/// The value, or the end of the range that is nearest to it; the lower one for what is no number.
fn within(value: f64, low: f64, high: f64) -> f64 {
    if value.is_nan() {
        return low;
    }
    value.clamp(low, high)
}

fn between<R: Rng + ?Sized>(rng: &mut R, (low, high): (u32, u32)) -> u32 {
    let low = low.clamp(1, 1000);
    rng.random_range(low..=high.clamp(low, 1000))
}
