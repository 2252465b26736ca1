use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use fndm_data::{SliceSet, stream};
use fndm_models::{BatchNorms, Limits, Mode};
use fndm_train::{
    Batch, Draw, LoopConfig, Loss, OptimizerConfig, Setup, Task, Trainer, UpdateRule, part_of,
};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{NoiseConfig, UNet, UNetConfig, loss, score_map, with_noise};
use crate::distilled::{Saved, Schedule, norms_state, restore_norms};
use crate::fit::{Fit, Method};
use crate::flow_task::for_trainer;
use crate::healthy::Healthy;
use crate::maps::largest;
use crate::{Baseline, Error, Result};

/// The purpose of a batch's noise among the random numbers of a seed.
const NOISE: u64 = 101;

/// The network, the noise, and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaeSettings {
    /// The network; its channels become those of the slices.
    pub network: UNetConfig,
    /// The noise.
    pub noise: NoiseConfig,
    /// Passes over the healthy slices.
    pub epochs: u64,
    /// Slices of a step.
    pub batch: usize,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl DaeSettings {
    /// The authors' network, noise and optimiser: `AMSGrad` at 1e-4, decay 1e-5, gradients clipped to 0.5. Epochs and batch are ours.
    #[must_use]
    pub fn official() -> Self {
        Self {
            network: UNetConfig::default(),
            noise: NoiseConfig::default(),
            epochs: 100,
            batch: 16,
            optimizer: OptimizerConfig {
                lr: 1e-4,
                l2: 1e-5,
                rule: UpdateRule::AmsGrad,
                clip: Some(0.5),
                clip_eps: 1e-6,
                ..OptimizerConfig::default()
            },
        }
    }
}

/// The network as it is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaeModel {
    /// The sizes.
    pub network: UNetConfig,
    /// The noise that it was trained to take out.
    pub noise: NoiseConfig,
}

impl fndm_models::NetworkConfig for DaeModel {
    const KIND: &'static str = "dae";

    fn check(&self) -> fndm_models::Result<()> {
        let config = |e: Error| fndm_models::Error::Config(e.to_string());
        self.network.check().map_err(config)?;
        self.noise.check().map_err(config)
    }
}

/// Slices in [-1, 1] as the network sees them: from 0, the background.
fn from_0(slices: &Tensor) -> Result<Tensor> {
    Ok(slices.affine(0.5, 0.5)?)
}

/// Positions of a batch's slices, and the noise for them.
#[derive(Debug, Clone)]
struct NoisyBatch {
    at: Vec<usize>,
    noise: Vec<f32>,
    rolls: (i64, i64),
}

impl Batch for NoisyBatch {
    fn samples(&self) -> &[usize] {
        &self.at
    }

    fn part(self, rank: usize, size: usize) -> Self {
        Self {
            at: part_of(self.at, rank, size),
            noise: part_of(self.noise, rank, size),
            rolls: self.rolls,
        }
    }
}

struct DaeTask {
    model: DaeModel,
    common: LoopConfig,
    healthy: Healthy,
    norms: BatchNorms,
    /// Height and width of a slice.
    size: (usize, usize),
}

impl Task for DaeTask {
    type Network = UNet;
    type Config = LoopConfig;
    type Model = DaeModel;
    type Batch = NoisyBatch;

    fn setup(&self) -> Setup<LoopConfig, DaeModel> {
        Setup::new(
            <DaeModel as fndm_models::NetworkConfig>::KIND,
            self.common.clone(),
            self.model.clone(),
            self.common.clone(),
            self.healthy.fingerprint(),
        )
    }

    fn network(&self, vb: VarBuilder<'_>) -> fndm_train::Result<UNet> {
        UNet::new(&self.model.network, &vb, &self.norms).map_err(for_trainer)
    }

    fn batches(&self, seed: u64) -> fndm_train::Result<Draw<NoisyBatch>> {
        let epochs = self.healthy.epochs(self.common.batch, seed);
        let (noise, channels) = (self.model.noise, self.model.network.in_channels);
        let (height, width) = (self.size.0 as i64, self.size.1 as i64);
        Ok(Box::new(move |n| {
            let at = epochs.batch(n);
            let mut rng = stream(seed, NOISE, n);
            Ok(NoisyBatch {
                noise: noise.draw(&mut rng, at.len() * channels),
                rolls: (rng.random_range(0..height), rng.random_range(0..width)),
                at,
            })
        }))
    }

