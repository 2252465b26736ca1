//! Distillation: a network learns to go in one step where a teacher takes many.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use fndm_data::Order;
use fndm_models::{StateDict, UNet, UNetConfig};
use ndarray::{Array4, Axis};

use crate::batch::tensor;
use crate::error::check;
use crate::{
    Batch, Draw, Error, Fingerprint, LoopConfig, Loss, Result, Setup, Task, Trainer, part_of,
};

/// Trains a [`UNet`] to take a teacher's long steps, one iteration at a time.
pub type DistillTrainer = Trainer<DistillTask>;

/// What a network is to say at the places where a teacher's long steps begin. All are of the same length N.
///
/// With `x_t` and `x_s` two states of the teacher's run, the output is the one by which a single step of order 1 (DDIM) leads
/// from the one to the other. Whatever the teacher did between (steps of higher order, a classifier's gradient, limits on x0) is in it.
/// This is progressive distillation (Salimans and Ho 2022, algorithm 2) on states that the teacher really visits.
#[derive(Debug, Clone)]
pub struct Lessons {
    /// What the network is shown: state and conditions, `(N, C_in, H, W)`.
    pub inputs: Array4<f32>,
    /// Times that it is called with.
    pub model_times: Vec<f32>,
    /// Labels that it is called with; empty for a network of none.
    pub labels: Vec<u32>,
    /// What it should give, `(N, C, H, W)`.
    pub targets: Array4<f32>,
    /// How a person finds the slices, for messages.
    pub names: Vec<String>,
}

impl Lessons {
    fn check(&self, model: &UNetConfig) -> Result<()> {
        let n = self.inputs.dim().0;
        let size = model.image_size;
        let shapes = [
            ("inputs", self.inputs.dim(), model.in_channels),
            ("targets", self.targets.dim(), model.out_channels),
        ];
        for (what, got, channels) in shapes {
            if got != (n, channels, size, size) || n == 0 {
                return Err(Error::Data {
                    expected: format!(
                        "{what} of shape (1 or more, {channels}, {size}, {size}) each"
                    ),
                    got: format!("{got:?}"),
                });
            }
        }
        let labels = if model.num_classes.is_some() { n } else { 0 };
        let lengths = [
            ("times", self.model_times.len(), n),
            ("labels", self.labels.len(), labels),
            ("names", self.names.len(), n),
        ];
        for (what, got, wanted) in lengths {
            if got != wanted {
                return Err(Error::Data {
                    expected: format!("{wanted} {what}"),
                    got: got.to_string(),
                });
            }
        }
        let values = self.inputs.iter().chain(&self.targets);
        match values.chain(&self.model_times).find(|v| !v.is_finite()) {
            Some(value) => Err(Error::Data {
                expected: "finite numbers".into(),
                got: value.to_string(),
            }),
            None => Ok(()),
        }
    }
}

/// The mean over a batch of `|| network(input, t, y) - target ||^2`, begun with given weights.
#[derive(Debug)]
pub struct DistillTask {
    config: LoopConfig,
    model: UNetConfig,
    lessons: Arc<Lessons>,
    weights: StateDict,
}

impl DistillTask {
    /// A network that begins as `weights`: the teacher's, or those of a network that was taught before.
    ///
    /// # Errors
    /// When a setting is out of its range, or network and lessons don't fit together.
    pub fn new(
        config: &LoopConfig,
        model: &UNetConfig,
        lessons: Arc<Lessons>,
        weights: StateDict,
    ) -> Result<Self> {
        config.check()?;
        model.check()?;
        lessons.check(model)?;
        check(
            model.dropout == 0.0,
            "dropout",
            "0: a teacher's network is copied as it answers",
            model.dropout,
        )?;
        Ok(Self {
            config: config.clone(),
            model: model.clone(),
            lessons,
            weights,
        })
    }
}

/// Some lessons.
#[derive(Debug, Clone)]
pub struct DistillBatch {
    at: Vec<usize>,
}

impl Batch for DistillBatch {
    fn samples(&self) -> &[usize] {
        &self.at
    }

    fn part(self, rank: usize, size: usize) -> Self {
        Self {
            at: part_of(self.at, rank, size),
        }
    }
}

impl Task for DistillTask {
    type Network = UNet;
    type Config = LoopConfig;
    type Model = UNetConfig;
    type Batch = DistillBatch;

    fn setup(&self) -> Setup<LoopConfig, UNetConfig> {
        let (config, lessons) = (self.config.clone(), &self.lessons);
        let (n, c, h, w) = lessons.targets.dim();
        let values = lessons.inputs.iter().chain(&lessons.targets);
        let data = Fingerprint::of(n, [c, h, w], values.copied());
        Setup::new(
            "distillation",
            config.clone(),
            self.model.clone(),
            config,
            data,
        )
    }

    fn network(&self, vb: VarBuilder<'_>) -> Result<UNet> {
        Ok(UNet::new(&self.model, vb)?)
    }

    fn initial(&self) -> Option<&StateDict> {
        Some(&self.weights)
    }

    fn batches(&self, seed: u64) -> Result<Draw<DistillBatch>> {
        let unlabelled = vec![0; self.lessons.names.len()];
        let mut order = Order::new(&unlabelled, None, seed)?;
        let batch = self.config.batch as u64;
        Ok(Box::new(move |index| {
            let at = (0..batch).map(|i| order.at(index * batch + i)).collect();
            Ok(DistillBatch { at })
        }))
    }

    fn loss(
        &self,
        network: &UNet,
        batch: DistillBatch,
        device: &Device,
        _: Option<u64>,
    ) -> Result<Loss> {
        let (at, lessons) = (&batch.at, &self.lessons);
        let chosen = |all: &Array4<f32>| {
            let some = all.select(Axis(0), at);
            let (n, c, h, w) = some.dim();
            tensor(some.into_raw_vec_and_offset().0, &[n, c, h, w], device)
        };
        let times = at.iter().map(|&i| lessons.model_times[i]).collect();
        let times = tensor(times, &[at.len()], device)?;
        let labels = match self.model.num_classes {
            Some(_) => {
                let labels: Vec<u32> = at.iter().map(|&i| lessons.labels[i]).collect();
                Some(Tensor::from_vec(labels, at.len(), device)?)
            }
            None => None,
        };
        let output = network.forward(&chosen(&lessons.inputs)?, &times, labels.as_ref())?;
        let square = (output - chosen(&lessons.targets)?)?.sqr()?;
        Loss::mean(&square.mean((1, 2, 3))?)
    }

    fn names(&self, samples: &[usize]) -> Vec<String> {
        let name = |&at: &usize| self.lessons.names.get(at).cloned().unwrap_or_default();
        samples.iter().map(name).collect()
    }
}
