//! The files of a folder, and the series that they make.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::image::Image;
use super::series::{Series, mixed};
use crate::{Error, Limits, Result, Volume};

/// Most files of a folder that are looked at.
const FILES: usize = 20_000;
/// Most folders within each other.
const DEPTH: usize = 16;

/// What a folder holds: the series, and the files that are of none.
#[derive(Debug)]
#[non_exhaustive]
pub struct Study {
    /// The series, in the order of their numbers.
    pub series: Vec<Series>,
    /// DICOM files that give no slice, in the order of their paths.
    pub unusable: Vec<Unusable>,
}

/// A file that gives no slice.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unusable {
    /// The file; a folder where that could not be looked into.
    pub path: PathBuf,
    /// Its `SeriesInstanceUID`, where that could be read.
    pub series: Option<String>,
    /// Why. It tells the path as well.
    pub reason: Error,
    /// Whether the file could be a slice: it is cut short, or a number in it cannot be read, or its transfer
    /// syntax is not supported. `false` for objects of another kind, as screenshots, colour images and
    /// reports are.
    pub damaged: bool,
}

/// Looks at all DICOM files of a folder and of the folders in it. One that cannot be used is listed with the
/// reason, and stops no other; a series that has such a file says so when it is read. Files that are not
/// DICOM, and the index of a disc (DICOMDIR), are passed over.
///
/// # Errors
/// [`Error::Io`] where the folder itself cannot be read; [`Error::Limit`] on the number of files.
pub fn read_study(folder: impl AsRef<Path>, limits: &Limits) -> Result<Study> {
    let folder = folder.as_ref();
    let (paths, mut unusable) = files(folder)?;
    let mut found: BTreeMap<String, Vec<Image>> = BTreeMap::new();
    for path in paths {
        match Image::open(&path, limits) {
            Ok(Some(image)) => found.entry(image.series.clone()).or_default().push(image),
            Ok(None) => {}
            Err(refused) => unusable.push(Unusable {
                path,
                series: refused.series,
                reason: refused.error,
                damaged: refused.damaged,
            }),
        }
    }
    for file in &unusable {
        // Objects of another kind are nothing to worry about.
        match file.damaged {
            true => tracing::warn!(reason = %file.reason, "DICOM file left out"),
            false => tracing::debug!(reason = %file.reason, "DICOM file passed over"),
        }
    }
    unusable.sort_by(|a, b| a.path.cmp(&b.path));
    let series = |(uid, images): (String, Vec<Image>)| {
        let own = |u: &&Unusable| u.damaged && u.series.as_ref() == Some(&uid);
        let broken = unusable.iter().filter(own).map(|u| u.path.clone());
        Series::new(folder, images, broken.collect())
    };
    let mut series: Vec<Series> = found.into_iter().map(series).collect();
    // Where two have one number, their UIDs tell the order.
    series.sort_by_key(Series::number);
    tracing::debug!(folder = %folder.display(), series = series.len(), "DICOM folder read");
    Ok(Study { series, unusable })
}

/// The series of a folder and of the folders in it, in the order of their numbers. Objects of another kind
/// than slices of MR, CT or PET are passed over; [`read_study`] tells which those are.
///
/// # Errors
/// As [`read_study`]; and the first file's that could be a slice and cannot be used: [`Error::Dicom`],
/// [`Error::InvalidHeader`], [`Error::Truncated`], [`Error::Unsupported`], [`Error::Limit`].
pub fn list_series(folder: impl AsRef<Path>, limits: &Limits) -> Result<Vec<Series>> {
    let study = read_study(folder, limits)?;
    match study.unusable.into_iter().find(|u| u.damaged) {
        Some(file) => Err(file.reason),
        None => Ok(study.series),
    }
}

/// Reads a folder that holds one series. Objects of another kind are passed over, as by [`list_series`].
///
/// # Errors
/// [`Error::MixedSeries`] when it holds none or several; as [`list_series`] and [`Series::read`].
pub fn read_series(folder: impl AsRef<Path>, limits: &Limits) -> Result<Volume> {
    let folder = folder.as_ref();
    let mut study = read_study(folder, limits)?;
    if let Some(place) = study.unusable.iter().position(|u| u.damaged) {
        return Err(study.unusable.swap_remove(place).reason);
    }
    match study.series.as_slice() {
        [one] => one.read(limits),
        [] => match study.unusable.len() {
            0 => Err(mixed(folder, "no DICOM image is in it".into())),
            1 => Err(study.unusable.swap_remove(0).reason),
            count => Err(mixed(
                folder,
                format!(
                    "none of the {count} DICOM files in it is a slice; the first: {}",
                    study.unusable[0].reason
                ),
            )),
        },
        several => {
            let names = several.iter().map(Series::name);
            let names: Vec<String> = names.collect();
            let reason = format!("{} series are in it: {}", names.len(), names.join(", "));
            Err(mixed(folder, reason))
        }
    }
}

/// The files of a folder and of the folders in it, sorted; and the folders that cannot be read.
///
/// A folder that two links lead to is looked into once.
fn files(root: &Path) -> Result<(Vec<PathBuf>, Vec<Unusable>)> {
    let (mut found, mut unusable) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut folders = vec![(root.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        match entries(&folder, &mut seen) {
            Ok(paths) => {
                for path in paths {
                    if path.is_dir() {
                        folders.push((path, depth + 1));
                    } else if path.is_file() {
                        found.push(path);
                    }
                }
            }
            Err(error) if depth == 0 => return Err(error),
            Err(reason) => unusable.push(Unusable {
                path: folder.clone(),
                series: None,
                reason,
                damaged: true,
            }),
        }
        for (what, limit, got) in [
            ("number of files", FILES, found.len() + folders.len()),
            ("depth of folders", DEPTH, depth),
        ] {
            if got > limit {
                return Err(Error::Limit {
                    path: folder,
                    what,
                    limit: limit as u64,
                    got: got as u64,
                });
            }
        }
    }
    found.sort();
    Ok((found, unusable))
}

fn entries(folder: &Path, seen: &mut HashSet<PathBuf>) -> Result<Vec<PathBuf>> {
    if !seen.insert(folder.canonicalize().map_err(Error::io(folder))?) {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let paths = entries.map(|entry| Ok(entry.map_err(Error::io(folder))?.path()));
    // One more than are allowed tells that there are too many.
    paths.take(FILES + 1).collect()
}
