//! Subjects and sessions of a folder, and the images of each.

use std::path::{Path, PathBuf};

use super::filter::Filter;
use super::mask::{is_bare_mask, is_lesion_mask};
use super::name::Name;
use super::sequence::{example, is_sequence};
use crate::layout::{LeftOut, is_own_output};
use crate::{Error, Limits, Result};

/// The folders of a session in which images are looked for.
const FOLDERS: [&str; 4] = ["anat", "dwi", "perf", "swi"];
/// Most images of one session.
const IMAGES: usize = 10_000;

/// A BIDS data set: raw or derived.
#[derive(Debug)]
#[non_exhaustive]
pub struct Tree {
    /// The folder.
    pub root: PathBuf,
    /// Sorted by subject and session.
    pub sessions: Vec<Session>,
    /// Subjects and sessions that can't be used, and why.
    pub left_out: Vec<LeftOut>,
    /// Whether there is a `dataset_description.json`, without which a folder is no BIDS data set by the letter.
    pub described: bool,
}

/// One session of a subject, or a subject without sessions.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Session {
    /// The label: `01` of `sub-01`.
    pub subject: String,
    /// The label: `pre` of `ses-pre`.
    pub session: Option<String>,
    /// Its folder.
    pub folder: PathBuf,
    /// The NIfTI files of its folders `anat`, `dwi`, `perf` and `swi` that have a name by BIDS, sorted.
    pub images: Vec<Image>,
}

/// An image file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// What its name says.
    pub name: Name,
}

impl Tree {
    /// Lists the subjects and sessions of a data set that the filters take. No image is opened.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder can't be read; [`Error::OwnOutput`]; [`Error::NoPatients`] when there is no `sub-<label>` folder
    /// with images that the filters take; [`Error::Limit`] for more sessions than `limits` allow.
    pub fn read(root: impl AsRef<Path>, filters: &[Filter], limits: &Limits) -> Result<Self> {
        let root = root.as_ref();
        if is_own_output(root) {
            return Err(Error::OwnOutput {
                folder: root.to_path_buf(),
            });
        }
        let mut tree = Self {
            root: root.to_path_buf(),
            sessions: Vec::new(),
            left_out: Vec::new(),
            described: root.join("dataset_description.json").is_file(),
        };
        let mut passed = 0;
        for (subject, folder) in labelled(root, "sub")? {
            if !takes(filters, "sub", Some(&subject)) {
                passed += 1;
                continue;
            }
            if let Err(reason) = tree.add_subject(&subject, &folder, filters, &mut passed) {
                let path = folder;
                tree.left_out.push(LeftOut { path, reason });
            }
            if tree.sessions.len() > limits.patients {
                return Err(Error::Limit {
                    path: root.to_path_buf(),
                    what: "number of sessions",
                    limit: limits.patients as u64,
                    got: tree.sessions.len() as u64,
                });
            }
        }
        if tree.sessions.is_empty() {
            let mut reason = "expected folders sub-<label>, or sub-<label>/ses-<label>, with NIfTI files in anat or dwi".to_owned();
            if passed > 0 {
                reason = format!("{reason}; the filters pass over {passed}");
            }
            for LeftOut { path, .. } in &tree.left_out {
                reason = format!("{reason}; {} can't be used", path.display());
            }
            return Err(Error::NoPatients {
                folder: root.to_path_buf(),
                reason,
            });
        }
        Ok(tree)
    }

    fn add_subject(
        &mut self,
        subject: &str,
        folder: &Path,
        filters: &[Filter],
        passed: &mut usize,
    ) -> Result<()> {
        let mut levels: Vec<(Option<String>, PathBuf)> = labelled(folder, "ses")?
            .into_iter()
            .map(|(label, path)| (Some(label), path))
            .collect();
        if levels.is_empty() {
            levels.push((None, folder.to_path_buf()));
        }
        for (session, folder) in levels {
            if !takes(filters, "ses", session.as_deref()) {
                *passed += 1;
                continue;
            }
            match Session::read(subject, session, &folder) {
                Ok(session) if session.images.is_empty() => {}
                Ok(session) => self.sessions.push(session),
                Err(reason) => self.left_out.push(LeftOut {
                    path: folder,
                    reason,
                }),
            }
        }
        Ok(())
    }
}

