//! A student beside its teachers and its bound, on patients that none of them has seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fndm::{DetectConfig, MapMask, Student, batch_tensor, mask_of};
use fndm_data::{PatientSlices, SliceSet};
use fndm_memory::{Contrast, HealthyModel, intensities, silent};
use fndm_models::Segmenter;
use fndm_train::{PixelTargets, StepReport};
use ndarray::{Array3, Axis, concatenate};

use super::models::Models;
use super::teacher::{contrast_map, counted, product, remover_map};
use super::{Lesson, OnStep, StudentPlan, StudentStage, calibrated, train_student};
use crate::{Case, Error, MethodMap, Result, TrainingPlace};

/// A row of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoldRow {
    /// The Gaussians of healthy and of diseased slices.
    Contrast,
    /// What the remover of lesions changes.
    Remover,
    /// The product of the teachers' maps, whose masks teach.
    Teacher,
    /// The student.
    Student,
    /// The student's network, taught by real masks.
    Bound,
}

impl FoldRow {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 5] = [
        Self::Contrast,
        Self::Remover,
        Self::Teacher,
        Self::Student,
        Self::Bound,
    ];

    /// The name in JSON and CSV files.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Contrast => "contrast",
            Self::Remover => "remover",
            Self::Teacher => "teacher",
            Self::Student => "student",
            Self::Bound => "bound",
        }
    }

    /// The name in tables for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Contrast => "contrast",
            Self::Remover => "remover",
            Self::Teacher => "teacher (their product)",
            Self::Student => "student",
            Self::Bound => "its network, on real masks",
        }
    }
}

/// What each row says of a patient.
pub type FoldMaps = [(FoldRow, MethodMap)];

/// The cases of each row.
pub type FoldCases = Vec<(FoldRow, Vec<Case>)>;

/// Trains contrast, remover and student on some patients by their bits, and examines others; with `bound` the student's network on
/// the real masks too, which is what the others are measured by. The masks of the patients that are learned from serve for that
/// row alone. `seen` is told of every patient that is examined, with the map of each row.
///
/// Gives nothing where the place's flag was set before the end.
///
/// # Errors
/// As [`train_student`], or when a patient has no mask to be scored by.
pub fn examine_fold(
    plan: &StudentPlan,
    bound: bool,
    learned: &[PatientSlices],
    held_out: &[PatientSlices],
    place: TrainingPlace<'_>,
    progress: &mut dyn FnMut(FoldRow, &StepReport, f64),
    seen: &mut dyn FnMut(&PatientSlices, &FoldMaps) -> Result<()>,
) -> Result<Option<FoldCases>> {
    let masks = match bound {
        true => Some(masks(learned)?),
        false => None,
    };
    let bits = learned.iter().map(|slices| PatientSlices {
        mask: None,
        lesion: None,
        ..slices.clone()
    });
    let set = SliceSet::from_patients(bits)?;
    let device = place.device;
    let trained = train_student(plan, &set, place, |stage, report, share| {
        let row = match stage {
            StudentStage::Remover => FoldRow::Remover,
            StudentStage::Even | StudentStage::Odd | StudentStage::Student => FoldRow::Student,
        };
        progress(row, report, share);
    })?;
    let Some(trained) = trained else {
        return Ok(None);
    };
    let contrast = Contrast::build(
        &plan.teacher.contrast,
        &intensities,
        &batch_tensor(&set.images.view(), device)?,
        &set.labels,
        &mut silent,
    )?;
    let student = Student::new(&trained.config, &trained.weights, device, "the student")?;
    let mut students = vec![(FoldRow::Student, student)];
    if let Some(masks) = &masks {
        let found = train_bound(plan, &set, masks, place, &mut |report, share| {
            progress(FoldRow::Bound, report, share);
        })?;
        let Some(found) = found else {
            return Ok(None);
        };
        students.push((FoldRow::Bound, found));
    }

    let mut rows: BTreeMap<FoldRow, Vec<Case>> = FoldRow::ALL
        .into_iter()
        .filter(|&row| row != FoldRow::Bound || bound)
        .filter(|&row| row != FoldRow::Remover || trained.remover.is_some())
        .map(|row| (row, Vec::new()))
        .collect();
    let teachers = Teachers {
        contrast,
        remover: trained.remover.as_ref(),
        models: Models::load(&plan.teacher.models, device)?,
    };
    for slices in held_out {
        let mut found = teachers.say(plan, slices, place)?;
        for (row, student) in &students {
            found.push((*row, student_says(plan, student, slices, place)?));
        }
        seen(slices, &found)?;
        for (row, found) in found {
            let case = Case::new(slices, &found)?;
            rows.entry(row).or_default().push(case);
        }
    }
    Ok(Some(rows.into_iter().collect()))
}

/// Whom a student has learned from.
struct Teachers<'a> {
    contrast: Contrast,
    remover: Option<&'a Segmenter>,
    models: Models,
}

