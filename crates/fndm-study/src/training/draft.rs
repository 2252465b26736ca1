//! The model folder.

use std::collections::BTreeMap;

use candle_core::Tensor;
use fndm::model_folder::{self, weight_bytes};
use fndm::{Method, ModelConfig, StudentConfig};
use fndm_data::profile::DataStatistics;

use super::record::{TrainingRecord, record_json};
use super::told::{Told, told};
use crate::student::StudentPlan;
use crate::{Result, TrainPlan, TrainingPlace};

/// The model so far. Its files stay in memory: an older model in the folder is replaced at one moment, by a whole one.
pub(super) struct Draft<'a> {
    plan: &'a TrainPlan,
    place: TrainingPlace<'a>,
    files: BTreeMap<String, Vec<u8>>,
    pub(super) record: TrainingRecord,
    /// The student, and the row by which the model examines patients then.
    pub(super) student: Option<(StudentConfig, Method)>,
    /// What the patients are like, where they were measured.
    statistics: Option<DataStatistics>,
}

impl<'a> Draft<'a> {
    /// A model that has no files yet.
    pub(super) fn new(
        plan: &'a TrainPlan,
        place: TrainingPlace<'a>,
        record: TrainingRecord,
        statistics: Option<DataStatistics>,
    ) -> Self {
        Self {
            plan,
            place,
            files: BTreeMap::new(),
            record,
            student: None,
            statistics,
        }
    }

    pub(super) fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.insert(name.to_owned(), bytes);
    }

    pub(super) fn add_weights(
        &mut self,
        name: &str,
        weights: &BTreeMap<String, Tensor>,
    ) -> Result<()> {
        self.add(name, weight_bytes(weights)?);
        Ok(())
    }

    /// Puts the model into the folder, with its record.
    pub(super) fn write(&mut self) -> Result<()> {
        let rows: Vec<Method> = self.record.separate.keys().copied().collect();
        let mut config = self.plan.model_config(&rows);
        if let (Some((student, method)), Some(plan)) = (&self.student, &self.plan.student) {
            config.detect.clone_from(&self.plan.detect);
            with_student(&mut config, student.clone(), plan, *method);
        }
        let json = record_json(self.place.folder, &self.record)?;
        self.add(model_folder::TRAINING, json);
        for (name, bytes) in told(
            &mut config,
            self.statistics.as_ref(),
            &Told::of(&self.record),
        )? {
            self.files.insert(name, bytes);
        }
        Ok(model_folder::replace(
            self.place.folder,
            &config,
            &self.files,
        )?)
    }
}

/// The settings of its row are written down: a default that changes one day changes no published model.
pub(super) fn with_student(
    config: &mut ModelConfig,
    student: StudentConfig,
    plan: &StudentPlan,
    method: Method,
) {
    (config.student, config.method) = (Some(student), method);
    let row = config.detect.entry(Method::Student);
    row.or_insert_with(|| plan.detect_config());
}
