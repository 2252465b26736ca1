//! Healthy or diseased, one bit for each slice.
//!
//! A mask gives labels by itself (see [`Preprocess::apply`](crate::Preprocess::apply)). Where there is
//! none, labels come from a table or from the folder that a patient lies in.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Error, Limits, PatientSlices, Result, list_patients, text};

/// Labels by patient and slice.
///
/// As a table (CSV), with a header line:
///
/// ```text
/// patient,slice,label
/// p01,17,1
/// p01,18,0
/// p02,,0
/// ```
///
/// `slice` counts from 0 at the volume's lower end (see [`PatientSlices::z`]); an empty one
/// stands for all slices of the patient. `label` is 0 (healthy) or 1 (diseased). Other columns are passed over.
/// Quoted fields are not supported.
///
/// ```
/// use fndm_data::{Limits, labels::Labels};
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("labels.csv");
/// std::fs::write(&path, "patient,slice,label\np01,17,1\np02,,0\n").unwrap();
/// let labels = Labels::read(&path, &Limits::default())?;
/// assert_eq!(labels.get("p01", 17), Some(1));
/// assert_eq!(labels.get("p01", 18), None);
/// assert_eq!(labels.get("p02", 3), Some(0));
/// # Ok::<(), fndm_data::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    slices: BTreeMap<String, BTreeMap<usize, u8>>,
    whole: BTreeMap<String, u8>,
}

impl Labels {
    /// Reads a table.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Limit`], and [`Error::Text`] with the number of the line.
    pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let path = path.as_ref();
        let content = text::read(path, limits)?;
        // Spreadsheets put a mark of the encoding in front.
        let mut lines = content.trim_start_matches('\u{feff}').lines();
        let columns: Vec<&str> = lines
            .next()
            .unwrap_or("")
            .split(',')
            .map(str::trim)
            .collect();
        let column = |name: &str| {
            columns.iter().position(|c| *c == name).ok_or_else(|| {
                text::problem(path, format!("line 1: no column {name} among {columns:?}"))
            })
        };
        let (patient, slice, label) = (column("patient")?, column("slice")?, column("label")?);
        let mut labels = Self::default();
        for (n, line) in lines.enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let get = |n: usize| fields.get(n).copied().unwrap_or("");
            labels
                .add(get(patient), get(slice), get(label))
                .map_err(|reason| text::problem(path, format!("line {}: {reason}", n + 2)))?;
        }
        Ok(labels)
    }

    fn add(&mut self, patient: &str, slice: &str, label: &str) -> std::result::Result<(), String> {
        if patient.is_empty() {
            return Err("no patient".into());
        }
        let label = match label {
            "0" => 0,
            "1" => 1,
            other => return Err(format!("label: expected 0 or 1, got \"{other}\"")),
        };
        let previous = if slice.is_empty() {
            self.whole.insert(patient.to_string(), label)
        } else {
            let slice: usize = slice
                .parse()
                .map_err(|_| format!("slice: expected a number from 0, got \"{slice}\""))?;
            let slices = self.slices.entry(patient.to_string()).or_default();
            slices.insert(slice, label)
        };
        match previous {
            Some(previous) if previous != label => Err(format!(
                "patient {patient}, slice {slice}: labelled 0 and 1"
            )),
            _ => Ok(()),
        }
    }

    /// Labels of whole patients by the folder that they lie in: `root/healthy/<id>` and
    /// `root/diseased/<id>`. Either folder may be missing.
    ///
    /// # Errors
    /// [`Error::NoPatients`] when both are missing or empty; [`Error::Io`];
    /// [`Error::PatientOnTwoSides`] for a patient in both.
    pub fn from_folders(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let mut labels = Self::default();
        for (name, label) in [("healthy", 0), ("diseased", 1)] {
            let folder = root.join(name);
            if !folder.is_dir() {
                continue;
            }
            for id in list_patients(&folder)? {
                if labels.whole.insert(id.clone(), label).is_some() {
                    return Err(Error::PatientOnTwoSides {
                        patient: id,
                        first: "healthy".into(),
                        second: "diseased".into(),
                    });
                }
            }
        }
        if labels.whole.is_empty() {
            return Err(Error::NoPatients {
                folder: root.to_path_buf(),
                reason: "expected the folders healthy and diseased".into(),
            });
        }
        Ok(labels)
    }

    /// The label of a slice: that of the slice itself, else that of the whole patient.
    #[must_use]
    pub fn get(&self, patient: &str, slice: usize) -> Option<u8> {
        let own = self.slices.get(patient).and_then(|s| s.get(&slice));
        own.or_else(|| self.whole.get(patient)).copied()
    }

    /// Gives a patient's slices their labels.
    ///
    /// # Errors
    /// [`Error::NoMask`] when a slice has none, naming the first such slice.
    pub fn apply(&self, slices: &mut PatientSlices) -> Result<()> {
        let mut labels = Vec::with_capacity(slices.len());
        for &z in &slices.z {
            let Some(label) = self.get(&slices.id, z) else {
                return Err(Error::NoMask {
                    patient: slices.id.clone(),
                    reason: format!("and no label of slice {z}"),
                });
            };
            labels.push(label);
        }
        slices.labels = Some(labels);
        Ok(())
    }
}
