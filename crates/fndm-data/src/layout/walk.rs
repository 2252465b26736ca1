//! The NIfTI files below a folder, without what these programs wrote.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Folders deeper than this below a patient's folder are not searched.
const DEPTH: usize = 3;
/// Most files that are looked at in one patient's folder.
const FILES: usize = 10_000;

/// File that the programs write into every folder of results. A folder that holds one is never taken for
/// data: a result must not be compared with itself, nor be trained on.
pub const MARKER: &str = ".fndm.json";

/// Whether a folder bears the [`MARKER`] of results.
#[must_use]
pub fn is_own_output(folder: impl AsRef<Path>) -> bool {
    folder.as_ref().join(MARKER).is_file()
}

/// A folder that was passed over, and why.
#[derive(Debug)]
pub struct LeftOut {
    /// The folder.
    pub path: PathBuf,
    /// Why. The error names the folder as well.
    pub reason: Error,
}

/// What lies below a folder.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// NIfTI files, sorted.
    pub(super) files: Vec<PathBuf>,
    /// Folders that can't be read.
    pub(super) left_out: Vec<LeftOut>,
}

/// The NIfTI files of a patient's folder. Every folder of it must be readable: the file that is
/// asked for may lie there.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    if is_own_output(folder) {
        return Err(Error::OwnOutput {
            folder: folder.to_path_buf(),
        });
    }
    let found = walk(folder, DEPTH)?;
    match found.left_out.into_iter().next() {
        Some(unreadable) => Err(unreadable.reason),
        None => Ok(found.files),
    }
}

/// The NIfTI files of a folder that lies in another, as far as its folders can be read.
pub(super) fn readable_files_below(folder: &Path) -> Result<Found> {
    walk(folder, DEPTH - 1)
}

fn walk(folder: &Path, depth: usize) -> Result<Found> {
    let mut found = Found::default();
    if let Err(reason) = collect(folder, depth, &mut found) {
        if matches!(reason, Error::Limit { .. }) {
            return Err(reason);
        }
        found.left_out.push(LeftOut {
            path: folder.to_path_buf(),
            reason,
        });
    }
    found.files.sort();
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Found) -> Result<()> {
    let entries = entries(folder)?;
    found.files.extend(data_files(&entries).cloned());
    for path in &entries {
        if path.is_dir() {
            if depth == 0 || is_hidden(path) || is_own_output(path) || is_loop(path) {
                continue;
            }
            match collect(path, depth - 1, found) {
                Err(reason @ Error::Io { .. }) => found.left_out.push(LeftOut {
                    path: path.clone(),
                    reason,
                }),
                other => other?,
            }
        }
        if found.files.len() > FILES {
            return Err(Error::Limit {
                path: folder.to_path_buf(),
                what: "number of files of one patient",
                limit: FILES as u64,
                got: found.files.len() as u64,
            });
        }
    }
    Ok(())
}

/// The NIfTI files among a folder's entries, but for results.
pub(super) fn data_files(entries: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    let stems: BTreeSet<String> = entries.iter().map(|path| stem(path)).collect();
    let is_data =
        move |path: &&PathBuf| is_nifti(path) && !path.is_dir() && !is_result(&stem(path), &stems);
    entries.iter().filter(is_data)
}

/// Whether a file is a result of older programs, which wrote no marker: `<id>_mask` and `<id>_anomaly`
/// beside each other or beside `<id>_report.json`.
fn is_result(stem: &str, stems: &BTreeSet<String>) -> bool {
    [("_mask", "_anomaly"), ("_anomaly", "_mask")]
        .iter()
        .filter_map(|(own, other)| Some((stem.strip_suffix(own)?, other)))
        .any(|(id, other)| {
            stems.contains(&format!("{id}{other}")) || stems.contains(&format!("{id}_report.json"))
        })
}

/// Whether a folder is a link to one that it lies in, by its path or where the links of the path lead: there is
/// nothing new in it.
pub(super) fn is_loop(folder: &Path) -> bool {
    if !folder.is_symlink() {
        return false;
    }
    let Ok(target) = folder.canonicalize() else {
        return false;
    };
    let above = folder.ancestors().skip(1);
    above
        .filter_map(|path| path.canonicalize().ok())
        .any(|path| path.starts_with(&target))
}

pub(super) fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

/// File name in lower case, without `.nii`, `.nii.gz`.
pub(super) fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.strip_suffix(".nii").unwrap_or(name).to_string()
}

fn is_nifti(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_lowercase();
    !name.starts_with('.') && (name.ends_with(".nii") || name.ends_with(".nii.gz"))
}

/// What a folder holds, sorted.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        out.push(entry.map_err(Error::io(folder))?.path());
    }
    out.sort();
    Ok(out)
}
