//! Reverse Distillation (Deng and Li 2022): a decoder learns to give an encoder's features of healthy slices back, from a bottleneck.

mod loss;
mod map;
mod method;
mod network;

pub use loss::{DistillationLoss, loss};
pub use map::{Joined, SIGMA, layer_maps, score_map, smoothed};
pub use method::{ReverseDistillation, ReverseMethod, ReverseModel, ReverseSettings};
pub use network::{Bottleneck, Code, Decoder, NetworkConfig};
