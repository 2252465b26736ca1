//! The Fast Non-Markovian Diffusion Model (Li et al., MICCAI 2023): find lesions in brain MR, pixel by pixel, with a model
//! trained on one bit per slice (healthy or diseased).
//!
//! This crate is the whole method on top of the workspace's other crates. A [`Detector`] loads a model folder and turns a
//! patient's volumes into a mask on their own grid:
//!
//! ```
//! use fndm::candle_core::Device;
//! use fndm::data::phantom::PhantomConfig;
//! use fndm::{DetectConfig, Detector};
//!
//! # fn main() -> fndm::Result<()> {
//! # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom");
//! let detector = Detector::load(&folder, &Device::Cpu)?;
//! // Your own volumes come from `fndm::data::read_patient`, or from arrays by `fndm::data::Volume::new`.
//! let patient = PhantomConfig { slices: 2, ..PhantomConfig::default() }.patient(12_345)?;
//! let settings = DetectConfig { steps: 5, ..DetectConfig::default() };
//! let found = detector.detect_with(&patient, &settings, &mut |_| {})?;
//! assert_eq!(found.mask.shape(), patient.sequences[0].1.shape());
//! # Ok(())
//! # }
//! ```
//!
//! # Parts
//! - [`Detector`], [`DetectConfig`], [`Detection`], [`SliceMaps`]: encode, sample as healthy, subtract, threshold.
//! - [`TrainPlan`], [`train_model`]: from slices with one bit each to a model folder ([`ModelConfig`]).
//! - [`Source`], [`Method`], [`examine_case`], [`evaluate`], [`Report`]: the paper's ablation and plain FLAIR, scored.
//! - Pictures: [`Sheet`].
//! - The crates below, re-exported: [`solver`], [`models`], [`memory`], [`data`], [`metrics`], [`kernels`], [`train`].

mod anomaly;
mod cohort;
mod detect_config;
mod detector;
mod error;
mod evaluation;
mod examine;
mod files;
mod flair;
mod method;
mod model_config;
mod report;
mod round_trip;
mod sheet;
mod training;
mod validation;

pub use anomaly::{Thresholded, anomaly_map, threshold};
pub use cohort::{PHANTOM_SEQUENCES, Source, copies};
pub use detect_config::{CoarseRule, CoarseSource, DetectConfig, Parts, ThresholdScope};
pub use detector::{CoarseMaps, Detection, Detector, SliceMaps};
pub use error::{Error, Result};
pub use evaluation::{Case, CaseScore, Evaluation, Level, Row, evaluate};
pub use examine::examine_case;
pub use flair::{flair_map, flair_quantile};
pub use method::Method;
pub use model_config::{FeatureConfig, ModelConfig, SeparateModel};
pub use report::{Report, markdown, table, write_csv};
pub use sheet::{Sheet, Tile, upper_end};
pub use training::{
    LeftOut, SeparatePlan, StageRecord, TrainEvent, TrainPlan, TrainingRecord, train_model,
    train_model_in,
};
pub use validation::{ValidationPlan, ValidationRecord, select_slices};

pub use candle_core;
pub use fndm_data as data;
pub use fndm_kernels as kernels;
pub use fndm_memory as memory;
pub use fndm_metrics as metrics;
pub use fndm_models as models;
pub use fndm_solver as solver;
pub use fndm_train as train;
pub use ndarray;
