use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_data::SliceSet;
use fndm_models::{Classifier, ClassifierConfig, Parameters, log_softmax};
use ndarray::Axis;

use crate::base::{Answer, Base, Pass, Settings, config_value, differentiate, recomputed};
use crate::batch::{ClassifierBatch, ClassifierBatches, tensor};
use crate::checkpoint;
use crate::loss_aware::first_of;
use crate::prefetch::Prefetch;
use crate::random::{Purpose, generator};
use crate::report::ByTime;
use crate::slices::check_slices;
use crate::{ClassifierTrainConfig, Compute, Error, Group, Result, StepReport, TimeRange, Trainer};

/// Trains the time-dependent classifier by cross entropy on noised slices, one iteration at a time.
///
/// It is as repeatable as [`DiffusionTrainer`](crate::DiffusionTrainer).
#[derive(Debug)]
pub struct ClassifierTrainer {
    config: ClassifierTrainConfig,
    model: ClassifierConfig,
    network: Classifier,
    base: Base<ClassifierBatch>,
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
        check_fits(model, set.images.dim().1)?;
        let parameters = Parameters::new(seed, DType::F32, device);
        let network = Classifier::new(model, parameters.builder())?;
        let settings = Settings {
            kind: "classifier",
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
            config: config.clone(),
            model: model.clone(),
            network,
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
    pub fn ema_network(&self) -> Result<Classifier> {
        let tensors: HashMap<String, Tensor> = self.ema_tensors()?.into_iter().collect();
        let builder = VarBuilder::from_tensors(tensors, DType::F32, &self.base.device);
        Ok(Classifier::new(&self.model, builder)?)
    }

    /// The averaged network's cross entropy and accuracy on `set` by range of timesteps.
    ///
    /// Every slice is tested once in each range, at a random timestep with random noise, the same at every call with the same `seed`.
    ///
    /// # Errors
    /// When the slices don't fit the network.
    pub fn validate(&self, set: &SliceSet, ranges: usize, seed: u64) -> Result<Vec<TimeRange>> {
        check_slices(set, None)?;
        check_fits(&self.model, set.images.dim().1)?;
        let network = self.ema_network()?;
        let schedule = self.config.schedule.build()?;
        let steps = schedule.steps();
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
                let from = first_of(range, steps, ranges);
                let to = first_of(range + 1, steps, ranges);
                let step = from + crate::TimeSampling::Uniform.draw(&mut rng, to - from);
                let x0 = set.images.index_axis(Axis(0), slice);
                batch.push(&mut rng, &schedule, &x0, step);
                batch.labels.push(u32::from(set.labels[slice]));
                batch.slices.push(slice);
            }
            let timesteps = batch.timesteps.clone();
            let smoothing = self.config.label_smoothing;
            let batch = Prepared::new(batch, smoothing, &self.base.device)?;
            let answer = batch.evaluate(&network, None)?;
            for ((&timestep, &loss), &right) in
                timesteps.iter().zip(&answer.plain).zip(&answer.second)
            {
                by_time.add(timestep, f64::from(loss), right > 0.0);
            }
        }
        Ok(by_time.finish(true))
    }
}

/// A batch as tensors, and how its answers are judged.
struct Prepared {
    /// `(B, C, H, W)`.
    x: Tensor,
    /// `(B)`.
    t: Tensor,
    labels: Vec<u32>,
    smoothing: f64,
}

impl Prepared {
    fn new(batch: ClassifierBatch, smoothing: f64, device: &Device) -> Result<Self> {
        let [b, ..] = batch.shape;
        Ok(Self {
            x: tensor(batch.state, &batch.shape, device)?,
            t: tensor(batch.model_times, &[b], device)?,
            labels: batch.labels,
            smoothing,
        })
    }

