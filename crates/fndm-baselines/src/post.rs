use fndm::{DetectConfig, MapMask, ThresholdScope, mask_of, smooth_z};
use fndm_data::PatientSlices;
use fndm_memory::{Edge, gaussian_blur};
use ndarray::Array3;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// From a map to a mask, the same for every method.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostProcessing {
    /// Deviation in pixels of the Gaussian that smooths the map in the plane; 0 for none.
    pub smoothing: f64,
    /// Deviation in slices of the Gaussian that smooths it over z; 0 for none.
    pub z_smoothing: f64,
    /// By how many pixels the head is eroded before its pixels count.
    pub head_erosion: usize,
    /// One threshold of Otsu's a slice, or one for all slices.
    pub threshold: ThresholdScope,
}

impl Default for PostProcessing {
    /// That of fndm's own maps.
    fn default() -> Self {
        let config = DetectConfig::default();
        Self {
            smoothing: config.smoothing,
            z_smoothing: config.z_smoothing,
            head_erosion: config.head_erosion,
            threshold: config.threshold,
        }
    }
}

impl PostProcessing {
    /// Smooths the map `(N, H, W)` of a patient's slices, sets it to 0 outside of the eroded head, and thresholds it there.
    ///
    /// # Errors
    /// When a setting is out of its range, the shapes differ, or a value isn't finite.
    pub fn apply(&self, map: &mut Array3<f32>, slices: &PatientSlices) -> Result<MapMask> {
        if map.dim() != slices.head.dim() {
            let expected = format!("{:?}", slices.head.dim());
            return Err(Error::shape("the map", expected, map.dim()));
        }
        if map.iter().any(|v| !v.is_finite()) {
            return Err(Error::NonFinite {
                what: format!("the map of {}", slices.id),
            });
        }
        gaussian_blur(map, self.smoothing, Edge::Symmetric)?;
        if self.z_smoothing > 0.0 {
            let one = vec![0; slices.z.len()];
            *map = smooth_z(map, &one, &slices.z, self.z_smoothing)?;
        }
        let config = DetectConfig {
            head_erosion: self.head_erosion,
            threshold: self.threshold,
            empty_when_healthy: false,
            ..DetectConfig::default()
        };
        Ok(mask_of(map, slices, &config, None)?)
    }
}
