//! Training of a [`Segmenter`]: as a remover of lesions, or as a student of a teacher's maps.

mod augment;
mod batch;
mod loss;
mod remover;
mod shown;
mod student;
mod targets;

use std::sync::Arc;

use candle_core::Device;
use candle_nn::VarBuilder;
use fndm_data::SliceSet;
use fndm_data::corrupt::Donors;
use fndm_models::{Segmenter, SegmenterConfig};
use serde::{Deserialize, Serialize};

pub use augment::PixelAugmentation;
pub use batch::{PixelBatch, RemoverBatches, StudentBatches};
pub use remover::{ImageLoss, RemoverConfig};
pub use shown::ShownLesions;
pub use student::StudentConfig;
pub use targets::PixelTargets;

use crate::batch::tensor;
use crate::slices::{check_slices, names, shape};
use crate::{Draw, Error, Fingerprint, Loss, Result, Setup, Task, Trainer};

/// Trains a [`Segmenter`], one iteration at a time.
///
/// ```
/// use std::sync::Arc;
/// use candle_core::Device;
/// use fndm_data::{Preprocess, SliceSet, phantom::PhantomConfig};
/// use fndm_models::SegmenterConfig;
/// use fndm_train::{RemoverConfig, SegmenterTrainer};
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
pub type SegmenterTrainer = Trainer<SegmenterTask>;

/// A segmenter's training.
#[derive(Debug)]
pub struct SegmenterTask {
    goal: Goal,
    model: SegmenterConfig,
    set: Arc<SliceSet>,
}

/// What it is trained for.
#[derive(Debug, Clone)]
enum Goal {
    Remover(RemoverConfig, Option<Arc<Donors>>),
    Student(StudentConfig, Arc<PixelTargets>, Option<Arc<Donors>>),
}

/// The config of a segmenter's training, as checkpoints record it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SegmenterTrainConfig {
    /// Of a remover.
    Remover(RemoverConfig),
    /// Of a student.
    Student(StudentConfig),
}

impl SegmenterTask {
    /// A network that sees a healthy slice with pseudo-lesions in it and gives the slice without them: what it changes in a
    /// real slice is an anomaly map. It is trained on the slices with label 0 alone.
    ///
    /// # Errors
    /// When a setting is out of its range, or config, network and slices don't fit together.
    pub fn remover(
        config: &RemoverConfig,
        model: &SegmenterConfig,
        set: Arc<SliceSet>,
    ) -> Result<Self> {
        Self::remover_with(config, model, set, None)
    }

    /// As [`remover`](Self::remover), with lesions to paste, where the config wants any
    /// ([`PseudoLesion::pasted`](fndm_data::corrupt::PseudoLesion)).
    ///
    /// # Errors
    /// As [`remover`](Self::remover), or when config and donors don't fit together.
    pub fn remover_with(
        config: &RemoverConfig,
        model: &SegmenterConfig,
        set: Arc<SliceSet>,
        donors: Option<Arc<Donors>>,
    ) -> Result<Self> {
        config.check()?;
        let lesion = &config.lesion;
        lesion.check_donors(donors.as_deref(), shape(&set))?;
        if model.context > 0 {
            return Err(unfit(
                "a network without neighbours, which would show what is to be removed",
                format!("context {}", model.context),
            ));
        }
        let outputs = set.images.dim().1;
        Self::new(Goal::Remover(config.clone(), donors), model, outputs, set)
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
    ) -> Result<Self> {
        Self::student_with(config, model, set, targets, None)
    }

    /// As [`student`](Self::student), with lesions to paste into healthy slices, where the config wants any ([`ShownLesions`]).
    ///
    /// # Errors
    /// As [`student`](Self::student), or when config and donors don't fit together.
    pub fn student_with(
        config: &StudentConfig,
        model: &SegmenterConfig,
        set: Arc<SliceSet>,
        targets: Arc<PixelTargets>,
        donors: Option<Arc<Donors>>,
    ) -> Result<Self> {
        config.check()?;
        targets.check(&set)?;
        if let Some(shown) = &config.shown {
            shown.lesion.check_donors(donors.as_deref(), shape(&set))?;
        }
        if let Some(patch) = config.patch {
            let (_, _, h, w) = set.images.dim();
            let (down, most) = (model.down_sampling(), h.min(w));
            if !patch.is_multiple_of(down) || patch > most {
                return Err(unfit(
                    &format!("patches of a multiple of {down} pixels, {most} at most"),
                    patch.to_string(),
                ));
            }
        }
        Self::new(
            Goal::Student(config.clone(), targets, donors),
            model,
            1,
            set,
        )
    }

