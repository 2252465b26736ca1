//! Validation while a diffusion model trains: Dice of a few slices by the full method, and the denoising loss.

use std::sync::Arc;

use fndm_data::{PatientSlices, Preprocess, SliceSet};
use fndm_train::{DiffusionTrainer, Validation};
use ndarray::Axis;
use serde::{Deserialize, Serialize};

use fndm::{Detector, Method};

use crate::{Error, Level, Result, Source, cohort, evaluate, examine_case};

/// Samples and ranges of timesteps of the denoising loss.
const LOSS: (usize, usize) = (64, 4);
/// Every validation has the same draws.
const SEED: u64 = 0;

/// What the best state of a training is chosen by. The pixel labels of these patients choose among states; no weight is
/// trained on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationPlan {
    /// The patients: none that the model trains on.
    pub source: Source,
    /// Iterations between validations.
    pub every: u64,
    /// Slices with a lesion that are examined, spread evenly over those of all patients.
    pub slices: usize,
}

/// What came of the validations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Iterations of the state that the model was written from.
    pub iteration: u64,
    /// Its mean Dice per slice at Otsu's threshold.
    pub score: f64,
}

/// Slices to examine.
pub(crate) struct Validator {
    /// The chosen slices, by patient.
    patients: Vec<PatientSlices>,
    /// All slices of these patients.
    set: Arc<SliceSet>,
}

impl Validator {
    pub(crate) fn load(
        plan: &ValidationPlan,
        sequences: &[String],
        preprocess: &Preprocess,
    ) -> Result<Self> {
        let mut patients = Vec::new();
        for i in 0..plan.source.ids().len() {
            let patient = plan.source.patient(i, sequences)?;
            if cohort::copies(&patient).is_none() {
                patients.push(preprocess.apply(&patient)?);
            }
        }
        let diseased: Vec<(usize, usize)> = patients
            .iter()
            .enumerate()
            .flat_map(|(p, slices)| {
                let labels = slices.labels.as_deref().unwrap_or_default();
                let with = (0..labels.len()).filter(|&i| labels[i] == 1);
                with.map(move |i| (p, i)).collect::<Vec<_>>()
            })
            .collect();
        if diseased.is_empty() || plan.slices == 0 {
            return Err(Error::Input {
                what: "slices for validation".into(),
                expected: "at least one with a lesion".into(),
                got: format!("{} to choose {} from", diseased.len(), plan.slices),
            });
        }
        let count = plan.slices.min(diseased.len());
        let chosen: Vec<_> = (0..count)
            .map(|i| diseased[i * diseased.len() / count])
            .collect();
        let examined = patients
            .iter()
            .enumerate()
            .filter_map(|(p, slices)| {
                let of = chosen.iter().filter(|c| c.0 == p);
                let indices: Vec<usize> = of.map(|c| c.1).collect();
                (!indices.is_empty()).then(|| select_slices(slices, &indices))
            })
            .collect();
        patients.iter_mut().for_each(|slices| slices.mask = None);
        Ok(Self {
            patients: examined,
            set: Arc::new(SliceSet::from_patients(patients)?),
        })
    }

    /// The averaged network's loss by timestep, and the detector's mean Dice per slice.
    pub(crate) fn score(
        &self,
        trainer: &DiffusionTrainer,
        detector: &Detector,
    ) -> Result<Validation> {
        let config = detector.config().detect_config(Method::Fndm);
        let mut cases = Vec::new();
        for slices in &self.patients {
            cases.push(examine_case(detector, Method::Fndm, &config, slices, &mut |_| {})?.0);
        }
        Ok(Validation {
            score: evaluate("fndm", Level::Slice, &cases, 0, 0)?.row.dice_otsu,
            ranges: trainer.validate(&self.set, LOSS.0, LOSS.1, SEED)?,
        })
    }
}

/// Some slices of a patient, by their indices.
///
/// # Panics
/// When an index is not below the number of slices.
#[must_use]
pub fn select_slices(slices: &PatientSlices, indices: &[usize]) -> PatientSlices {
    PatientSlices {
        id: slices.id.clone(),
        sequences: slices.sequences.clone(),
        images: slices.images.select(Axis(0), indices),
        z: indices.iter().map(|&i| slices.z[i]).collect(),
        head: slices.head.select(Axis(0), indices),
        mask: slices.mask.as_ref().map(|m| m.select(Axis(0), indices)),
        labels: slices
            .labels
            .as_ref()
            .map(|labels| indices.iter().map(|&i| labels[i]).collect()),
        notes: slices.notes.clone(),
        geometry: slices.geometry.clone(),
    }
}
