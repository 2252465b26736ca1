//! Training of a [`Segmenter`]: as a remover of lesions, or as a student of a teacher's maps.

mod augment;
mod batch;
mod loss;
mod remover;
mod student;
mod targets;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_data::SliceSet;
use fndm_models::{Parameters, Segmenter, SegmenterConfig};

pub use augment::PixelAugmentation;
pub use batch::{PixelBatch, RemoverBatches, StudentBatches};
pub use remover::{ImageLoss, RemoverConfig};
pub use student::StudentConfig;
pub use targets::PixelTargets;

use crate::base::{Answer, Base, Settings, config_value, differentiate};
use crate::batch::tensor;
use crate::checkpoint;
use crate::prefetch::Prefetch;
use crate::{Error, Group, Result, StepReport, Trainer};

/// Trains a [`Segmenter`], one iteration at a time.
///
/// It is as repeatable as [`DiffusionTrainer`](crate::DiffusionTrainer).
///
/// ```
/// use std::sync::Arc;
/// use candle_core::Device;
/// use fndm_data::{Preprocess, SliceSet, phantom::PhantomConfig};
/// use fndm_models::SegmenterConfig;
/// use fndm_train::{RemoverConfig, SegmenterTrainer, Trainer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let phantom = PhantomConfig { size: 32, slices: 24, ..PhantomConfig::default() };
/// let preprocess = Preprocess { image_size: 16, ..Preprocess::default() };
/// let slices = Arc::new(SliceSet::from_patients([preprocess.apply(&phantom.patient(1)?)?])?);
///
/// let model = SegmenterConfig { image_size: 16, channel_mult: vec![1.0, 2.0], ..SegmenterConfig::remover_64(4) };
/// let config = RemoverConfig { batch: 2, iterations: Some(2), ..RemoverConfig::default() };
/// let mut trainer = SegmenterTrainer::remover(&config, &model, slices, 7, &Device::Cpu)?;
/// while !trainer.finished() {
///     trainer.step()?;
/// }
/// let network = trainer.ema_network()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SegmenterTrainer {
    task: Task,
    model: SegmenterConfig,
    network: Segmenter,
    base: Base<PixelBatch>,
}

/// What it is trained for.
#[derive(Debug, Clone)]
enum Task {
    Remover(RemoverConfig),
    Student(StudentConfig, Arc<PixelTargets>),
}

impl SegmenterTrainer {
    /// A network that sees a healthy slice with pseudo-lesions in it and gives the slice without them: what it changes in a
    /// real slice is an anomaly map. It is trained on the slices with label 0 alone.
    ///
    /// # Errors
    /// When a setting is out of its range, or config, network and slices don't fit together.
    pub fn remover(
        config: &RemoverConfig,
        model: &SegmenterConfig,
        set: Arc<SliceSet>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        config.check()?;
        if model.context > 0 {
            return Err(unfit(
                "a network without neighbours, which would show what is to be removed",
                format!("context {}", model.context),
            ));
        }
        Self::new(Task::Remover(config.clone()), model, set, seed, device)
    }

    /// A network that learns a teacher's masks `targets` on slices with label 1, and that nothing is diseased on the others.
    ///
    /// # Errors
    /// When a setting is out of its range, or config, network, slices and targets don't fit together.
    pub fn student(
        config: &StudentConfig,
        model: &SegmenterConfig,
        set: Arc<SliceSet>,
        targets: Arc<PixelTargets>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        config.check()?;
        targets.check(&set)?;
        let hash = targets.hash();
        let task = Task::Student(config.clone(), targets);
        let mut trainer = Self::new(task, model, set, seed, device)?;
        trainer.base.join_to_data(hash);
        Ok(trainer)
    }

