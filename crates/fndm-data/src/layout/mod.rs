//! Where the files of a data set lie.
//!
//! A data set is a folder with one folder for each patient. A patient's id is the path of that folder below
//! the data set's: `p01`, `HGG/Brats_001`. Within it a sequence's file is told by the end of its name:
//! `<anything>_flair.nii.gz`, `<anything>-t2f.nii.gz`, or `flair.nii.gz`. The lesion mask has one of
//! the names of [`mask_names`]. This covers BraTS 2018 to 2023 (also with the groups `HGG` and `LGG`), ISLES 2022
//! (BIDS, with `ses-*`, `anat`, `dwi` folders and masks under `derivatives`), and plain folders. For
//! anything else, write a [`Manifest`].

mod find;
mod list;
mod manifest;
mod masks;
mod names;
mod place;
mod walk;

use std::path::Path;

use crate::{Error, Limits, Patient, Result, nifti};

pub use find::{find_mask, find_sequence, list_sequences};
pub use list::{PatientList, list_patients};
pub use manifest::{Files, Manifest};
pub(crate) use masks::is_lesion_mask_name;
pub use masks::mask_names;
pub(crate) use names::common_name;
pub use names::sequence_names;
pub(crate) use place::is_inside;
pub use walk::{LeftOut, MARKER, is_own_output};

/// Reads the given sequences of a patient, in that order, and the lesion mask if there is one.
///
/// `folder` is the patient's own folder; its name as given is the patient's id: links are not resolved, dots
/// are kept. For a patient of a data set with groups, [`read_patient_below`] gives the whole id. The volumes
/// are checked: one grid, finite, not constant.
///
/// # Errors
/// [`Error::MissingSequence`], [`Error::AmbiguousSequence`], [`Error::SeveralPatients`],
/// [`Error::UnclearMask`], [`Error::OwnOutput`], [`Error::NotUtf8`], every error of
/// [`nifti::read`] and of [`Patient::check`].
///
/// ```no_run
/// use fndm_data::{Limits, read_patient};
/// let patient = read_patient("lgg128/TCGA_CS_4941_19960909", &["flair", "t1", "t1ce"], &Limits::default())?;
/// assert_eq!(patient.sequences.len(), 3);
/// # Ok::<(), fndm_data::Error>(())
/// ```
pub fn read_patient<S: AsRef<str>>(
    folder: impl AsRef<Path>,
    sequences: &[S],
    limits: &Limits,
) -> Result<Patient> {
    Files::find(folder.as_ref(), sequences)?.read(limits)
}

/// As [`read_patient`], for the patient `id` of a data folder, as [`list_patients`] gives it.
///
/// # Errors
/// As [`read_patient`]; [`Error::InvalidConfig`] for an id that is no path below the data folder.
pub fn read_patient_below<S: AsRef<str>>(
    root: impl AsRef<Path>,
    id: &str,
    sequences: &[S],
    limits: &Limits,
) -> Result<Patient> {
    Files::find_below(root.as_ref(), id, sequences)?.read(limits)
}

/// As [`read_patient`], without a lesion mask: none is looked for, so that a broken one does no harm.
///
/// # Errors
/// As [`read_patient`], but for the mask's.
pub fn read_sequences<S: AsRef<str>>(
    folder: impl AsRef<Path>,
    sequences: &[S],
    limits: &Limits,
) -> Result<Patient> {
    Files::find_sequences(folder.as_ref(), sequences)?.read(limits)
}

/// As [`read_patient_below`], without a lesion mask: none is looked for.
///
/// # Errors
/// As [`read_patient_below`], but for the mask's.
pub fn read_sequences_below<S: AsRef<str>>(
    root: impl AsRef<Path>,
    id: &str,
    sequences: &[S],
    limits: &Limits,
) -> Result<Patient> {
    Files::find_sequences_below(root.as_ref(), id, sequences)?.read(limits)
}

/// Those of the patients that have a file for every sequence, and, for each of the others,
/// what is missing. For data sets in which some scans were not made: leave the others out, and say so.
///
/// Files are not opened, and lesion masks not looked for. For copies of one sequence under two names see
/// [`find_identical_sequences`](crate::find_identical_sequences).
///
/// # Errors
/// Errors other than [`Error::MissingSequence`]: see [`find_sequence`].
pub fn complete_patients<I: AsRef<str>, S: AsRef<str>>(
    root: impl AsRef<Path>,
    ids: &[I],
    sequences: &[S],
) -> Result<(Vec<String>, Vec<Error>)> {
    let (mut complete, mut left_out) = (Vec::new(), Vec::new());
    for id in ids.iter().map(AsRef::as_ref) {
        match Files::find_sequences_below(root.as_ref(), id, sequences) {
            Ok(_) => complete.push(id.to_string()),
            Err(error @ Error::MissingSequence { .. }) => left_out.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((complete, left_out))
}

impl Files {
    /// Reads the files and checks the volumes.
    ///
    /// # Errors
    /// Every error of [`nifti::read`] and of [`Patient::check`].
    pub fn read(&self, limits: &Limits) -> Result<Patient> {
        let mut sequences = Vec::with_capacity(self.sequences.len());
        for (name, path) in &self.sequences {
            sequences.push((name.clone(), nifti::read(path, limits)?));
        }
        let mask = match &self.mask {
            Some(path) => Some(nifti::read(path, limits)?),
            None => None,
        };
        let patient = Patient {
            id: self.id.clone(),
            sequences,
            mask,
        };
        patient.check()?;
        Ok(patient)
    }
}
