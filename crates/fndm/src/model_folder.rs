//! A model on disk is a folder of files: the config, networks, memory bank. Weights are stored in half precision and widened on load.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use crate::{Error, Result, files};

/// The config: see [`ModelConfig`](crate::ModelConfig).
pub const CONFIG: &str = "model.json";
/// What the model was trained on and how. Inference doesn't read it.
pub const TRAINING: &str = "training.json";
/// The noise-prediction network.
pub const UNET: &str = "unet.safetensors";
/// The time-dependent classifier.
pub const CLASSIFIER: &str = "classifier.safetensors";
/// The memory bank.
pub const MEMORY: &str = "memory.safetensors";
/// The Gaussians of healthy and of diseased slices.
pub const CONTRAST: &str = "contrast.safetensors";

/// The network of one row of the ablation.
#[must_use]
pub fn separate(method: crate::Method) -> String {
    format!("unet_{}.safetensors", method.key())
}

/// Writes a network's tensors in half precision, which is exact enough for inference and half the size.
///
/// # Errors
/// When the file can't be written.
pub fn save_weights(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let half = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F16)?)))
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(half, None).map_err(|e| Error::ModelFile {
        path: path.to_path_buf(),
        error: Box::new(e),
    })?;
    files::write_atomic(path, &bytes)
}
