//! Where the files of a data set lie.
//!
//! A data set is a folder with one folder for each patient. Within it a file's role
//! is the end of its name: `<anything>_flair.nii.gz`, `<anything>-t2f.nii.gz`, or
//! `flair.nii.gz`. This covers BraTS 2018 to 2023 (also with the groups `HGG` and `LGG`), ISLES 2022
//! (BIDS, with `ses-*`, `anat`, `dwi` folders and masks under `derivatives`), and plain folders. For
//! anything else, write a [`Manifest`].

mod find;
mod manifest;
mod names;

use std::path::Path;

use crate::{Error, Limits, Patient, Result, nifti};

pub use find::{find_mask, find_sequence, list_patients, list_sequences};
pub use manifest::{Files, Manifest};
pub use names::{mask_names, sequence_names};

/// Reads the given sequences of a patient, in that order, and the mask if there is one.
///
/// `folder` is the patient's own folder; its name is the patient's id. The volumes are checked:
/// one grid, finite, not constant.
///
/// # Errors
/// [`Error::MissingSequence`],
/// [`Error::AmbiguousSequence`], every error of
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
    let folder = folder.as_ref();
    let files = Files::find(folder, sequences)?;
    files.read(limits)
}

/// Those of the patients that have a file for every sequence, and, for each of the others,
/// what is missing. For data sets in which some scans were not made: leave the others out, and say so.
///
/// Files are not opened. For copies of one sequence under two names see
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
        match Files::find(&root.as_ref().join(id), sequences) {
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
