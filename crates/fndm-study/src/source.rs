//! Patients from a folder or from the phantom.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fndm_data::labels::Label;
use fndm_data::layout::Files;
use fndm_data::phantom::PhantomConfig;
use fndm_data::{
    Limits, Patient, Side, Splits, list_patients, read_patient_below, read_sequences_below,
};
use fndm_files::counted;
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
    /// Two folders, one of volumes that are wholly healthy and one of volumes that are diseased throughout.
    Sides {
        /// The healthy ones.
        healthy: PathBuf,
        /// The diseased ones.
        diseased: PathBuf,
        /// The patients: `healthy/` or `diseased/` and the path of the patient's folder below that folder.
        patients: Vec<String>,
    },
    /// Patients whose files are named one by one, as those of a BIDS data set are. All have the same sequences.
    Files {
        /// The data set.
        path: PathBuf,
        /// The patients.
        patients: Vec<Files>,
    },
    /// Slices that the calling program gave: see [`train_slices`](crate::train_slices). There is nothing to read.
    Given {
        /// The patients.
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

    /// All patients of a healthy and of a diseased folder.
    ///
    /// # Errors
    /// When one of the folders can't be read, or has no patient; when a patient lies in both, be it through a link.
    pub fn sides(healthy: &Path, diseased: &Path) -> Result<Self> {
        let mut patients = Vec::new();
        let mut real: BTreeMap<PathBuf, String> = BTreeMap::new();
        for (label, folder) in [(Label::Healthy, healthy), (Label::Diseased, diseased)] {
            for id in list_patients(folder)?.ids {
                let place = folder.join(&id);
                let id = format!("{}/{id}", label.name());
                let place = place.canonicalize().map_err(Error::io(&place))?;
                let within =
                    |other: &PathBuf| other.starts_with(&place) || place.starts_with(other);
                if let Some((_, other)) = real.iter().find(|(other, _)| within(other)) {
                    return Err(Error::Input {
                        what: format!("patient {id}"),
                        expected: "a folder of its own: no volume is healthy and diseased".into(),
                        got: format!("that of {other}"),
                    });
                }
                real.insert(place, id.clone());
                patients.push(id);
            }
        }
        Ok(Self::Sides {
            healthy: healthy.to_path_buf(),
            diseased: diseased.to_path_buf(),
            patients,
        })
    }

    /// These patients without every so-manieth, and those: for a validation where no split is given. `None` when there are too few
    /// for both, and for the phantom, which has patients enough. Of healthy and diseased folders it is every so-manieth of each, and one
    /// of a folder that has fewer: either side takes both.
    #[must_use]
    pub fn held_apart(&self, one_in: usize) -> Option<(Self, Self)> {
        let pick = |sides: &[&[String]], wanted: bool| -> Option<Vec<String>> {
            let mut found = Vec::new();
            for ids in sides {
                let apart = |n: usize| {
                    let few = sides.len() > 1 && ids.len() < one_in;
                    n % one_in == one_in - 1 || few && n + 1 == ids.len()
                };
                let of = ids.iter().enumerate().filter(|&(n, _)| apart(n) == wanted);
                let before = found.len();
                found.extend(of.map(|(_, id)| id.clone()));
                if found.len() == before {
                    return None;
                }
            }
            Some(found)
        };
        let with = |patients: Vec<String>| match self {
            Self::Phantom { .. } => None,
            Self::Given { .. } => Some(Self::Given { patients }),
            Self::Files {
                path,
                patients: all,
            } => Some(Self::Files {
                path: path.clone(),
                patients: all
                    .iter()
                    .filter(|files| patients.contains(&files.id))
                    .cloned()
                    .collect(),
            }),
            Self::Folder { path, .. } => Some(Self::Folder {
                path: path.clone(),
                patients,
            }),
            Self::Sides {
                healthy, diseased, ..
            } => Some(Self::Sides {
                healthy: healthy.clone(),
                diseased: diseased.clone(),
                patients,
            }),
        };
        if one_in < 2 {
            return None;
        }
        let ids = self.ids();
        let sides = match self {
            Self::Sides { .. } => {
                let healthy = format!("{}/", Label::Healthy.name());
                let (healthy, diseased) =
                    ids.split_at(ids.partition_point(|id| id.starts_with(&healthy)));
                vec![healthy, diseased]
            }
            _ => vec![&*ids],
        };
        Some((with(pick(&sides, false)?)?, with(pick(&sides, true)?)?))
    }

    /// Who they are, in words; of a path the last name alone.
    #[must_use]
    pub fn words(&self) -> String {
        let last = |path: &Path| match path.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => "a folder".into(),
        };
        let count = self.ids().len();
        match self {
            Self::Phantom { first_seed, .. } => match count as u64 {
                0 => "no phantom".into(),
                count => format!(
                    "phantoms of seeds {first_seed} to {}",
                    first_seed + (count - 1)
                ),
            },
            Self::Folder { path, .. } | Self::Files { path, .. } => {
                format!("{} of {}", counted(count, "patient"), last(path))
            }
            Self::Sides {
                healthy, diseased, ..
            } => format!(
                "{} of {} and {}",
                counted(count, "patient"),
                last(healthy),
                last(diseased)
            ),
            Self::Given { .. } => format!(
                "slices of {}, given by a program",
                counted(count, "patient")
            ),
        }
    }

    /// What the folder of a patient of [`Source::Sides`] says of all its slices.
    pub(crate) fn side_of(id: &str) -> Label {
        match id.split_once('/') {
            Some((side, _)) if side == Label::Healthy.name() => Label::Healthy,
            Some((side, _)) if side == Label::Diseased.name() => Label::Diseased,
            _ => Label::Unknown,
        }
    }

    /// Every patient that a table of labels may speak of: those of a folder, whatever side of the split they are on.
    pub(crate) fn known_ids(&self) -> Result<Vec<String>> {
        let mut ids = self.ids();
        if let Self::Folder { path, .. } = self {
            ids.extend(list_patients(path)?.ids);
        }
        Ok(ids)
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
            Self::Folder { patients, .. }
            | Self::Sides { patients, .. }
            | Self::Given { patients } => patients.clone(),
            Self::Files { patients, .. } => patients.iter().map(|files| files.id.clone()).collect(),
        }
    }

    /// A patient that is one of `other`'s as well, as far as can be told without looking at the disk: of the same folder, or of the same phantom.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Option<String> {
        let one_place = match (self, other) {
            (Self::Phantom { config: a, .. }, Self::Phantom { config: b, .. }) => a == b,
            (Self::Folder { path: a, .. }, Self::Folder { path: b, .. })
            | (Self::Files { path: a, .. }, Self::Files { path: b, .. }) => a == b,
            (
                Self::Sides {
                    healthy: a,
                    diseased: b,
                    ..
                },
                Self::Sides {
                    healthy: c,
                    diseased: d,
                    ..
                },
            ) => (a, b) == (c, d),
            _ => false,
        };
        let others: BTreeSet<String> = match one_place {
            true => other.ids().into_iter().collect(),
            false => return None,
        };
        self.ids().into_iter().find(|id| others.contains(id))
    }

    /// Reads or makes patient number `index`, with the sequences in this order, and the lesion mask if there is one.
    ///
    /// # Errors
    /// When a file is missing or broken, or the patient can't be used: the error names it.
    pub fn patient(&self, index: usize, sequences: &[String]) -> Result<Patient> {
        self.read(index, sequences, true)
    }

    /// As [`Source::patient`], without a lesion mask: none is looked for, so that a broken one does no harm.
    ///
    /// # Errors
    /// As [`Source::patient`].
    pub fn sequences(&self, index: usize, sequences: &[String]) -> Result<Patient> {
        self.read(index, sequences, false)
    }

    fn read(&self, index: usize, sequences: &[String], mask: bool) -> Result<Patient> {
        let ids = self.ids();
        let Some(id) = ids.get(index) else {
            return Err(Error::option(
                "patient index",
                format!("below {}", ids.len()),
                index,
            ));
        };
        let below = |root: &Path, id: &str| {
            let limits = Limits::default();
            match mask {
                true => read_patient_below(root, id, sequences, &limits),
                false => read_sequences_below(root, id, sequences, &limits),
            }
        };
        match self {
            Self::Phantom {
                config, first_seed, ..
            } => {
                let mut patient = config.patient(first_seed + index as u64)?;
                patient.id.clone_from(id);
                if !mask {
                    patient.mask = None;
                }
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
            Self::Folder { path, .. } => Ok(below(path, id)?),
            Self::Files { patients, .. } => {
                let mut files = patients[index].clone();
                if !mask {
                    files.mask = None;
                }
                let found = files.sequences.iter().map(|(name, _)| name);
                if !found.eq(sequences) {
                    let names: Vec<&str> =
                        files.sequences.iter().map(|(n, _)| n.as_str()).collect();
                    return Err(Error::option(
                        "sequences",
                        names.join(", "),
                        sequences.join(", "),
                    ));
                }
                Ok(files.read(&Limits::default())?)
            }
            Self::Given { .. } => Err(Error::option(
                "patients",
                "a source that can be read",
                "slices that the calling program gave",
            )),
            Self::Sides {
                healthy, diseased, ..
            } => {
                let (root, below_side) = match (Self::side_of(id), id.split_once('/')) {
                    (Label::Healthy, Some((_, rest))) => (healthy, rest),
                    (Label::Diseased, Some((_, rest))) => (diseased, rest),
                    _ => {
                        let expected = "healthy/<id> or diseased/<id>";
                        return Err(Error::option("patients", expected, id));
                    }
                };
                let mut patient = below(root, below_side)?;
                // Patients of one name on two sides are two.
                patient.id.clone_from(id);
                Ok(patient)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_either_side_are_held_apart() {
        let sides = |healthy: usize, diseased: usize| {
            let healthy = (0..healthy).map(|i| format!("healthy/{i}"));
            let diseased = (0..diseased).map(|i| format!("diseased/{i}"));
            Source::Sides {
                healthy: "h".into(),
                diseased: "d".into(),
                patients: healthy.chain(diseased).collect(),
            }
        };
        let apart = |source: &Source| {
            let (kept, apart) = source.held_apart(4)?;
            assert_eq!(kept.ids().len() + apart.ids().len(), source.ids().len());
            Some(apart.ids())
        };
        let expected = ["healthy/3", "diseased/3", "diseased/7"];
        assert_eq!(apart(&sides(6, 9)).unwrap(), expected);
        // Each side has one at least, and keeps one.
        let expected = ["healthy/2", "diseased/1"];
        assert_eq!(apart(&sides(3, 2)).unwrap(), expected);
        assert_eq!(apart(&sides(1, 9)), None);
        let folder = |n: usize| Source::Folder {
            path: "data".into(),
            patients: (0..n).map(|i| i.to_string()).collect(),
        };
        assert_eq!(apart(&folder(9)).unwrap(), ["3", "7"]);
        assert_eq!(apart(&folder(3)), None);
    }
}
