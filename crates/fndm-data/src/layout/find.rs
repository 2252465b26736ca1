//! Finding patients and files in folders.

use std::path::{Path, PathBuf};

use super::manifest::Files;
use super::names::{mask_names, sequence_names};
use crate::{Error, Limits, Result};

/// Folders deeper than this below a patient's folder are not searched.
const DEPTH: usize = 3;
/// Most files that are looked at in one patient's folder.
const FILES: usize = 10_000;

/// Names of the patients of a data set: its sub-folders that hold a NIfTI file, sorted.
/// Hidden folders and `derivatives` are passed over.
///
/// # Errors
/// [`Error::Io`]; [`Error::NoPatients`] when there is none; [`Error::Limit`] when there
/// are more than [`Limits::default`] allows.
pub fn list_patients(folder: impl AsRef<Path>) -> Result<Vec<String>> {
    let folder = folder.as_ref();
    let limit = Limits::default().patients;
    let mut patients = Vec::new();
    for path in entries(folder)? {
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        if name.starts_with('.') || name == "derivatives" || !path.is_dir() {
            continue;
        }
        if !files_below(&path)?.is_empty() {
            patients.push(name.to_string());
        }
        if patients.len() > limit {
            return Err(Error::Limit {
                path: folder.to_path_buf(),
                what: "number of patients",
                limit: limit as u64,
                got: patients.len() as u64,
            });
        }
    }
    if patients.is_empty() {
        return Err(Error::NoPatients {
            folder: folder.to_path_buf(),
            reason: "expected sub-folders with .nii or .nii.gz files, one for each patient".into(),
        });
    }
    patients.sort();
    Ok(patients)
}

/// The file of one sequence in a patient's folder.
///
/// # Errors
/// [`Error::MissingSequence`], [`Error::AmbiguousSequence`], [`Error::Io`].
pub fn find_sequence(folder: impl AsRef<Path>, sequence: &str) -> Result<PathBuf> {
    let folder = folder.as_ref();
    let id = id_of(folder);
    let names = sequence_names(sequence);
    let files = files_below(folder)?;
    choose(&id, sequence, &names, &files)?.ok_or_else(|| Error::MissingSequence {
        patient: id.clone(),
        sequence: sequence.to_string(),
        folder: folder.to_path_buf(),
        expected: names
            .iter()
            .map(|name| format!("{id}_{name}.nii.gz"))
            .collect(),
    })
}

/// The file of the lesion mask, if there is one: in the patient's folder, or in
/// `derivatives/<id>` beside it (BIDS).
///
/// # Errors
/// [`Error::AmbiguousSequence`], [`Error::Io`].
pub fn find_mask(folder: impl AsRef<Path>) -> Result<Option<PathBuf>> {
    let folder = folder.as_ref();
    let id = id_of(folder);
    let names = mask_names();
    let own = choose(&id, "mask", &names, &files_below(folder)?)?;
    if own.is_some() {
        return Ok(own);
    }
    let Some(beside) = folder.parent().map(|p| p.join("derivatives").join(&id)) else {
        return Ok(None);
    };
    if !beside.is_dir() {
        return Ok(None);
    }
    choose(&id, "mask", &names, &files_below(&beside)?)
}

impl Files {
    /// Finds the given sequences, and the mask if there is one, in a patient's folder.
    ///
    /// # Errors
    /// [`Error::MissingSequence`], [`Error::AmbiguousSequence`], [`Error::Io`];
    /// [`Error::InvalidConfig`] when no sequence is asked for or one is asked for twice.
    pub fn find<S: AsRef<str>>(folder: &Path, sequences: &[S]) -> Result<Self> {
        check_sequences(sequences)?;
        if !folder.is_dir() {
            let kind = std::io::ErrorKind::NotFound;
            let source = std::io::Error::new(kind, "the patient's folder does not exist");
            return Err(Error::io(folder)(source));
        }
        let mut found = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let name = sequence.as_ref();
            found.push((name.to_string(), find_sequence(folder, name)?));
        }
        Ok(Self {
            id: id_of(folder),
            sequences: found,
            mask: find_mask(folder)?,
        })
    }
}

/// At least one sequence, none twice.
pub(super) fn check_sequences<S: AsRef<str>>(sequences: &[S]) -> Result<()> {
    let names: Vec<&str> = sequences.iter().map(AsRef::as_ref).collect();
    let twice = (1..names.len()).find(|&n| names[..n].contains(&names[n]));
    match twice {
        _ if names.is_empty() => Err(Error::config("sequences", "at least one", "none")),
        Some(n) => Err(Error::config("sequences", "each named once", names[n])),
        None => Ok(()),
    }
}

/// The patient's id: the name of the folder, also when the path ends in `.`.
fn id_of(folder: &Path) -> String {
    let named = folder.file_name().map(|n| n.to_string_lossy().into_owned());
    named.unwrap_or_else(|| {
        let full = folder.canonicalize().unwrap_or_default();
        full.file_name().map_or_else(
            || "patient".to_string(),
            |n| n.to_string_lossy().into_owned(),
        )
    })
}

/// The file whose name ends in the first of `names` that any file's name ends in.
fn choose(
    id: &str,
    sequence: &str,
    names: &[String],
    files: &[PathBuf],
) -> Result<Option<PathBuf>> {
    for name in names {
        let mut fitting = files.iter().filter(|path| role_is(path, name));
        let Some(first) = fitting.next() else {
            continue;
        };
        // `<id>_<name>` itself is meant even where a longer name ends the same way.
        let exact = |path: &Path| stem(path) == format!("{id}_{name}").to_ascii_lowercase();
        let Some(second) = fitting.next() else {
            return Ok(Some(first.clone()));
        };
        let exact: Vec<&PathBuf> = files.iter().filter(|path| exact(path)).collect();
        return match exact.as_slice() {
            [one] => Ok(Some((*one).clone())),
            _ => Err(Error::AmbiguousSequence {
                patient: id.to_string(),
                sequence: sequence.to_string(),
                first: first.clone(),
                second: second.clone(),
            }),
        };
    }
    Ok(None)
}

/// File name in lower case, without `.nii`, `.nii.gz`.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.strip_suffix(".nii").unwrap_or(name).to_string()
}

/// Whether a file's name is `name` or ends in it after one of `_ - .`.
fn role_is(path: &Path, name: &str) -> bool {
    let stem = stem(path);
    match stem.strip_suffix(name) {
        Some("") => true,
        Some(before) => before.ends_with(['_', '-', '.']),
        None => false,
    }
}

fn is_nifti(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_lowercase();
    !name.starts_with('.') && (name.ends_with(".nii") || name.ends_with(".nii.gz"))
}

/// The NIfTI files below a folder, sorted.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(folder, DEPTH, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, files)?;
            }
        } else if is_nifti(&path) {
            files.push(path);
        }
        if files.len() > FILES {
            return Err(Error::Limit {
                path: folder.to_path_buf(),
                what: "number of files of one patient",
                limit: FILES as u64,
                got: files.len() as u64,
            });
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        out.push(entry.map_err(Error::io(folder))?.path());
    }
    Ok(out)
}