impl Teachers<'_> {
    /// What contrast and remover alone and all teachers together say of a patient.
    fn say(
        &self,
        plan: &StudentPlan,
        slices: &PatientSlices,
        place: TrainingPlace<'_>,
    ) -> Result<Vec<(FoldRow, MethodMap)>> {
        let (teacher, device) = (&plan.teacher, place.device);
        let patient = vec![0; slices.len()];
        let at = (&patient[..], &slices.z[..]);
        let start = Instant::now();
        let images = batch_tensor(&slices.images.view(), device)?;
        let scores = self.contrast.score_maps(&intensities, &images, None)?;
        let by_contrast = contrast_map(teacher, &scores, at)?;
        let contrast_ms = milliseconds_since(start);
        let images = slices.images.view();
        let start = Instant::now();
        let by_remover =
            (self.remover).map(|remover| remover_map(teacher, remover, &images, at, device));
        let by_remover = by_remover.transpose()?;
        let remover_ms = milliseconds_since(start);

        let config = DetectConfig {
            head_erosion: teacher.head_erosion,
            empty_when_healthy: false,
            ..plan.detect_config()
        };
        let start = Instant::now();
        let models = self.models.say(slices)?;
        let maps = (Some(by_contrast.clone()), by_remover.clone(), models);
        let all = product(&counted(teacher, maps, &images, at, &slices.head)?)?;
        let all_ms = contrast_ms + remover_ms + milliseconds_since(start);
        let mut maps = vec![(FoldRow::Contrast, by_contrast, contrast_ms)];
        maps.extend(by_remover.map(|map| (FoldRow::Remover, map, remover_ms)));
        maps.push((FoldRow::Teacher, all, all_ms));
        let found = maps.into_iter().map(|(row, mut map, milliseconds)| {
            let found = mask_of(&mut map, slices, &config, None)?;
            Ok((row, method_map(map, found, None, milliseconds)))
        });
        found.collect()
    }
}

/// What a student says of a patient, by its plan's settings.
fn student_says(
    plan: &StudentPlan,
    student: &Student,
    slices: &PatientSlices,
    place: TrainingPlace<'_>,
) -> Result<MethodMap> {
    let start = Instant::now();
    let mut map = student.probability(slices, place.device)?;
    let milliseconds = milliseconds_since(start);
    let diseased = student.diseased(&map);
    let says = Some((student, &diseased[..]));
    let found = mask_of(&mut map, slices, &plan.detect_config(), says)?;
    Ok(method_map(map, found, Some(diseased), milliseconds))
}

fn method_map(
    anomaly: Array3<f32>,
    found: MapMask,
    diseased: Option<Vec<f64>>,
    milliseconds: f64,
) -> MethodMap {
    MethodMap {
        anomaly,
        inner_head: found.inner_head,
        mask: found.mask,
        thresholds: found.thresholds,
        diseased,
        milliseconds,
        maps: None,
    }
}

fn milliseconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn masks(patients: &[PatientSlices]) -> Result<Array3<f32>> {
    let all = patients.iter().map(|slices| {
        let mask = slices.mask.as_ref().ok_or_else(|| Error::Input {
            what: format!("patient {}", slices.id),
            expected: "a lesion mask, for the row of the bound".into(),
            got: "none".into(),
        });
        Ok(mask?.mapv(|m| f32::from(u8::from(m))))
    });
    let all = all.collect::<Result<Vec<_>>>()?;
    let views: Vec<_> = all.iter().map(|m| m.view()).collect();
    concatenate(Axis(0), &views).map_err(|e| Error::Input {
        what: "masks".into(),
        expected: "one size".into(),
        got: e.to_string(),
    })
}

/// The student's network on real masks, with the same patients held apart for its calibration.
fn train_bound(
    plan: &StudentPlan,
    set: &SliceSet,
    masks: &Array3<f32>,
    place: TrainingPlace<'_>,
    on_step: OnStep<'_>,
) -> Result<Option<Student>> {
    // What it learns from is exact as it is. Its log-odds are shifted as the student's: diseased slices are drawn more often for both, and
    // without it the bound is lower (docs/experiments.md).
    let mut plan = plan.clone();
    plan.student_training.shown = None;
    let plan = &plan;
    let (apart, learned) = plan.parts(set);
    let masks = masks.select(Axis(0), &learned);
    let apart = set.select(&apart)?;
    let set = Arc::new(set.select(&learned)?);
    let weights = Array3::ones(masks.dim());
    let lesson = Lesson {
        name: FoldRow::Bound.key(),
        iterations: plan.student_training.iterations,
        targets: PixelTargets::new(&set, masks, weights)?,
        set,
    };
    let Some(trainer) = lesson.train(plan, place, on_step)? else {
        return Ok(None);
    };
    let (config, weights) = calibrated(plan, &trainer, &apart, place.device)?;
    let student = Student::new(&config, &weights, place.device, "the bound")?;
    Ok(Some(student))
}
