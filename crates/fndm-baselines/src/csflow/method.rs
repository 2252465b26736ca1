use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use fndm_data::SliceSet;
use fndm_models::{Limits, NetworkConfig};
use fndm_train::{LoopConfig, OptimizerConfig};
use serde::{Deserialize, Serialize};

use super::{CrossFlow, CrossFlowConfig, MapKind, loss, score, score_map};
use crate::enlarge::{Corners, enlarge};
use crate::fit::{Extractor, Fit, Method};
use crate::fitted::{Fitted, feature_shapes};
use crate::flow_task::FeatureFlow;
use crate::flows::{SCALES, Source, numpy_default_permutation, numpy_permutations};
use crate::healthy::Healthy;
use crate::{Baseline, Error, Result};

/// How the channels of the scales are ordered before a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orders {
    /// Each scale in its own order, as in the official code.
    Each,
    /// All three in one, as in anomalib.
    Shared,
}

impl Orders {
    /// The orders of every block.
    #[must_use]
    pub fn of(self, channels: usize, blocks: usize) -> Vec<Vec<Vec<usize>>> {
        (0..blocks as u32)
            .map(|block| match self {
                Self::Each => numpy_permutations(channels, block, SCALES),
                Self::Shared => vec![numpy_default_permutation(channels, block); SCALES],
            })
            .collect()
    }
}

/// What a [`CrossFlow`] is made of and how it is trained, before its features are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsFlowSettings {
    /// Height and width that slices are resized to; half and a quarter of it are the other scales. None for slices as they are.
    pub image_size: Option<(usize, usize)>,
    /// Which of the extractor's maps the flow sees, from 0.
    pub map: usize,
    /// Channels between the convolutions.
    pub hidden: usize,
    /// The kernel of each coupling block.
    pub kernels: Vec<usize>,
    /// The largest logarithm of a scale is about this.
    pub clamp: f64,
    /// Whether the convolutions' outputs are multiplied by trained numbers that begin at 0.
    pub gamma: bool,
    /// The channels' orders.
    pub orders: Orders,
    /// What a map is made of.
    pub map_kind: MapKind,
    /// Passes over the healthy slices.
    pub epochs: u64,
    /// Slices of a step.
    pub batch: usize,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl CsFlowSettings {
    /// Those of the official code, for pictures of 768 px.
    #[must_use]
    pub fn official() -> Self {
        Self {
            image_size: Some((768, 768)),
            map: 0,
            hidden: 1024,
            kernels: vec![3, 3, 3, 5],
            clamp: 3.0,
            gamma: true,
            orders: Orders::Each,
            map_kind: MapKind::Finest,
            epochs: 240,
            batch: 16,
            optimizer: OptimizerConfig {
                lr: 2e-4,
                eps: 1e-4,
                l2: 1e-5,
                clip: Some(1.0),
                clip_eps: 1e-6,
                ..OptimizerConfig::default()
            },
        }
    }

    /// anomalib's, where they differ: one order for all scales, the product of the maps, other decays of Adam. Its loss, which takes
    /// the whole batch's log-determinant from every sample, is a fault and isn't here.
    #[must_use]
    pub fn anomalib() -> Self {
        let mut settings = Self {
            orders: Orders::Shared,
            map_kind: MapKind::Product,
            ..Self::official()
        };
        settings.optimizer.beta1 = 0.5;
        settings.optimizer.beta2 = 0.9;
        settings
    }
}

/// A [`CrossFlow`] as it is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsFlowModel {
    /// The sizes.
    pub network: CrossFlowConfig,
    /// The channels' orders.
    pub orders: Orders,
    /// What a map is made of.
    pub map_kind: MapKind,
    /// Height and width that slices are resized to.
    pub image_size: Option<(usize, usize)>,
    /// Which of the extractor's maps the flow sees.
    pub map: usize,
    /// What the features are known by, where they are.
    pub features: Option<String>,
}

impl NetworkConfig for CsFlowModel {
    const KIND: &'static str = "csflow";

    fn check(&self) -> fndm_models::Result<()> {
        let side = |n: usize| (4..=8192).contains(&n);
        let fits = (1..=256).contains(&self.network.kernels.len())
            && (2..=16_384).contains(&self.network.channels)
            && self.network.hidden <= 1 << 20
            && self.image_size.is_none_or(|(h, w)| side(h) && side(w));
        match fits {
            true => Ok(()),
            false => Err(fndm_models::Error::Config(format!(
                "expected 1 to 256 blocks of 2 to 16384 channels, at most 1048576 between them, on images of 4 to 8192 pixels, got {} of \
                 {}, {}, on {:?}",
                self.network.kernels.len(),
                self.network.channels,
                self.network.hidden,
                self.image_size
            ))),
        }
    }
}

