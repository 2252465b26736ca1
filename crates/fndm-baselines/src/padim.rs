//! `PaDiM` (Defard et al. 2021): a Gaussian of healthy features at every position.

mod draw;
mod embedding;
mod map;
mod method;

pub use draw::official_channels;
pub use embedding::{Joined, embedding};
pub use map::{SIGMA, over_the_set, smoothed, upsampled};
pub use method::{PadimBaseline, PadimMethod, PadimModel, PadimSettings};
