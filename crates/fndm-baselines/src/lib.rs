#![doc = include_str!("../README.md")]

mod arctangent;
mod baseline;
pub mod cflow;
mod conv;
pub mod csflow;
pub mod dae;
mod distilled;
mod enlarge;
mod error;
pub mod fastflow;
mod fit;
mod fitted;
pub mod flair;
mod flow_task;
pub mod flows;
mod healthy;
mod maps;
pub mod padim;
pub mod patch_core;
mod post;
pub mod reverse_distillation;
pub mod stfpm;

pub use baseline::Baseline;
pub use error::{Error, Result};
pub use fit::{Extractor, Fit, Method};
pub use post::PostProcessing;
