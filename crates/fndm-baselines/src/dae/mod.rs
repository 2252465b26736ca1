//! A denoising autoencoder (DAE, Kascenas et al. 2022): a network that takes coarse noise out of healthy slices takes lesions out too.

mod components;
mod evaluate;
mod method;
mod network;
mod noise;
mod preprocess;
mod score;

pub use components::{LEAST_VOXELS, without_small};
pub use evaluate::{Evaluation, evaluate};
pub use method::{Dae, DaeMethod, DaeModel, DaeSettings};
pub use network::{DaeNorm, UNet, UNetConfig, UNetMaps, Upsampling};
pub use noise::{NoiseConfig, enlarged, foreground, loss, rolled, with_noise};
pub use preprocess::{by_99th_percentile, resized};
pub use score::{eroded, median_5x5, score_map, unfiltered};
