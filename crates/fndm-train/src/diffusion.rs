use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_data::SliceSet;
use fndm_models::{Conditions, HybridInput, Parameters, UNet, UNetConfig};
use fndm_solver::NoiseSchedule;

use crate::batch::{DiffusionBatch, DiffusionBatches, tensor};
use crate::checkpoint::{self, Checkpoint, CheckpointState, Fingerprint};
use crate::clock::Clock;
use crate::learner::{Blame, Gradients, Learner};
use crate::prefetch::Prefetch;
use crate::report::ByTime;
use crate::slices::fingerprint;
use crate::trainer::{MAY_CHANGE, Trainer, config_value, finished, may_change};
use crate::{DiffusionConfig, Error, Result, StepReport, TimeRange};

/// Trains the diffusion [`UNet`] by objective (5), one iteration at a time.
///
/// The same config, slices and seed give the same weights, bit for bit, whatever the number of threads and however often
/// the run was stopped and resumed in between (on a CPU).
#[derive(Debug)]
pub struct DiffusionTrainer {
    config: DiffusionConfig,
    model: UNetConfig,
    conditions: Conditions,
    set: Arc<SliceSet>,
    data: Fingerprint,
    seed: u64,
    device: Device,
    schedule: NoiseSchedule,
    parameters: Parameters,
    network: UNet,
    learner: Learner,
    batches: Prefetch<DiffusionBatch>,
    clock: Clock,
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
        let schedule = batches.schedule().clone();
        let conditions = conditions(model, set.images.dim().1)?;
        check_labels(config, model)?;
        let parameters = Parameters::new(seed, DType::F32, device);
        let network = UNet::new(model, parameters.builder())?;
        let learner = Learner::new(
            &config.optimizer,
            config.iterations,
            parameters.iter().collect(),
        )?;
        Ok(Self {
            config: config.clone(),
            model: model.clone(),
            conditions,
            data: fingerprint(&set),
            set,
            seed,
            device: device.clone(),
            schedule,
            parameters,
            network,
            learner,
            batches: prefetch(batches, 0, config),
            clock: Clock::default(),
        })
    }

    /// The training config.
    #[must_use]
    pub fn config(&self) -> &DiffusionConfig {
        &self.config
    }

    /// The network's config.
    #[must_use]
    pub fn model_config(&self) -> &UNetConfig {
        &self.model
    }

    /// What the network is conditioned on.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        self.conditions
    }

    /// The trainable parameters.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The moving average (of the first decay) of the parameters, by name: what a model is saved with.
    ///
    /// # Errors
    /// When the device has no memory for the copy.
    pub fn ema_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.learner.ema_tensors()
    }

    /// The moving average of decay number `i` of the config.
    ///
    /// # Errors
    /// When the config has no such decay.
    pub fn ema_tensors_of(&self, i: usize) -> Result<BTreeMap<String, Tensor>> {
        self.learner.ema_tensors_of(i)
    }

    /// A copy of the weights as they are, by name.
    ///
    /// # Errors
    /// When the device has no memory for the copy.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.learner.weights()
    }

    /// The network with the averaged weights, for inference.
    ///
    /// # Errors
    /// When it can't be built.
    pub fn ema_network(&self) -> Result<UNet> {
        let tensors: HashMap<String, Tensor> = self.ema_tensors()?.into_iter().collect();
        let builder = VarBuilder::from_tensors(tensors, DType::F32, &self.device);
        Ok(UNet::new(&self.model, builder)?)
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
        let network = self.ema_network()?;
        let mut batches = DiffusionBatches::for_validation(&self.config, set.clone(), seed)?;
        if set.images.dim().1 != self.set.images.dim().1 {
            return Err(Error::Data {
                expected: format!("slices of {} channels", self.set.images.dim().1),
                got: format!("{}", set.images.dim().1),
            });
        }
        let steps = self.schedule.steps();
        let size = self.config.batch as u64;
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
            let losses = self.losses(&network, batch, None)?.1;
            for (&timestep, &loss) in timesteps.iter().zip(&losses) {
                by_time.add(timestep, f64::from(loss), false);
            }
        }
        Ok(by_time.finish(false))
    }

    /// The weighted loss to differentiate, and the unweighted loss of each sample.
    fn losses(
        &self,
        network: &UNet,
        batch: DiffusionBatch,
        dropout: Option<u64>,
    ) -> Result<(Tensor, Vec<f32>)> {
        let [b, c, h, w] = batch.shape;
        let device = &self.device;
        let one = |values| tensor(values, &[b, 1, h, w], device);
        let all = |values| tensor(values, &[b, c, h, w], device);
        let mut input = HybridInput::new(all(batch.state)?);
        if self.conditions.image {
            input.image = Some(all(batch.image)?);
        }
        if self.conditions.coarse {
            input.coarse = Some(one(batch.coarse)?);
        }
        let input = input.concat()?;
        let t = tensor(batch.model_times, &[b], device)?;
        let y = match self.model.num_classes {
            Some(_) => Some(Tensor::from_vec(batch.labels, b, device)?),
            None => None,
        };
        let output = match dropout {
            Some(seed) => network.forward_train(&input, &t, y.as_ref(), seed)?,
            None => network.forward(&input, &t, y.as_ref())?,
        };
        // The other half of a network with learned variance isn't trained.
        let prediction = output.narrow(1, 0, c)?;
        let square = (prediction - all(batch.target)?)?.sqr()?;
        let plain = square.detach().mean((1, 2, 3))?.to_vec1::<f32>()?;
        let weighted = if self.config.region_weight != 1.0 {
            let pixels = one(batch.region)?.affine(self.config.region_weight - 1.0, 1.0)?;
            square.broadcast_mul(&pixels)?
        } else {
            square
        };
        let weights = tensor(batch.weights, &[b], device)?;
        let loss = (weighted.mean((1, 2, 3))? * weights)?.mean_all()?;
        Ok((loss, plain))
    }

    fn state(&self) -> Result<CheckpointState> {
        Ok(CheckpointState {
            format: CheckpointState::format(),
            kind: "diffusion".to_owned(),
            iteration: self.learner.iteration,
            optimizer_steps: self.learner.optimizer_steps(),
            elapsed_s: self.elapsed_s(),
            seed: self.seed,
            config: config_value(&self.config)?,
            model: config_value(&self.model)?,
            data: self.data.clone(),
        })
    }
}

