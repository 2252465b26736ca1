//! Memory bank of healthy patch features: coreset, exact nearest neighbours, coarse lesion maps.
//!
//! A bank holds patch features of healthy slices (`PatchCore`, Roth et al. 2022). What lies far from all of them in another slice
//! is suspicious: that is the coarse segmentation `x_seg`, which guides the diffusion model. No lesion's outline is ever used;
//! the threshold comes from healthy slices alone.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use fndm_memory::{CoarseConfig, HealthyModel, MemoryBank, MemoryConfig, PatchFeatures, silent};
//! use ndarray::Array3;
//!
//! // Any network's maps will do; here are two scales of the image itself.
//! let extractor = |x: &Tensor| Ok(vec![x.clone(), x.avg_pool2d(2)?]);
//! // Healthy slices are dark, with a little texture.
//! let value = |i: usize| 0.01 * (i * 7919 % 101) as f32 - 1.0;
//! let healthy: Vec<f32> = (0..6 * 32 * 32).map(value).collect();
//! let mut test = healthy[..32 * 32].to_vec();
//! for y in 10..18 {
//!     test[y * 32 + 10..y * 32 + 18].fill(1.0); // the lesion
//! }
//! let images = |v: Vec<f32>| Tensor::from_vec(v, ((), 1, 32, 32), &Device::Cpu);
//! let (healthy, test) = (images(healthy)?, images(test)?);
//!
//! let config = MemoryConfig {
//!     patch: PatchFeatures { pretrain_dimension: 9, target_dimension: 18, ..Default::default() },
//!     ..Default::default()
//! };
//! let (seen, apart) = (healthy.narrow(0, 0, 4)?, healthy.narrow(0, 4, 2)?);
//! let head = Array3::from_elem((2, 32, 32), true);
//! let mut bank = MemoryBank::build(&config, &extractor, &seen, None, &mut silent)?;
//! bank.calibrate(&extractor, &apart, head.view(), &mut silent)?;
//!
//! let one = Array3::from_elem((1, 32, 32), true);
//! let map = bank.coarse(&extractor, &test, one.view())?;
//! assert!(map.binary[(0, 13, 13)]);
//! assert!(!map.binary[(0, 25, 25)]);
//! # Ok::<(), fndm_memory::Error>(())
//! ```
//!
//! # Parts
//! - [`FeatureExtractor`]: images to maps; any closure, [`ClassifierFeatures`], or [`BackboneFeatures`] with weights of `ImageNet`.
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
mod config;
mod contrast;
mod coreset;
mod distance;
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
pub use coarse::{CoarseConfig, CoarseMap, HealthyModel, MAX_RADIUS};
pub use config::{ImageScore, MemoryConfig, Score};
pub use contrast::{Contrast, ContrastBuilder, ContrastConfig, intensities};
pub use coreset::{Coreset, CoresetMethod, CoresetSize, greedy, greedy_from};
pub use error::{Error, Result};
pub use extractor::FeatureExtractor;
pub use neighbours::{NearestNeighbours, Neighbours, Storage};
pub use padim::{Padim, PadimBuilder, PadimConfig};
pub use patch::{PatchEmbedding, PatchFeatures};
pub use progress::{OnProgress, Progress, Stage, silent};
pub use projection::SparseProjection;
pub use resize::upsample_bilinear;
pub use smooth::{Edge, Smoothing, gaussian_blur};
pub use standardise::Standardisation;
