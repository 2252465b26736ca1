//! A list of files, for data that lies in no known layout.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Limits, Result, text};

/// The files of one patient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Name of the patient.
    pub id: String,
    /// Sequence name and file, in the order asked for.
    pub sequences: Vec<(String, PathBuf)>,
    /// File of the lesion mask.
    pub mask: Option<PathBuf>,
}

/// A JSON file that names every file of a data set:
///
/// ```
/// # use fndm_data::layout::Manifest;
/// # let text = r#"
/// {"patients": [
///   {"id": "p1", "sequences": {"flair": "a/one.nii.gz", "t1": "a/two.nii"}, "mask": "a/three.nii.gz"},
///   {"id": "p2", "sequences": {"flair": "b/one.nii.gz"}}
/// ]}
/// # "#;
/// # let folder = tempfile::tempdir().unwrap();
/// # std::fs::write(folder.path().join("m.json"), text).unwrap();
/// # let manifest = Manifest::read(folder.path().join("m.json"), &Default::default())?;
/// # assert_eq!(manifest.ids(), ["p1", "p2"]);
/// # Ok::<(), fndm_data::Error>(())
/// ```
///
/// Paths are relative to the manifest's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    folder: PathBuf,
    path: PathBuf,
    patients: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    patients: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    sequences: std::collections::BTreeMap<String, PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mask: Option<PathBuf>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Limit`], [`Error::Json`], [`Error::Text`] (also for a patient listed twice),
    /// [`Error::NoPatients`].
    pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let path = path.as_ref();
        let document: Document = text::read_json(path, limits)?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        if document.patients.is_empty() {
            let reason = "the list of the manifest is empty".into();
            return Err(Error::NoPatients { folder, reason });
        }
        let mut seen = std::collections::BTreeSet::new();
        for entry in &document.patients {
            if !seen.insert(&entry.id) {
                let reason = format!("patient {} is listed twice", entry.id);
                return Err(text::problem(path, reason));
            }
            // Results are written under the id.
            if !super::is_inside(&entry.id) {
                let reason = format!(
                    "patient id \"{}\": expected a path without . and ..",
                    entry.id
                );
                return Err(text::problem(path, reason));
            }
        }
        Ok(Self {
            folder,
            path: path.to_path_buf(),
            patients: document.patients,
        })
    }

    /// Names of the patients, in the order of the file.
    #[must_use]
    pub fn ids(&self) -> Vec<&str> {
        self.patients.iter().map(|p| p.id.as_str()).collect()
    }

    /// The files of one patient, sequences in the order asked for.
    ///
    /// # Errors
    /// [`Error::Text`] for a patient that is not listed; [`Error::MissingSequence`];
    /// [`Error::InvalidConfig`] when no sequence is asked for or one is asked for twice.
    pub fn files<S: AsRef<str>>(&self, id: &str, sequences: &[S]) -> Result<Files> {
        super::names::check_sequences(sequences)?;
        let Some(entry) = self.patients.iter().find(|p| p.id == id) else {
            let reason = format!("patient {id} is not listed");
            return Err(text::problem(&self.path, reason));
        };
        let mut found = Vec::with_capacity(sequences.len());
        for name in sequences.iter().map(AsRef::as_ref) {
            let Some(file) = entry.sequences.get(name) else {
                return Err(Error::MissingSequence {
                    patient: id.to_string(),
                    sequence: name.to_string(),
                    folder: self.path.clone(),
                    expected: vec![format!("a key \"{name}\" under \"sequences\"")],
                });
            };
            found.push((name.to_string(), self.folder.join(file)));
        }
        Ok(Files {
            id: id.to_string(),
            sequences: found,
            mask: entry.mask.as_ref().map(|file| self.folder.join(file)),
        })
    }
}
