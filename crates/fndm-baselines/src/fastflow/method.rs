use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{D, Device, Tensor};
use fndm_data::SliceSet;
use fndm_models::{Limits, NetworkConfig};
use fndm_train::{LoopConfig, OptimizerConfig};
use serde::{Deserialize, Serialize};

use super::{FastFlow, FastFlowConfig, LayerConfig, loss, score_map};
use crate::fit::{Extractor, Fit, Method};
use crate::fitted::{Fitted, feature_shapes};
use crate::flow_task::FeatureFlow;
use crate::flows::{Source, random_permutation};
use crate::healthy::Healthy;
use crate::{Baseline, Error, Result};

/// What a [`FastFlow`] is made of and how it is trained, before its features are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastFlowSettings {
    /// Coupling blocks of each layer.
    pub steps: usize,
    /// Whether all blocks have kernels of 3; otherwise every second one has 1.
    pub conv3x3_only: bool,
    /// The subnets' width, as a share of what they see.
    pub hidden_ratio: f64,
    /// The largest logarithm of a scale.
    pub clamp: f64,
    /// Whether features are normalised first: for networks of convolutions.
    pub layer_norm: bool,
    /// Passes over the healthy slices.
    pub epochs: u64,
    /// Slices of a step.
    pub batch: usize,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl FastFlowSettings {
    /// What gathierry/FastFlow trains `ResNet-18` features with.
    #[must_use]
    pub fn official() -> Self {
        Self {
            steps: 8,
            conv3x3_only: true,
            hidden_ratio: 1.0,
            clamp: 2.0,
            layer_norm: true,
            epochs: 500,
            batch: 32,
            optimizer: OptimizerConfig {
                lr: 1e-3,
                l2: 1e-5,
                ..OptimizerConfig::default()
            },
        }
    }

    /// What gathierry/FastFlow trains `WideResNet-50-2` features with.
    #[must_use]
    pub fn official_wide() -> Self {
        Self {
            conv3x3_only: false,
            ..Self::official()
        }
    }

    /// anomalib's: kernels of 3 and 1 in turn, whatever the backbone.
    #[must_use]
    pub fn anomalib() -> Self {
        Self::official_wide()
    }
}

/// A [`FastFlow`] as it is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastFlowModel {
    /// The sizes.
    pub network: FastFlowConfig,
    /// The seed of the permutations.
    pub seed: u64,
    /// What the features are known by, where they are.
    pub features: Option<String>,
}

impl NetworkConfig for FastFlowModel {
    const KIND: &'static str = "fastflow";

    fn check(&self) -> fndm_models::Result<()> {
        // A file may say anything; what it makes is bounded by the tensors that it has.
        let network = &self.network;
        let fits = (1..=256).contains(&network.steps)
            && (1..=64).contains(&network.layers.len())
            && network.layers.iter().all(|layer| {
                let sides = layer.height.max(layer.width);
                layer.channels <= 1 << 14 && sides <= 8192
            })
            && (0.0..=1024.0).contains(&network.hidden_ratio);
        match fits {
            true => Ok(()),
            false => Err(fndm_models::Error::Config(format!(
                "expected 1 to 256 steps of 1 to 64 layers of at most 16384 channels and 8192 pixels a side, subnets at most 1024 times \
                 as wide, got {} of {:?}, {}",
                network.steps, network.layers, network.hidden_ratio
            ))),
        }
    }
}

impl FeatureFlow for FastFlow {
    type Config = FastFlowModel;
    const KIND: &'static str = "fastflow";

    fn fixed(config: &FastFlowModel) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        for (l, layer) in config.network.layers.iter().enumerate() {
            for k in 0..config.network.steps {
                let (n, stream) = (layer.channels, (l * config.network.steps + k) as u64);
                let mut matrix = vec![0f32; n * n];
                for (o, c) in random_permutation(n, config.seed, stream)
                    .into_iter()
                    .enumerate()
                {
                    matrix[o * n + c] = 1.0;
                }
                let matrix = Tensor::from_vec(matrix, (n, n), &Device::Cpu)?;
                let back = matrix.t()?.contiguous()?;
                let name = format!("nf_flows.{l}.module_list.{k}.w_perm");
                all.insert(format!("{name}_inv"), back.reshape((n, n, 1, 1))?);
                all.insert(name, matrix.reshape((n, n, 1, 1))?);
            }
        }
        Ok(all)
    }

    fn build(config: &FastFlowModel, source: &Source<'_>) -> Result<Self> {
        Self::new(&config.network, source)
    }

    fn losses(&self, features: &[Tensor]) -> Result<Tensor> {
        loss(&self.forward(features)?)
    }

    fn features(_: &FastFlowModel, extractor: &Extractor, slices: &Tensor) -> Result<Vec<Tensor>> {
        Ok(extractor.maps(slices)?)
    }
}

