#![doc = include_str!("../README.md")]
//!
//! # Parts
//! - [`UNet`], [`UNetConfig`]: the noise-prediction network; [`HybridInput`], [`Conditions`]: its input.
//! - [`Classifier`], [`ClassifierConfig`], [`Pool`]: the classifier, its gradient and its maps.
//! - [`Segmenter`], [`SegmenterConfig`]: a network for segmentation, or from image to image, without time.
//! - [`Backbone`], [`BackboneKind`]: `EfficientNets` and `ResNets` whose maps are patch features.
//! - [`ResNet`], [`ResNetConfig`], [`EfficientNet`]: the same of any width and depth; residual networks can be trained, with
//!   [`BatchNorm`]s whose running statistics [`BatchNorms`] keeps. [`ResidualBlock`], [`ConvNorm`] and [`UpConvolution`] are their parts.
//! - [`Parameters`]: the ordered store of what is trained.
//! - [`StateDict`], [`Limits`], [`Mismatch`]: checkpoints of safetensors and PyTorch, in and out; [`Guess`]: the config
//!   of a checkpoint that doesn't bring one.
//! - [`timestep_embedding`], [`log_softmax`]: the two functions that a trainer needs beside.
//!
//! # Files from elsewhere
//! A `.pt` is a pickle, a program that Python runs. The reader here is a machine for the few operations that a state dict
//! needs: it calls nothing, and any name but those of tensors is an error. What a file describes, and what that takes in
//! memory, stays within [`Limits`], whatever the file says of itself. The values of safetensors are read by several
//! threads straight into the tensors: a mapped file would have to be copied as well, since candle's tensors own their
//! memory.
//!
//! A checkpoint fits its network exactly or is refused, with every difference in one error. One that doesn't bring its
//! config gets it from the shapes of its tensors, as far as they tell, and [`Guess::undetermined`] names the rest.

mod backbone;
mod blocks;
mod checkpoint;
mod classifier;
mod compat;
mod config;
mod dropout;
mod embedding;
mod encoder;
mod error;
mod guess;
mod hybrid;
mod labels;
mod layers;
mod parameters;
mod pool;
mod recompute;
mod segmenter;
mod trainable;
mod unet;

pub use backbone::{Backbone, BackboneKind, EfficientNet, EfficientNetConfig, EfficientNetMaps};
pub use checkpoint::{Limits, NetworkConfig, StateDict};
pub use classifier::{Classifier, ClassifierMaps, log_softmax};
pub use config::{ClassifierConfig, Pool, UNetConfig};
pub use embedding::timestep_embedding;
pub use error::{Error, Mismatch, Result};
pub use guess::Guess;
pub use hybrid::{Conditions, HybridInput};
pub use parameters::Parameters;
pub use segmenter::{Segmenter, SegmenterConfig};
pub use trainable::{
    BatchNorm, BatchNorms, Border, ConvNorm, Convolution, Mode, ResNet, ResNetConfig, ResNetMaps,
    Residual, ResidualBlock, Sampling, UpConvolution, reflect,
};
pub use unet::{UNet, UNetMaps};
