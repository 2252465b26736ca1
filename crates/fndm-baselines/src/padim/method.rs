use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use fndm_data::SliceSet;
use fndm_memory::{Edge, FeatureExtractor, HealthyModel, Padim, PadimBuilder, PadimConfig};
use fndm_models::{Limits, NetworkConfig, StateDict};
use ndarray::{Array2, Array3};
use serde::{Deserialize, Serialize};

use super::{Joined, SIGMA, official_channels, smoothed, upsampled};
use crate::fit::{Extractor, Fit, Method};
use crate::fitted::{check_extractor, feature_shapes, file_name, read};
use crate::healthy::Healthy;
use crate::maps::{largest, to_tensor};
use crate::{Baseline, Error, Result};

/// The authors' seed.
const SEED: u32 = 1024;
const MEAN: &str = "mean";
const WHITENING: &str = "whitening";

/// How the Gaussians are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PadimSettings {
    /// Channels that are drawn; all where there are no more.
    pub dimensions: usize,
    /// The seed of Python's generator that draws them.
    pub seed: u32,
    /// What is added to the diagonal of every covariance.
    pub regularisation: f64,
    /// Deviation of the Gaussian that smooths a map, in pixels of the slice; 0 for none.
    #[serde(default = "official_smoothing")]
    pub smoothing: f64,
    /// What the smoothing of a map sees beyond the image.
    pub edge: Edge,
    /// Slices per pass through the extractor.
    pub batch: usize,
    /// The most bytes that means and covariances may take, in f64, while they are estimated.
    pub budget_bytes: u64,
}

impl PadimSettings {
    /// xiahaifeng1995's for `ResNet-18`: 100 channels.
    #[must_use]
    pub fn official() -> Self {
        Self {
            dimensions: 100,
            seed: SEED,
            regularisation: 0.01,
            smoothing: SIGMA,
            edge: Edge::Symmetric,
            batch: 16,
            budget_bytes: 4 << 30,
        }
    }

    /// xiahaifeng1995's for `WideResNet-50-2`: 550 channels.
    #[must_use]
    pub fn official_wide() -> Self {
        Self {
            dimensions: 550,
            ..Self::official()
        }
    }

    /// anomalib's for `ResNet-18`: another edge of the smoothing.
    #[must_use]
    pub fn anomalib() -> Self {
        Self {
            edge: Edge::Reflect,
            ..Self::official()
        }
    }
}

fn official_smoothing() -> f64 {
    SIGMA
}

/// The Gaussians as they are saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PadimModel {
    /// How they were made.
    pub settings: PadimSettings,
    /// The channels that were drawn.
    pub channels: Vec<usize>,
    /// Channels, height and width of the joined map.
    pub shape: (usize, usize, usize),
    /// What the features are known by, where they are.
    pub features: Option<String>,
}

impl NetworkConfig for PadimModel {
    const KIND: &'static str = "padim";

    fn check(&self) -> fndm_models::Result<()> {
        let (c, h, w) = self.shape;
        let fits = [c, h, w].iter().all(|n| (1..=1 << 16).contains(n))
            && !self.channels.is_empty()
            && self.channels.iter().all(|&n| n < c);
        match fits {
            true => Ok(()),
            false => Err(fndm_models::Error::Config(format!(
                "expected channels below those of a map of 1 to 65536 channels, rows and columns, got {:?}",
                self.shape
            ))),
        }
    }
}

impl PadimModel {
    fn config(&self) -> PadimConfig {
        PadimConfig {
            channels: Some(self.channels.clone()),
            regularisation: self.settings.regularisation,
            budget_bytes: self.settings.budget_bytes,
            batch_size: self.settings.batch,
            ..PadimConfig::default()
        }
    }
}

/// `PaDiM` before it has seen a slice.
#[derive(Clone)]
pub struct PadimMethod {
    /// The settings.
    pub settings: PadimSettings,
    /// Where the features come from: the finest map first, sides of the others divide its.
    pub extractor: Extractor,
}

impl std::fmt::Debug for PadimMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PadimMethod")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Method for PadimMethod {
    fn name(&self) -> &'static str {
        "PaDiM"
    }

    fn fit(&self, slices: &SliceSet, fit: &Fit) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(PadimBaseline::fit(self, slices, fit)?))
    }

    fn load(&self, folder: &Path, limits: &Limits, _: &Device) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(PadimBaseline::load(
            folder,
            &self.extractor,
            limits,
        )?))
    }
}

/// Fitted Gaussians with the extractor of their features.
pub struct PadimBaseline {
    model: PadimModel,
    gaussians: Padim,
    extractor: Joined<Extractor>,
}

