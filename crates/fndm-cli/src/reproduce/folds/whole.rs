//! The whole method, trained on all folds but one.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use fndm::Detector;
use fndm::data::PatientSlices;
use fndm_study::{
    Arm, Comparison, Level, Source, TrainPlan, TrainingPlace, ValidationScore, train_model,
};

use super::rows::Rows;
use crate::common;
use crate::train::Bars;

/// The model's folder within the fold's.
const MODEL: &str = "model";

/// Trains a model on the first patients, and adds what its rows say of the second ones. False where it was stopped.
pub(super) fn examine(
    plan: &TrainPlan,
    data: &Path,
    (learned, held_out): (&[PatientSlices], &[PatientSlices]),
    place: TrainingPlace<'_>,
    arms: &dyn Fn(&Detector) -> Vec<Arm>,
    rows: &mut Rows,
) -> Result<bool> {
    let plan = TrainPlan {
        source: Source::Folder {
            path: data.to_owned(),
            patients: learned.iter().map(|slices| slices.id.clone()).collect(),
        },
        ..plan.clone()
    };
    let folder = place.folder.join(MODEL);
    let place = TrainingPlace {
        folder: &folder,
        ..place
    };
    let mut bars = Bars::new(ValidationScore::of(&plan.labels).name(), false);
    let record = train_model(&plan, place, &common::command(), &mut |event| {
        bars.show(&event);
    })?;
    bars.abandon();
    if record.is_none() || place.stop.is_set() {
        return Ok(false);
    }
    let detector = Detector::load(&folder, place.device)?;
    let arms = arms(&detector);
    let mut comparison = Comparison::by_masks(arms.clone(), &Level::ALL);
    for slices in held_out {
        comparison.add(&detector, slices, &mut |_, _| match place.stop.is_set() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
    }
    rows.add_arms(&arms, comparison.into_scores())?;
    Ok(true)
}