impl Session {
    fn read(subject: &str, session: Option<String>, folder: &Path) -> Result<Self> {
        let mut images = Vec::new();
        for inner in FOLDERS {
            let inner = folder.join(inner);
            if !inner.is_dir() {
                continue;
            }
            for path in entries(&inner)? {
                let name = path.file_name().and_then(|name| name.to_str());
                let Some(name) = name.and_then(Name::parse) else {
                    continue;
                };
                let own = name.get("sub") == Some(subject) && name.get("ses") == session.as_deref();
                if !own {
                    // Whose it is isn't known: neither the folder's nor the name's word is better.
                    let reason = format!(
                        "it lies in the folder {}, which is another subject's or session's",
                        folder.display()
                    );
                    return Err(Error::Text { path, reason });
                }
                images.push(Image { path, name });
            }
        }
        if images.len() > IMAGES {
            return Err(Error::Limit {
                path: folder.to_path_buf(),
                what: "number of images of one session",
                limit: IMAGES as u64,
                got: images.len() as u64,
            });
        }
        images.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self {
            subject: subject.into(),
            session,
            folder: folder.to_path_buf(),
            images,
        })
    }

    /// What the patient is called: `sub-01`, or `sub-01/ses-pre`. The path of its folder below the data set.
    #[must_use]
    pub fn id(&self) -> String {
        match &self.session {
            Some(session) => format!("sub-{}/ses-{session}", self.subject),
            None => format!("sub-{}", self.subject),
        }
    }

    /// What the names of its files begin with: `sub-01_ses-pre`.
    #[must_use]
    pub fn prefix(&self) -> String {
        self.id().replace('/', "_")
    }

    /// The image of each sequence, in that order.
    ///
    /// # Errors
    /// [`Error::MissingSequence`]; [`Error::AmbiguousImage`] where several images fit after the filters.
    pub fn choose<S: AsRef<str>>(
        &self,
        sequences: &[S],
        filters: &[Filter],
    ) -> Result<Vec<(String, &Image)>> {
        let sequences = sequences.iter().map(AsRef::as_ref);
        sequences
            .map(|sequence| Ok((sequence.to_owned(), self.image(sequence, filters)?)))
            .collect()
    }

    /// The mask of lesions, where there is one: `_label-lesion_mask`, `_label-L_mask`, `_desc-tumor_dseg` and their like, by `label`, `desc` or
    /// `seg`. Where the tree holds nothing but masks of lesions (`masks_alone`), as a derivative of manual masks does, `_mask` and `_dseg` will do.
    /// Filters choose as they do among images; `mask:desc=manual` is one for the mask alone.
    ///
    /// # Errors
    /// [`Error::AmbiguousImage`] where several fit after the filters.
    pub fn lesion_mask(&self, filters: &[Filter], masks_alone: bool) -> Result<Option<&Image>> {
        let images = self.images.iter();
        let mut fitting: Vec<&Image> = images.filter(|i| is_lesion_mask(&i.name)).collect();
        if fitting.is_empty() && masks_alone {
            let images = self.images.iter();
            fitting = images.filter(|i| is_bare_mask(&i.name)).collect();
        }
        for filter in filters {
            filter.narrow(Self::MASK, &mut fitting, |image| &image.name);
        }
        match fitting.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            [first, second, ..] => Err(self.ambiguous(Self::MASK, &fitting, first, second)),
        }
    }

    /// What a filter calls the mask of lesions.
    pub const MASK: &'static str = "mask";

    fn ambiguous(&self, what: &str, fitting: &[&Image], first: &Image, second: &Image) -> Error {
        Error::AmbiguousImage {
            patient: self.id(),
            sequence: what.into(),
            images: fitting.iter().map(|image| image.name.to_string()).collect(),
            filter: telling(what, &first.name, &second.name),
        }
    }

    fn image(&self, sequence: &str, filters: &[Filter]) -> Result<&Image> {
        let fitting = self.images.iter();
        let mut fitting: Vec<&Image> = fitting.filter(|i| is_sequence(&i.name, sequence)).collect();
        for filter in filters {
            filter.narrow(sequence, &mut fitting, |image| &image.name);
        }
        match fitting.as_slice() {
            [one] => Ok(one),
            [] => Err(Error::MissingSequence {
                patient: self.id(),
                sequence: sequence.into(),
                folder: self.folder.clone(),
                expected: vec![example(&self.prefix(), sequence)],
            }),
            [first, second, ..] => Err(self.ambiguous(sequence, &fitting, first, second)),
        }
    }
}

/// Whether all filters take a subject or session.
fn takes(filters: &[Filter], key: &str, value: Option<&str>) -> bool {
    filters.iter().all(|filter| filter.takes_level(key, value))
}

/// A filter that takes the first of two names and not the second.
fn telling(sequence: &str, first: &Name, second: &Name) -> String {
    let keys = first.entities.iter().chain(&second.entities);
    let mut keys = keys.map(|(key, _)| key.as_str());
    match keys.find(|key| first.get(key) != second.get(key)) {
        Some(key) => format!("{sequence}:{key}={}", first.get(key).unwrap_or_default()),
        None => format!("{sequence}:ENTITY=VALUE"),
    }
}

/// The folders of a kind: label and path, sorted.
fn labelled(folder: &Path, kind: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let label = name.and_then(|name| name.strip_prefix(kind)?.strip_prefix('-'));
        let Some(label) = label else {
            continue;
        };
        let plain = !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric());
        if plain && path.is_dir() && !is_own_output(&path) {
            found.push((label.to_owned(), path));
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let paths: std::io::Result<Vec<PathBuf>> = listed.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(Error::io(folder))?;
    paths.sort();
    Ok(paths)
}
