//! Finding patients and files in folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::manifest::Files;
use super::names::{common_name, mask_names, sequence_names};
use crate::{Error, Limits, Result};

/// Folders deeper than this below a patient's folder are not searched.
const DEPTH: usize = 3;
/// Most files that are looked at in one patient's folder.
const FILES: usize = 10_000;

/// Patients of a data set: its sub-folders that hold a NIfTI file, sorted. Joined with `folder`,
/// each is the patient's own folder. Hidden folders and `derivatives` are passed over.
///
/// A sub-folder may also be a group of patients, as `HGG` and `LGG` are in BraTS 2018 and 2019: its
/// patients are given as `HGG/<id>`. It is taken for a group when it has no NIfTI file of its own,
/// and every folder in it has at least two whose names begin with that folder's name.
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
        let files = files_below(&path)?;
        match members(&path, &files) {
            Some(members) => patients.extend(members.iter().map(|id| format!("{name}/{id}"))),
            None if !files.is_empty() => patients.push(name.to_string()),
            None => {}
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

/// The sequences that a patient's folder holds, by the ends of the names of its files, sorted. Those
/// that are known under several names have the one that [`find_sequence`] takes as the first: `flair`
/// for `t2f`. The mask is left out.
///
/// # Errors
/// [`Error::Io`], [`Error::Limit`].
pub fn list_sequences(folder: impl AsRef<Path>) -> Result<Vec<String>> {
    let folder = folder.as_ref();
    let id = id_of(folder).to_ascii_lowercase();
    let masks = mask_names();
    let mut found = std::collections::BTreeSet::new();
    for file in files_below(folder)? {
        let stem = stem(&file);
        let rest = stem.strip_prefix(&id).unwrap_or(&stem);
        let end = rest.rsplit('_').next().unwrap_or(rest);
        let name = common_name(end.trim_start_matches(['-', '.']));
        if !name.is_empty() && !masks.iter().any(|mask| mask == name) {
            found.insert(name.to_string());
        }
    }
    Ok(found.into_iter().collect())
}

/// The file of the lesion mask, if there is one: in the patient's folder, or in
/// `derivatives/<id>` beside it (BIDS), or beside the `rawdata` that it lies in.
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
    let Some(mut root) = folder.parent() else {
        return Ok(None);
    };
    if let (true, Some(above)) = (root.ends_with("rawdata"), root.parent()) {
        root = above;
    }
    let beside = root.join("derivatives").join(&id);
    if !beside.is_dir() {
        return Ok(None);
    }
    choose(&id, "mask", &names, &files_below(&beside)?)
}

/// The patients of a folder that is a group of them; `None` for one that is a patient's.
fn members(folder: &Path, files: &[PathBuf]) -> Option<Vec<String>> {
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        let inner = file.parent()?;
        if inner.parent() != Some(folder) {
            return None;
        }
        let (id, name) = (inner.file_name()?.to_str()?, file.file_name()?.to_str()?);
        let after = name.strip_prefix(id)?;
        if !after.starts_with(['_', '-']) {
            return None;
        }
        *named.entry(id.to_string()).or_default() += 1;
    }
    let group = !named.is_empty() && named.values().all(|&files| files >= 2);
    group.then(|| named.into_keys().collect())
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
            let error = std::io::Error::new(kind, "the patient's folder does not exist");
            return Err(Error::io(folder)(error));
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
