//! A crate that imports `fndm` alone and finds lesions in its own arrays.

use std::path::Path;

use fndm::candle_core::Device;
use fndm::data::{Patient, Volume};
use fndm::ndarray::Array3;
use fndm::{Detector, Result};

/// The mask of a patient whose volumes are arrays `(x, y, z)` in the order of the model's sequences.
///
/// # Errors
/// When the model can't be loaded, or the volumes can't be used.
pub fn mask(
    model: &Path,
    volumes: Vec<(String, Array3<f32>)>,
    affine: [[f64; 4]; 4],
) -> Result<Array3<bool>> {
    let detector = Detector::load(model, &Device::Cpu)?;
    let sequences = volumes
        .into_iter()
        .map(|(name, data)| (name, Volume::new(data, affine)))
        .collect();
    let patient = Patient {
        id: "mine".into(),
        sequences,
        mask: None,
    };
    let detection = detector.detect(&patient)?;
    Ok(detection.mask.data.mapv(|v| v > 0.))
}
