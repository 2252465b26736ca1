#![doc = include_str!("../README.md")]
//!
//! # Parts
//! - [`Detector`], [`DetectConfig`], [`Detection`], [`SliceMaps`]: encode, sample as healthy, subtract, threshold.
//!   [`SolverChoice`]: by which solver of [`solver`].
//! - [`DetectorBuilder`], [`CoarseModel`]: a detector of parts of one's own.
//! - [`Student`]: one evaluation a slice in place of all that.
//! - [`ModelConfig`], [`model_folder`]: a model on disk. [`ModelCard`]: what it is for, in words.
//! - [`InputCheck`]: whether a patient is like those that the model was trained on.
//! - The crates below, re-exported: [`solver`], [`models`], [`memory`], [`data`], [`files`], [`metrics`], [`kernels`].
//!
//! Training and evaluation are in `fndm-study`, the program is `fndm-cli`.

mod anomaly;
mod card;
mod coarse;
mod detect_config;
mod detector;
mod error;
mod flair;
mod guided_smoothing;
mod input_check;
mod method;
mod model_config;
pub mod model_folder;
mod replace;
mod residual;
mod rim;
mod round_trip;
mod solver_choice;
pub mod student;
mod volume_scale;

pub use anomaly::{Thresholded, anomaly_map, keep_inside, threshold};
pub use card::{ChannelFormat, DataFormat, ModelCard, TensorFormat};
pub use coarse::{CoarseModel, Featured, Features};
pub use detect_config::{CoarseRule, CoarseSource, DetectConfig, Parts, Start, ThresholdScope};
pub use detector::{
    CoarseMaps, Detection, Detector, DetectorBuilder, LongSteps, MapMask, SliceMaps, mask_of,
};
pub use error::{Error, Result};
pub use flair::{flair_map, flair_quantile};
pub use guided_smoothing::GuidedSmoothing;
pub use input_check::InputCheck;
pub use method::Method;
pub use model_config::{Distilled, FeatureConfig, ModelConfig, SeparateModel, separate_channels};
pub use residual::ResidualSide;
pub use rim::clear_rim;
pub use round_trip::batch_tensor;
pub use solver_choice::SolverChoice;
pub use student::{SliceCalibration, Student, StudentConfig, smooth_z};
pub use volume_scale::VolumeScale;

pub use candle_core;
pub use fndm_data as data;
pub use fndm_files as files;
pub use fndm_kernels as kernels;
pub use fndm_memory as memory;
pub use fndm_metrics as metrics;
pub use fndm_models as models;
pub use fndm_solver as solver;
pub use ndarray;