impl Trainer for DiffusionTrainer {
    fn step(&mut self) -> Result<StepReport> {
        self.clock.start();
        let start = Instant::now();
        let passes = self.config.accumulation;
        let mut gradients = Gradients::new();
        let mut blame = Blame::default();
        let mut losses = Vec::new();
        let (mut loss, mut wait_s) = (0.0, 0.0);
        for pass in 0..passes {
            let waiting = Instant::now();
            let batch = self.batches.next()?;
            wait_s += waiting.elapsed().as_secs_f64();
            blame.slices.extend_from_slice(&batch.slices);
            blame.timesteps.extend_from_slice(&batch.timesteps);
            let dropout = dropout_seed(self.seed, self.learner.iteration, passes, pass);
            let dropout = (self.model.dropout > 0.0).then_some(dropout);
            let tape = fndm_kernels::Tape::start()?;
            let (total, plain) = self.losses(&self.network, batch, dropout)?;
            let share = total.affine(1.0 / passes as f64, 0.0)?;
            loss += f64::from(share.to_scalar::<f32>()?);
            losses.extend(plain);
            if loss.is_finite() {
                self.learner
                    .accumulate(&tape.backward(&share)?, &mut gradients)?;
            }
        }
        let optimizing = Instant::now();
        let timesteps = blame.timesteps.clone();
        let applied = self.learner.apply(&gradients, loss, blame)?;
        Ok(StepReport {
            iteration: self.learner.iteration,
            loss,
            accuracy: None,
            gradient_norm: applied.gradient_norm,
            rate: applied.rate,
            skipped: applied.skipped,
            step_s: start.elapsed().as_secs_f64(),
            wait_s,
            optimizer_s: optimizing.elapsed().as_secs_f64(),
            elapsed_s: self.elapsed_s(),
            timesteps,
            losses,
        })
    }

    fn iteration(&self) -> u64 {
        self.learner.iteration
    }

    fn elapsed_s(&self) -> f64 {
        self.clock.elapsed_s()
    }

    fn finished(&self) -> bool {
        finished(self, self.config.iterations, self.config.time_budget_s)
    }

    fn iterations(&self) -> Option<u64> {
        self.config.iterations
    }

    fn checkpoint(&self, folder: &Path, keep: usize) -> Result<PathBuf> {
        let checkpoint = Checkpoint {
            state: self.state()?,
            tensors: self.learner.tensors(),
        };
        checkpoint::save(folder, &checkpoint, keep)
    }

    fn resume(&mut self, path: &Path) -> Result<()> {
        let (path, saved) = checkpoint::load(path, &self.device)?;
        let allowed = may_change(MAY_CHANGE, self.config.optimizer.rate);
        checkpoint::check_same(&path, &saved.state, &self.state()?, &allowed)?;
        let state = &saved.state;
        self.learner.restore(
            &path,
            &saved.tensors,
            state.iteration,
            state.optimizer_steps,
        )?;
        let batches = DiffusionBatches::new(&self.config, self.set.clone(), self.seed)?;
        let first = state.iteration * self.config.accumulation as u64;
        self.batches = prefetch(batches, first, &self.config);
        self.clock = Clock::after(state.elapsed_s);
        Ok(())
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
fn conditions(model: &UNetConfig, channels: usize) -> Result<Conditions> {
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

fn check_labels(config: &DiffusionConfig, model: &UNetConfig) -> Result<()> {
    let needed = if config.label_dropout > 0.0 { 3 } else { 2 };
    match model.num_classes {
        Some(n) if n < needed => Err(Error::Data {
            expected: format!("a network of {needed} classes or more, or none"),
            got: format!("{n}"),
        }),
        _ => Ok(()),
    }
}

/// The seed of the dropout masks of one forward pass.
pub(crate) fn dropout_seed(seed: u64, iteration: u64, passes: usize, pass: usize) -> u64 {
    let index = iteration * passes as u64 + pass as u64;
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index.wrapping_mul(0xd1b5_4a32_d192_ed03)
}