    fn new(
        goal: Goal,
        model: &SegmenterConfig,
        outputs: usize,
        set: Arc<SliceSet>,
    ) -> Result<Self> {
        let sequences = set.images.dim().1;
        if (model.sequences, model.out_channels) != (sequences, outputs) {
            return Err(unfit(
                &format!("a network of {sequences} sequences and {outputs} outputs"),
                format!("{} and {}", model.sequences, model.out_channels),
            ));
        }
        let diseased_share = match &goal {
            Goal::Remover(..) => Some(0.0),
            Goal::Student(config, ..) => config.diseased_share,
        };
        check_slices(&set, diseased_share)?;
        Ok(Self {
            goal,
            model: model.clone(),
            set,
        })
    }
}

impl Task for SegmenterTask {
    type Network = Segmenter;
    type Config = SegmenterTrainConfig;
    type Model = SegmenterConfig;
    type Batch = PixelBatch;

    fn setup(&self) -> Setup<SegmenterTrainConfig, SegmenterConfig> {
        let with =
            |donors: &Option<Arc<Donors>>| Fingerprint::with_donors(&self.set, donors.as_deref());
        let (data, kind, config, common) = match &self.goal {
            Goal::Remover(config, donors) => {
                let record = SegmenterTrainConfig::Remover(config.clone());
                (with(donors), "remover", record, config.loop_config())
            }
            Goal::Student(config, targets, donors) => {
                let mut data = with(donors);
                data.hash = format!("{}-{:016x}", data.hash, targets.hash());
                let record = SegmenterTrainConfig::Student(config.clone());
                (data, "student", record, config.loop_config())
            }
        };
        Setup {
            dropout: self.model.dropout > 0.0,
            ..Setup::new(kind, config, self.model.clone(), common, data)
        }
    }

    fn network(&self, vb: VarBuilder<'_>) -> Result<Segmenter> {
        Ok(Segmenter::new(&self.model, vb)?)
    }

    fn batches(&self, seed: u64) -> Result<Draw<PixelBatch>> {
        let set = self.set.clone();
        Ok(match &self.goal {
            Goal::Remover(config, donors) => {
                let mut batches = RemoverBatches::unchecked(config, set, donors.clone(), seed)?;
                Box::new(move |index| batches.draw(index))
            }
            Goal::Student(config, targets, donors) => {
                let (context, targets, donors) =
                    (self.model.context, targets.clone(), donors.clone());
                let mut batches =
                    StudentBatches::unchecked(config, context, set, targets, donors, seed)?;
                Box::new(move |index| batches.draw(index))
            }
        })
    }

    fn loss(
        &self,
        network: &Segmenter,
        batch: PixelBatch,
        device: &Device,
        dropout: Option<u64>,
    ) -> Result<Loss> {
        let [b, _, h, w] = batch.shape;
        let input = tensor(batch.input, &batch.shape, device)?;
        let outputs = batch.target.len() / (b * h * w);
        let target = tensor(batch.target, &[b, outputs, h, w], device)?;
        let weight = tensor(batch.weight, &[b, 1, h, w], device)?;
        let output = match dropout {
            Some(seed) => network.forward_train(&input, seed)?,
            None => network.forward(&input)?,
        };
        match &self.goal {
            Goal::Remover(config, _) => loss::image(&output, &target, &weight, config.loss),
            Goal::Student(config, ..) => {
                loss::segmentation(&output, &target, &weight, config.dice_weight)
            }
        }
    }

    fn names(&self, samples: &[usize]) -> Vec<String> {
        names(&self.set, samples)
    }
}

impl SegmenterTrainer {
    /// A trainer at iteration 0 of a [remover](SegmenterTask::remover), with weights drawn from `seed`.
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
        Self::with_task(SegmenterTask::remover(config, model, set)?, seed, device)
    }

    /// A trainer at iteration 0 of a [student](SegmenterTask::student), with weights drawn from `seed`.
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
        let task = SegmenterTask::student(config, model, set, targets)?;
        Self::with_task(task, seed, device)
    }
}

fn unfit(expected: &str, got: String) -> Error {
    Error::Data {
        expected: expected.to_owned(),
        got,
    }
}
