//! Two Gaussians at every position, of healthy and of diseased slices: what the label of a slice says of its pixels.

mod build;
mod store;

use candle_core::Tensor;
use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use build::ContrastBuilder;

use crate::calibration::Calibration;
use crate::coarse::{CoarseConfig, HealthyModel, head_patches};
use crate::padim::Layout;
use crate::smooth::Smoothing;
use crate::tensor::check_images;
use crate::{Error, FeatureExtractor, Result};

/// Everything that makes a [`Contrast`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContrastConfig {
    /// How far the moments of neighbouring positions are averaged. A few dozen patients say little of one pixel, much of a region.
    pub pooling: Smoothing,
    /// What is added to the diagonal of every covariance, in the square of the features' unit.
    pub regularisation: f64,
    /// From scores to coarse maps.
    pub coarse: CoarseConfig,
    /// Images per pass through the extractor.
    pub batch_size: usize,
}

impl Default for ContrastConfig {
    fn default() -> Self {
        Self {
            pooling: Smoothing::At256(32.0),
            regularisation: 0.01,
            // Half of healthy pixels have a score of nearly 0, and faint lesions lie not far above: a low floor, above which
            // Otsu's method finds the threshold.
            coarse: CoarseConfig {
                quantile: 0.8,
                ..CoarseConfig::default()
            },
            batch_size: 16,
        }
    }
}

impl ContrastConfig {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// [`Error::Config`] names the field.
    pub fn check(&self) -> Result<()> {
        self.coarse.check()?;
        self.pooling.check()?;
        if self.batch_size == 0 {
            return Err(Error::config("batch_size", "expected 1 or more, got 0"));
        }
        if !(self.regularisation > 0.0 && self.regularisation.is_finite()) {
            return Err(Error::config(
                "regularisation",
                format!("expected more than 0, got {}", self.regularisation),
            ));
        }
        Ok(())
    }
}

/// The intensities themselves as features: [`Contrast`] needs no network.
///
/// # Errors
/// Never.
pub fn intensities(images: &Tensor) -> candle_core::Result<Vec<Tensor>> {
    Ok(vec![images.clone()])
}

/// A Gaussian at every position.
#[derive(Debug, Clone, PartialEq)]
struct Gaussians {
    /// `(positions, C)`.
    mean: Vec<f32>,
    /// `(positions, C, C)`, lower triangular: W^T W is the inverse covariance.
    whitening: Vec<f32>,
}

impl Gaussians {
    /// The squared Mahalanobis distance of a feature at a position.
    fn distance(&self, position: usize, x: &[f32]) -> f64 {
        let c = x.len();
        let mean = &self.mean[position * c..][..c];
        let w = &self.whitening[position * c * c..][..c * c];
        let squares = w.chunks_exact(c).enumerate().map(|(i, row)| {
            let terms = row[..=i].iter().zip(x).zip(mean);
            let y: f32 = terms.map(|((w, x), m)| w * (x - m)).sum();
            f64::from(y) * f64::from(y)
        });
        squares.sum()
    }
}

/// How much better the features of diseased slices explain a patch than those of healthy ones.
///
/// At every position stand two Gaussians, of all healthy and of all diseased slices, whose moments are averaged over the
/// neighbourhood. Most patches of a diseased slice are healthy, so that the two differ only in the direction in which lesions lie:
/// the squared Mahalanobis distance to the healthy one less that to the diseased one (quadratic discriminant analysis with the
/// slice's label for every patch) ignores what is merely unusual, which a [`MemoryBank`](crate::MemoryBank) or
/// [`Padim`](crate::Padim) can't. Scores below 0 are 0. It needs diseased slices, by their label alone, and slices that lie alike
/// in the image.
#[derive(Debug, Clone, PartialEq)]
pub struct Contrast {
    config: ContrastConfig,
    layout: Layout,
    healthy: Gaussians,
    diseased: Gaussians,
    calibration: Option<Calibration>,
}

impl Contrast {
    /// The config that it was built from.
    #[must_use]
    pub fn config(&self) -> &ContrastConfig {
        &self.config
    }

    /// The grid of positions, (h, w).
    #[must_use]
    pub fn grid(&self) -> (usize, usize) {
        self.layout.grid()
    }

    fn score(&self, position: usize, x: &[f32]) -> f32 {
        let difference = self.healthy.distance(position, x) - self.diseased.distance(position, x);
        difference.max(0.0) as f32
    }
}

impl HealthyModel for Contrast {
    fn patch_scores(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
    ) -> Result<Array3<f32>> {
        let (n, _, _) = check_images(images, head)?;
        let (h, w) = self.layout.grid();
        let c = self.layout.channels();
        let mut all = Vec::with_capacity(n * h * w);
        for start in (0..n).step_by(self.config.batch_size) {
            let count = self.config.batch_size.min(n - start);
            let maps = extractor.maps(&images.narrow(0, start, count)?)?;
            let features = self.layout.embed(&maps, count)?;
            let scores: Vec<f32> = features
                .par_chunks(c)
                .enumerate()
                .map(|(i, x)| self.score(i % (h * w), x))
                .collect();
            all.extend(scores);
        }
        let mut scores = Array3::from_shape_vec((n, h, w), all)
            .map_err(|e| Error::shape("scores", "one per position", e))?;
        if let Some(head) = head {
            let inside = head_patches(head, (h, w));
            scores.zip_mut_with(&inside, |score, inside| {
                if !inside {
                    *score = 0.0;
                }
            });
        }
        Ok(scores)
    }

    fn coarse_config(&self) -> &CoarseConfig {
        &self.config.coarse
    }

    fn set_coarse_config(&mut self, config: CoarseConfig) -> Result<()> {
        config.check()?;
        self.config.coarse = config;
        Ok(())
    }

    fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_ref()
    }

    fn set_calibration(&mut self, calibration: Option<Calibration>) {
        self.calibration = calibration;
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size
    }
}
