use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_data::SliceSet;
use fndm_models::{Conditions, Parameters, UNet, UNetConfig};

use crate::base::{Base, Settings, config_value};
use crate::batch::{DiffusionBatch, DiffusionBatches};
use crate::checkpoint;
use crate::loss_aware::LossHistory;
use crate::objective::Objective;
use crate::prefetch::Prefetch;
use crate::report::ByTime;
use crate::{Compute, DiffusionConfig, Error, Group, Result, StepReport, TimeRange, Trainer};

/// Trains the diffusion [`UNet`] by objective (5), one iteration at a time.
///
/// The same config, slices and seed give the same weights, bit for bit, whatever the number of threads and however often
/// the run was stopped and resumed in between (on a CPU).
#[derive(Debug)]
pub struct DiffusionTrainer {
    objective: Objective,
    network: UNet,
    history: Option<LossHistory>,
    base: Base<DiffusionBatch>,
}

impl DiffusionTrainer {
    /// A trainer at iteration 0, with weights drawn from `seed`.
    ///
    /// What the network is conditioned on follows from its `in_channels`: C (nothing), 2C (the image), 2C + 1 (image and coarse map).
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
        let batches = DiffusionBatches::new(config, set.clone(), seed)?;
        let steps = batches.schedule().steps();
        let conditions = conditions(model, set.images.dim().1)?;
        check_labels(config, model)?;
        let parameters = Parameters::new(seed, DType::F32, device);
        let network = UNet::new(model, parameters.builder())?;
        let settings = Settings {
            kind: "diffusion",
            config: config_value(config)?,
            model: config_value(model)?,
            optimizer: config.optimizer.clone(),
            batch: config.batch,
            accumulation: config.accumulation,
            iterations: config.iterations,
            time_budget_s: config.time_budget_s,
            dropout: model.dropout > 0.0,
        };
        let batches = prefetch(batches, 0, config);
        Ok(Self {
            objective: Objective {
                config: config.clone(),
                model: model.clone(),
                conditions,
                device: device.clone(),
            },
            network,
            history: LossHistory::new(config.times, steps),
            base: Base::new(settings, set, seed, device, parameters, batches)?,
        })
    }

    /// The same trainer as one of several processes, each of which trains on its part of every batch.
    ///
    /// # Errors
    /// When the batch can't be divided evenly, or the processes differ in config, seed or data.
    pub fn in_group(mut self, group: Arc<dyn Group>) -> Result<Self> {
        self.base.join(group)?;
        Ok(self)
    }

    /// The training config.
    #[must_use]
    pub fn config(&self) -> &DiffusionConfig {
        &self.objective.config
    }

    /// The network's config.
    #[must_use]
    pub fn model_config(&self) -> &UNetConfig {
        &self.objective.model
    }

    /// What the network is conditioned on.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        self.objective.conditions
    }

    /// The trainable parameters.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.base.parameters
    }

    /// The moving average (of the first decay) of the parameters, by name: what a model is saved with.
    ///
    /// # Errors
    /// When the device has no memory for the copy.
    pub fn ema_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.base.learner.ema_tensors()
    }

    /// The moving average of decay number `i` of the config.
    ///
    /// # Errors
    /// When the config has no such decay.
    pub fn ema_tensors_of(&self, i: usize) -> Result<BTreeMap<String, Tensor>> {
        self.base.learner.ema_tensors_of(i)
    }

    /// A copy of the weights as they are, by name.
    ///
    /// # Errors
    /// When the device has no memory for the copy.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.base.learner.weights()
    }

    /// The network with the averaged weights, for inference.
    ///
    /// # Errors
    /// When it can't be built.
    pub fn ema_network(&self) -> Result<UNet> {
        let tensors: HashMap<String, Tensor> = self.ema_tensors()?.into_iter().collect();
        let builder = VarBuilder::from_tensors(tensors, DType::F32, &self.base.device);
        Ok(UNet::new(&self.objective.model, builder)?)
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
        let config = &self.objective.config;
        let network = self.ema_network()?;
        let mut batches = DiffusionBatches::for_validation(config, set.clone(), seed)?;
        let channels = self.base.set.images.dim().1;
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
            let losses = self.objective.evaluate(&network, batch, None)?.plain;
            for (&timestep, &loss) in timesteps.iter().zip(&losses) {
                by_time.add(timestep, f64::from(loss), false);
            }
        }
        Ok(by_time.finish(false))
    }

    /// Prepares the batches from the next one on, by today's distribution of timesteps.
    fn start_batches(&mut self) -> Result<()> {
        let config = &self.objective.config;
        let table = self.history.as_ref().and_then(LossHistory::table);
        let batches = DiffusionBatches::unchecked(config, self.base.set.clone(), self.base.seed)?
            .with_table(table);
        self.base.batches = prefetch(batches, self.base.next_batch(), config);
        Ok(())
    }

    /// What a checkpoint holds besides what every trainer has.
    fn more(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        if let Some(history) = &self.history {
            history.save(&mut tensors)?;
        }
        Ok(tensors)
    }
}

impl Trainer for DiffusionTrainer {
    fn step(&mut self) -> Result<StepReport> {
        let objective = &self.objective;
        let parameters = self.base.parameters.clone();
        let (report, weighted) = match objective.config.compute {
            Compute::F32 => {
                let network = &self.network;
                let pass = |batch, dropout| objective.differentiate(network, batch, dropout);
                self.base.step(pass)?
            }
            narrow @ crate::Compute::Bf16 => self.base.step(|batch, dropout| {
                // Narrow copies of the weights, through which the gradients reach the weights themselves.
                let builder = VarBuilder::from_backend(
                    Box::new(parameters.clone()),
                    narrow.dtype(),
                    objective.device.clone(),
                );
                let network = UNet::new(&objective.model, builder)?;
                objective.differentiate(&network, batch, dropout)
            })?,
        };
        if let Some(history) = &mut self.history {
            if !report.skipped {
                history.record(&report.timesteps, &weighted);
            }
            if history.refresh(report.iteration) {
                self.start_batches()?;
            }
        }
        Ok(report)
    }

    fn iteration(&self) -> u64 {
        self.base.learner.iteration
    }

    fn elapsed_s(&self) -> f64 {
        self.base.elapsed_s()
    }

    fn finished(&self) -> bool {
        self.base.finished()
    }

    fn iterations(&self) -> Option<u64> {
        self.base.settings.iterations
    }

    fn group(&self) -> &Arc<dyn Group> {
        &self.base.group
    }

    fn checkpoint(&self, folder: &Path, keep: usize) -> Result<PathBuf> {
        self.base.checkpoint(folder, keep, self.more()?)
    }

    fn save(&self, path: &Path) -> Result<()> {
        let write = |state: &_| checkpoint::save_as(path, state);
        self.base.write(self.more()?, write)
    }

    fn resume(&mut self, path: &Path) -> Result<()> {
        let (path, saved) = self.base.load::<DiffusionConfig, UNetConfig>(path)?;
        let history = match &self.history {
            Some(history) => Some(history.restored(&path, &saved.tensors)?),
            None => None,
        };
        self.base.restore(&path, &saved)?;
        self.history = history;
        self.start_batches()
    }
}

fn prefetch(
    mut batches: DiffusionBatches,
    first: u64,
    config: &DiffusionConfig,
) -> Prefetch<DiffusionBatch> {
    Prefetch::new(first, config.prefetch, move |index| batches.draw(index))
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
