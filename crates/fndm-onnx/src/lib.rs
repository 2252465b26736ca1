#![doc = include_str!("../README.md")]

mod classifier;
mod encoder;
mod error;
mod folder;
mod graph;
mod layers;
mod network;
mod proto;
mod segmenter;
mod unet;

pub use classifier::classifier;
pub use error::{Error, Result};
pub use folder::model_folder;
pub use network::{Network, OPSET, Stored};
pub use segmenter::segmenter;
pub use unet::unet;
