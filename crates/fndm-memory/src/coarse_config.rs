//! How patch scores become the coarse segmentation.

use ndarray::{Array3, ArrayView3, Axis, Zip};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::morphology::{dilate, erode, remove_small};
use crate::resize::upsample_bilinear;
use crate::smooth::{Edge, Smoothing, gaussian_blur};
use crate::{Error, Result};

/// The largest erosion and dilation, in pixels: both take time with its square, and more than a quarter of a slice of 256 px is
/// surely a mistake.
pub const MAX_RADIUS: usize = 64;

/// From patch scores to the coarse segmentation `x_seg`. Pixels are those of the images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoarseConfig {
    /// Smoothing of the upsampled scores.
    pub smoothing: Smoothing,
    /// What the smoothing sees beyond the image.
    pub edge: Edge,
    /// The part of healthy head pixels that lies below the threshold, in (0, 1).
    pub quantile: f64,
    /// By how many pixels the head is eroded before its pixels count: its rim is never part of the segmentation.
    pub head_erosion: usize,
    /// Components (8 neighbours) with fewer pixels are left out.
    pub min_component: usize,
    /// By how many pixels what is left grows, within the head.
    pub dilation: usize,
}

impl Default for CoarseConfig {
    fn default() -> Self {
        Self {
            smoothing: Smoothing::At256(4.0),
            edge: Edge::Symmetric,
            quantile: 0.98,
            head_erosion: 2,
            min_component: 8,
            dilation: 0,
        }
    }
}

impl CoarseConfig {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// [`Error::Config`] names the field.
    pub fn check(&self) -> Result<()> {
        self.smoothing.check()?;
        if !(self.quantile > 0.0 && self.quantile < 1.0) {
            return Err(Error::config(
                "coarse.quantile",
                format!(
                    "expected more than 0 and less than 1, got {}",
                    self.quantile
                ),
            ));
        }
        for (field, pixels) in [
            ("coarse.head_erosion", self.head_erosion),
            ("coarse.dilation", self.dilation),
        ] {
            if pixels > MAX_RADIUS {
                return Err(Error::config(
                    field,
                    format!("expected 0 to {MAX_RADIUS} pixels, got {pixels}"),
                ));
            }
        }
        Ok(())
    }

    /// Patch scores `(B, h, w)` to smooth maps `(B, H, W)`.
    ///
    /// # Errors
    /// When the config is wrong or a side is 0.
    pub fn score_maps(
        &self,
        patch_scores: ArrayView3<'_, f32>,
        size: (usize, usize),
    ) -> Result<Array3<f32>> {
        self.smoothing.check()?;
        let mut maps = upsample_bilinear(patch_scores, size)?;
        gaussian_blur(&mut maps, self.smoothing.sigma(size), self.edge)?;
        Ok(maps)
    }

    /// Smooth maps `(B, H, W)` to masks: above the threshold, inside the eroded head, no small components, grown.
    ///
    /// # Errors
    /// When the config is wrong, the head has another shape, the threshold is NaN, or a map is NaN or infinite inside of the head:
    /// neither is above or below anything.
    pub fn binarise(
        &self,
        maps: ArrayView3<'_, f32>,
        head: ArrayView3<'_, bool>,
        threshold: f32,
    ) -> Result<Array3<bool>> {
        self.check()?;
        if maps.dim() != head.dim() {
            return Err(Error::shape(
                "head",
                format!("{:?}", maps.dim()),
                head.dim(),
            ));
        }
        if threshold.is_nan() {
            return Err(Error::non_finite("threshold of the coarse map", None));
        }
        let inside = maps.indexed_iter().zip(head);
        if let Some((((image, y, x), _), _)) = inside
            .into_iter()
            .find(|((_, v), on)| **on && !v.is_finite())
        {
            let what = format!("score map at row {y}, column {x}");
            return Err(Error::non_finite(what, Some(image)));
        }
        let mut out = Array3::from_elem(maps.dim(), false);
        out.axis_iter_mut(Axis(0))
            .into_par_iter()
            .zip(maps.axis_iter(Axis(0)).into_par_iter())
            .zip(head.axis_iter(Axis(0)).into_par_iter())
            .for_each(|((mut out, map), head)| {
                let mut mask = erode(head, self.head_erosion);
                Zip::from(&mut mask)
                    .and(map)
                    .for_each(|m, v| *m &= *v > threshold);
                remove_small(&mut mask, self.min_component);
                let mut mask = dilate(mask.view(), self.dilation);
                Zip::from(&mut mask).and(head).for_each(|m, h| *m &= *h);
                out.assign(&mask);
            });
        Ok(out)
    }
}
