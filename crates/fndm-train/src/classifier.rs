use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_data::SliceSet;
use fndm_models::{Classifier, ClassifierConfig, Parameters, log_softmax};
use fndm_solver::NoiseSchedule;
use ndarray::Axis;

use crate::batch::{ClassifierBatch, ClassifierBatches, tensor};
use crate::checkpoint::{self, Checkpoint, CheckpointState, Fingerprint};
use crate::clock::Clock;
use crate::diffusion::dropout_seed;
use crate::learner::{Blame, Gradients, Learner};
use crate::prefetch::Prefetch;
use crate::random::{Purpose, generator};
use crate::report::ByTime;
use crate::slices::{check_slices, fingerprint};
use crate::trainer::{MAY_CHANGE, Trainer, config_value, finished, may_change};
use crate::{ClassifierTrainConfig, Error, Result, StepReport, TimeRange};

/// Trains the time-dependent classifier by cross entropy on noised slices, one iteration at a time.
///
/// It is as repeatable as [`DiffusionTrainer`](crate::DiffusionTrainer).
#[derive(Debug)]
pub struct ClassifierTrainer {
    config: ClassifierTrainConfig,
    model: ClassifierConfig,
    set: Arc<SliceSet>,
    data: Fingerprint,
    seed: u64,
    device: Device,
    schedule: NoiseSchedule,
    parameters: Parameters,
    network: Classifier,
    learner: Learner,
    batches: Prefetch<ClassifierBatch>,
    clock: Clock,
}

/// Losses and right answers of a batch.
struct Answers {
    /// Mean smoothed cross entropy, to differentiate.
    loss: Tensor,
    /// Cross entropy of each sample, without smoothing.
    plain: Vec<f32>,
    right: Vec<bool>,
}

impl ClassifierTrainer {
    /// A trainer at iteration 0, with weights drawn from `seed`.
    ///
    /// # Errors
    /// When a setting is out of its range, or config, network and slices don't fit together.
    pub fn new(
        config: &ClassifierTrainConfig,
        model: &ClassifierConfig,
        set: Arc<SliceSet>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let batches = ClassifierBatches::new(config, set.clone(), seed)?;
        check_fits(model, &set)?;
        let parameters = Parameters::new(seed, DType::F32, device);
        let network = Classifier::new(model, parameters.builder())?;
        let learner = Learner::new(
            &config.optimizer,
            config.iterations,
            parameters.iter().collect(),
        )?;
        Ok(Self {
            config: config.clone(),
            model: model.clone(),
            data: fingerprint(&set),
            set,
            seed,
            device: device.clone(),
            schedule: config.schedule.build()?,
            parameters,
            network,
            learner,
            batches: prefetch(batches, 0, config),
            clock: Clock::default(),
        })
    }

    /// The training config.
    #[must_use]
    pub fn config(&self) -> &ClassifierTrainConfig {
        &self.config
    }

