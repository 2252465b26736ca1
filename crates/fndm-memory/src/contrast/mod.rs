//! Two Gaussians at every position, of healthy and of diseased slices: what the label of a slice says of its pixels.

mod build;
mod store;

use candle_core::Tensor;
use ndarray::{Array3, ArrayView3};
use serde::{Deserialize, Serialize};

pub use build::ContrastBuilder;

use crate::calibration::Calibration;
use crate::coarse::HealthyModel;
use crate::coarse_config::CoarseConfig;
use crate::gaussians::Gaussians;
use crate::padim::Layout;
use crate::smooth::Smoothing;
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
        // Not `max`, which would make 0, healthy, of NaN.
        (if difference < 0.0 { 0.0 } else { difference }) as f32
    }
}

impl HealthyModel for Contrast {
    fn patch_scores(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
    ) -> Result<Array3<f32>> {
        let score = |position: usize, x: &[f32]| self.score(position, x);
        let batch = self.config.batch_size;
        self.layout.scores(extractor, images, head, batch, score)
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
