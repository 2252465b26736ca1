#![doc = include_str!("../README.md")]

mod baseline;
pub mod cflow;
pub mod csflow;
pub mod dae;
mod error;
pub mod fastflow;
pub mod flair;
pub mod flows;
pub mod padim;
pub mod patch_core;
pub mod reverse_distillation;
pub mod stfpm;

pub use baseline::Baseline;
pub use error::{Error, Result};
