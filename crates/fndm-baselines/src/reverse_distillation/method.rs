use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use fndm_data::SliceSet;
use fndm_memory::Edge;
use fndm_models::{BatchNorms, Limits, Mode, ResNetConfig};
use fndm_train::OptimizerConfig;
use serde::{Deserialize, Serialize};

use super::{
    Bottleneck, Decoder, DistillationLoss, Joined, NetworkConfig, SIGMA, loss, score_map, smoothed,
};
use crate::distilled::{Distilled, Learner, Schedule};
use crate::fit::{Extractor, Fit, Method};
use crate::fitted::feature_shapes;
use crate::healthy::Healthy;
use crate::maps::largest;
use crate::{Baseline, Error, Result};

/// What mirrors the encoder, and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReverseSettings {
    /// The residual network that bottleneck and decoder mirror; without one they have basic blocks, as wide as the features.
    pub mirror: Option<ResNetConfig>,
    /// The loss.
    pub loss: DistillationLoss,
    /// How the layers' maps become one.
    pub joined: Joined,
    /// Deviation of the Gaussian that smooths a map, in pixels of the slice; 0 for none.
    pub smoothing: f64,
    /// What the smoothing of a map sees beyond the image.
    pub edge: Edge,
    /// Passes over the healthy slices.
    pub epochs: u64,
    /// Slices of a step.
    pub batch: usize,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl ReverseSettings {
    /// The authors': Adam at 0.005 with betas 0.5 and 0.999, 200 epochs of 16 slices.
    #[must_use]
    pub fn official() -> Self {
        Self {
            mirror: None,
            loss: DistillationLoss::Flattened,
            joined: Joined::Sum,
            smoothing: SIGMA,
            edge: Edge::Symmetric,
            epochs: 200,
            batch: 16,
            optimizer: OptimizerConfig {
                lr: 0.005,
                beta1: 0.5,
                beta2: 0.999,
                ..OptimizerConfig::default()
            },
        }
    }

    /// anomalib's: a second beta of 0.99, another edge of the smoothing.
    #[must_use]
    pub fn anomalib() -> Self {
        let official = Self::official();
        Self {
            edge: Edge::Reflect,
            optimizer: OptimizerConfig {
                beta2: 0.99,
                ..official.optimizer.clone()
            },
            ..official
        }
    }
}

fn official_smoothing() -> f64 {
    SIGMA
}

/// Bottleneck and decoder as they are saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReverseModel {
    /// The sizes.
    pub network: NetworkConfig,
    /// The loss that it was trained by.
    pub loss: DistillationLoss,
    /// How its layers' maps become one.
    pub joined: Joined,
    /// Deviation of the Gaussian that smooths a map, in pixels of the slice.
    #[serde(default = "official_smoothing")]
    pub smoothing: f64,
    /// What the smoothing of a map sees beyond the image.
    pub edge: Edge,
    /// What the encoder's features are known by, where they are.
    pub features: Option<String>,
}

impl fndm_models::NetworkConfig for ReverseModel {
    const KIND: &'static str = "reverse_distillation";

    fn check(&self) -> fndm_models::Result<()> {
        let config = |e: Error| fndm_models::Error::Config(e.to_string());
        self.network.check().map_err(config)
    }
}

#[derive(Debug, Clone)]
struct Mirror {
    bottleneck: Bottleneck,
    decoder: Decoder,
}

impl Learner for Mirror {
    type Config = ReverseModel;

    fn build(config: &ReverseModel, vb: &VarBuilder<'_>, norms: &BatchNorms) -> Result<Self> {
        Ok(Self {
            bottleneck: Bottleneck::new(&config.network, &vb.pp("bn"), norms)?,
            decoder: Decoder::new(&config.network, &vb.pp("decoder"), norms)?,
        })
    }

    fn maps(&self, _: &Tensor, features: &[Tensor], mode: Mode) -> Result<Vec<Tensor>> {
        let code = self.bottleneck.forward(features, mode)?.code;
        self.decoder.forward(&code, mode)
    }

