//! What a model folder says of its training.

use std::collections::BTreeMap;
use std::path::Path;

use fndm::Method;
use fndm::model_folder;
use serde::{Deserialize, Serialize};

use super::load::Loaded;
use super::validation::ValidationRecord;
use crate::student::StudentPlan;
use crate::{Error, LabelRecord, LeftOut, Result, TrainPlan};

/// A class of fewer slices than this teaches nothing.
const FEWEST_SLICES: usize = 2;

/// What came of one network's training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StageRecord {
    /// Optimiser steps.
    pub iterations: u64,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Mean loss of the last iterations (at most 200) of the last session; `None` where that had none.
    pub loss: Option<f64>,
}

/// What a student was trained on, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StudentRecord {
    /// The command line that made it.
    pub command: String,
    /// The plan.
    pub plan: StudentPlan,
    /// The patients: those that it learned from, and those held apart.
    pub patients: Vec<String>,
    /// Those that weren't used.
    pub left_out: Vec<LeftOut>,
    /// Where every bit came from.
    pub labels: LabelRecord,
    /// Wall time in seconds, of the last session.
    pub seconds: f64,
}

/// What a model was trained on, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainingRecord {
    /// The command line that made it.
    pub command: String,
    /// The plan.
    pub plan: TrainPlan,
    /// The patients that were used.
    pub patients: Vec<String>,
    /// Those that weren't.
    pub left_out: Vec<LeftOut>,
    /// How many of these couldn't be read.
    #[serde(default)]
    pub unreadable: usize,
    /// Where every bit came from, and how many of each kind each patient gives.
    #[serde(default)]
    pub labels: LabelRecord,
    /// Slices with the label healthy.
    pub healthy_slices: usize,
    /// Slices with the label diseased.
    pub diseased_slices: usize,
    /// The classifier's training.
    pub classifier: StageRecord,
    /// The diffusion model's training.
    pub diffusion: StageRecord,
    /// The trainings of the rows that have a network of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub separate: BTreeMap<Method, StageRecord>,
    /// The student's training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student: Option<StudentRecord>,
    /// Rows of the memory bank.
    pub memory_rows: usize,
    /// The state that was chosen, where the plan has a validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationRecord>,
}

impl TrainingRecord {
    /// Reads the record of a model folder: `training.json`, or `model.json` of a folder of format 1, which had it within.
    ///
    /// # Errors
    /// When there is none, or it isn't valid.
    pub fn read(folder: &Path) -> Result<Self> {
        match model_folder::file(folder, model_folder::TRAINING) {
            Ok(path) => return Ok(fndm_files::read_json(&path, "record of a training")?),
            Err(fndm::Error::MissingModelFile { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let path = folder.join(model_folder::CONFIG);
        let mut value: serde_json::Value = fndm_files::read_json(&path, "model config")?;
        let record = value.get_mut("training").map(serde_json::Value::take);
        serde_json::from_value(record.unwrap_or_default())
            .map_err(|e| fndm_files::Error::json(&path, "record of a training")(e).into())
    }
    /// Of a training that begins.
    ///
    /// # Errors
    /// When there are too few slices of a kind to train on.
    pub(super) fn begin(plan: &TrainPlan, command: &str, loaded: &Loaded) -> Result<Self> {
        let labels = &loaded.set.labels;
        let diseased = labels.iter().filter(|&&l| l == 1).count();
        let healthy = labels.len() - diseased;
        if healthy < FEWEST_SLICES || diseased < FEWEST_SLICES {
            return Err(Error::Input {
                what: format!("slices for training, by {}", loaded.labels.source),
                expected: format!(
                    "at least {FEWEST_SLICES} healthy and {FEWEST_SLICES} diseased ones"
                ),
                got: format!("{healthy} healthy, {diseased} diseased"),
            });
        }
        Ok(Self {
            command: command.to_owned(),
            plan: plan.clone(),
            patients: loaded.set.ids.clone(),
            left_out: loaded.left_out.clone(),
            unreadable: loaded.unreadable,
            labels: loaded.labels.clone(),
            healthy_slices: healthy,
            diseased_slices: diseased,
            classifier: StageRecord::default(),
            diffusion: StageRecord::default(),
            separate: BTreeMap::new(),
            student: None,
            memory_rows: 0,
            validation: None,
        })
    }
}

/// A record as the bytes of its file in `folder`.
pub(super) fn record_json(folder: &Path, record: &impl Serialize) -> Result<Vec<u8>> {
    let path = folder.join(model_folder::TRAINING);
    serde_json::to_vec_pretty(record)
        .map_err(|e| fndm_files::Error::json(&path, "record of a training")(e).into())
}
