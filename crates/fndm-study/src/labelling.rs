//! Where the bit of each slice comes from, and what came of it.

use std::path::PathBuf;

use fndm_data::labels::{Labels, SliceOrder, SlicesFrom, TableOptions};
use fndm_data::{Limits, Patient, PatientSlices, Preprocess};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Source};

/// Where the bit of each slice comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LabelSource {
    /// Lesion masks: a slice is diseased where its mask has a voxel. No more of the mask is used.
    #[default]
    Masks,
    /// A table, see [`Labels::read`]. Masks are not looked at.
    Table {
        /// The file.
        path: PathBuf,
        /// The number of a volume's first slice, where the table's header doesn't say it.
        slices_from: Option<SlicesFrom>,
        /// How the numbers count.
        order: SliceOrder,
    },
    /// The folder that a patient lies in: [`Source::Sides`]. Masks are not looked at.
    Sides,
    /// The calling program, with the slices: [`Source::Given`].
    Given,
}

/// Bits of one patient's slices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatientBits {
    /// The patient.
    pub patient: String,
    /// Slices with the label healthy.
    pub healthy: usize,
    /// Slices with the label diseased.
    pub diseased: usize,
    /// Slices of the volume that would be used, and of which nothing is known.
    pub unknown: usize,
}

/// Where the bits of a training came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelRecord {
    /// In words: the masks, the table, the folders.
    pub source: String,
    /// Patient by patient.
    pub patients: Vec<PatientBits>,
}

/// A source of bits that was read and fits the patients: see [`LabelSource::open`].
#[derive(Debug)]
pub struct Labelling(Kind);

#[derive(Debug)]
enum Kind {
    Masks,
    Table { path: PathBuf, labels: Labels },
    Sides,
}

impl LabelSource {
    /// The source in words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Masks => "lesion masks, of each slice whether it has a voxel".into(),
            Self::Table { path, .. } => format!("the table {}", path.display()),
            Self::Sides => "the folders of healthy and of diseased volumes".into(),
            Self::Given => "the calling program".into(),
        }
    }

    /// Reads the table, if it is one, and checks that all its patients are there.
    ///
    /// # Errors
    /// When the table can't be used, names a patient that isn't in the source's folder, or the source of bits doesn't fit the patients'.
    pub fn open(&self, source: &Source) -> Result<Labelling> {
        let fits = match source {
            Source::Sides { .. } => *self == Self::Sides,
            Source::Given { .. } => false,
            Source::Folder { .. } | Source::Files { .. } | Source::Phantom { .. } => {
                matches!(self, Self::Masks | Self::Table { .. })
            }
        };
        if !fits {
            return Err(Error::option(
                "labels",
                "masks or a table for patients of one folder, the folders' own for those of a healthy and a diseased one",
                self.words(),
            ));
        }
        Ok(Labelling(match self {
            Self::Masks => Kind::Masks,
            Self::Sides | Self::Given => Kind::Sides,
            Self::Table {
                path,
                slices_from,
                order,
            } => {
                let options = TableOptions {
                    slices_from: *slices_from,
                    order: *order,
                };
                let labels = Labels::read(path, &options, &Limits::default())?;
                labels
                    .check_patients(&source.known_ids()?)
                    .map_err(|source| table_error(path, source))?;
                Kind::Table {
                    path: path.clone(),
                    labels,
                }
            }
        }))
    }
}

fn table_error(path: &std::path::Path, source: fndm_data::labels::LabelProblem) -> Error {
    Error::Data(fndm_data::Error::LabelTable {
        path: path.to_path_buf(),
        source,
    })
}

impl Labelling {
    /// A patient of the source, with its mask only where the bits come from it.
    ///
    /// # Errors
    /// As [`Source::patient`].
    pub fn patient(&self, source: &Source, index: usize, sequences: &[String]) -> Result<Patient> {
        if matches!(self.0, Kind::Masks) {
            source.patient(index, sequences)
        } else {
            source.sequences(index, sequences)
        }
    }

    /// The slices of a patient whose bits are known, and how many there are of each kind.
    ///
    /// # Errors
    /// When the volume can't be cut, has no mask where bits come from masks, or lacks a slice that the table names.
    pub fn apply(
        &self,
        patient: &Patient,
        preprocess: &Preprocess,
    ) -> Result<(PatientSlices, PatientBits)> {
        self.label(preprocess.apply(patient)?)
    }

    /// As [`Labelling::apply`], of slices that are already cut.
    ///
    /// # Errors
    /// As [`Labelling::apply`], but for the cutting.
    pub fn label(&self, mut slices: PatientSlices) -> Result<(PatientSlices, PatientBits)> {
        let total = slices.len();
        slices.mask = None;
        let slices = match &self.0 {
            Kind::Masks => slices,
            Kind::Table { path, labels } => {
                slices.labelled(labels).map_err(|error| match error {
                    fndm_data::Error::Label { source } => table_error(path, source),
                    other => other.into(),
                })?
            }
            Kind::Sides => {
                let side = Source::side_of(&slices.id);
                let mut labels = Labels::default();
                labels
                    .set(&slices.id, None, side)
                    .map_err(fndm_data::Error::from)?;
                slices.labelled(&labels)?
            }
        };
        let Some(bits) = &slices.labels else {
            return Err(Error::Input {
                what: format!("patient {}", slices.id),
                expected:
                    "a lesion mask, from which the bit of each slice is taken, or a table of labels"
                        .into(),
                got: "none".into(),
            });
        };
        let diseased = bits.iter().filter(|&&bit| bit == 1).count();
        let bits = PatientBits {
            patient: slices.id.clone(),
            healthy: bits.len() - diseased,
            diseased,
            unknown: total - bits.len(),
        };
        Ok((slices, bits))
    }
}
