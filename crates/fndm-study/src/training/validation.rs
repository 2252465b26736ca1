//! Validation while a diffusion model trains: a few slices by the full method, and the denoising loss.
//!
//! With masks the slices are scored by Dice. With bits alone they are scored by how well the anomaly map tells diseased slices from
//! healthy ones.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use fndm_data::{PatientSlices, Preprocess, SliceSet};
use fndm_train::{DiffusionTrainer, Validation};
use serde::{Deserialize, Serialize};

use fndm::{Detector, Method};

use crate::{
    Arm, Comparison, Error, LabelSource, Labelling, Level, Patients, Result, Scoring, Source, Truth,
};

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

/// How a validation's patients are read.
struct Reading<'a> {
    by: ValidationScore,
    source: &'a Source,
    labelling: Labelling,
    sequences: &'a [String],
    preprocess: &'a Preprocess,
}

impl Reading<'_> {
    /// The slices of a patient, with what they are scored by; `None` where it has none.
    fn read(&self, patient: usize) -> Result<Option<PatientSlices>> {
        let patients = Patients {
            source: self.source,
            sequences: self.sequences,
            preprocess: self.preprocess,
            truth: match self.by {
                ValidationScore::Dice => Truth::Mask,
                ValidationScore::SliceAuroc => Truth::Bits(&self.labelling),
            },
        };
        let read = patients.read(patient, &mut Vec::new())?;
        Ok(read.ok().map(|read| read.slices))
    }
}

/// Slices to examine.
pub(crate) struct Validator<'a> {
    reading: Reading<'a>,
    /// The chosen slices, by patient.
    patients: Vec<PatientSlices>,
    /// Which of the plan's patients they are of.
    examined: Vec<usize>,
    /// All slices of all patients.
    set: Arc<SliceSet>,
}

impl<'a> Validator<'a> {
    pub(crate) fn load(
        plan: &'a ValidationPlan,
        labels: &LabelSource,
        sequences: &'a [String],
        preprocess: &'a Preprocess,
    ) -> Result<Self> {
        let by = ValidationScore::of(labels);
        let reading = Reading {
            by,
            source: &plan.source,
            labelling: labels.open(&plan.source)?,
            sequences,
            preprocess,
        };
        let (mut numbers, mut patients) = (Vec::new(), Vec::new());
        for i in 0..plan.source.ids().len() {
            // One that can't be read ends the training in its first minute, not after hours.
            if let Some(slices) = reading.read(i)? {
                numbers.push(i);
                patients.push(slices);
            }
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
        let (mut chosen, mut examined) = (Vec::new(), Vec::new());
        for (p, slices) in patients.iter().enumerate() {
            let of = wanted.iter().filter(|c| c.0 == p);
            let mut indices: Vec<usize> = of.map(|c| c.1).collect();
            indices.sort_unstable();
            if !indices.is_empty() {
                chosen.push(slices.select(&indices)?);
                examined.push(numbers[p]);
            }
        }
        patients.iter_mut().for_each(|slices| slices.mask = None);
        Ok(Self {
            reading,
            patients: chosen,
            examined,
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
            score: self.score_of(detector)?,
            ranges: trainer.validate(&self.set, LOSS.0, LOSS.1, SEED)?,
        })
    }

    /// What the diffusion is worth on the chosen slices. They are looked at one by one: what hangs on a slice's neighbours, or on the whole
    /// volume, has no part in it. It is the same for all states.
    fn score_of(&self, detector: &Detector) -> Result<Option<f64>> {
        let slices = self.patients.iter().map(|slices| Ok(Cow::Borrowed(slices)));
        let scores = self.scores(detector, &[Method::Fndm], slices)?;
        Ok(scores.into_iter().next().flatten())
    }

    /// What rows are worth on the chosen slices' patients, each read again and examined as a whole: rows differ in how much they look at
    /// neighbours.
    pub(crate) fn scores_of_whole_patients(
        &self,
        detector: &Detector,
        methods: &[Method],
    ) -> Result<Vec<Option<f64>>> {
        let patients = self.examined.iter();
        let slices =
            patients.filter_map(|&i| Some(self.reading.read(i).transpose()?.map(Cow::Owned)));
        self.scores(detector, methods, slices)
    }

    fn scores<'s>(
        &self,
        detector: &Detector,
        methods: &[Method],
        slices: impl Iterator<Item = Result<Cow<'s, PatientSlices>>>,
    ) -> Result<Vec<Option<f64>>> {
        let arms = methods.iter().map(|&method| {
            let config = detector.config().detect_config(method);
            Arm::new(method, config)
        });
        let arms = arms.collect();
        Ok(match self.reading.by {
            ValidationScore::Dice => {
                let comparison = Comparison::by_masks(arms, &[Level::Slice]);
                let rows = compare(comparison, detector, slices)?.into_iter();
                rows.map(|levels| levels.first().and_then(|found| found.row.dice_otsu))
                    .collect()
            }
            ValidationScore::SliceAuroc => {
                let rows = compare(Comparison::by_bits(arms), detector, slices)?.into_iter();
                rows.map(|row| row.auroc).collect()
            }
        })
    }
}

fn compare<'s, S: Scoring>(
    mut comparison: Comparison<S>,
    detector: &Detector,
    slices: impl Iterator<Item = Result<Cow<'s, PatientSlices>>>,
) -> Result<Vec<S::Figures>> {
    for slices in slices {
        comparison.add(detector, &*slices?, &mut |_, _| ControlFlow::Continue(()))?;
    }
    comparison.finish()
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use std::path::Path;

    /// The student looks at a slice's neighbours, which chosen slices have lost.
    #[test]
    fn rows_are_compared_on_whole_patients() {
        let phantom = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom");
        let detector = Detector::load(phantom, &Device::Cpu).unwrap();
        let config = detector.config();
        let plan = ValidationPlan {
            source: Source::Phantom {
                config: fndm_data::phantom::PhantomConfig::default(),
                first_seed: 77,
                patients: 2,
            },
            every: 1,
            slices: 4,
        };
        let labels = LabelSource::Masks;
        let validator =
            Validator::load(&plan, &labels, &config.sequences, &config.preprocess).unwrap();
        let by_hand = |slices: Vec<PatientSlices>| {
            let config = config.detect_config(Method::Student);
            let arms = vec![Arm::new(Method::Student, config)];
            let mut comparison = Comparison::by_masks(arms, &[Level::Slice]);
            for slices in &slices {
                let mut go_on = |_: &Arm, _| ControlFlow::Continue(());
                comparison.add(&detector, slices, &mut go_on).unwrap();
            }
            comparison.finish().unwrap()[0][0].row.dice_otsu
        };
        let whole = (0..2).map(|i| validator.reading.read(i).unwrap().unwrap());
        let methods = [Method::Student, Method::Flair];
        let scores = validator
            .scores_of_whole_patients(&detector, &methods)
            .unwrap();
        assert_eq!(scores.len(), 2);
        assert!(scores[0].unwrap() > scores[1].unwrap());
        assert_eq!(scores[0], by_hand(whole.collect()));
        assert_ne!(scores[0], by_hand(validator.patients.clone()));
    }
}