/// `FastFlow` before it has seen a slice.
#[derive(Clone)]
pub struct FastFlowMethod {
    /// The settings.
    pub settings: FastFlowSettings,
    /// Where the features come from: a flow for each of its maps.
    pub extractor: Extractor,
}

impl std::fmt::Debug for FastFlowMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FastFlowMethod")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Method for FastFlowMethod {
    fn name(&self) -> &'static str {
        "FastFlow"
    }

    fn fit(&self, slices: &SliceSet, fit: &Fit) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(FastFlowBaseline::fit(self, slices, fit)?))
    }

    fn load(&self, folder: &Path, limits: &Limits, device: &Device) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(FastFlowBaseline::load(
            folder,
            &self.extractor,
            limits,
            device,
        )?))
    }
}

/// A fitted [`FastFlow`].
#[derive(Debug)]
pub struct FastFlowBaseline(Fitted<FastFlow>);

impl FastFlowBaseline {
    /// Trains on the healthy slices of a set.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn fit(method: &FastFlowMethod, slices: &SliceSet, fit: &Fit) -> Result<Self> {
        let settings = &method.settings;
        let healthy = Healthy::new(slices)?;
        let first = healthy.gather(&[0], &fit.device)?;
        let shapes = feature_shapes(&method.extractor.maps(&first)?)?;
        let network = FastFlowConfig {
            layers: shapes
                .into_iter()
                .map(|[channels, height, width]| LayerConfig {
                    channels,
                    height,
                    width,
                })
                .collect(),
            steps: settings.steps,
            conv3x3_only: settings.conv3x3_only,
            hidden_ratio: settings.hidden_ratio,
            clamp: settings.clamp,
            layer_norm: settings.layer_norm,
        };
        let model = FastFlowModel {
            network,
            seed: fit.seed,
            features: method.extractor.fingerprint(),
        };
        if settings.epochs == 0 || settings.batch == 0 {
            let got = format!("{} and {}", settings.epochs, settings.batch);
            return Err(Error::config("epochs and batch", "1 or more", got));
        }
        let epochs = healthy.epochs(settings.batch, fit.seed);
        let common = LoopConfig {
            batch: epochs.batch_size(),
            iterations: Some(settings.epochs * epochs.batches()),
            optimizer: settings.optimizer.clone(),
            ..LoopConfig::default()
        };
        Fitted::train(model, common, &method.extractor, healthy, fit).map(Self)
    }

    /// Reads what [`Baseline::save`] wrote into `folder`, for features of the same extractor.
    ///
    /// # Errors
    /// When there is no such file, or it isn't whole, or the extractor is another.
    pub fn load(
        folder: &Path,
        extractor: &Extractor,
        limits: &Limits,
        device: &Device,
    ) -> Result<Self> {
        let known = |config: &FastFlowModel| config.features.clone();
        Fitted::load(folder, known, extractor, limits, device).map(Self)
    }

    /// The sizes and the seed.
    #[must_use]
    pub fn model(&self) -> &FastFlowModel {
        &self.0.config
    }
}

impl Baseline for FastFlowBaseline {
    fn name(&self) -> &'static str {
        "FastFlow"
    }

    fn maps(&self, slices: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = slices.dims4()?;
        let flowed = self.0.network.forward(&self.0.features(slices)?)?;
        score_map(&flowed, (h, w))
    }

    /// The largest value of the map: the official code has no score of a slice, and anomalib has this one.
    fn scores(&self, slices: &Tensor) -> Result<Vec<f32>> {
        let largest = self.maps(slices)?.flatten_from(1)?.max(D::Minus1)?;
        Ok(largest.to_vec1::<f32>()?)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.0.save(folder)
    }
}
