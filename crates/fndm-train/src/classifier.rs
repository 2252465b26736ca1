//! Cross entropy on noised slices: the classifier's training.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use fndm_data::SliceSet;
use fndm_models::{Classifier, ClassifierConfig, log_softmax};
use ndarray::Axis;

use crate::batch::{ClassifierBatch, ClassifierBatches, tensor};
use crate::loss_aware::first_of;
use crate::random::{Purpose, generator};
use crate::report::ByTime;
use crate::slices::{check_slices, names};
use crate::{
    ClassifierTrainConfig, Draw, Error, Fingerprint, Loss, Pass, Result, Setup, StepReport, Task,
    TimeRange, Trainer,
};

/// Trains the time-dependent classifier by cross entropy on noised slices, one iteration at a time.
pub type ClassifierTrainer = Trainer<ClassifierTask>;

/// Cross entropy of the labels of noised slices.
#[derive(Debug)]
pub struct ClassifierTask {
    config: ClassifierTrainConfig,
    model: ClassifierConfig,
    set: Arc<SliceSet>,
}

impl ClassifierTask {
    /// # Errors
    /// When a setting is out of its range, or config, network and slices don't fit together.
    pub fn new(
        config: &ClassifierTrainConfig,
        model: &ClassifierConfig,
        set: Arc<SliceSet>,
    ) -> Result<Self> {
        config.check()?;
        check_slices(&set, config.diseased_share)?;
        check_fits(model, set.images.dim().1)?;
        Ok(Self {
            config: config.clone(),
            model: model.clone(),
            set,
        })
    }

    fn prepare(&self, batch: ClassifierBatch, device: &Device) -> Result<Prepared> {
        let [b, ..] = batch.shape;
        Ok(Prepared {
            x: tensor(batch.state, &batch.shape, device)?,
            t: tensor(batch.model_times, &[b], device)?,
            labels: batch.labels,
            smoothing: self.config.label_smoothing,
        })
    }
}

impl Task for ClassifierTask {
    type Network = Classifier;
    type Config = ClassifierTrainConfig;
    type Model = ClassifierConfig;
    type Batch = ClassifierBatch;

    fn setup(&self) -> Setup<ClassifierTrainConfig, ClassifierConfig> {
        let (config, model) = (self.config.clone(), self.model.clone());
        let (common, data) = (config.loop_config(), Fingerprint::of_slices(&self.set));
        Setup {
            dropout: model.dropout > 0.0,
            compute: config.compute,
            ..Setup::new("classifier", config, model, common, data)
        }
    }

    fn network(&self, vb: VarBuilder<'_>) -> Result<Classifier> {
        Ok(Classifier::new(&self.model, vb)?)
    }

    fn batches(&self, seed: u64) -> Result<Draw<ClassifierBatch>> {
        let mut batches = ClassifierBatches::unchecked(&self.config, self.set.clone(), seed)?;
        Ok(Box::new(move |index| Ok(batches.draw(index))))
    }

    fn loss(
        &self,
        network: &Classifier,
        batch: ClassifierBatch,
        device: &Device,
        dropout: Option<u64>,
    ) -> Result<Loss> {
        self.prepare(batch, device)?.loss(network, dropout)
    }

    fn differentiate(
        &self,
        network: &Classifier,
        batch: ClassifierBatch,
        device: &Device,
        dropout: Option<u64>,
        passes: usize,
    ) -> Result<Pass> {
        let batch = self.prepare(batch, device)?;
        if !self.config.recompute {
            return Pass::taped(passes, || batch.loss(network, dropout));
        }
        Pass::recomputed(passes, |share| {
            let loss = |logits: &Tensor| share(batch.judge(logits)?);
            Ok(network.loss_gradients(&batch.x, &batch.t, dropout, loss)?)
        })
    }

    fn names(&self, samples: &[usize]) -> Vec<String> {
        names(&self.set, samples)
    }

    fn after_step(&mut self, report: &mut StepReport, right: &[f32]) -> bool {
        let count = right.iter().filter(|&&right| right > 0.0).count();
        report.accuracy = Some(count as f64 / right.len() as f64);
        false
    }
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
        Self::with_task(ClassifierTask::new(config, model, set)?, seed, device)
    }

    /// The averaged network's cross entropy and accuracy on `set` by range of timesteps.
    ///
    /// Every slice is tested once in each range, at a random timestep with random noise, the same at every call with the same `seed`.
    ///
    /// # Errors
    /// When the slices don't fit the network.
    pub fn validate(&self, set: &SliceSet, ranges: usize, seed: u64) -> Result<Vec<TimeRange>> {
        let config = &self.task.config;
        check_slices(set, None)?;
        check_fits(&self.task.model, set.images.dim().1)?;
        let network = self.ema_network()?;
        let schedule = config.schedule.build()?;
        let steps = schedule.steps();
        let ranges = ranges.clamp(1, steps);
        let (n, c, h, w) = set.images.dim();
        let mut by_time = ByTime::new(steps, ranges);
        let cases: Vec<(usize, usize)> = (0..ranges)
            .flat_map(|range| (0..n).map(move |slice| (range, slice)))
            .collect();
        for chunk in cases.chunks(config.batch) {
            let mut batch = ClassifierBatch::of(chunk.len(), [c, h, w]);
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
            let answer = self.task.loss(&network, batch, &self.device, None)?;
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
    /// Judged logits `(B, 2)`: the mean smoothed cross entropy; that of each sample without smoothing; and 1 for each right
    /// answer, 0 for a wrong one.
    fn judge(&self, logits: &Tensor) -> candle_core::Result<Loss> {
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
        Ok(Loss {
            mean: loss,
            plain,
            second,
        })
    }

    fn loss(&self, network: &Classifier, dropout: Option<u64>) -> Result<Loss> {
        let logits = match dropout {
            Some(seed) => network.forward_train(&self.x, &self.t, seed)?,
            None => network.forward(&self.x, &self.t)?,
        };
        Ok(self.judge(&logits)?)
    }
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
