//! The Fast Non-Markovian Diffusion Model (Li et al., MICCAI 2023): find lesions in brain MR, pixel by pixel, with a model
//! trained on one bit per slice (healthy or diseased).
//!
//! This crate is inference by the whole method, on top of the workspace's other crates. A [`Detector`] loads a model folder and turns a
//! patient's volumes into a mask on their own grid:
//!
//! ```
//! use fndm::candle_core::Device;
//! use fndm::data::phantom::PhantomConfig;
//! use fndm::{DetectConfig, Detector};
//!
//! # fn main() -> fndm::Result<()> {
//! # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom");
//! let detector = Detector::load(folder, &Device::Cpu)?;
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
//! - [`DetectorBuilder`], [`CoarseModel`]: a detector of parts of one's own.
//! - [`Student`]: one evaluation a slice in place of all that.
//! - [`ModelConfig`], [`model_folder`]: a model on disk.
//! - The crates below, re-exported: [`solver`], [`models`], [`memory`], [`data`], [`metrics`], [`kernels`].
//!
//! Training and evaluation are in `fndm-study`, the program is `fndm-cli`.

mod anomaly;
mod coarse;
mod detect_config;
mod detector;
mod error;
mod files;
mod flair;
mod method;
mod model_config;
pub mod model_folder;
mod replace;
mod round_trip;
pub mod student;

pub use anomaly::{Thresholded, anomaly_map, keep_inside, threshold};
pub use coarse::{CoarseModel, Featured, Features};
pub use detect_config::{CoarseRule, CoarseSource, DetectConfig, Parts, ThresholdScope};
pub use detector::{CoarseMaps, Detection, Detector, DetectorBuilder, SliceMaps};
pub use error::{Error, Result};
pub use flair::{flair_map, flair_quantile};
pub use method::Method;
pub use model_config::{FeatureConfig, ModelConfig, SeparateModel, separate_channels};
pub use round_trip::batch_tensor;
pub use student::{SliceCalibration, Student, StudentConfig, smooth_z};

pub use candle_core;
pub use fndm_data as data;
pub use fndm_kernels as kernels;
pub use fndm_memory as memory;
pub use fndm_metrics as metrics;
pub use fndm_models as models;
pub use fndm_solver as solver;
pub use ndarray;
