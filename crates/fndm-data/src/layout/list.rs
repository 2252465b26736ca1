//! The patients of a data set.

use std::path::{Path, PathBuf};

use super::walk::{
    Found, LeftOut, data_files, entries, is_hidden, is_loop, is_own_output, readable_files_below,
};
use crate::{Error, Limits, Result};

/// The patients of a data set, and what is left out of it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct PatientList {
    /// Ids, sorted: the path of each patient's folder below the data folder, with `/` between the parts.
    pub ids: Vec<String>,
    /// Folders that may hold patients and were passed over. Tell the user of them.
    pub left_out: Vec<LeftOut>,
}

/// Patients of a data set: its sub-folders that hold a NIfTI file. Joined with `folder`, each id is the
/// patient's own folder. Hidden folders, `derivatives`, and folders with our own results
/// ([`MARKER`](super::MARKER)) are passed over.
///
/// A sub-folder may also be a group of patients, as `HGG` and `LGG` are in BraTS 2018 and 2019: its
/// patients are given as `HGG/<id>`. It is taken for a group when it has no NIfTI file of its own,
/// and most folders in it have at least two files each, all with names that begin with their folder's name.
///
/// A folder that can't be read, one whose name is not UTF-8, and a link to a folder that it lies in are
/// left out, with the reason; the others go on.
///
/// # Errors
/// [`Error::Io`] when the data folder itself can't be read; [`Error::OwnOutput`];
/// [`Error::NoPatients`] when there is none; [`Error::Limit`] when there are more than
/// [`Limits::default`] allows.
pub fn list_patients(folder: impl AsRef<Path>) -> Result<PatientList> {
    let folder = folder.as_ref();
    if is_own_output(folder) {
        return Err(Error::OwnOutput {
            folder: folder.to_path_buf(),
        });
    }
    let limit = Limits::default().patients;
    let mut list = PatientList::default();
    for path in entries(folder)? {
        if is_data_folder(&path) {
            list.add(&path)?;
        }
        if list.ids.len() > limit {
            return Err(Error::Limit {
                path: folder.to_path_buf(),
                what: "number of patients",
                limit: limit as u64,
                got: list.ids.len() as u64,
            });
        }
    }
    if list.ids.is_empty() {
        let mut reason =
            "expected sub-folders with .nii or .nii.gz files, one for each patient".to_string();
        for LeftOut { path, .. } in &list.left_out {
            reason = format!("{reason}; {} can't be used", path.display());
        }
        return Err(Error::NoPatients {
            folder: folder.to_path_buf(),
            reason,
        });
    }
    list.ids.sort();
    for LeftOut { reason, .. } in &list.left_out {
        tracing::warn!(%reason, "folder left out");
    }
    tracing::debug!(folder = %folder.display(), patients = list.ids.len(), "patients listed");
    Ok(list)
}

/// A folder in which patients are looked for.
fn is_data_folder(path: &Path) -> bool {
    let derivatives = path.file_name().is_some_and(|name| name == "derivatives");
    path.is_dir() && !derivatives && !is_hidden(path) && !is_own_output(path)
}

/// A folder in a sub-folder of a data set: a patient's, if the sub-folder is a group.
struct Member {
    path: PathBuf,
    found: Found,
}

impl Member {
    /// Whether it looks like a patient's folder: at least two files, named after it, and no folders with files.
    fn is_patient(&self) -> bool {
        let Some(own) = self.path.file_name() else {
            return false;
        };
        let own = own.as_encoded_bytes();
        let named = |file: &PathBuf| {
            let name = file.file_name().unwrap_or_default().as_encoded_bytes();
            let rest = name.strip_prefix(own);
            file.parent() == Some(&self.path)
                && rest.is_some_and(|rest| matches!(rest.first(), Some(b'_' | b'-')))
        };
        self.found.files.len() >= 2 && self.found.files.iter().all(named)
    }
}

impl PatientList {
    /// Adds a sub-folder of the data set: a patient, a group of them, or neither.
    fn add(&mut self, path: &Path) -> Result<()> {
        if is_loop(path) {
            self.leave_out(path, Error::LinkLoop { path: path.into() });
            return Ok(());
        }
        let inside = match entries(path) {
            Ok(inside) => inside,
            Err(reason) => {
                self.leave_out(path, reason);
                return Ok(());
            }
        };
        if data_files(&inside).next().is_some() {
            self.push(&[path]);
            return Ok(());
        }
        let mut members = Vec::new();
        for inner in inside {
            // A folder `derivatives` may hold files of a patient, but is none itself.
            if !inner.is_dir() || is_hidden(&inner) || is_own_output(&inner) || is_loop(&inner) {
                continue;
            }
            match readable_files_below(&inner) {
                Ok(mut found) => {
                    self.left_out.append(&mut found.left_out);
                    if !found.files.is_empty() {
                        members.push(Member { path: inner, found });
                    }
                }
                Err(reason) => self.leave_out(&inner, reason),
            }
        }
        let patients = members.iter().filter(|member| member.is_patient()).count();
        if 2 * patients > members.len() {
            for member in &members {
                self.push(&[path, &member.path]);
            }
        } else if !members.is_empty() {
            self.push(&[path]);
        }
        Ok(())
    }

    /// Adds a patient: the last parts of these paths are its id.
    fn push(&mut self, parts: &[&Path]) {
        let names: Option<Vec<&str>> = parts
            .iter()
            .map(|part| part.file_name().and_then(|name| name.to_str()))
            .collect();
        match (names, parts.last()) {
            (Some(names), _) => self.ids.push(names.join("/")),
            (None, Some(path)) => {
                let path = path.to_path_buf();
                self.leave_out(&path.clone(), Error::NotUtf8 { path });
            }
            (None, None) => {}
        }
    }

    fn leave_out(&mut self, path: &Path, reason: Error) {
        self.left_out.push(LeftOut {
            path: path.to_path_buf(),
            reason,
        });
    }
}
