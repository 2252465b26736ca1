#![doc = include_str!("../README.md")]
//!
//! # Parts
//! - [`FeatureExtractor`]: images to maps; any closure, [`ClassifierFeatures`], or [`BackboneFeatures`] with weights of `ImageNet`;
//!   with the cargo feature `dinov2` also `DinoV2Features`, a vision transformer.
//! - [`PatchFeatures`]: maps to one feature per patch; [`Standardisation`] of their channels.
//! - [`Coreset`]: the rows that represent all others; [`greedy`], [`greedy_from`], [`SparseProjection`].
//! - [`NearestNeighbours`]: exact search.
//! - [`MemoryBank`], [`MemoryConfig`], [`BankBuilder`]: all of these together, with `save` and `load`.
//! - [`HealthyModel`]: score maps, calibration and [`CoarseMap`]s; [`CoarseConfig`], [`Calibration`].
//! - [`Padim`], [`PadimConfig`], [`PadimBuilder`]: a Gaussian per position instead of a bank, behind the same trait.
//! - [`Contrast`], [`ContrastConfig`], [`ContrastBuilder`]: a Gaussian of healthy and one of diseased slices per position.
//! - [`upsample_bilinear`], [`gaussian_blur`]: the two steps from patch scores to a map.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as ndarray does"
)]

mod backbone;
mod bank;
mod builder;
mod calibration;
mod candidates;
mod cholesky;
mod classifier;
mod coarse;
mod coarse_config;
mod config;
mod contrast;
mod coreset;
#[cfg(feature = "dinov2")]
mod dinov2;
mod distance;
mod embed;
mod error;
mod extractor;
mod gaussians;
mod greedy;
mod grow;
mod image_score;
mod morphology;
mod neighbours;
mod padim;
mod patch;
mod pool;
mod progress;
mod projection;
mod resize;
mod rows;
mod smooth;
mod standardise;
mod store;
mod tensor;

pub use backbone::{BackboneFeatures, Channels};
pub use bank::MemoryBank;
pub use builder::BankBuilder;
pub use calibration::Calibration;
pub use classifier::ClassifierFeatures;
pub use coarse::{CoarseMap, HealthyModel};
pub use coarse_config::{CoarseConfig, MAX_RADIUS};
pub use config::{ImageScore, MemoryConfig, Score};
pub use contrast::{Contrast, ContrastBuilder, ContrastConfig, intensities};
pub use coreset::{Coreset, CoresetMethod, CoresetSize, greedy, greedy_from};
#[cfg(feature = "dinov2")]
pub use dinov2::{DinoV2Config, DinoV2Features};
pub use error::{Error, Result};
pub use extractor::FeatureExtractor;
pub use neighbours::{NearestNeighbours, Neighbours};
pub use padim::{Padim, PadimBuilder, PadimConfig};
pub use patch::{PatchEmbedding, PatchFeatures};
pub use progress::{OnProgress, Progress, Stage, silent};
pub use projection::SparseProjection;
pub use resize::upsample_bilinear;
pub use rows::Storage;
pub use smooth::{Edge, Smoothing, gaussian_blur};
pub use standardise::Standardisation;
