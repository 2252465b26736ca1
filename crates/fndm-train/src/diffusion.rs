//! Objective (5): the noise-prediction network's training.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use fndm_data::SliceSet;
use fndm_data::corrupt::Donors;
use fndm_models::{Conditions, HybridInput, UNet, UNetConfig};

use crate::batch::{DiffusionBatch, DiffusionBatches, tensor};
use crate::error::check;
use crate::loss_aware::LossHistory;
use crate::report::ByTime;
use crate::slices::{check_slices, names, shape};
use crate::{
    DiffusionConfig, Draw, Error, Fingerprint, Loss, Pass, Result, Setup, StepReport, Task,
    TimeRange, Trainer,
};

/// Trains the diffusion [`UNet`] by objective (5), one iteration at a time.
pub type DiffusionTrainer = Trainer<DiffusionTask>;

/// Objective (5): the mean over a batch of `|| network(cat(x_t, x_0^n, x_seg), t, y) - target ||^2`, weighted by noise level and
/// region.
#[derive(Debug)]
pub struct DiffusionTask {
    config: DiffusionConfig,
    model: UNetConfig,
    conditions: Conditions,
    set: Arc<SliceSet>,
    donors: Option<Arc<Donors>>,
    history: Option<LossHistory>,
}

/// A batch as tensors.
struct Prepared {
    /// `(B, C_in, H, W)`.
    input: Tensor,
    t: Tensor,
    y: Option<Tensor>,
    /// `(B, C, H, W)`.
    target: Tensor,
    /// Weight of each pixel, `(B, 1, H, W)`; none where all are 1.
    pixels: Option<Tensor>,
    /// Weight of each sample by its noise level, `(B)`.
    weights: Vec<f32>,
    /// What undoes the sampling of timesteps, `(B)`.
    correction: Vec<f32>,
}

impl DiffusionTask {
    /// What the network is conditioned on follows from its `in_channels`: C (nothing), 2C (the image), 2C + 1 (image and coarse map).
    ///
    /// # Errors
    /// When a setting is out of its range, or config, network and slices don't fit together.
    pub fn new(config: &DiffusionConfig, model: &UNetConfig, set: Arc<SliceSet>) -> Result<Self> {
        Self::with_donors(config, model, set, None)
    }

    /// As [`new`](Self::new), with lesions to paste, where the config wants any
    /// ([`PseudoLesion::pasted`](fndm_data::corrupt::PseudoLesion)).
    ///
    /// # Errors
    /// As [`new`](Self::new), or when config and donors don't fit together.
    pub fn with_donors(
        config: &DiffusionConfig,
        model: &UNetConfig,
        set: Arc<SliceSet>,
        donors: Option<Arc<Donors>>,
    ) -> Result<Self> {
        config.check()?;
        check_slices(&set, config.diseased_share)?;
        config.check_donors(donors.as_deref(), shape(&set))?;
        let conditions = conditions(model, set.images.dim().1)?;
        check_image(config, conditions)?;
        check_labels(config, model)?;
        let steps = config.schedule.build()?.steps();
        Ok(Self {
            history: LossHistory::new(config.times, steps),
            config: config.clone(),
            model: model.clone(),
            conditions,
            set,
            donors,
        })
    }

    fn prepare(&self, batch: DiffusionBatch, device: &Device) -> Result<Prepared> {
        let [b, c, h, w] = batch.shape;
        let one = |values| tensor(values, &[b, 1, h, w], device);
        let all = |values| tensor(values, &[b, c, h, w], device);
        let mut input = HybridInput::new(all(batch.state)?);
        if self.conditions.image {
            input.image = Some(all(batch.image)?);
        }
        if self.conditions.coarse {
            input.coarse = Some(one(batch.coarse)?);
        }
        let region_weight = self.config.region_weight;
        Ok(Prepared {
            input: input.concat()?,
            t: tensor(batch.model_times, &[b], device)?,
            y: match self.model.num_classes {
                Some(_) => Some(Tensor::from_vec(batch.labels, b, device)?),
                None => None,
            },
            target: all(batch.target)?,
            pixels: if region_weight == 1.0 {
                None
            } else {
                Some(one(batch.region)?.affine(region_weight - 1.0, 1.0)?)
            },
            weights: batch.weights,
            correction: batch.correction,
        })
    }
}

