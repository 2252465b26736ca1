//! A student: one evaluation a slice instead of an encoding and a sampling.

mod calibration;
mod maps;

use std::sync::Arc;

use candle_core::{DType, Device};
use fndm_data::{PatientSlices, SliceImages};
use fndm_memory::CoarseConfig;
use fndm_models::{Segmenter, SegmenterConfig, StateDict};
use ndarray::Array3;
use serde::{Deserialize, Serialize};

pub use calibration::SliceCalibration;
pub use maps::{
    probability, residual, residual_map, smooth_z, volume_thresholds, weighted_product,
};

use crate::{CoarseModel, Error, Result};

/// What `model.json` says of a student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentConfig {
    /// The network.
    pub network: SegmenterConfig,
    /// Whether a probability is the mean of a slice's and of its mirror image's, at two evaluations.
    pub mirror: bool,
    /// Deviation in slices of the Gaussian that smooths the probabilities over z; 0 for none.
    pub z_smoothing: f64,
    /// From a slice's pixels to how likely it is diseased.
    pub calibration: SliceCalibration,
}

impl StudentConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value out of range, with its name.
    pub fn check(&self) -> Result<()> {
        self.network.check()?;
        if self.network.out_channels != 1 {
            let got = self.network.out_channels;
            return Err(Error::option("student.out_channels", "1", got));
        }
        if !(0.0..=100.0).contains(&self.z_smoothing) {
            return Err(Error::option(
                "student.z_smoothing",
                "0 to 100",
                self.z_smoothing,
            ));
        }
        self.calibration.check()
    }

    /// As [`StudentConfig::check`], and whether the student takes slices of so many sequences, of this size.
    ///
    /// # Errors
    /// What doesn't fit.
    pub fn check_slices(&self, sequences: usize, size: usize) -> Result<()> {
        let fits = [
            ("student.sequences", sequences, self.network.sequences),
            ("student.image_size", size, self.network.image_size),
        ];
        for (name, expected, got) in fits {
            if expected != got {
                return Err(Error::option(name, expected.to_string(), got));
            }
        }
        self.check()
    }
}

/// A network that gives each pixel's probability of a lesion, taught by the method's own maps.
///
/// It is a coarse map for the diffusion too.
#[derive(Debug, Clone)]
pub struct Student {
    network: Arc<Segmenter>,
    config: StudentConfig,
    /// Where the network comes from, for messages.
    name: String,
}

impl Student {
    /// A student of these weights. `name`, its file as a rule, stands in messages.
    ///
    /// # Errors
    /// When a setting is out of its range, or the weights aren't those of the config's network.
    pub fn new(
        config: &StudentConfig,
        weights: &StateDict,
        device: &Device,
        name: &str,
    ) -> Result<Self> {
        config.check()?;
        let network = Segmenter::from_state_dict(&config.network, weights, DType::F32, device)?;
        Ok(Self {
            network: Arc::new(network),
            config: config.clone(),
            name: name.to_owned(),
        })
    }

    /// What stands in `model.json`.
    #[must_use]
    pub fn config(&self) -> &StudentConfig {
        &self.config
    }

    /// Evaluations of the network per slice.
    #[must_use]
    pub fn evaluations(&self) -> usize {
        1 + usize::from(self.config.mirror)
    }

    /// The probability of a lesion `(N, H, W)` of a patient's slices, 0 outside of the head.
    ///
    /// # Errors
    /// When the slices don't fit the network, or it gives something that isn't finite.
    pub fn probability<I: SliceImages>(
        &self,
        slices: &PatientSlices<I>,
        device: &Device,
    ) -> Result<Array3<f32>> {
        let patient = vec![0; slices.z.len()];
        let (images, mirror) = (&slices.images, self.config.mirror);
        let mut map = probability(&self.network, images, &patient, &slices.z, mirror, device)?;
        if self.config.z_smoothing > 0. {
            map = smooth_z(&map, &patient, &slices.z, self.config.z_smoothing)?;
        }
        let found = map.indexed_iter().find(|(_, v)| !v.is_finite());
        if let Some(((slice, ..), &value)) = found {
            return Err(Error::NotFinite {
                what: format!("{}: the probability", self.name),
                patient: slices.id.clone(),
                slice: slices.z.get(slice).copied().unwrap_or(slice),
                value,
            });
        }
        crate::keep_inside(&mut map, &slices.head);
        Ok(map)
    }

    /// How likely each slice is diseased, from the probabilities of its pixels `(N, H, W)`.
    #[must_use]
    pub fn diseased(&self, probability: &Array3<f32>) -> Vec<f64> {
        let slices = probability.outer_iter();
        slices
            .map(|slice| self.config.calibration.slice(slice.iter().copied()))
            .collect()
    }
}

impl CoarseModel for Student {
    fn soft_map(&self, slices: &PatientSlices, device: &Device) -> Result<Array3<f32>> {
        self.probability(slices, device)
    }

    fn threshold(&self) -> Result<f32> {
        Ok(0.5)
    }

    fn coarse_config(&self) -> CoarseConfig {
        CoarseConfig {
            // What a student says of the head's rim it has learned.
            head_erosion: 0,
            ..CoarseConfig::default()
        }
    }
}