    fn loss(
        &self,
        network: &UNet,
        batch: NoisyBatch,
        device: &Device,
        _: Option<u64>,
    ) -> fndm_train::Result<Loss> {
        let slices = self.healthy.gather(&batch.at, device)?;
        let (cells, channels) = (self.model.noise.resolution, self.model.network.in_channels);
        let shape = (batch.at.len(), channels, cells, cells);
        let noise = Tensor::from_vec(batch.noise, shape, device)?;
        let each = from_0(&slices).and_then(|clean| {
            let noisy = with_noise(&clean, &noise, batch.rolls)?;
            loss(&network.forward(&noisy, Mode::Train)?, &clean)
        });
        Loss::mean(&each.map_err(for_trainer)?)
    }

    fn names(&self, samples: &[usize]) -> Vec<String> {
        self.healthy.names(samples)
    }

    fn state(&self) -> fndm_train::Result<BTreeMap<String, Tensor>> {
        norms_state(&self.norms)
    }

    fn restore(
        &mut self,
        path: &Path,
        tensors: &BTreeMap<String, Tensor>,
    ) -> fndm_train::Result<()> {
        restore_norms(&self.norms, path, tensors)
    }
}

/// The autoencoder before it has seen a slice.
#[derive(Debug, Clone)]
pub struct DaeMethod {
    /// The settings.
    pub settings: DaeSettings,
}

impl Method for DaeMethod {
    fn name(&self) -> &'static str {
        "DAE"
    }

    fn fit(&self, slices: &SliceSet, fit: &Fit) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(Dae::fit(self, slices, fit)?))
    }

    fn load(&self, folder: &Path, limits: &Limits, device: &Device) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(Dae::load(folder, limits, device)?))
    }
}

/// A fitted autoencoder.
pub struct Dae {
    saved: Saved<DaeModel>,
    network: UNet,
}

impl std::fmt::Debug for Dae {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dae")
            .field("model", &self.saved.config)
            .finish_non_exhaustive()
    }
}

impl Dae {
    /// Trains on the healthy slices of a set.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn fit(method: &DaeMethod, slices: &SliceSet, fit: &Fit) -> Result<Self> {
        let settings = &method.settings;
        let healthy = Healthy::new(slices)?;
        let (_, channels, height, width) = slices.images.dim();
        let model = DaeModel {
            network: UNetConfig {
                in_channels: channels,
                out_channels: channels,
                ..settings.network.clone()
            },
            noise: settings.noise,
        };
        model.network.check()?;
        model.noise.check()?;
        let schedule = Schedule {
            epochs: settings.epochs,
            batch: settings.batch,
            optimizer: settings.optimizer.clone(),
        };
        let norms = BatchNorms::fresh();
        let task = DaeTask {
            common: schedule.common(&healthy, fit.seed)?,
            model: model.clone(),
            healthy,
            norms: norms.clone(),
            size: (height, width),
        };
        let mut trainer = Trainer::with_task(task, fit.seed, &fit.device)?;
        fit.train(&mut trainer)?;
        let mut state = trainer.weights()?;
        state.extend(norms.tensors()?);
        Self::of(Saved::new(model, state), &fit.device)
    }

    fn of(saved: Saved<DaeModel>, device: &Device) -> Result<Self> {
        let network = saved.build(device, |model, vb, norms| {
            UNet::new(&model.network, vb, norms)
        })?;
        Ok(Self { saved, network })
    }

    /// Reads what [`Baseline::save`] wrote into `folder`.
    ///
    /// # Errors
    /// When there is no such file, or it isn't whole.
    pub fn load(folder: &Path, limits: &Limits, device: &Device) -> Result<Self> {
        Self::of(Saved::load(folder, limits)?, device)
    }

    /// The sizes and the noise.
    #[must_use]
    pub fn model(&self) -> &DaeModel {
        &self.saved.config
    }
}

impl Baseline for Dae {
    fn name(&self) -> &'static str {
        "DAE"
    }

    fn maps(&self, slices: &Tensor) -> Result<Tensor> {
        Ok(score_map(&self.network, &from_0(slices)?)?.squeeze(1)?)
    }

    /// The largest value of the map. The authors score no slices.
    fn scores(&self, slices: &Tensor) -> Result<Vec<f32>> {
        largest(&self.maps(slices)?)
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.saved.save(folder)
    }
}
