//! Coarse maps: what tells the method where to look, before any diffusion.

use std::fmt::Debug;

use candle_core::Device;
use fndm_data::PatientSlices;
use fndm_memory::{CoarseConfig, FeatureExtractor, HealthyModel};
use ndarray::Array3;

use crate::{Error, Result, batch_tensor};

/// A model that says how suspicious each pixel is, from one patient's slices.
///
/// [`Featured`] makes one of any [`HealthyModel`] (memory bank, `PaDiM`, contrast) and its features, and a
/// [`Student`](crate::Student) is one. A type of your own goes into a [`Detector`](crate::Detector) by
/// [`DetectorBuilder::coarse`](crate::DetectorBuilder::coarse):
///
/// ```
/// use fndm::candle_core::Device;
/// use fndm::data::PatientSlices;
/// use fndm::ndarray::{Array3, s};
/// use fndm::{CoarseModel, Result};
///
/// /// What is brightest in the first sequence.
/// #[derive(Debug)]
/// struct Bright;
///
/// impl CoarseModel for Bright {
///     fn soft_map(&self, slices: &PatientSlices, _: &Device) -> Result<Array3<f32>> {
///         Ok(slices.images.slice(s![.., 0, .., ..]).mapv(|v| v + 1.0))
///     }
///
///     fn threshold(&self) -> Result<f32> {
///         Ok(1.2)
///     }
/// }
/// ```
pub trait CoarseModel: Debug + Send + Sync {
    /// The soft map `(N, H, W)` of slices `(N, C, H, W)`: 0 and up, larger is less healthy. The unit is the model's own. What
    /// lies outside of the head doesn't count.
    ///
    /// # Errors
    /// When the slices don't fit the model. [`Error::own`] takes an error of any type.
    fn soft_map(&self, slices: &PatientSlices, device: &Device) -> Result<Array3<f32>>;

    /// The value above which a pixel is taken for a lesion's.
    ///
    /// # Errors
    /// When the model has none yet.
    fn threshold(&self) -> Result<f32>;

    /// From the soft map to `x_seg`. Its smoothing and quantile have had their effect in [`CoarseModel::soft_map`] and
    /// [`CoarseModel::threshold`]; what counts here is the erosion of the head and the smallest component.
    fn coarse_config(&self) -> CoarseConfig {
        CoarseConfig::default()
    }
}

/// Features of any kind.
pub type Features = Box<dyn FeatureExtractor + Send + Sync>;

/// A model of healthy patches, with the features that it judges.
pub struct Featured<M> {
    model: M,
    features: Features,
    names: [String; 2],
}

impl<M: HealthyModel + Debug + Send + Sync> Featured<M> {
    /// Joins the two. The names of model and features, files as a rule, stand in messages.
    ///
    /// # Errors
    /// When the model was built with other features than these, as far as both can tell.
    pub fn new(model: M, features: Features, names: [&str; 2]) -> Result<Self> {
        model
            .check_extractor(features.as_ref())
            .map_err(|source| Error::own(format!("{} with {}", names[0], names[1]), source))?;
        Ok(Self {
            model,
            features,
            names: names.map(str::to_owned),
        })
    }

    /// The model of healthy patches.
    #[must_use]
    pub fn model(&self) -> &M {
        &self.model
    }
}

impl<M: Debug> Debug for Featured<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Featured")
            .field("model", &self.model)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl<M: HealthyModel + Debug + Send + Sync> CoarseModel for Featured<M> {
    fn soft_map(&self, slices: &PatientSlices, device: &Device) -> Result<Array3<f32>> {
        let images = batch_tensor(&slices.images.view(), device)?;
        let head = Some(slices.head.view());
        let map = self.model.score_maps(self.features.as_ref(), &images, head);
        map.map_err(|source| Error::Coarse {
            // Features that aren't finite are the extractor's.
            network: self.names[1].clone(),
            patient: slices.id.clone(),
            slice: match &source {
                fndm_memory::Error::NonFinite {
                    image: Some(image), ..
                } => slices.z.get(*image).copied(),
                _ => None,
            },
            source,
        })
    }

    fn threshold(&self) -> Result<f32> {
        Ok(self.model.threshold()?)
    }

    fn coarse_config(&self) -> CoarseConfig {
        self.model.coarse_config().clone()
    }
}
