use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use fndm_data::SliceSet;
use fndm_models::{Limits, NetworkConfig, StateDict};
use fndm_train::{LoopConfig, OptimizerConfig, RateSchedule, Trainer};
use serde::{Deserialize, Serialize};

use super::fibres::Fibres;
use super::task::CflowTask;
use super::{
    CflowLayer, CflowModel, CflowNetwork, DecoderConfig, MixingKind, Reference, Rest, ScoreMap,
    score_map,
};
use crate::fit::{Extractor, Fit, Method};
use crate::fitted::{check_extractor, feature_shapes, file_name, read};
use crate::flows::Source;
use crate::healthy::Healthy;
use crate::{Baseline, Error, Result};

/// Slices that pass at once when the healthy ones are looked at.
const PASS: usize = 16;

/// How the learning rate goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CflowRate {
    /// Stays.
    Constant,
    /// A cosine to a thousandth, with a linear beginning of so many of the epochs, from a tenth on.
    Cosine {
        /// Epochs of the linear beginning.
        warm_epochs: u64,
    },
}

/// What the flows are made of and how they are trained, before their features are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CflowSettings {
    /// Coupling blocks of each layer.
    pub blocks: usize,
    /// Channels of the position's encoding, a multiple of 4; 0 for flows that aren't told the position.
    pub condition: usize,
    /// The largest logarithm of a scale.
    pub clamp: f64,
    /// How channels are mixed.
    pub mixing: MixingKind,
    /// What maps are made relative to.
    pub reference: Reference,
    /// Epochs of the learning rate.
    pub epochs: u64,
    /// Passes over the healthy slices in one of these.
    pub sub_epochs: u64,
    /// Slices whose features are dealt out together.
    pub batch: usize,
    /// Rows of a step.
    pub fibre: usize,
    /// What becomes of the rows that no whole fibre can be made of.
    pub rest: Rest,
    /// How the rate goes.
    pub rate: CflowRate,
    /// The optimiser; its own rate schedule isn't looked at.
    pub optimizer: OptimizerConfig,
}

impl CflowSettings {
    /// Those of the official code.
    #[must_use]
    pub fn official() -> Self {
        Self {
            blocks: 8,
            condition: 128,
            clamp: 1.9,
            mixing: MixingKind::Rotation,
            reference: Reference::Together,
            epochs: 25,
            sub_epochs: 8,
            batch: 32,
            fibre: 256,
            rest: Rest::Dropped,
            rate: CflowRate::Cosine { warm_epochs: 2 },
            optimizer: OptimizerConfig {
                lr: 2e-4,
                ..OptimizerConfig::default()
            },
        }
    }

    /// anomalib's, where they differ: permutations, fibres of 64 whose last takes the rest, a constant rate of 1e-4.
    #[must_use]
    pub fn anomalib() -> Self {
        let mut settings = Self {
            mixing: MixingKind::Permutation,
            fibre: 64,
            rest: Rest::Kept,
            rate: CflowRate::Constant,
            ..Self::official()
        };
        settings.optimizer.lr = 1e-4;
        settings
    }
}

/// `CFlow-AD` before it has seen a slice.
#[derive(Clone)]
pub struct CflowMethod {
    /// The settings.
    pub settings: CflowSettings,
    /// Where the features come from: a flow for each of its maps.
    pub extractor: Extractor,
}

impl std::fmt::Debug for CflowMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CflowMethod")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Method for CflowMethod {
    fn name(&self) -> &'static str {
        "CFlow"
    }

    fn fit(&self, slices: &SliceSet, fit: &Fit) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(CflowBaseline::fit(self, slices, fit)?))
    }

    fn load(&self, folder: &Path, limits: &Limits, device: &Device) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(CflowBaseline::load(
            folder,
            &self.extractor,
            limits,
            device,
        )?))
    }
}

/// Fitted flows.
pub struct CflowBaseline {
    model: CflowModel,
    network: CflowNetwork,
    state: BTreeMap<String, Tensor>,
    extractor: Extractor,
}