    /// The network's config.
    #[must_use]
    pub fn model_config(&self) -> &ClassifierConfig {
        &self.model
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
    pub fn ema_network(&self) -> Result<Classifier> {
        let tensors: HashMap<String, Tensor> = self.ema_tensors()?.into_iter().collect();
        let builder = VarBuilder::from_tensors(tensors, DType::F32, &self.device);
        Ok(Classifier::new(&self.model, builder)?)
    }

    /// The averaged network's cross entropy and accuracy on `set` by range of timesteps.
    ///
    /// Every slice is tested once in each range, at a random timestep with random noise, the same at every call with the same `seed`.
    ///
    /// # Errors
    /// When the slices don't fit the network.
    pub fn validate(&self, set: &SliceSet, ranges: usize, seed: u64) -> Result<Vec<TimeRange>> {
        check_slices(set)?;
        check_fits(&self.model, set)?;
        let network = self.ema_network()?;
        let steps = self.schedule.steps();
        let ranges = ranges.clamp(1, steps);
        let (n, c, h, w) = set.images.dim();
        let mut by_time = ByTime::new(steps, ranges);
        let cases: Vec<(usize, usize)> = (0..ranges)
            .flat_map(|range| (0..n).map(move |slice| (range, slice)))
            .collect();
        for chunk in cases.chunks(self.config.batch) {
            let mut batch = ClassifierBatch::with_capacity(chunk.len(), [c, h, w]);
            for &(range, slice) in chunk {
                let mut rng = generator(seed, Purpose::Validation, (range * n + slice) as u64);
                let from = (range * steps).div_ceil(ranges);
                let to = ((range + 1) * steps).div_ceil(ranges);
                let step = from + crate::TimeSampling::Uniform.draw(&mut rng, to - from);
                let x0 = set.images.index_axis(Axis(0), slice);
                batch.push(&mut rng, &self.schedule, &x0, step);
                batch.labels.push(u32::from(set.labels[slice]));
                batch.slices.push(slice);
            }
            let timesteps = batch.timesteps.clone();
            let answers = self.answers(&network, batch, None)?;
            for ((&timestep, &loss), &right) in
                timesteps.iter().zip(&answers.plain).zip(&answers.right)
            {
                by_time.add(timestep, f64::from(loss), right);
            }
        }
        Ok(by_time.finish(true))
    }

    fn answers(
        &self,
        network: &Classifier,
        batch: ClassifierBatch,
        dropout: Option<u64>,
    ) -> Result<Answers> {
        let [b, ..] = batch.shape;
        let x = tensor(batch.state, &batch.shape, &self.device)?;
        let t = tensor(batch.model_times, &[b], &self.device)?;
        let logits = match dropout {
            Some(seed) => network.forward_train(&x, &t, seed)?,
            None => network.forward(&x, &t)?,
        };
        let log_probability = log_softmax(&logits)?;
        let y = Tensor::from_slice(&batch.labels, (b, 1), &self.device)?;
        let wanted = log_probability.gather(&y, 1)?.squeeze(1)?;
        let plain = wanted.detach().neg()?.to_vec1::<f32>()?;
        let smoothing = self.config.label_smoothing;
        let loss = if smoothing > 0.0 {
            let spread = log_probability.mean(1)?.affine(-smoothing, 0.0)?;
            (wanted.affine(smoothing - 1.0, 0.0)? + spread)?.mean_all()?
        } else {
            wanted.neg()?.mean_all()?
        };
        let right = logits
            .detach()
            .argmax(1)?
            .to_vec1::<u32>()?
            .iter()
            .zip(&batch.labels)
            .map(|(answer, label)| answer == label)
            .collect();
        Ok(Answers { loss, plain, right })
    }

    fn state(&self) -> Result<CheckpointState> {
        Ok(CheckpointState {
            format: CheckpointState::format(),
            kind: "classifier".to_owned(),
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

impl Trainer for ClassifierTrainer {
    fn step(&mut self) -> Result<StepReport> {
        self.clock.start();
        let start = Instant::now();
        let passes = self.config.accumulation;
        let mut gradients = Gradients::new();
        let mut blame = Blame::default();
        let mut losses = Vec::new();
        let (mut loss, mut wait_s, mut right) = (0.0, 0.0, 0);
        for pass in 0..passes {
            let waiting = Instant::now();
            let batch = self.batches.next()?;
            wait_s += waiting.elapsed().as_secs_f64();
            blame.slices.extend_from_slice(&batch.slices);
            blame.timesteps.extend_from_slice(&batch.timesteps);
            let dropout = dropout_seed(self.seed, self.learner.iteration, passes, pass);
            let dropout = (self.model.dropout > 0.0).then_some(dropout);
            let tape = fndm_kernels::Tape::start()?;
            let answers = self.answers(&self.network, batch, dropout)?;
            let share = answers.loss.affine(1.0 / passes as f64, 0.0)?;
            loss += f64::from(share.to_scalar::<f32>()?);
            losses.extend(answers.plain);
            right += answers.right.iter().filter(|&&r| r).count();
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
            accuracy: Some(right as f64 / losses.len() as f64),
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
        let batches = ClassifierBatches::new(&self.config, self.set.clone(), self.seed)?;
        let first = state.iteration * self.config.accumulation as u64;
        self.batches = prefetch(batches, first, &self.config);
        self.clock = Clock::after(state.elapsed_s);
        Ok(())
    }
}

fn prefetch(
    mut batches: ClassifierBatches,
    first: u64,
    config: &ClassifierTrainConfig,
) -> Prefetch<ClassifierBatch> {
    Prefetch::new(first, config.prefetch, move |index| Ok(batches.draw(index)))
}

fn check_fits(model: &ClassifierConfig, set: &SliceSet) -> Result<()> {
    let channels = set.images.dim().1;
    if model.in_channels == channels && model.out_channels == 2 {
        return Ok(());
    }
    Err(Error::Data {
        expected: format!("a classifier of {channels} channels and 2 labels, as the slices have"),
        got: format!("{} and {}", model.in_channels, model.out_channels),
    })
}
