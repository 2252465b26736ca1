use fndm::{DetectConfig, MapMask, ThresholdScope, mask_of, smooth_z};
use fndm_data::PatientSlices;
use fndm_memory::{Edge, gaussian_blur};
use ndarray::{Array3, Zip};
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
    /// The map's power before the threshold, counted from its least value inside: below 1 it raises what is weak.
    pub map_power: f64,
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
            map_power: config.map_power,
            threshold: config.threshold,
        }
    }
}

impl PostProcessing {
    /// The same, with the methods' own habits left out: no smoothing, the whole head, one threshold a slice.
    #[must_use]
    pub fn none() -> Self {
        Self {
            smoothing: 0.0,
            z_smoothing: 0.0,
            head_erosion: 0,
            map_power: 1.0,
            threshold: ThresholdScope::Slice,
        }
    }

    /// Fails on the first setting that is out of its range.
    ///
    /// # Errors
    /// [`Error::Config`], naming it.
    pub fn check(&self) -> Result<()> {
        let named = [
            ("smoothing", self.smoothing, 0.0..=64.0),
            ("z_smoothing", self.z_smoothing, 0.0..=64.0),
            ("map_power", self.map_power, 0.05..=8.0),
        ];
        for (field, value, range) in named {
            if !range.contains(&value) {
                let expected = format!("{} to {}", range.start(), range.end());
                return Err(Error::config(field, expected, value));
            }
        }
        Ok(())
    }

    /// Smooths the map `(N, H, W)` of a patient's slices, counts it from its least value inside of the eroded head, sets it to 0
    /// outside, raises it to the power, and thresholds it.
    ///
    /// A method's scale is its own, and may lie below 0: counted from the least value, nothing outside stands above what is inside.
    ///
    /// # Errors
    /// When a setting is out of its range, the shapes differ, or a value isn't finite.
    pub fn apply(&self, map: &mut Array3<f32>, slices: &PatientSlices) -> Result<MapMask> {
        self.check()?;
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
        let inside = slices.eroded_head(self.head_erosion);
        let inner = map.iter().zip(&inside).filter(|(_, inside)| **inside);
        let least = inner.map(|(&v, _)| v).fold(f32::INFINITY, f32::min);
        Zip::from(&mut *map).and(&inside).for_each(|v, &inside| {
            *v = match inside {
                true => (*v - least).powf(self.map_power as f32),
                false => 0.0,
            }
        });
        let config = DetectConfig {
            head_erosion: self.head_erosion,
            threshold: self.threshold,
            empty_when_healthy: false,
            ..DetectConfig::default()
        };
        Ok(mask_of(map, slices, &config, None)?)
    }
}
