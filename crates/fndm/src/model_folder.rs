//! A model on disk is a folder of files: the config, networks, memory bank. Weights are stored in half precision and widened on load.

pub use crate::replace::{extend, file, names, names_of, replace, weight_bytes};

/// The config: see [`ModelConfig`](crate::ModelConfig).
pub const CONFIG: &str = "model.json";
/// What the model was trained on and how. Inference doesn't read it.
pub const TRAINING: &str = "training.json";
/// The noise-prediction network.
pub const UNET: &str = "unet.safetensors";
/// The network of the encoding, of a model whose networks take long steps.
pub const ENCODER: &str = "unet_encode.safetensors";
/// The time-dependent classifier.
pub const CLASSIFIER: &str = "classifier.safetensors";
/// The memory bank.
pub const MEMORY: &str = "memory.safetensors";
/// The Gaussians of healthy and of diseased slices.
pub const CONTRAST: &str = "contrast.safetensors";

/// What the training's patients are like: see [`DataStatistics`](fndm_data::profile::DataStatistics).
pub const DATA: &str = "data.json";
/// What the model is for, in words: see [`ModelCard`](crate::ModelCard).
pub const METADATA: &str = "metadata.json";
/// The student.
pub const STUDENT: &str = "student.safetensors";

/// The network of one row of the ablation.
#[must_use]
pub fn separate(method: crate::Method) -> String {
    format!("unet_{}.safetensors", method.key())
}
