//! A student beside its teachers and its bound, on patients that none of them has seen.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use fndm::{DetectConfig, Student, StudentConfig, batch_tensor, keep_inside, threshold};
use fndm_data::{PatientSlices, SliceSet};
use fndm_memory::{Contrast, HealthyModel, intensities, silent};
use fndm_models::StateDict;
use fndm_train::{Ended, PixelTargets, SegmenterTrainer, StepReport, StopFlag, run};
use ndarray::{Array3, Axis, concatenate};

use super::{StudentPlan, StudentStage, place, product, train_student};
use crate::{Case, Error, MethodMap, Result};

/// A row of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoldRow {
    /// The Gaussians of healthy and of diseased slices.
    Contrast,
    /// What the remover of lesions changes.
    Remover,
    /// The product of both, whose masks teach.
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
            Self::Teacher => "teacher (product of both)",
            Self::Student => "student",
            Self::Bound => "its network, on real masks",
        }
    }
}

/// The cases of each row.
pub type FoldCases = Vec<(FoldRow, Vec<Case>)>;

/// Trains contrast, remover and student on some patients by their bits, and examines others; with `bound` the student's network on
/// the real masks too, which is what the others are measured by. The masks of the patients that are learned from serve for that
/// row alone.
///
/// Checkpoints go to `folder`. Gives nothing where `stop` was set before the end.
///
/// # Errors
/// As [`train_student`], or when a patient has no mask to be scored by.
#[allow(
    clippy::too_many_arguments,
    reason = "a plan, two sets of patients, and what every training takes"
)]
pub fn examine_fold(
    plan: &StudentPlan,
    bound: bool,
    learned: &[PatientSlices],
    held_out: &[PatientSlices],
    folder: &Path,
    device: &Device,
    stop: &StopFlag,
    progress: &mut dyn FnMut(FoldRow, &StepReport, f64),
) -> Result<Option<FoldCases>> {
    let bits = learned.iter().map(|slices| PatientSlices {
        mask: None,
        ..slices.clone()
    });
    let set = SliceSet::from_patients(bits)?;
    let trained = train_student(plan, &set, folder, device, stop, |stage, report, share| {
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
    let bound = match bound {
        true => {
            let masks = masks(learned)?;
            let Some(found) = train_bound(plan, &set, &masks, folder, device, stop, progress)?
            else {
                return Ok(None);
            };
            Some(found)
        }
        false => None,
    };

    let mut rows: FoldCases = FoldRow::ALL
        .into_iter()
        .filter(|&row| row != FoldRow::Bound || bound.is_some())
        .map(|row| (row, Vec::new()))
        .collect();
    for slices in held_out {
        for (row, cases) in &mut rows {
            let start = Instant::now();
            let student = match row {
                FoldRow::Bound => bound.as_ref(),
                _ => Some(&student),
            };
            let (map, student) = match (*row, student) {
                (FoldRow::Student | FoldRow::Bound, Some(student)) => {
                    (student.probability(slices, device)?, Some(student))
                }
                _ => {
                    let mut teacher = plan.teacher.clone();
                    // One of them alone, smoothed like the product.
                    let powers = (&mut teacher.contrast_power, &mut teacher.remover_power);
                    match row {
                        FoldRow::Contrast => (*powers.0, *powers.1) = (1., 0.),
                        FoldRow::Remover => (*powers.0, *powers.1) = (0., 1.),
                        _ => {}
                    }
                    let images = batch_tensor(&slices.images.view(), device)?;
                    let scores = contrast.score_maps(&intensities, &images, None)?;
                    let patient = vec![0; slices.len()];
                    let place = (&patient[..], &slices.z[..]);
                    let images = slices.images.view();
                    let map = product(&teacher, &scores, &trained.remover, &images, place, device)?;
                    (map, None)
                }
            };
            let config = DetectConfig {
                head_erosion: match student {
                    Some(_) => 0,
                    None => plan.teacher.head_erosion,
                },
                ..DetectConfig::student()
            };
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            let found = masked(slices, map, student, &config, milliseconds)?;
            cases.push(Case::new(slices, &found)?);
        }
    }
    Ok(Some(rows))
}

/// The mask that a student's settings make of a map.
fn masked(
    slices: &PatientSlices,
    mut anomaly: Array3<f32>,
    student: Option<&Student>,
    config: &DetectConfig,
    milliseconds: f64,
) -> Result<MethodMap> {
    let diseased = student.map(|student| student.diseased(&anomaly));
    let inner_head = slices.eroded_head(config.head_erosion);
    keep_inside(&mut anomaly, &inner_head);
    let mut mask = threshold(anomaly.view(), inner_head.view(), config.threshold)?.mask;
    if let (Some(likely), Some(student)) = (&diseased, student) {
        let below = student.config().calibration.healthy_below;
        for (mut mask, &likely) in mask.outer_iter_mut().zip(likely) {
            if likely < below {
                mask.fill(false);
            }
        }
    }
    Ok(MethodMap {
        anomaly,
        inner_head,
        mask,
        diseased,
        milliseconds,
        maps: None,
    })
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
    folder: &Path,
    device: &Device,
    stop: &StopFlag,
    progress: &mut dyn FnMut(FoldRow, &StepReport, f64),
) -> Result<Option<Student>> {
    let (apart, learned) = plan.parts(set);
    let masks = masks.select(Axis(0), &learned);
    let apart = set.select(&apart)?;
    let set = set.select(&learned)?;
    let ones = Array3::ones(masks.dim());
    let targets = PixelTargets::new(&set, masks, ones)?;
    let mut trainer = SegmenterTrainer::student(
        &plan.student_training,
        &plan.student,
        Arc::new(set),
        Arc::new(targets),
        plan.seed,
        device,
    )?;
    let whole = plan.student_training.iterations.unwrap_or(1).max(1);
    let ended = run(&mut trainer, &place(folder, "bound"), stop, |_, report| {
        let share = report.iteration as f64 / whole as f64;
        progress(FoldRow::Bound, report, share);
    })?;
    if ended == Ended::Stopped {
        return Ok(None);
    }
    let calibration = plan.calibrate(&trainer.ema_network()?, &apart, device)?;
    let config = StudentConfig {
        network: plan.student.clone(),
        mirror: plan.mirror,
        z_smoothing: plan.teacher.z_smoothing,
        calibration,
    };
    let weights = StateDict::new(trainer.ema_tensors()?);
    Ok(Some(Student::new(&config, &weights, device, "the bound")?))
}