impl Prepared {
    /// The scalar loss, and each sample's: plain, and with the weights of pixels and noise level.
    fn judge(&self, output: &Tensor) -> candle_core::Result<Loss> {
        let (b, c, _, _) = self.target.dims4()?;
        // The other half of a network with learned variance isn't trained.
        let prediction = output.narrow(1, 0, c)?;
        let square = (prediction - &self.target)?.sqr()?;
        let plain = square.detach().mean((1, 2, 3))?;
        let weighted = match &self.pixels {
            Some(pixels) => square.broadcast_mul(pixels)?,
            None => square,
        };
        let weighted = weighted.mean((1, 2, 3))?;
        let weights = self.weights.iter().zip(&self.correction);
        let weights: Vec<f32> = weights.map(|(w, c)| w * c).collect();
        let weights = Tensor::from_vec(weights, b, output.device())?;
        let by_level = weighted.detach().to_vec1::<f32>()?;
        let by_level = by_level.iter().zip(&self.weights);
        Ok(Loss {
            mean: (weighted * weights)?.mean_all()?,
            plain: plain.to_vec1::<f32>()?,
            second: by_level.map(|(loss, weight)| loss * weight).collect(),
        })
    }

    fn loss(&self, network: &UNet, dropout: Option<u64>) -> Result<Loss> {
        let (x, t, y) = (&self.input, &self.t, self.y.as_ref());
        let output = match dropout {
            Some(seed) => network.forward_train(x, t, y, seed)?,
            None => network.forward(x, t, y)?,
        };
        Ok(self.judge(&output)?)
    }
}

impl Task for DiffusionTask {
    type Network = UNet;
    type Config = DiffusionConfig;
    type Model = UNetConfig;
    type Batch = DiffusionBatch;

    fn setup(&self) -> Setup<DiffusionConfig, UNetConfig> {
        let (config, model) = (self.config.clone(), self.model.clone());
        let donors = self.donors.as_deref();
        let (common, data) = (
            config.loop_config(),
            Fingerprint::with_donors(&self.set, donors),
        );
        Setup {
            dropout: model.dropout > 0.0,
            compute: config.compute,
            ..Setup::new("diffusion", config, model, common, data)
        }
    }

    fn network(&self, vb: VarBuilder<'_>) -> Result<UNet> {
        Ok(UNet::new(&self.model, vb)?)
    }

    /// By today's distribution of timesteps.
    fn batches(&self, seed: u64) -> Result<Draw<DiffusionBatch>> {
        let table = self.history.as_ref().and_then(LossHistory::table);
        let mut batches =
            DiffusionBatches::unchecked(&self.config, self.set.clone(), self.donors.clone(), seed)?
                .with_table(table);
        Ok(Box::new(move |index| batches.draw(index)))
    }

    fn loss(
        &self,
        network: &UNet,
        batch: DiffusionBatch,
        device: &Device,
        dropout: Option<u64>,
    ) -> Result<Loss> {
        self.prepare(batch, device)?.loss(network, dropout)
    }

    fn differentiate(
        &self,
        network: &UNet,
        batch: DiffusionBatch,
        device: &Device,
        dropout: Option<u64>,
        passes: usize,
    ) -> Result<Pass> {
        let batch = self.prepare(batch, device)?;
        if !self.config.recompute {
            return Pass::taped(passes, || batch.loss(network, dropout));
        }
        Pass::recomputed(passes, |share| {
            let (x, t, y) = (&batch.input, &batch.t, batch.y.as_ref());
            let loss = |output: &Tensor| share(batch.judge(output)?);
            Ok(network.loss_gradients(x, t, y, dropout, loss)?)
        })
    }

    fn names(&self, samples: &[usize]) -> Vec<String> {
        names(&self.set, samples)
    }

