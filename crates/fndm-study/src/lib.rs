#![doc = include_str!("../README.md")]
//!
//! # Parts
//! - [`TrainPlan`], [`train_model`], [`train_slices`]: from slices with one bit each to a model folder, in a [`TrainingPlace`].
//! - [`LabelSource`]: the bit of each slice from masks, a table, or two folders.
//! - [`BitRow`], [`evaluate_bits`]: figures where there are no masks.
//! - [`Patients`]: one loop over the patients of a [`Source`], one in memory at a time.
//! - [`Comparison`], [`evaluate`], [`Report`]: the paper's ablation and plain FLAIR, scored.
//! - [`rivals`]: the methods that the paper's first table compares with.
//! - [`student`]: a small network for segmentation, taught from the bits of slices.
//! - [`describe`]: what a model's training data are like, added to its folder.
//! - Pictures: [`Sheet`], [`Gallery`].
//! - Pages of [`fndm_report`]: [`PageBase`], [`PageMethod`], [`EvaluationPages`], [`measure`].

mod bits;
mod cohort;
mod comparison;
mod donors;
mod error;
mod evaluation;
mod examine;
mod gallery;
mod html;
mod labelling;
mod measure;
mod overlay;
mod page;
mod place;
mod plan;
mod plan_check;
mod report;
pub mod rivals;
mod source;
pub mod student;
mod training;

pub use bits::{BIT_DEFINITIONS, BitCase, BitReport, BitRow, BitScores, bit_table, evaluate_bits};
pub use cohort::{
    Cohort, CohortEvent, LeftOut, PatientRead, Patients, Truth, copies, copies_among,
};
pub use comparison::{Arm, Comparison, Scoring};
pub use donors::donors;
pub use error::{Error, Result};
pub use evaluation::{
    Case, CaseScore, Evaluation, LesionCount, Level, MaskScores, NextPixels, PixelPass, Row,
    evaluate,
};
pub use examine::{MethodMap, examine_case, method_map};
pub use fndm::{Method, flair_map, flair_quantile};
pub use fndm_pictures::{Legend, Sheet, Tile, upper_end};
pub use gallery::{Gallery, LETTERS};
pub use html::{EvaluationPages, PagePart, settings_section, thumbnail, versions_section};
pub use labelling::{LabelRecord, LabelSource, Labelling, PatientBits};
pub use measure::measure;
pub use overlay::overlay;
pub use page::{PageBase, PageMethod};
pub use place::TrainingPlace;
pub use plan::{SeparatePlan, TrainPlan};
pub use report::{Report, add_whole_volumes, markdown, table, write_csv};
pub use source::{PHANTOM_SEQUENCES, Source};
pub use training::{
    Direction, DistillPlan, DistillRecord, StageRecord, StudentBase, StudentRecord, TrainEvent,
    TrainingRecord, ValidationPlan, ValidationRecord, ValidationScore, add_student, describe,
    distill, train_model, train_model_in, train_slices,
};

pub use fndm;
pub use fndm_report;
pub use fndm_train as train;
