#![doc = include_str!("../README.md")]
//!
//! # Parts
//! - [`Trainer`]: all that trainings share; [`Task`]: what one has of its own, a network and a loss. A network that isn't of this
//!   project is trained by a task of one's own; [`LoopConfig`], [`Batch`], [`Loss`], [`check_resume`] are what that takes.
//! - [`DiffusionTrainer`], [`DiffusionConfig`]: objective (5) with hybrid conditions; [`DiffusionBatches`]: what it is trained on.
//!   [`ConditionDropout`], [`CoarseJitter`], [`Augmentation`], [`TimeSampling`], [`LossWeight`]: its settings.
//! - [`ClassifierTrainer`], [`ClassifierTrainConfig`]: cross entropy on noised slices; [`ClassifierBatches`].
//! - [`DistillTrainer`], [`Lessons`]: a network that takes a teacher's long steps.
//! - [`SegmenterTrainer`]: a network for segmentation, as a remover of lesions ([`RemoverConfig`]) or as a student of a
//!   teacher's masks ([`StudentConfig`], [`PixelTargets`]). [`PixelAugmentation`], [`ImageLoss`]: their settings.
//! - [`run`], [`try_run`], [`RunConfig`], [`StopFlag`]: a whole run with checkpoints and a log;
//!   [`run_validated`], [`Validation`], [`best_state`]: the same with a validation that chooses the best checkpoint.
//! - [`Optimizer`], [`UpdateRule`], [`Ema`], [`OptimizerConfig`], [`EmaConfig`], [`RateSchedule`], [`NonFinite`], [`Compute`]: the optimiser, and
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

mod augment;
mod batch;
mod checkpoint;
mod classifier;
mod clock;
mod config;
mod diffusion;
mod distill;
mod ema;
mod error;
mod events;
mod group;
mod hash;
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
mod update;

pub use augment::Augmentation;
pub use batch::{ClassifierBatch, ClassifierBatches, DiffusionBatch, DiffusionBatches};
pub use checkpoint::{
    CheckpointState, Fingerprint, list_checkpoints, read_checkpoint_ema, read_checkpoint_state,
};
pub use classifier::{ClassifierTask, ClassifierTrainer};
pub use config::{ClassifierTrainConfig, Compute, ConditionDropout, DiffusionConfig, LoopConfig};
pub use diffusion::{DiffusionTask, DiffusionTrainer};
pub use distill::{DistillBatch, DistillTask, DistillTrainer, Lessons};
pub use ema::Ema;
pub use error::{Error, Result};
pub use events::EventWriter;
pub use group::{Alone, Group, agree, made_by_the_first};
pub use jitter::CoarseJitter;
pub use log::JsonLines;
#[cfg(feature = "mpi")]
pub use mpi_group::MpiGroup;
pub use optimizer::{EmaConfig, NonFinite, OptimizerConfig, RateSchedule, UpdateRule};
pub use plot::write_loss_curve;
pub use report::{StepReport, TimeRange};
pub use resume::check_resume;
pub use run::{
    Ended, RunConfig, Validation, ValidationLine, best_state, run, run_validated, try_run,
};
pub use segmenter::{
    ImageLoss, PixelAugmentation, PixelBatch, PixelTargets, RemoverBatches, RemoverConfig,
    SegmenterTask, SegmenterTrainConfig, SegmenterTrainer, ShownLesions, StudentBatches,
    StudentConfig,
};
pub use stop::StopFlag;
pub use task::{Batch, Draw, Loss, Pass, Setup, Task, part_of};
pub use times::{LossWeight, TimeSampling};
pub use trainer::Trainer;
pub use update::Optimizer;
