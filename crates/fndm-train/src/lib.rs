//! Training of the diffusion model and the classifier: objective (5) of the paper, Adam, moving averages, exact resume.
//!
//! A trainer is a value that makes one iteration at a time, so that a program can show progress, stop and save where it likes.
//! Nothing depends on the order of threads: batch number `n` follows from (seed, n) alone, and is prepared on a thread of its own
//! while the network works. On a CPU the same config, slices and seed give the same weights bit for bit, on any number of
//! threads, and however often the run was stopped, killed and resumed.
//!
//! ```
//! use std::sync::Arc;
//! use candle_core::Device;
//! use fndm_data::{Preprocess, SliceSet, phantom::PhantomConfig};
//! use fndm_models::UNetConfig;
//! use fndm_train::{DiffusionConfig, DiffusionTrainer, RunConfig, StopFlag, run};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let phantom = PhantomConfig { size: 32, slices: 24, ..PhantomConfig::default() };
//! let preprocess = Preprocess { image_size: 16, ..Preprocess::default() };
//! let slices = Arc::new(SliceSet::from_patients([preprocess.apply(&phantom.patient(1)?)?])?);
//!
//! // Four sequences: the state, the conditioning image and the coarse map are 4 + 4 + 1 channels.
//! let model = UNetConfig { image_size: 16, channel_mult: vec![1.0, 1.0], ..UNetConfig::small_64(9, 4) };
//! let config = DiffusionConfig { batch: 2, iterations: Some(2), diseased_share: None, ..DiffusionConfig::default() };
//! let mut trainer = DiffusionTrainer::new(&config, &model, slices, 7, &Device::Cpu)?;
//!
//! // The same program, started again, goes on from the newest checkpoint in the folder.
//! let folder = tempfile::tempdir()?;
//! let place = RunConfig { folder: folder.path().to_owned(), ..RunConfig::default() };
//! run(&mut trainer, &place, &StopFlag::new(), |trainer, report| {
//!     println!("{} of {:?}: loss {:.3}", report.iteration, trainer.iterations(), report.loss);
//! })?;
//! let weights = trainer.ema_tensors()?;
//! assert!(weights.contains_key("input_blocks.0.0.weight"));
//! # Ok(())
//! # }
//! ```
//!
//! # Parts
//! - [`Trainer`]: all that trainings share; [`Task`]: what one has of its own, a network and a loss. A network that isn't of this
//!   project is trained by a task of one's own; [`LoopConfig`], [`Batch`], [`Loss`], [`check_resume`] are what that takes.
//! - [`DiffusionTrainer`], [`DiffusionConfig`]: objective (5) with hybrid conditions; [`DiffusionBatches`]: what it is trained on.
//!   [`ConditionDropout`], [`CoarseJitter`], [`Augmentation`], [`TimeSampling`], [`LossWeight`]: its settings.
//! - [`ClassifierTrainer`], [`ClassifierTrainConfig`]: cross entropy on noised slices; [`ClassifierBatches`].
//! - [`SegmenterTrainer`]: a network for segmentation, as a remover of lesions ([`RemoverConfig`]) or as a student of a
//!   teacher's masks ([`StudentConfig`], [`PixelTargets`]). [`PixelAugmentation`], [`ImageLoss`]: their settings.
//! - [`run`], [`try_run`], [`RunConfig`], [`StopFlag`]: a whole run with checkpoints and a log;
//!   [`run_validated`], [`Validation`]: the same with a validation that chooses the best checkpoint.
//! - [`Adam`], [`Ema`], [`OptimizerConfig`], [`EmaConfig`], [`RateSchedule`], [`NonFinite`], [`Compute`]: the optimiser, and
//!   the arithmetic.
//! - [`Group`], [`Alone`], and `MpiGroup` with the cargo feature `mpi`: one training in several processes; [`agree`] and
//!   [`made_by_the_first`] for what stands between the networks' trainings.
//! - [`list_checkpoints`], [`read_checkpoint_state`], [`read_checkpoint_ema`], [`CheckpointState`]: what a run's folder holds.
//! - [`StepReport`], [`TimeRange`], [`JsonLines`], [`EventWriter`], [`write_loss_curve`]: what is told about a run.
//!
//! # Several processes
//! With the cargo feature `mpi`, which needs an installed `OpenMPI` or MPICH, a program that calls
//! `trainer.in_group(Arc::new(MpiGroup::new()?))` trains data-parallel under `mpirun -n 4` or Slurm's `srun`. The config's
//! batch is divided among the processes, so the result is that of one process, within rounding. Gradients travel through
//! the host's memory.

mod adam;
mod augment;
mod batch;
mod checkpoint;
mod classifier;
mod clock;
mod config;
mod diffusion;
mod ema;
mod error;
mod events;
mod group;
mod jitter;
mod learner;
mod log;
mod loss_aware;
#[cfg(feature = "mpi")]
mod mpi_group;
mod optimizer;
mod plot;
mod prefetch;
mod random;
mod report;
mod resume;
mod run;
mod segmenter;
mod slices;
mod stop;
mod task;
mod times;
mod trainer;

pub use adam::Adam;
pub use augment::Augmentation;
pub use batch::{ClassifierBatch, ClassifierBatches, DiffusionBatch, DiffusionBatches};
pub use checkpoint::{
    CheckpointState, Fingerprint, list_checkpoints, read_checkpoint_ema, read_checkpoint_state,
};
pub use classifier::{ClassifierTask, ClassifierTrainer};
pub use config::{ClassifierTrainConfig, Compute, ConditionDropout, DiffusionConfig, LoopConfig};
pub use diffusion::{DiffusionTask, DiffusionTrainer};
pub use ema::Ema;
pub use error::{Error, Result};
pub use events::EventWriter;
pub use group::{Alone, Group, agree, made_by_the_first};
pub use jitter::CoarseJitter;
pub use log::JsonLines;
#[cfg(feature = "mpi")]
pub use mpi_group::MpiGroup;
pub use optimizer::{EmaConfig, NonFinite, OptimizerConfig, RateSchedule};
pub use plot::write_loss_curve;
pub use report::{StepReport, TimeRange};
pub use resume::check_resume;
pub use run::{Ended, RunConfig, Validation, ValidationLine, run, run_validated, try_run};
pub use segmenter::{
    ImageLoss, PixelAugmentation, PixelBatch, PixelTargets, RemoverBatches, RemoverConfig,
    SegmenterTask, SegmenterTrainConfig, SegmenterTrainer, StudentBatches, StudentConfig,
};
pub use stop::StopFlag;
pub use task::{Batch, Draw, Loss, Pass, Setup, Task, part_of};
pub use times::{LossWeight, TimeSampling};
pub use trainer::Trainer;