impl std::fmt::Debug for PadimBaseline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PadimBaseline")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl PadimBaseline {
    /// Estimates the Gaussians from the healthy slices of a set.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn fit(method: &PadimMethod, slices: &SliceSet, fit: &Fit) -> Result<Self> {
        let settings = method.settings.clone();
        if settings.batch == 0 {
            return Err(Error::config("batch", "1 or more", 0));
        }
        let healthy = Healthy::new(slices)?;
        let extractor = Joined(method.extractor.clone());
        let first = extractor.maps(&healthy.gather(&[0], &fit.device)?)?;
        let &[[c, h, w]] = &feature_shapes(&first)?[..] else {
            return Err(Error::shape("the joined map", "one", first.len()));
        };
        let channels = match settings.dimensions < c {
            true => official_channels(c, settings.dimensions, settings.seed)?,
            false => (0..c).collect(),
        };
        let model = PadimModel {
            settings,
            channels,
            shape: (c, h, w),
            features: method.extractor.fingerprint(),
        };
        let mut builder = PadimBuilder::new(model.config())?;
        let all: Vec<usize> = (0..healthy.len()).collect();
        for part in all.chunks(model.settings.batch) {
            if fit.stop.is_set() {
                return Err(Error::Stopped);
            }
            builder.push(&extractor, &healthy.gather(part, &fit.device)?)?;
        }
        Ok(Self {
            gaussians: builder.finish()?,
            model,
            extractor,
        })
    }

    /// Reads what [`Baseline::save`] wrote into `folder`, for features of the same extractor.
    ///
    /// # Errors
    /// When there is no such file, or it isn't whole, or the extractor is another.
    pub fn load(folder: &Path, extractor: &Extractor, limits: &Limits) -> Result<Self> {
        let (model, state) = read::<PadimModel>(folder, limits)?;
        check_extractor(model.features.as_ref(), extractor)?;
        let (c, h, w) = model.shape;
        let (p, chosen) = (h * w, model.channels.len());
        let values = |name: &'static str, shape: &[usize]| -> Result<Vec<f32>> {
            let found = state.get(name);
            let tensor = found.filter(|t| t.dims() == shape).ok_or_else(|| {
                let got = found.map(|t| t.dims().to_vec());
                Error::shape(name, format!("{shape:?}"), got)
            })?;
            let flat = tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?;
            Ok(flat.to_vec1()?)
        };
        let shaped = |e| Error::shape("the Gaussians", "one at every position", e);
        let mean = Array2::from_shape_vec((p, chosen), values(MEAN, &[p, chosen])?);
        let whitening = values(WHITENING, &[p, chosen, chosen])?;
        let whitening = Array3::from_shape_vec((p, chosen, chosen), whitening);
        let gaussians = Padim::from_parts(
            model.config(),
            vec![(c, h, w)],
            &mean.map_err(shaped)?,
            &whitening.map_err(shaped)?,
        )?;
        Ok(Self {
            model,
            gaussians,
            extractor: Joined(extractor.clone()),
        })
    }

    /// How the Gaussians were made.
    #[must_use]
    pub fn model(&self) -> &PadimModel {
        &self.model
    }
}

impl Baseline for PadimBaseline {
    fn name(&self) -> &'static str {
        "PaDiM"
    }

    /// Smoothed distances. The authors' scaling over the whole test set is [`over_the_set`](super::over_the_set).
    fn maps(&self, slices: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = slices.dims4()?;
        let distances = self.gaussians.patch_scores(&self.extractor, slices, None)?;
        let maps = smoothed(
            upsampled(distances.view(), (h, w))?,
            self.model.settings.smoothing,
            self.model.settings.edge,
        )?;
        to_tensor(&maps, slices.device())
    }

    /// The largest value of the smoothed map.
    fn scores(&self, slices: &Tensor) -> Result<Vec<f32>> {
        largest(&self.maps(slices)?)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        let mean = self.gaussians.mean()?;
        let whitening = self.gaussians.whitening()?;
        let (mean_shape, whitening_shape) = (mean.dim(), whitening.dim());
        let mean = Tensor::from_vec(mean.into_iter().collect(), mean_shape, &Device::Cpu)?;
        let whitening: Vec<f32> = whitening.into_iter().collect();
        let whitening = Tensor::from_vec(whitening, whitening_shape, &Device::Cpu)?;
        let tensors = BTreeMap::from([(MEAN.to_owned(), mean), (WHITENING.to_owned(), whitening)]);
        let state = StateDict::new(tensors).with_config(&self.model)?;
        Ok(state.save(folder.join(file_name(PadimModel::KIND)))?)
    }
}