    fn after_step(&mut self, report: &mut StepReport, weighted: &[f32]) -> bool {
        let Some(history) = &mut self.history else {
            return false;
        };
        if !report.skipped {
            history.record(&report.timesteps, weighted);
        }
        history.refresh(report.iteration)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        if let Some(history) = &self.history {
            history.save(&mut tensors)?;
        }
        Ok(tensors)
    }

    fn restore(&mut self, path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        if let Some(history) = &mut self.history {
            *history = history.restored(path, tensors)?;
        }
        Ok(())
    }
}

impl DiffusionTrainer {
    /// A trainer at iteration 0, with weights drawn from `seed`: see [`DiffusionTask::new`].
    ///
    /// # Errors
    /// When a setting is out of its range, or config, network and slices don't fit together.
    pub fn new(
        config: &DiffusionConfig,
        model: &UNetConfig,
        set: Arc<SliceSet>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        Self::with_task(DiffusionTask::new(config, model, set)?, seed, device)
    }

    /// What the network is conditioned on.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        self.task.conditions
    }

    /// The averaged network's loss on the slices of `set` by range of timesteps, `samples` draws in all.
    ///
    /// Slices, timesteps (evenly spread over `0..T`), noise and masks are the same at every call with the same `seed`.
    ///
    /// # Errors
    /// When the slices don't fit the network.
    pub fn validate(
        &self,
        set: &Arc<SliceSet>,
        samples: usize,
        ranges: usize,
        seed: u64,
    ) -> Result<Vec<TimeRange>> {
        let config = &self.task.config;
        let network = self.ema_network()?;
        let mut batches =
            DiffusionBatches::for_validation(config, set.clone(), self.task.donors.clone(), seed)?;
        let channels = self.task.set.images.dim().1;
        if set.images.dim().1 != channels {
            return Err(Error::Data {
                expected: format!("slices of {channels} channels"),
                got: format!("{}", set.images.dim().1),
            });
        }
        let steps = batches.schedule().steps();
        let size = config.batch as u64;
        let count = (samples as u64).div_ceil(size).max(1);
        let total = (count * size) as usize;
        let mut by_time = ByTime::new(steps, ranges);
        for index in 0..count {
            let batch = batches.draw_at(index, |_, position| {
                // A stride that visits all levels in a mixed order, so that no slice keeps to one level.
                let k = position * count as usize + index as usize;
                ((2 * k + 1) * steps / (2 * total)).min(steps - 1)
            })?;
            let timesteps = batch.timesteps.clone();
            let losses = self.task.loss(&network, batch, &self.device, None)?.plain;
            for (&timestep, &loss) in timesteps.iter().zip(&losses) {
                by_time.add(timestep, f64::from(loss), false);
            }
        }
        Ok(by_time.finish(false))
    }
}

/// What a network with so many input channels is conditioned on.
pub(crate) fn conditions(model: &UNetConfig, channels: usize) -> Result<Conditions> {
    let choices = [(true, true), (true, false), (false, false)];
    let found = choices
        .map(|(image, coarse)| Conditions { image, coarse })
        .into_iter()
        .find(|c| c.in_channels(channels) == model.in_channels);
    let fits = model.out_channels == channels || model.out_channels == 2 * channels;
    match found {
        Some(conditions) if fits => Ok(conditions),
        _ => Err(Error::Data {
            expected: format!(
                "for slices of {channels} channels a network with {channels}, {} or {} input and {channels} or {} output channels",
                2 * channels,
                2 * channels + 1,
                2 * channels
            ),
            got: format!(
                "{} input and {} output channels",
                model.in_channels, model.out_channels
            ),
        }),
    }
}

pub(crate) fn check_image(config: &DiffusionConfig, conditions: Conditions) -> Result<()> {
    check(
        conditions.image || !config.from_image,
        "from_image",
        "false for a network that doesn't see the image",
        config.from_image,
    )
}

pub(crate) fn check_labels(config: &DiffusionConfig, model: &UNetConfig) -> Result<()> {
    let needed = if config.label_dropout > 0.0 { 3 } else { 2 };
    match model.num_classes {
        Some(n) if n < needed => Err(Error::Data {
            expected: format!("a network of {needed} classes or more, or none"),
            got: format!("{n}"),
        }),
        _ => Ok(()),
    }
}
