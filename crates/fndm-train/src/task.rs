use std::collections::BTreeMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use fndm_models::StateDict;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Compute, Fingerprint, LoopConfig, Result, StepReport};

/// Makes batch number `n` of a run, from 0.
pub type Draw<B> = Box<dyn FnMut(u64) -> Result<B> + Send>;

/// What is trained, and on what: all in which one training differs from another. [`Trainer`](crate::Trainer) does the rest.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_nn::{Linear, Module, VarBuilder, linear};
/// use fndm_train::{Batch, Draw, Fingerprint, LoopConfig, Loss, Result, Setup, Task, Trainer, part_of};
///
/// /// Fits a line to points.
/// struct Line {
///     config: LoopConfig,
///     points: Vec<(f32, f32)>,
/// }
///
/// struct Points {
///     x: Vec<f32>,
///     y: Vec<f32>,
///     at: Vec<usize>,
/// }
///
/// impl Batch for Points {
///     fn samples(&self) -> &[usize] {
///         &self.at
///     }
///
///     fn part(self, rank: usize, size: usize) -> Self {
///         let part = |values| part_of(values, rank, size);
///         Self { x: part(self.x), y: part(self.y), at: part_of(self.at, rank, size) }
///     }
/// }
///
/// impl Task for Line {
///     type Network = Linear;
///     type Config = LoopConfig;
///     type Model = ();
///     type Batch = Points;
///
///     fn setup(&self) -> Setup<LoopConfig, ()> {
///         let values = self.points.iter().flat_map(|&(x, y)| [x, y]);
///         let data = Fingerprint::of(self.points.len(), [2, 1, 1], values);
///         Setup::new("line", self.config.clone(), (), self.config.clone(), data)
///     }
///
///     fn network(&self, vb: VarBuilder<'_>) -> Result<Linear> {
///         Ok(linear(1, 1, vb)?)
///     }
///
///     fn batches(&self, seed: u64) -> Result<Draw<Points>> {
///         let (points, batch) = (self.points.clone(), self.config.batch as u64);
///         Ok(Box::new(move |n| {
///             let at: Vec<usize> =
///                 (0..batch).map(|i| ((seed + n * batch + i) % points.len() as u64) as usize).collect();
///             let (x, y) = at.iter().map(|&i| points[i]).unzip();
///             Ok(Points { x, y, at })
///         }))
///     }
///
///     fn loss(&self, line: &Linear, batch: Points, device: &Device, _: Option<u64>) -> Result<Loss> {
///         let n = batch.at.len();
///         let x = Tensor::from_vec(batch.x, (n, 1), device)?;
///         let y = Tensor::from_vec(batch.y, (n, 1), device)?;
///         Loss::mean(&(line.forward(&x)? - y)?.sqr()?.squeeze(1)?)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let points = (0..16).map(|i| (i as f32 / 8.0 - 1.0, i as f32 / 4.0)).collect();
/// let mut config = LoopConfig { batch: 4, iterations: Some(300), ..LoopConfig::default() };
/// config.optimizer.lr = 0.05;
/// let mut trainer = Trainer::with_task(Line { config, points }, 7, &Device::Cpu)?;
/// while !trainer.finished() {
///     trainer.step()?;
/// }
/// let slope = trainer.weights()?["weight"].flatten_all()?.to_vec1::<f32>()?[0];
/// assert!((slope - 2.0).abs() < 0.01, "{slope}");
/// # Ok(())
/// # }
/// ```
pub trait Task {
    /// The network.
    type Network;
    /// The training's config.
    type Config: Serialize + DeserializeOwned;
    /// The network's config.
    type Model: Serialize + DeserializeOwned;
    /// What one forward pass is made of.
    type Batch: Batch;

    /// What the run is known by. Asked once, at its beginning.
    fn setup(&self) -> Setup<Self::Config, Self::Model>;

    /// The network on these parameters. Called with variables to train, and with averages for inference.
    ///
    /// # Errors
    /// When it can't be built.
    fn network(&self, vb: VarBuilder<'_>) -> Result<Self::Network>;

    /// All weights that the training begins with, where they aren't to be drawn from the seed. None by default. A resumed run has
    /// those of its checkpoint.
    fn initial(&self) -> Option<&StateDict> {
        None
    }

    /// What makes the batches. Batch number `n` must follow from (`seed`, `n`) alone, and from the task's
    /// [`state`](Self::state): a resumed run begins in the middle. It runs on a thread of its own.
    ///
    /// # Errors
    /// When the data are not as they should be.
    fn batches(&self, seed: u64) -> Result<Draw<Self::Batch>>;

    /// The loss of a batch, or of a process' part of it. `dropout` is the seed of the dropout masks, given where there
    /// [are](Setup::dropout) any and the network trains.
    ///
    /// # Errors
    /// When the network can't be run.
    fn loss(
        &self,
        network: &Self::Network,
        batch: Self::Batch,
        device: &Device,
        dropout: Option<u64>,
    ) -> Result<Loss>;

    /// The loss and its gradients, both divided by `passes`, the number of passes of an iteration. Only a network that computes
    /// its gradients itself needs another than this, which differentiates [`loss`](Self::loss).
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    fn differentiate(
        &self,
        network: &Self::Network,
        batch: Self::Batch,
        device: &Device,
        dropout: Option<u64>,
        passes: usize,
    ) -> Result<Pass> {
        Pass::taped(passes, || self.loss(network, batch, device, dropout))
    }

    /// How a person finds the samples at these positions of the data, for messages. No names by default.
    fn names(&self, samples: &[usize]) -> Vec<String> {
        let _ = samples;
        Vec::new()
    }

    /// Called after every iteration with its report and the [second](Loss::second) numbers of its samples; may complete
    /// the report. Whether the next batch on is to be made by [`batches`](Self::batches) anew. Does nothing by default.
    fn after_step(&mut self, report: &mut StepReport, second: &[f32]) -> bool {
        let _ = (report, second);
        false
    }

    /// What a checkpoint must hold beside weights, moments and averages. Nothing by default.
    ///
    /// # Errors
    /// When it can't be made.
    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        Ok(BTreeMap::new())
    }

