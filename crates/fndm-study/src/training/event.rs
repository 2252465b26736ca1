use fndm::Method;
use fndm_train::{StepReport, Validation};

use super::distill::Direction;
use crate::student::StudentStage;

/// What a training reports while it runs.
#[derive(Debug)]
#[non_exhaustive]
pub enum TrainEvent<'a> {
    /// Something that a user should read.
    Note(String),
    /// A patient was read: how many of how many.
    Loaded(usize, usize),
    /// An iteration of the classifier's training, and the share of its budget that is used.
    Classifier(&'a StepReport, f64),
    /// The memory bank's progress.
    Memory(fndm_memory::Progress),
    /// An iteration of the diffusion model's training, and the share of its budget that is used.
    Diffusion(&'a StepReport, f64),
    /// An iteration of the training of a network that serves one row alone, and the share of its budget that is used.
    Separate(Method, &'a StepReport, f64),
    /// An iteration of one of the student's trainings, and the share of its budget that is used.
    Student(StudentStage, &'a StepReport, f64),
    /// So many patients of so many whose slices a teacher was watched on.
    Watched(usize, usize),
    /// An iteration of a network that learns to take so many long steps, and the share of its budget that is used.
    Distill(Direction, usize, &'a StepReport, f64),
    /// A validation of the diffusion model, after so many iterations.
    Validation(u64, &'a Validation),
}

/// Who is told.
pub(super) type OnEvent<'a> = &'a mut dyn FnMut(TrainEvent<'_>);