impl std::fmt::Debug for CflowBaseline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CflowBaseline")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl CflowBaseline {
    /// Trains on the healthy slices of a set.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn fit(method: &CflowMethod, slices: &SliceSet, fit: &Fit) -> Result<Self> {
        let settings = &method.settings;
        let healthy = Healthy::new(slices)?;
        let first = healthy.gather(&[0], &fit.device)?;
        let shapes = feature_shapes(&method.extractor.maps(&first)?)?;
        for (field, value) in [
            ("epochs", settings.epochs),
            ("sub_epochs", settings.sub_epochs),
            ("batch", settings.batch as u64),
            ("fibre", settings.fibre as u64),
        ] {
            if value == 0 {
                return Err(Error::config(field, "1 or more", value));
            }
        }
        let layer = |&[channels, h, w]: &[usize; 3]| CflowLayer {
            decoder: DecoderConfig {
                channels,
                condition: settings.condition,
                blocks: settings.blocks,
                clamp: settings.clamp,
            },
            size: (h, w),
        };
        let model = CflowModel {
            layers: shapes.iter().map(layer).collect(),
            mixing: settings.mixing,
            seed: fit.seed,
            reference: settings.reference,
            largest: None,
            features: method.extractor.fingerprint(),
        };
        model.check()?;
        let fibres = Fibres {
            epochs: healthy.epochs(settings.batch, fit.seed),
            pixels: shapes.iter().map(|[_, h, w]| h * w).collect(),
            length: settings.fibre,
            rest: settings.rest,
            // Another than that of the order of slices.
            seed: !fit.seed,
        };
        fibres.check()?;
        let common = common(settings, &fibres);
        let fixed = CflowNetwork::fixed(&model)?;
        let task = CflowTask {
            model: model.clone(),
            common,
            extractor: method.extractor.clone(),
            healthy: healthy.clone(),
            fibres,
            fixed: fixed.clone(),
            last: RefCell::new(None),
        };
        let mut trainer = Trainer::with_task(task, fit.seed, &fit.device)?;
        fit.train(&mut trainer)?;
        let mut state = fixed;
        state.extend(trainer.weights()?);
        let state = StateDict::new(state);
        let mut fitted = Self::of(model, &state, &method.extractor, &fit.device)?;
        if settings.reference == Reference::Healthy {
            fitted.model.largest = Some(fitted.largest(&healthy, &fit.device)?);
        }
        Ok(fitted)
    }

    /// The largest log-likelihood per dimension of each layer.
    fn largest(&self, healthy: &Healthy, device: &Device) -> Result<Vec<f64>> {
        let mut largest = vec![f64::NEG_INFINITY; self.model.layers.len()];
        let all: Vec<usize> = (0..healthy.len()).collect();
        for at in all.chunks(PASS) {
            let features = self.extractor.maps(&healthy.gather(at, device)?)?;
            for (most, map) in largest.iter_mut().zip(self.network.likelihoods(&features)?) {
                *most = most.max(f64::from(map.max_all()?.to_scalar::<f32>()?));
            }
        }
        match largest.iter().all(|v| v.is_finite()) {
            true => Ok(largest),
            false => Err(Error::NonFinite {
                what: "likelihoods of healthy slices".to_owned(),
            }),
        }
    }

    fn of(
        model: CflowModel,
        state: &StateDict,
        extractor: &Extractor,
        device: &Device,
    ) -> Result<Self> {
        let mut failed = None;
        let network = state.build(DType::F32, device, |vb| {
            Ok(CflowNetwork::new(&model, &Source::of(vb))
                .map_err(|error| failed = Some(error))
                .ok())
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let network = network?.ok_or_else(|| Error::config("network", "one", "none"))?;
        Ok(Self {
            model,
            network,
            state: state.tensors().clone(),
            extractor: extractor.clone(),
        })
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
        let (model, state) = read::<CflowModel>(folder, limits)?;
        check_extractor(model.features.as_ref(), extractor)?;
        Self::of(model, &state, extractor, device)
    }

    /// The sizes, the seed and the reference.
    #[must_use]
    pub fn model(&self) -> &CflowModel {
        &self.model
    }

    fn score(&self, slices: &Tensor) -> Result<ScoreMap> {
        let (_, _, h, w) = slices.dims4()?;
        let layers = self.network.likelihoods(&self.extractor.maps(slices)?)?;
        score_map(&layers, self.model.largest.as_deref(), (h, w))
    }
}

/// The trainer's part of the settings.
fn common(settings: &CflowSettings, fibres: &Fibres) -> LoopConfig {
    let batches = settings.sub_epochs * fibres.epochs.batches();
    let rate = match settings.rate {
        CflowRate::Constant => RateSchedule::Constant,
        CflowRate::Cosine { warm_epochs } => RateSchedule::EpochCosine {
            epochs: settings.epochs,
            warm_epochs: warm_epochs.min(settings.epochs),
            warm_from: 0.1,
            final_share: 1e-3,
            batches,
            steps: fibres.steps(),
        },
    };
    LoopConfig {
        batch: settings.fibre,
        iterations: Some(settings.epochs * batches * fibres.steps()),
        optimizer: OptimizerConfig {
            rate,
            // A step is of one layer; the others' flows stay.
            absent_gradients: true,
            ..settings.optimizer.clone()
        },
        ..LoopConfig::default()
    }
}

impl Baseline for CflowBaseline {
    fn name(&self) -> &'static str {
        "CFlow"
    }

    /// With [`Reference::Together`], relative to the likeliest pixels of these slices.
    fn maps(&self, slices: &Tensor) -> Result<Tensor> {
        Ok(self.score(slices)?.map.to_dtype(DType::F32)?)
    }

    fn is_relative(&self) -> bool {
        self.model.reference == Reference::Together
    }

    /// The largest value of the map.
    fn scores(&self, slices: &Tensor) -> Result<Vec<f32>> {
        let scores = self.score(slices)?.scores;
        Ok(scores.into_iter().map(|v| v as f32).collect())
    }

    fn save(&self, folder: &Path) -> Result<()> {
        let tensors = self
            .state
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), tensor.to_device(&Device::Cpu)?)))
            .collect::<Result<_>>()?;
        let state = StateDict::new(tensors).with_config(&self.model)?;
        Ok(state.save(folder.join(file_name(CflowModel::KIND)))?)
    }
}
