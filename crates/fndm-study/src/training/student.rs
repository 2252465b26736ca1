//! The student's stage.

use std::time::Instant;

use fndm::{Detector, Method};
use fndm_data::SliceSet;

use super::event::{OnEvent, TrainEvent};
use super::record::StudentRecord;
use super::run::RUNS;
use super::validation::Validator;
use crate::student::{StudentPlan, TrainedStudent, train_student};
use crate::{LabelRecord, LeftOut, Result, TrainingPlace};

/// Trains the student.
pub(super) struct StudentTraining<'a> {
    pub(super) plan: &'a StudentPlan,
    pub(super) set: &'a SliceSet,
    /// Where the bits came from.
    pub(super) labels: &'a LabelRecord,
    pub(super) left_out: &'a [LeftOut],
    /// The command line, for the record.
    pub(super) command: &'a str,
    pub(super) place: TrainingPlace<'a>,
}

impl StudentTraining<'_> {
    /// The student and its record; nothing where it was stopped.
    pub(super) fn run(
        self,
        on_event: OnEvent<'_>,
    ) -> Result<Option<(TrainedStudent, StudentRecord)>> {
        let start = Instant::now();
        let place = TrainingPlace {
            folder: &self.place.folder.join(RUNS),
            ..self.place
        };
        let trained = train_student(self.plan, self.set, place, |stage, report, share| {
            on_event(TrainEvent::Student(stage, report, share));
        })?;
        let record = StudentRecord {
            command: self.command.to_owned(),
            plan: self.plan.clone(),
            patients: self.set.ids.clone(),
            left_out: self.left_out.to_vec(),
            labels: self.labels.clone(),
            seconds: start.elapsed().as_secs_f64(),
        };
        Ok(trained.map(|trained| (trained, record)))
    }
}

/// The row that finds most in the validation's patients: the student, the whole method, or both together.
pub(super) fn better_row(
    validator: &Validator<'_>,
    detector: &Detector,
    on_event: OnEvent<'_>,
) -> Result<Method> {
    let mut best = (Method::Student, None);
    let mut told = Vec::new();
    let methods = [Method::Student, Method::Fndm, Method::FndmStudent];
    let scores = validator.scores_of_whole_patients(detector, &methods)?;
    for (method, score) in methods.into_iter().zip(scores) {
        let words = score.map_or("none".into(), |score| format!("{score:.3}"));
        told.push(format!("{} {words}", method.title()));
        // None is less than any.
        if score > best.1 {
            best = (method, score);
        }
    }
    let (best, _) = best;
    on_event(TrainEvent::Note(format!(
        "validation: {}; patients are examined by {}",
        told.join(", "),
        best.title()
    )));
    Ok(best)
}
