//! What made a patient's results: by this a later run tells whether they are what it would make.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use fndm_files::read_json;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fingerprint::Contents;

/// The record's name in a patient's folder.
pub(crate) const FILE: &str = "record.json";

/// Version of the record's format.
const FORMAT: u32 = 1;

/// What is the same for all patients of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct How {
    /// `detect` or `evaluate`.
    pub(crate) program: String,
    pub(crate) fndm_version: String,
    /// Hash of all that inference reads of the model.
    pub(crate) model: String,
    /// Every setting that the results follow from.
    pub(crate) settings: Value,
}

impl How {
    pub(crate) fn new(program: &str, model: String, settings: &impl Serialize) -> Result<Self> {
        Ok(Self {
            program: program.to_owned(),
            fndm_version: env!("CARGO_PKG_VERSION").to_owned(),
            model,
            settings: serde_json::to_value(settings)?,
        })
    }
}

/// The record of one patient. It has no times, so that two runs of one input write the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record<F> {
    format: u32,
    /// The patient's id.
    pub(crate) patient: String,
    #[serde(flatten)]
    pub(crate) how: How,
    /// The files that were read, by sequence.
    pub(crate) input: BTreeMap<String, Contents>,
    /// What came out, for tables over all patients.
    pub(crate) figures: F,
}

impl<F> Record<F> {
    pub(crate) fn new(
        patient: &str,
        how: &How,
        input: BTreeMap<String, Contents>,
        figures: F,
    ) -> Self {
        Self {
            format: FORMAT,
            patient: patient.to_owned(),
            how: how.clone(),
            input,
            figures,
        }
    }
}

impl<F: for<'a> Deserialize<'a>> Record<F> {
    /// The record in a patient's folder; none where there is none that is understood.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        let record: Self = read_json(folder.join(FILE), "record of a patient").ok()?;
        (record.format == FORMAT).then_some(record)
    }
}

/// Whether the record in a folder is of this patient, made this way from this input.
pub(crate) fn is_of(
    folder: &Path,
    patient: &str,
    how: &How,
    input: &BTreeMap<String, Contents>,
) -> bool {
    let record = Record::<Value>::read(folder);
    record.is_some_and(|record| {
        record.patient == patient && record.how == *how && record.input == *input
    })
}