/// The features of a slice at three sizes. The smaller images are made by taking the nearest pixel, as the official code does.
fn three_scales(
    size: Option<(usize, usize)>,
    map: usize,
    extractor: &Extractor,
    slices: &Tensor,
) -> Result<Vec<Tensor>> {
    let (_, _, h, w) = slices.dims4()?;
    let (h, w) = size.unwrap_or((h, w));
    let whole = enlarge(slices, (h, w), Corners::Free)?;
    (0..SCALES)
        .map(|scale| {
            let image = match scale {
                0 => whole.clone(),
                _ => whole.upsample_nearest2d(h >> scale, w >> scale)?,
            };
            let mut maps = extractor.maps(&image)?;
            if map >= maps.len() {
                let expected = format!("one of {} maps", maps.len());
                return Err(Error::config("map", expected, map));
            }
            Ok(maps.swap_remove(map))
        })
        .collect()
}

impl FeatureFlow for CrossFlow {
    type Config = CsFlowModel;
    const KIND: &'static str = "csflow";

    fn fixed(_: &CsFlowModel) -> Result<BTreeMap<String, Tensor>> {
        // The orders follow from the config.
        Ok(BTreeMap::new())
    }

    fn build(config: &CsFlowModel, source: &Source<'_>) -> Result<Self> {
        let network = &config.network;
        let orders = config.orders.of(network.channels, network.kernels.len());
        Self::new(network, &orders, &source.trained)
    }

    fn losses(&self, features: &[Tensor]) -> Result<Tensor> {
        loss(&self.forward(features)?)
    }

    fn features(
        config: &CsFlowModel,
        extractor: &Extractor,
        slices: &Tensor,
    ) -> Result<Vec<Tensor>> {
        three_scales(config.image_size, config.map, extractor, slices)
    }
}

/// CS-Flow before it has seen a slice.
#[derive(Clone)]
pub struct CsFlowMethod {
    /// The settings.
    pub settings: CsFlowSettings,
    /// Where the features come from. It must take images of any size.
    pub extractor: Extractor,
}

impl std::fmt::Debug for CsFlowMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CsFlowMethod")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Method for CsFlowMethod {
    fn name(&self) -> &'static str {
        "CS-Flow"
    }

    fn fit(&self, slices: &SliceSet, fit: &Fit) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(CsFlowBaseline::fit(self, slices, fit)?))
    }

    fn load(&self, folder: &Path, limits: &Limits, device: &Device) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(CsFlowBaseline::load(
            folder,
            &self.extractor,
            limits,
            device,
        )?))
    }
}

/// A fitted [`CrossFlow`].
#[derive(Debug)]
pub struct CsFlowBaseline(Fitted<CrossFlow>);

impl CsFlowBaseline {
    /// Trains on the healthy slices of a set.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn fit(method: &CsFlowMethod, slices: &SliceSet, fit: &Fit) -> Result<Self> {
        let settings = &method.settings;
        let healthy = Healthy::new(slices)?;
        let first = healthy.gather(&[0], &fit.device)?;
        let (size, map) = (settings.image_size, settings.map);
        let shapes = feature_shapes(&three_scales(size, map, &method.extractor, &first)?)?;
        let model = CsFlowModel {
            network: CrossFlowConfig {
                channels: shapes.first().map_or(0, |shape| shape[0]),
                hidden: settings.hidden,
                kernels: settings.kernels.clone(),
                clamp: settings.clamp,
                gamma: settings.gamma,
            },
            orders: settings.orders,
            map_kind: settings.map_kind,
            image_size: size,
            map,
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
            optimizer: OptimizerConfig {
                // Numbers that aren't used are in the state all the same.
                absent_gradients: !settings.gamma,
                ..settings.optimizer.clone()
            },
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
        let known = |config: &CsFlowModel| config.features.clone();
        Fitted::load(folder, known, extractor, limits, device).map(Self)
    }

    /// The sizes and orders.
    #[must_use]
    pub fn model(&self) -> &CsFlowModel {
        &self.0.config
    }
}

impl Baseline for CsFlowBaseline {
    fn name(&self) -> &'static str {
        "CS-Flow"
    }

    fn maps(&self, slices: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = slices.dims4()?;
        let flowed = self.0.network.forward(&self.0.features(slices)?)?;
        score_map(&flowed, self.0.config.map_kind, (h, w))
    }

    /// The mean of z^2 / 2 over all dimensions of all scales.
    fn scores(&self, slices: &Tensor) -> Result<Vec<f32>> {
        score(&self.0.network.forward(&self.0.features(slices)?)?)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.0.save(folder)
    }
}
