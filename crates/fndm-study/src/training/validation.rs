//! Validation while a diffusion model trains: a few slices by the full method, and the denoising loss.
//!
//! With masks the slices are scored by Dice. With bits alone they are scored by how well the anomaly map tells diseased slices from
//! healthy ones.

use std::ops::ControlFlow;
use std::sync::Arc;

use fndm_data::{PatientSlices, Preprocess, SliceSet};
use fndm_train::{DiffusionTrainer, Validation};
use serde::{Deserialize, Serialize};

use fndm::{Detector, Method};

use crate::{Arm, Comparison, Error, LabelSource, Level, Patients, Result, Scoring, Source, Truth};

/// Samples and ranges of timesteps of the denoising loss.
const LOSS: (usize, usize) = (64, 4);
/// Every validation has the same draws.
const SEED: u64 = 0;

/// What the best state of a training is chosen by: Dice where the bits of slices come from masks, else the AUROC of the slice's
/// bit by the highest values of the anomaly map. These patients choose among states; no weight is trained on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationPlan {
    /// The patients: none that the model trains on.
    pub source: Source,
    /// Iterations between validations.
    pub every: u64,
    /// Slices that are examined, spread evenly over those of all patients: diseased ones, and without masks as many healthy ones.
    pub slices: usize,
}

impl ValidationPlan {
    /// Checks every setting. No folder is looked at.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self) -> Result<()> {
        self.source.check()?;
        if self.every == 0 {
            return Err(Error::option("every", "1 iteration or more", 0));
        }
        if self.slices == 0 {
            return Err(Error::option("slices", "1 or more", 0));
        }
        Ok(())
    }
}

/// What the states are compared by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidationScore {
    /// Mean Dice per slice with a lesion, at Otsu's threshold. It takes masks.
    #[default]
    Dice,
    /// AUROC of the slice's bit: see [`BitRow::auroc`](crate::BitRow::auroc).
    SliceAuroc,
}

impl ValidationScore {
    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dice => "Dice",
            Self::SliceAuroc => "AUROC of the slice's bit",
        }
    }

    /// What can be watched with these labels.
    #[must_use]
    pub fn of(labels: &LabelSource) -> Self {
        match labels {
            LabelSource::Masks => Self::Dice,
            LabelSource::Table { .. } | LabelSource::Sides | LabelSource::Given => Self::SliceAuroc,
        }
    }
}

/// What came of the validations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ValidationRecord {
    /// Iterations of the state that the model was written from.
    pub iteration: u64,
    /// Its score.
    pub score: f64,
}

/// Slices to examine.
pub(crate) struct Validator {
    by: ValidationScore,
    /// The chosen slices, by patient.
    patients: Vec<PatientSlices>,
    /// All slices of these patients.
    set: Arc<SliceSet>,
}

impl Validator {
    pub(crate) fn load(
        plan: &ValidationPlan,
        labels: &LabelSource,
        sequences: &[String],
        preprocess: &Preprocess,
    ) -> Result<Self> {
        let by = ValidationScore::of(labels);
        let labelling = labels.open(&plan.source)?;
        let source = Patients {
            source: &plan.source,
            sequences,
            preprocess,
            truth: match by {
                ValidationScore::Dice => Truth::Mask,
                ValidationScore::SliceAuroc => Truth::Bits(&labelling),
            },
        };
        let mut patients = Vec::new();
        for i in 0..plan.source.ids().len() {
            // One that can't be read ends the training in its first minute, not after hours.
            let read = source.read(i, &mut Vec::new())?;
            patients.extend(read.ok().map(|read| read.slices));
        }
        let diseased = chosen(&patients, 1, plan.slices);
        let healthy = match by {
            ValidationScore::Dice => Vec::new(),
            ValidationScore::SliceAuroc => chosen(&patients, 0, plan.slices),
        };
        let lacking = by == ValidationScore::SliceAuroc && healthy.is_empty();
        if diseased.is_empty() || lacking {
            return Err(Error::Input {
                what: "slices for validation".into(),
                expected: match by {
                    ValidationScore::Dice => "at least one with a lesion".into(),
                    ValidationScore::SliceAuroc => "a healthy and a diseased one".into(),
                },
                got: format!("{} diseased, {} healthy", diseased.len(), healthy.len()),
            });
        }
        let wanted = [diseased, healthy].concat();
        let examined = patients
            .iter()
            .enumerate()
            .filter_map(|(p, slices)| {
                let of = wanted.iter().filter(|c| c.0 == p);
                let mut indices: Vec<usize> = of.map(|c| c.1).collect();
                indices.sort_unstable();
                (!indices.is_empty()).then(|| slices.select(&indices))
            })
            .collect::<fndm_data::Result<_>>()?;
        patients.iter_mut().for_each(|slices| slices.mask = None);
        Ok(Self {
            by,
            patients: examined,
            set: Arc::new(SliceSet::from_patients(patients)?),
        })
    }

    /// The averaged network's loss by timestep, and the detector's score.
    pub(crate) fn score(
        &self,
        trainer: &DiffusionTrainer,
        detector: &Detector,
    ) -> Result<Validation> {
        Ok(Validation {
            score: self.score_of(detector, Method::Fndm)?,
            ranges: trainer.validate(&self.set, LOSS.0, LOSS.1, SEED)?,
        })
    }

    /// What a row of the detector's is worth on the slices.
    pub(crate) fn score_of(&self, detector: &Detector, method: Method) -> Result<Option<f64>> {
        let config = detector.config().detect_config(method);
        let arms = vec![Arm::new(method, config)];
        Ok(match self.by {
            ValidationScore::Dice => {
                let rows = self.compare(Comparison::by_masks(arms, &[Level::Slice]), detector)?;
                rows.concat().first().and_then(|found| found.row.dice_otsu)
            }
            ValidationScore::SliceAuroc => {
                let rows = self.compare(Comparison::by_bits(arms), detector)?;
                rows.first().and_then(|row| row.auroc)
            }
        })
    }

    fn compare<S: Scoring>(
        &self,
        mut comparison: Comparison<S>,
        detector: &Detector,
    ) -> Result<Vec<S::Figures>> {
        for slices in &self.patients {
            comparison.add(detector, slices, &mut |_, _| ControlFlow::Continue(()))?;
        }
        comparison.finish()
    }
}

/// At most so many slices with this label, spread evenly over those of all patients: patient and slice.
fn chosen(patients: &[PatientSlices], label: u8, most: usize) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    for (p, slices) in patients.iter().enumerate() {
        let labels = slices.labels.as_deref().unwrap_or_default();
        all.extend(
            (0..labels.len())
                .filter(|&i| labels[i] == label)
                .map(|i| (p, i)),
        );
    }
    let count = most.min(all.len());
    (0..count).map(|i| all[i * all.len() / count]).collect()
}