    /// Judged logits `(B, 2)`: the mean smoothed cross entropy; that of each sample without smoothing; and 1 for each right
    /// answer, 0 for a wrong one.
    fn judge(&self, logits: &Tensor) -> candle_core::Result<Answer> {
        let log_probability = log_softmax(logits).map_err(candle_core::Error::wrap)?;
        let y = Tensor::from_slice(&self.labels, (self.labels.len(), 1), logits.device())?;
        let wanted = log_probability.gather(&y, 1)?.squeeze(1)?;
        let plain = wanted.detach().neg()?.to_vec1::<f32>()?;
        let smoothing = self.smoothing;
        let loss = if smoothing > 0.0 {
            let spread = log_probability.mean(1)?.affine(-smoothing, 0.0)?;
            (wanted.affine(smoothing - 1.0, 0.0)? + spread)?.mean_all()?
        } else {
            wanted.neg()?.mean_all()?
        };
        let answers = logits.detach().argmax(1)?.to_vec1::<u32>()?;
        let right = answers
            .iter()
            .zip(&self.labels)
            .map(|(answer, label)| answer == label);
        let second = right.map(|right| f32::from(u8::from(right))).collect();
        Ok(Answer {
            loss,
            plain,
            second,
        })
    }

    fn evaluate(&self, network: &Classifier, dropout: Option<u64>) -> Result<Answer> {
        let logits = match dropout {
            Some(seed) => network.forward_train(&self.x, &self.t, seed)?,
            None => network.forward(&self.x, &self.t)?,
        };
        Ok(self.judge(&logits)?)
    }

    fn differentiate(
        &self,
        network: &Classifier,
        config: &ClassifierTrainConfig,
        dropout: Option<u64>,
    ) -> Result<Pass> {
        if config.recompute {
            recomputed(config.accumulation, |share| {
                let loss = |logits: &Tensor| share(self.judge(logits)?);
                Ok(network.loss_gradients(&self.x, &self.t, dropout, loss)?)
            })
        } else {
            differentiate(config.accumulation, || self.evaluate(network, dropout))
        }
    }
}

impl Trainer for ClassifierTrainer {
    fn step(&mut self) -> Result<StepReport> {
        let (config, model, device) = (&self.config, &self.model, self.base.device.clone());
        let parameters = self.base.parameters.clone();
        let network = &self.network;
        let (mut report, right) = self.base.step(|batch, dropout| {
            let batch = Prepared::new(batch, config.label_smoothing, &device)?;
            if config.compute == Compute::F32 {
                return batch.differentiate(network, config, dropout);
            }
            // Narrow copies of the weights, through which the gradients reach the weights themselves.
            let builder = VarBuilder::from_backend(
                Box::new(parameters.clone()),
                config.compute.dtype(),
                device.clone(),
            );
            batch.differentiate(&Classifier::new(model, builder)?, config, dropout)
        })?;
        let count = right.iter().filter(|&&right| right > 0.0).count();
        report.accuracy = Some(count as f64 / right.len() as f64);
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
        self.base.checkpoint(folder, keep, BTreeMap::new())
    }

    fn save(&self, path: &Path) -> Result<()> {
        let write = |state: &_| checkpoint::save_as(path, state);
        self.base.write(BTreeMap::new(), write)
    }

    fn resume(&mut self, path: &Path) -> Result<()> {
        let (path, saved) = self
            .base
            .load::<ClassifierTrainConfig, ClassifierConfig>(path)?;
        self.base.restore(&path, &saved)?;
        let batches =
            ClassifierBatches::unchecked(&self.config, self.base.set.clone(), self.base.seed)?;
        self.base.batches = prefetch(batches, self.base.next_batch(), &self.config);
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

pub(crate) fn check_fits(model: &ClassifierConfig, channels: usize) -> Result<()> {
    if model.in_channels == channels && model.out_channels == 2 {
        return Ok(());
    }
    Err(Error::Data {
        expected: format!("a classifier of {channels} channels and 2 labels, as the slices have"),
        got: format!("{} and {}", model.in_channels, model.out_channels),
    })
}
