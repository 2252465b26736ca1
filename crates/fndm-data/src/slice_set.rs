//! Slices of many patients, for training with labels of slices alone.

use std::path::Path;

use ndarray::{Array3, Array4, Axis, s};
use rayon::prelude::*;

use crate::{Error, Limits, PatientSlices, Preprocess, Result, read_patient_below};

/// A training set: slices and one bit for each. It has no field for the pixels of a
/// mask, so that no training can use them.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceSet {
    /// Slices (N, C, H, W) in [-1, 1].
    pub images: Array4<f32>,
    /// 1 = diseased, 0 = healthy, for each slice.
    pub labels: Vec<u8>,
    /// Where the head is (N, H, W).
    pub head: Array3<bool>,
    /// For each slice, the index of its patient in [`ids`](Self::ids).
    pub patient: Vec<usize>,
    /// For each slice, its index in the patient's volume.
    pub z: Vec<usize>,
    /// Names of the patients.
    pub ids: Vec<String>,
    /// Names of the channels.
    pub sequences: Vec<String>,
}

impl SliceSet {
    /// Joins the slices of patients. Of each mask only the label of each slice is taken.
    ///
    /// # Errors
    /// [`Error::NoMask`] for a patient without labels; [`Error::Shape`] or [`Error::InvalidConfig`]
    /// when patients differ in sizes or sequences; [`Error::EmptySplit`] for no patient.
    pub fn from_patients(patients: impl IntoIterator<Item = PatientSlices>) -> Result<Self> {
        let patients: Vec<PatientSlices> = patients.into_iter().collect();
        let Some(first) = patients.first() else {
            return Err(Error::EmptySplit {
                side: "given".into(),
            });
        };
        let (_, channels, height, width) = first.images.dim();
        let total = patients.iter().map(PatientSlices::len).sum();
        let mut set = Self {
            images: Array4::zeros((total, channels, height, width)),
            labels: Vec::with_capacity(total),
            head: Array3::from_elem((total, height, width), false),
            patient: Vec::with_capacity(total),
            z: Vec::with_capacity(total),
            ids: Vec::with_capacity(patients.len()),
            sequences: first.sequences.clone(),
        };
        for slices in patients {
            set.push(slices)?;
        }
        Ok(set)
    }

    fn push(&mut self, slices: PatientSlices) -> Result<()> {
        let start = self.z.len();
        let end = start + slices.len();
        let Some(labels) = slices.labels else {
            return Err(Error::NoMask {
                patient: slices.id,
                reason: "the label of each slice is taken from it, or from a table".into(),
            });
        };
        if slices.sequences != self.sequences {
            return Err(Error::config(
                format!("sequences of patient {}", slices.id),
                format!("{:?}", self.sequences),
                format!("{:?}", slices.sequences),
            ));
        }
        if slices.images.shape()[1..] != self.images.shape()[1..] {
            let expected = format!("(N, {:?})", &self.images.shape()[1..]);
            let what = format!("slices of patient {}", slices.id);
            return Err(Error::shape(what, expected, slices.images.shape()));
        }
        self.images
            .slice_mut(s![start..end, .., .., ..])
            .assign(&slices.images);
        self.head
            .slice_mut(s![start..end, .., ..])
            .assign(&slices.head);
        self.labels.extend(labels);
        self.patient
            .extend(std::iter::repeat_n(self.ids.len(), slices.z.len()));
        self.z.extend(slices.z);
        self.ids.push(slices.id);
        Ok(())
    }

    /// Reads and cuts the named patients of a data set, several at a time. The result
    /// does not depend on the number of threads.
    ///
    /// # Errors
    /// As [`read_patient_below`], [`Preprocess::apply`] and [`SliceSet::from_patients`].
    pub fn load<I: AsRef<str> + Sync, S: AsRef<str> + Sync>(
        root: impl AsRef<Path>,
        ids: &[I],
        sequences: &[S],
        preprocess: &Preprocess,
        limits: &Limits,
    ) -> Result<Self> {
        let root = root.as_ref();
        let patients: Result<Vec<PatientSlices>> = ids
            .par_iter()
            .map(|id| {
                let mut patient = read_patient_below(root, id.as_ref(), sequences, limits)?;
                let mut slices = preprocess.apply(&patient)?;
                // The pixels go no further than this.
                patient.mask = None;
                slices.mask = None;
                Ok(slices)
            })
            .collect();
        Self::from_patients(patients?)
    }

    /// Number of slices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no slice.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Indices of the slices with a label: 0 for healthy, 1 for diseased.
    #[must_use]
    pub fn with_label(&self, label: u8) -> Vec<usize> {
        (0..self.len())
            .filter(|&n| self.labels[n] == label)
            .collect()
    }

    /// The set of some of the slices, in the order given. Patients keep their indices.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for an index that is too large.
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        if let Some(n) = indices.iter().find(|n| **n >= self.len()) {
            return Err(Error::config(
                "index of a slice",
                format!("below {}", self.len()),
                n,
            ));
        }
        Ok(Self {
            images: self.images.select(Axis(0), indices),
            labels: indices.iter().map(|&n| self.labels[n]).collect(),
            head: self.head.select(Axis(0), indices),
            patient: indices.iter().map(|&n| self.patient[n]).collect(),
            z: indices.iter().map(|&n| self.z[n]).collect(),
            ids: self.ids.clone(),
            sequences: self.sequences.clone(),
        })
    }
}
