//! Models that are there already, as teachers of a student.

use std::path::PathBuf;

use candle_core::Device;
use fndm::{CoarseSource, DetectConfig, Detector, Method, ModelConfig, model_folder};
use fndm_data::{PatientSlices, SliceSet};
use ndarray::{Array3, Axis};
use serde::{Deserialize, Serialize};

use super::teacher::PoweredMap;
use crate::{Error, Result};

/// A row of a model that is there already, as a teacher: FNDM, its memory bank, another student.
///
/// The model has to take the same sequences and sizes, and to have seen other patients: what it learned of a slice is no second opinion on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTeacher {
    /// The model folder.
    pub folder: PathBuf,
    /// The row, by its own settings: `fndm`, `memory`, `student`, and so on.
    pub method: Method,
    /// The coarse map of the row, where another than its own is wanted: with `memory`, `bank` for the memory bank alone, `contrast` for the
    /// Gaussians. Default: the row's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coarse_source: Option<CoarseSource>,
    /// Power of its map in the product.
    pub power: f64,
}

impl ModelTeacher {
    /// The row's settings.
    fn row(&self, config: &ModelConfig) -> DetectConfig {
        let row = config.detect_config(self.method);
        DetectConfig {
            coarse_source: self.coarse_source.unwrap_or(row.coarse_source),
            ..row
        }
    }

    /// Whether the model is there, has the row, and takes such slices: its settings alone are read.
    pub(super) fn check_slices(&self, sequences: usize, size: usize) -> Result<()> {
        let config = ModelConfig::read(&self.folder.join(model_folder::CONFIG))?;
        let own = (config.sequences.len(), config.preprocess.image_size);
        if own != (sequences, size) {
            return Err(Error::option(
                "models",
                format!("a model of {sequences} sequences and {size} px"),
                format!("{}, of {} and {}", self.folder.display(), own.0, own.1),
            ));
        }
        config.check_row(self.method, &self.row(&config))?;
        Ok(())
    }
}

/// The models of some teachers, each with its row and the power of its map.
pub(super) struct Models(Vec<(Detector, Method, DetectConfig, f64)>);

impl Models {
    pub(super) fn load(teachers: &[ModelTeacher], device: &Device) -> Result<Self> {
        let counted = teachers.iter().filter(|teacher| teacher.power > 0.);
        let loaded = counted.map(|teacher| {
            let detector = Detector::load(&teacher.folder, device)?;
            let row = teacher.row(detector.config());
            Ok((detector, teacher.method, row, teacher.power))
        });
        Ok(Self(loaded.collect::<Result<_>>()?))
    }

    /// What each says of a patient, `(N, H, W)`, and its power.
    pub(super) fn say(&self, slices: &PatientSlices) -> Result<Vec<PoweredMap>> {
        let maps = self.0.iter().map(|(detector, method, config, power)| {
            let known = &detector.config().sequences;
            if *known != slices.sequences {
                return Err(Error::Input {
                    what: "slices for a model that teaches".into(),
                    expected: known.join(", "),
                    got: slices.sequences.join(", "),
                });
            }
            let found = detector.examine_by(*method, slices, config, &mut |_| ())?;
            Ok((found.anomaly, *power))
        });
        maps.collect()
    }

    /// The same of all slices of a set.
    pub(super) fn say_of_set(&self, set: &SliceSet) -> Result<Vec<PoweredMap>> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let mut all: Vec<PoweredMap> = (self.0.iter())
            .map(|(.., power)| (Array3::zeros(set.head.dim()), *power))
            .collect();
        for (numbers, slices) in set.patients()? {
            for ((all, _), (map, _)) in all.iter_mut().zip(self.say(&slices)?) {
                for (&n, slice) in numbers.iter().zip(map.outer_iter()) {
                    all.index_axis_mut(Axis(0), n).assign(&slice);
                }
            }
        }
        Ok(all)
    }
}
