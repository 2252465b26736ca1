//! Patients from a folder or from the phantom.

use std::path::{Path, PathBuf};

use fndm_data::phantom::PhantomConfig;
use fndm_data::{
    Limits, Patient, Side, Splits, find_identical_sequences, list_patients, read_patient_below,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where patients come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// The procedural phantom; each seed is a patient.
    Phantom {
        /// Anatomy, contrast, lesions.
        config: PhantomConfig,
        /// The first seed.
        first_seed: u64,
        /// How many patients.
        patients: u64,
    },
    /// A folder with one folder for each patient.
    Folder {
        /// The folder.
        path: PathBuf,
        /// The patients: their folders' paths below `path`.
        patients: Vec<String>,
    },
}

/// The sequences that the phantom has.
pub const PHANTOM_SEQUENCES: [&str; 4] = ["flair", "t1", "t1ce", "t2"];

impl Source {
    /// The patients of one side of a split file (`splits.json` in the folder unless another is named), or all.
    ///
    /// # Errors
    /// When the split can't be read, has a patient twice or without a folder, or the side is empty.
    pub fn folder(path: &Path, split: Option<Side>, split_file: Option<&Path>) -> Result<Self> {
        let patients = match split {
            None => list_patients(path)?.ids,
            Some(side) => {
                let default = path.join("splits.json");
                let splits = Splits::read(split_file.unwrap_or(&default), &Limits::default())?;
                splits.check_folders(path)?;
                splits.needed(side)?.to_vec()
            }
        };
        Ok(Self::Folder {
            path: path.to_path_buf(),
            patients,
        })
    }

    /// Names of the patients.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        match self {
            Self::Phantom {
                first_seed,
                patients,
                ..
            } => (*first_seed..first_seed.saturating_add(*patients))
                .map(|seed| format!("phantom_{seed:05}"))
                .collect(),
            Self::Folder { patients, .. } => patients.clone(),
        }
    }

    /// Reads or makes patient number `index`, with the sequences in this order.
    ///
    /// # Errors
    /// When a file is missing or broken, or the patient can't be used: the error names it.
    pub fn patient(&self, index: usize, sequences: &[String]) -> Result<Patient> {
        let ids = self.ids();
        let Some(id) = ids.get(index) else {
            return Err(Error::option(
                "patient index",
                format!("below {}", ids.len()),
                index,
            ));
        };
        match self {
            Self::Phantom {
                config, first_seed, ..
            } => {
                let mut patient = config.patient(first_seed + index as u64)?;
                patient.id.clone_from(id);
                patient.sequences = sequences
                    .iter()
                    .map(|name| match patient.sequence(name) {
                        Some(volume) => Ok((name.clone(), volume.clone())),
                        None => Err(Error::option(
                            "sequence",
                            PHANTOM_SEQUENCES.join(", "),
                            name,
                        )),
                    })
                    .collect::<Result<_>>()?;
                Ok(patient)
            }
            Self::Folder { path, .. } => {
                Ok(read_patient_below(path, id, sequences, &Limits::default())?)
            }
        }
    }
}

/// Why a patient isn't fit for a model of several sequences: some of them are copies of each other.
///
/// Data sets fill in sequences that were never acquired; a network must not learn that.
#[must_use]
pub fn copies(patient: &Patient) -> Option<String> {
    let pairs = find_identical_sequences(patient);
    if pairs.is_empty() {
        return None;
    }
    let pairs: Vec<String> = pairs.iter().map(|(a, b)| format!("{a} = {b}")).collect();
    Some(format!(
        "sequences are copies of each other ({})",
        pairs.join(", ")
    ))
}