    /// Takes over from the tensors of the checkpoint `path` what [`state`](Self::state) gave. Nothing by default.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) where something is missing. Nothing may have changed then.
    fn restore(&mut self, path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let _ = (path, tensors);
        Ok(())
    }
}

/// What a run is known by, and what the trainer needs to know of its task.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Setup<C, M> {
    /// A word for what is trained: a checkpoint of another kind is refused.
    pub kind: &'static str,
    /// The training's config, as checkpoints record it, with the fields of [`LoopConfig`] among its own (`#[serde(flatten)]`,
    /// where it holds one). Fields that an older record lacks have their defaults.
    pub config: C,
    /// The network's config, as checkpoints record it.
    pub model: M,
    /// What the trainer itself needs of the config.
    pub common: LoopConfig,
    /// What the data are known by: a checkpoint made with others is refused.
    pub data: Fingerprint,
    /// Whether the network has dropout: no at first.
    pub dropout: bool,
    /// The arithmetic of forward and backward passes: f32 at first.
    pub compute: Compute,
}

impl<C, M> Setup<C, M> {
    /// Without dropout, in f32.
    pub fn new(
        kind: &'static str,
        config: C,
        model: M,
        common: LoopConfig,
        data: Fingerprint,
    ) -> Self {
        Self {
            kind,
            config,
            model,
            common,
            data,
            dropout: false,
            compute: Compute::F32,
        }
    }
}

/// What one forward pass is made of. It is divided among processes, sample by sample.
pub trait Batch: Send + 'static {
    /// Position of each sample in the data.
    fn samples(&self) -> &[usize];

    /// Timestep of each sample, where there are any.
    fn timesteps(&self) -> &[usize] {
        &[]
    }

    /// Part `rank` of `size` equal ones, in their order: see [`part_of`].
    #[must_use]
    fn part(self, rank: usize, size: usize) -> Self;
}

/// Part `rank` of `size` equal ones.
#[must_use]
pub fn part_of<T: Clone>(values: Vec<T>, rank: usize, size: usize) -> Vec<T> {
    if size == 1 {
        return values;
    }
    let length = values.len() / size;
    values[rank * length..][..length].to_vec()
}

/// What a forward pass gave.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The scalar to differentiate: a mean over the batch.
    pub mean: Tensor,
    /// Loss of each sample, for the log.
    pub plain: Vec<f32>,
    /// A second number of each sample, for [`Task::after_step`]: its weighted loss, or whether the answer was right.
    pub second: Vec<f32>,
}

impl Loss {
    /// The mean of the losses `(B)` of the samples.
    ///
    /// # Errors
    /// When `each` isn't a vector of f32.
    pub fn mean(each: &Tensor) -> Result<Self> {
        let plain = each.detach().to_vec1::<f32>()?;
        Ok(Self {
            mean: each.mean_all()?,
            second: plain.clone(),
            plain,
        })
    }
}

/// What a forward and a backward pass gave.
#[derive(Debug)]
pub struct Pass {
    /// The loss, divided by the number of passes of an iteration.
    pub loss: f64,
    /// Loss of each sample, not divided.
    pub plain: Vec<f32>,
    /// The second number of each sample.
    pub second: Vec<f32>,
    /// Gradients of the divided loss; none where it isn't finite.
    pub gradients: Option<GradStore>,
}

impl Pass {
    fn new(
        share: &Tensor,
        plain: Vec<f32>,
        second: Vec<f32>,
        gradients: impl FnOnce(&Tensor) -> Result<GradStore>,
    ) -> Result<Self> {
        let loss = f64::from(share.to_scalar::<f32>()?);
        let gradients = match loss.is_finite() {
            true => Some(gradients(share)?),
            false => None,
        };
        Ok(Self {
            loss,
            plain,
            second,
            gradients,
        })
    }

    /// Differentiates what `forward` gives, divided by the number of passes of an iteration.
    ///
    /// # Errors
    /// Those of `forward` and of the operations' backward passes.
    pub fn taped(passes: usize, forward: impl FnOnce() -> Result<Loss>) -> Result<Self> {
        let tape = fndm_kernels::Tape::start()?;
        let loss = forward()?;
        let share = loss.mean.affine(1.0 / passes as f64, 0.0)?;
        Self::new(&share, loss.plain, loss.second, |share| {
            Ok(tape.backward(share)?)
        })
    }

    /// A pass of a network that computes its gradients itself: `run` makes a [`Loss`] of the network's output, and lets the
    /// network differentiate what its argument gives for it. Gives that scalar, and its gradients.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn recomputed(
        passes: usize,
        run: impl FnOnce(
            &mut dyn FnMut(Loss) -> candle_core::Result<Tensor>,
        ) -> Result<(Tensor, GradStore)>,
    ) -> Result<Self> {
        let (mut plain, mut second) = (Vec::new(), Vec::new());
        let (share, gradients) = run(&mut |loss| {
            (plain, second) = (loss.plain, loss.second);
            loss.mean.affine(1.0 / passes as f64, 0.0)
        })?;
        Self::new(&share, plain, second, |_| Ok(gradients))
    }
}