    fn new(
        task: Task,
        model: &SegmenterConfig,
        set: Arc<SliceSet>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let (sequences, outputs) = (set.images.dim().1, task.outputs(set.images.dim().1));
        if (model.sequences, model.out_channels) != (sequences, outputs) {
            return Err(unfit(
                &format!("a network of {sequences} sequences and {outputs} outputs"),
                format!("{} and {}", model.sequences, model.out_channels),
            ));
        }
        let batches = task.batches(model, set.clone(), seed, 0, true)?;
        let parameters = Parameters::new(seed, DType::F32, device);
        let network = Segmenter::new(model, parameters.builder())?;
        let settings = task.settings(model)?;
        Ok(Self {
            task,
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

    /// The network's config.
    #[must_use]
    pub fn model_config(&self) -> &SegmenterConfig {
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
    pub fn ema_network(&self) -> Result<Segmenter> {
        let tensors: HashMap<String, Tensor> = self.ema_tensors()?.into_iter().collect();
        let builder = VarBuilder::from_tensors(tensors, DType::F32, &self.base.device);
        Ok(Segmenter::new(&self.model, builder)?)
    }
}

fn unfit(expected: &str, got: String) -> Error {
    Error::Data {
        expected: expected.to_owned(),
        got,
    }
}

impl Task {
    fn outputs(&self, sequences: usize) -> usize {
        match self {
            Self::Remover(_) => sequences,
            Self::Student(..) => 1,
        }
    }

    fn settings(&self, model: &SegmenterConfig) -> Result<Settings> {
        macro_rules! settings {
            ($kind:literal, $config:expr) => {
                Settings {
                    kind: $kind,
                    config: config_value($config)?,
                    model: config_value(model)?,
                    optimizer: $config.optimizer.clone(),
                    batch: $config.batch,
                    accumulation: $config.accumulation,
                    iterations: $config.iterations,
                    time_budget_s: $config.time_budget_s,
                    dropout: model.dropout > 0.0,
                }
            };
        }
        Ok(match self {
            Self::Remover(config) => settings!("remover", config),
            Self::Student(config, _) => settings!("student", config),
        })
    }

    fn batches(
        &self,
        model: &SegmenterConfig,
        set: Arc<SliceSet>,
        seed: u64,
        first: u64,
        checked: bool,
    ) -> Result<Prefetch<PixelBatch>> {
        Ok(match self {
            Self::Remover(config) => {
                let mut batches = match checked {
                    true => RemoverBatches::new(config, set, seed)?,
                    false => RemoverBatches::unchecked(config, set, seed)?,
                };
                Prefetch::new(first, config.prefetch, move |index| batches.draw(index))
            }
            Self::Student(config, targets) => {
                let context = model.context;
                let mut batches = match checked {
                    true => StudentBatches::new(config, context, set, targets.clone(), seed)?,
                    false => {
                        StudentBatches::unchecked(config, context, set, targets.clone(), seed)?
                    }
                };
                Prefetch::new(first, config.prefetch, move |index| Ok(batches.draw(index)))
            }
        })
    }

    fn accumulation(&self) -> usize {
        match self {
            Self::Remover(config) => config.accumulation,
            Self::Student(config, _) => config.accumulation,
        }
    }

    fn judge(&self, output: &Tensor, target: &Tensor, weight: &Tensor) -> Result<Answer> {
        Ok(match self {
            Self::Remover(config) => loss::image(output, target, weight, config.loss)?,
            Self::Student(config, _) => {
                loss::segmentation(output, target, weight, config.dice_weight)?
            }
        })
    }
}

impl Trainer for SegmenterTrainer {
    fn step(&mut self) -> Result<StepReport> {
        let device = self.base.device.clone();
        let (task, network) = (&self.task, &self.network);
        let (report, _) = self.base.step(|batch, dropout| {
            let [b, _, h, w] = batch.shape;
            let input = tensor(batch.input, &batch.shape, &device)?;
            let outputs = batch.target.len() / (b * h * w);
            let target = tensor(batch.target, &[b, outputs, h, w], &device)?;
            let weight = tensor(batch.weight, &[b, 1, h, w], &device)?;
            differentiate(task.accumulation(), || {
                let output = match dropout {
                    Some(seed) => network.forward_train(&input, seed)?,
                    None => network.forward(&input)?,
                };
                task.judge(&output, &target, &weight)
            })
        })?;
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
        let (path, saved) = match &self.task {
            Task::Remover(_) => self.base.load::<RemoverConfig, SegmenterConfig>(path)?,
            Task::Student(..) => self.base.load::<StudentConfig, SegmenterConfig>(path)?,
        };
        self.base.restore(&path, &saved)?;
        let (set, seed) = (self.base.set.clone(), self.base.seed);
        let first = self.base.next_batch();
        self.base.batches = self.task.batches(&self.model, set, seed, first, false)?;
        Ok(())
    }
}
