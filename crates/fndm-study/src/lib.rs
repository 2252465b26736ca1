//! Studies with the Fast Non-Markovian Diffusion Model: from patients to a model folder, and from a model to tables and pictures.
//!
//! Inference alone is the crate `fndm`. Here are the parts around it: which patients ([`Source`]), the training as a whole
//! ([`TrainPlan`], [`train_model`]), the rows of a comparison ([`Method`], [`examine_case`], [`evaluate`]), and what people
//! read ([`Report`], [`Sheet`]).
//!
//! ```
//! use fndm::candle_core::Device;
//! use fndm::data::phantom::PhantomConfig;
//! use fndm::{DetectConfig, Detector, Method};
//! use fndm_study::{Level, Source, evaluate, examine_case};
//!
//! # fn main() -> fndm_study::Result<()> {
//! # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom");
//! let detector = Detector::load(&folder, &Device::Cpu)?;
//! let config = PhantomConfig { slices: 2, ..PhantomConfig::default() };
//! let source = Source::Phantom { config, first_seed: 12_345, patients: 1 };
//! let patient = source.patient(0, &detector.config().sequences)?;
//! let slices = detector.slices(&patient)?;
//! let settings = DetectConfig { steps: 5, ..detector.config().detect_config(Method::Fndm) };
//! let (case, _) = examine_case(&detector, Method::Fndm, &settings, &slices, &mut |_| {})?;
//! let row = evaluate("fndm", Level::Slice, &[case], 10, 5)?.row;
//! assert!(row.dice_otsu.is_none_or(|dice| (0. ..=1.).contains(&dice)));
//! # Ok(())
//! # }
//! ```
//!
//! # Parts
//! - [`TrainPlan`], [`train_model`], [`train_slices`]: from slices with one bit each to a model folder.
//! - [`LabelSource`]: the bit of each slice from masks, a table, or two folders.
//! - [`BitRow`], [`evaluate_bits`]: figures where there are no masks.
//! - [`Source`], [`examine_case`], [`evaluate`], [`Report`]: the paper's ablation and plain FLAIR, scored.
//! - [`student`]: a small network for segmentation, taught from the bits of slices.
//! - Pictures: [`Sheet`].

mod bits;
mod cohort;
mod error;
mod evaluation;
mod examine;
mod files;
mod labelling;
mod plan_check;
mod report;
mod sheet;
pub mod student;
mod training;
mod validation;

pub use bits::{BIT_DEFINITIONS, BitCase, BitReport, BitRow, bit_table, evaluate_bits};
pub use cohort::{PHANTOM_SEQUENCES, Source, copies};
pub use error::{Error, Result};
pub use evaluation::{Case, CaseScore, Evaluation, Level, Row, evaluate};
pub use examine::{MethodMap, examine_case, method_map};
pub use fndm::{Method, flair_map, flair_quantile};
pub use labelling::{LabelRecord, LabelSource, Labelling, PatientBits};
pub use report::{Report, markdown, table, write_csv};
pub use sheet::{Sheet, Tile, upper_end};
pub use training::{
    LeftOut, SeparatePlan, StageRecord, StudentRecord, TrainEvent, TrainPlan, TrainingRecord,
    add_student, train_model, train_model_in, train_slices,
};
pub use validation::{ValidationPlan, ValidationRecord, ValidationScore};

pub use fndm;
pub use fndm_train as train;
