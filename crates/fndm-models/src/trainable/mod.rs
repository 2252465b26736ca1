//! Convolutions with batch norms that can be trained: what residual networks, their students and their decoders are made of.

mod batch_norm;
mod conv_norm;
mod convolution;
mod interleave;
mod residual;
mod resnet;
mod up_convolution;

pub use batch_norm::{BatchNorm, BatchNorms, Mode};
pub use conv_norm::ConvNorm;
pub use convolution::{Border, Convolution, reflect};
pub use residual::{Residual, ResidualBlock, Sampling};
pub use resnet::{ResNet, ResNetConfig, ResNetMaps};
pub use up_convolution::UpConvolution;
