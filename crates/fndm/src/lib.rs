//! Fast Non-Markovian Diffusion Model (Li et al., MICCAI 2023): find lesions in brain MR, pixel by pixel, with a model
//! trained on one bit per slice.

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

pub use anomaly::{Thresholded, anomaly_map, threshold};
pub use cohort::{PHANTOM_SEQUENCES, Source, copies};
pub use detect_config::{DetectConfig, Parts, ThresholdScope};
pub use detector::{Detection, Detector, SliceMaps};
pub use error::{Error, Result};
pub use evaluation::{Case, CaseScore, Evaluation, Level, Row, evaluate};
pub use examine::examine_case;
pub use flair::flair_map;
pub use method::Method;
pub use model_config::{FeatureConfig, ModelConfig};
pub use report::{Report, table, write_csv};
pub use sheet::{Sheet, Tile, upper_end};
pub use training::{LeftOut, StageRecord, TrainEvent, TrainPlan, TrainingRecord, train};

pub use candle_core;
pub use ndarray;
pub use fndm_data as data;
pub use fndm_kernels as kernels;
pub use fndm_memory as memory;
pub use fndm_metrics as metrics;
pub use fndm_models as models;
pub use fndm_solver as solver;
pub use fndm_train as train_api;