    fn losses(config: &ReverseModel, features: &[Tensor], maps: &[Tensor]) -> Result<Tensor> {
        loss(features, maps, config.loss)
    }

    fn folded(&self) -> Result<Self> {
        Ok(Self {
            bottleneck: self.bottleneck.folded()?,
            decoder: self.decoder.folded()?,
        })
    }
}

/// Reverse Distillation before it has seen a slice.
#[derive(Clone)]
pub struct ReverseMethod {
    /// The settings.
    pub settings: ReverseSettings,
    /// The encoder: three maps, the finest first, each half as wide and high as the one before.
    pub extractor: Extractor,
}

impl std::fmt::Debug for ReverseMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReverseMethod")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Method for ReverseMethod {
    fn name(&self) -> &'static str {
        "Reverse Distillation"
    }

    fn fit(&self, slices: &SliceSet, fit: &Fit) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(ReverseDistillation::fit(self, slices, fit)?))
    }

    fn load(&self, folder: &Path, limits: &Limits, device: &Device) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(ReverseDistillation::load(
            folder,
            &self.extractor,
            limits,
            device,
        )?))
    }
}

/// A fitted bottleneck and decoder with their encoder.
#[derive(Debug)]
pub struct ReverseDistillation(Distilled<Mirror>);

impl ReverseDistillation {
    /// Trains on the healthy slices of a set.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn fit(method: &ReverseMethod, slices: &SliceSet, fit: &Fit) -> Result<Self> {
        let settings = &method.settings;
        let healthy = Healthy::new(slices)?;
        let first = healthy.gather(&[0], &fit.device)?;
        let shapes = feature_shapes(&method.extractor.maps(&first)?)?;
        let &[a, b, c] = &shapes[..] else {
            return Err(Error::shape("the encoder's maps", "three", shapes));
        };
        let even = a[1..].iter().chain(&b[1..]).chain(&c[1..]);
        if even.into_iter().any(|side| !side.is_multiple_of(2)) {
            return Err(Error::shape("the encoder's maps", "even sides", shapes));
        }
        let channels = [a[0], b[0], c[0]];
        let network = match &settings.mirror {
            None => NetworkConfig::of_features(channels),
            Some(encoder) => NetworkConfig::mirror(encoder)?,
        };
        if network.channels != channels {
            let expected = format!("{:?}, as the mirrored network has", network.channels);
            return Err(Error::shape(
                "channels of the encoder's maps",
                expected,
                channels,
            ));
        }
        let model = ReverseModel {
            network,
            loss: settings.loss,
            joined: settings.joined,
            smoothing: settings.smoothing,
            edge: settings.edge,
            features: method.extractor.fingerprint(),
        };
        let schedule = Schedule {
            epochs: settings.epochs,
            batch: settings.batch,
            optimizer: settings.optimizer.clone(),
        };
        Distilled::train(model, &schedule, &method.extractor, healthy, fit).map(Self)
    }

    /// Reads what [`Baseline::save`] wrote into `folder`, for an encoder of the same features.
    ///
    /// # Errors
    /// When there is no such file, or it isn't whole, or the extractor is another.
    pub fn load(
        folder: &Path,
        extractor: &Extractor,
        limits: &Limits,
        device: &Device,
    ) -> Result<Self> {
        let known = |config: &ReverseModel| config.features.clone();
        Distilled::load(folder, known, extractor, limits, device).map(Self)
    }

    /// The sizes.
    #[must_use]
    pub fn model(&self) -> &ReverseModel {
        self.0.config()
    }
}

impl Baseline for ReverseDistillation {
    fn name(&self) -> &'static str {
        "Reverse Distillation"
    }

    fn maps(&self, slices: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = slices.dims4()?;
        let (encoder, decoder) = self.0.pairs(slices)?;
        let map = score_map(&encoder, &decoder, (h, w), self.model().joined)?;
        smoothed(&map, self.model().smoothing, self.model().edge)
    }

    /// The largest value of the smoothed map.
    fn scores(&self, slices: &Tensor) -> Result<Vec<f32>> {
        largest(&self.maps(slices)?)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.0.save(folder)
    }
}
