use candle_core::Tensor;
use ndarray::{Array3, ArrayView3, Axis, Zip};

use crate::calibration::Calibration;
use crate::coarse_config::CoarseConfig;
use crate::morphology::erode;
use crate::progress::{OnProgress, report};
use crate::tensor::{batch_of, check_images};
use crate::{Error, FeatureExtractor, Result, Stage};

/// The coarse map of some slices.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CoarseMap {
    /// Smooth scores `(B, H, W)`, 0 outside of the head. Larger is less healthy; the unit is the model's.
    pub soft: Array3<f32>,
    /// The binary `x_seg` `(B, H, W)`.
    pub binary: Array3<bool>,
    /// The score above which a pixel is taken for a lesion's.
    pub threshold: f32,
}

impl CoarseMap {
    /// The soft map in units of the threshold, cut at 1: `(B, H, W)` in [0, 1].
    #[must_use]
    pub fn relative(&self) -> Array3<f32> {
        let scale = if self.threshold > 0.0 {
            1.0 / self.threshold
        } else {
            0.0
        };
        self.soft.mapv(|v| (v * scale).clamp(0.0, 1.0))
    }
}

/// A model of healthy patches that scores the patches of other images: [`MemoryBank`](crate::MemoryBank) or
/// [`Padim`](crate::Padim).
pub trait HealthyModel {
    /// How far each patch of images `(B, C, H, W)` is from healthy: `(B, h, w)` on the grid of the patches.
    ///
    /// With a head `(B, H, W)`, patches with no pixel of it are 0.
    ///
    /// # Errors
    /// When the images or the extractor's maps aren't of the kind that the model was built from.
    fn patch_scores(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
    ) -> Result<Array3<f32>>;

    /// From patch scores to coarse maps.
    fn coarse_config(&self) -> &CoarseConfig;

    /// Changes how coarse maps are made. Another smoothing or erosion of the head asks for a new calibration.
    ///
    /// # Errors
    /// When the config is wrong.
    fn set_coarse_config(&mut self, config: CoarseConfig) -> Result<()>;

    /// The scores of healthy pixels, if it is calibrated.
    fn calibration(&self) -> Option<&Calibration>;

    /// Replaces the calibration.
    fn set_calibration(&mut self, calibration: Option<Calibration>);

    /// The fingerprint of the extractor that it was built with, where that has one.
    fn extractor(&self) -> Option<&str> {
        None
    }

    /// Whether these are the features that it was built with, as far as both can tell.
    ///
    /// # Errors
    /// [`Error::OtherExtractor`] where they are others.
    fn check_extractor(&self, extractor: &dyn FeatureExtractor) -> Result<()> {
        match (self.extractor(), extractor.fingerprint()) {
            (Some(expected), Some(got)) if expected != got => Err(Error::OtherExtractor {
                expected: expected.to_owned(),
                got,
            }),
            _ => Ok(()),
        }
    }

    /// Images per pass through the extractor.
    fn batch_size(&self) -> usize;

    /// Smooth score maps `(B, H, W)` of images `(B, C, H, W)`. With a head, 0 outside of it.
    ///
    /// # Errors
    /// As [`HealthyModel::patch_scores`].
    fn score_maps(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
    ) -> Result<Array3<f32>> {
        let (_, h, w) = check_images(images, head)?;
        let scores = self.patch_scores(extractor, images, head)?;
        // Whatever the model: the smoothing would spread it, and no comparison would show it.
        if let Some(((image, _, _), _)) = scores.indexed_iter().find(|(_, v)| !v.is_finite()) {
            return Err(Error::non_finite("patch scores", Some(image)));
        }
        let mut maps = self.coarse_config().score_maps(scores.view(), (h, w))?;
        if let Some(head) = head {
            Zip::from(&mut maps).and(head).for_each(|v, head| {
                if !head {
                    *v = 0.0;
                }
            });
        }
        Ok(maps)
    }

    /// Sets the threshold from healthy slices `(N, C, H, W)` that the model hasn't seen, and their head `(N, H, W)`.
    ///
    /// # Errors
    /// As [`HealthyModel::patch_scores`]; when no pixel is left in the eroded head; when the caller stops it.
    fn calibrate(
        &mut self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: ArrayView3<'_, bool>,
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
        let (n, _, _) = check_images(images, Some(head))?;
        let config = self.coarse_config().clone();
        config.check()?;
        let mut values = Vec::new();
        let batch = self.batch_size().max(1);
        for start in (0..n).step_by(batch) {
            report(on_progress, Stage::Calibration, start, n)?;
            let count = batch.min(n - start);
            let part = images.narrow(0, start, count)?;
            let head = batch_of(head, start, count);
            let maps = self
                .score_maps(extractor, &part, Some(head))
                .map_err(|e| e.after(start))?;
            for (map, head) in maps.axis_iter(Axis(0)).zip(head.axis_iter(Axis(0))) {
                let head = erode(head, config.head_erosion);
                values.extend(map.iter().zip(&head).filter(|(_, h)| **h).map(|(v, _)| *v));
            }
        }
        report(on_progress, Stage::Calibration, n, n)?;
        let calibration = Calibration::new(values, n, &config)?;
        self.set_calibration(Some(calibration));
        Ok(())
    }

    /// The score above which a pixel is taken for a lesion's, at the config's quantile.
    ///
    /// # Errors
    /// [`Error::NotCalibrated`] without a calibration, or when smoothing or erosion have changed since.
    fn threshold(&self) -> Result<f32> {
        let not = |message: &str| Error::NotCalibrated {
            message: message.to_owned(),
        };
        let config = self.coarse_config();
        let calibration = self
            .calibration()
            .ok_or_else(|| not("call calibrate with healthy slices first"))?;
        if (calibration.smoothing, calibration.edge) != (config.smoothing, config.edge) {
            return Err(not("the smoothing has changed since"));
        }
        if calibration.head_erosion != config.head_erosion {
            return Err(not("the erosion of the head has changed since"));
        }
        calibration.threshold(config.quantile)
    }

    /// The coarse map of images `(B, C, H, W)` with their head `(B, H, W)`.
    ///
    /// # Errors
    /// As [`HealthyModel::patch_scores`] and [`HealthyModel::threshold`].
    fn coarse(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: ArrayView3<'_, bool>,
    ) -> Result<CoarseMap> {
        let threshold = self.threshold()?;
        let soft = self.score_maps(extractor, images, Some(head))?;
        let binary = self
            .coarse_config()
            .binarise(soft.view(), head, threshold)?;
        Ok(CoarseMap {
            soft,
            binary,
            threshold,
        })
    }
}

/// Patches of a grid `(B, h, w)` with at least one pixel of the head `(B, H, W)`.
pub(crate) fn head_patches(head: ArrayView3<'_, bool>, grid: (usize, usize)) -> Array3<bool> {
    let (b, height, width) = head.dim();
    let (h, w) = grid;
    Array3::from_shape_fn((b, h, w), |(i, y, x)| {
        let rows = y * height / h..((y + 1) * height).div_ceil(h);
        let columns = x * width / w..((x + 1) * width).div_ceil(w);
        rows.clone()
            .any(|r| columns.clone().any(|c| head[(i, r, c)]))
    })
}
