//! Slices of many patients, for training with labels of slices alone.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array3, Array4, Axis, s};
use rayon::prelude::*;

use crate::labels::Labels;
use crate::preprocess::Geometry;
use crate::{Error, Limits, Patient, PatientSlices, Preprocess, Result, read_patient_below};

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
    /// A set of one's own arrays, wherever they come from.
    ///
    /// - `images`: slices (N, C, H, W) in [-1, 1], the background -1, the sequences in the order of their names.
    /// - `labels`: for each slice 1 (diseased) or 0 (healthy).
    /// - `patients`: for each slice the name of its patient. Slices of one patient count up from 0 in the order given, as if from the
    ///   lower end.
    ///
    /// The head is where any sequence is above the background; [`with_head`](Self::with_head) takes another.
    ///
    /// ```
    /// use fndm_data::SliceSet;
    /// use ndarray::Array4;
    /// let images = Array4::from_shape_fn((3, 2, 8, 8), |(n, _, y, _)| if y < 4 { -1. } else { 0.1 * n as f32 });
    /// let set = SliceSet::new(images, vec![0, 1, 0], &["a", "a", "b"], &["flair", "t1"])?;
    /// assert_eq!((set.ids.len(), &set.z[..]), (2, &[0, 1, 0][..]));
    /// assert!(set.head[(0, 5, 0)] && !set.head[(0, 1, 0)]);
    /// # Ok::<(), fndm_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when the lengths differ; [`Error::InvalidConfig`] for values outside [-1, 1] or not finite, for labels other than
    /// 0 and 1, and for names that stand twice; [`Error::EmptySplit`] for no slice.
    pub fn new<P: AsRef<str>, S: AsRef<str>>(
        images: Array4<f32>,
        labels: Vec<u8>,
        patients: &[P],
        sequences: &[S],
    ) -> Result<Self> {
        let (slices, channels, height, width) = images.dim();
        if slices == 0 {
            return Err(Error::EmptySplit {
                side: "given".into(),
            });
        }
        for (what, length, expected) in [
            ("labels", labels.len(), slices),
            ("patients", patients.len(), slices),
            ("sequences", sequences.len(), channels),
        ] {
            if length != expected {
                return Err(Error::shape(what, format!("({expected})"), &[length]));
            }
        }
        // Written so that NaN is refused too.
        if let Some((place, value)) = images
            .indexed_iter()
            .find(|(_, value)| !(-1. ..=1.).contains(*value))
        {
            let what = format!("images at {place:?}");
            return Err(Error::config(what, "-1 to 1", value));
        }
        if let Some(n) = labels.iter().position(|&label| label > 1) {
            let what = format!("label of slice {n}");
            return Err(Error::config(
                what,
                "0 (healthy) or 1 (diseased)",
                labels[n],
            ));
        }
        let sequences: Vec<String> = sequences.iter().map(|s| s.as_ref().to_string()).collect();
        if let Some(n) = (0..channels).find(|&n| sequences[..n].contains(&sequences[n])) {
            return Err(Error::config("sequences", "each named once", &sequences[n]));
        }
        let mut ids: Vec<String> = Vec::new();
        let mut index: BTreeMap<&str, usize> = BTreeMap::new();
        let mut next: Vec<usize> = Vec::new();
        let (mut patient, mut z) = (Vec::new(), Vec::new());
        for id in patients {
            let id = id.as_ref();
            let p = *index.entry(id).or_insert_with(|| {
                ids.push(id.to_string());
                next.push(0);
                ids.len() - 1
            });
            patient.push(p);
            z.push(next[p]);
            next[p] += 1;
        }
        let mut head = Array3::from_elem((slices, height, width), false);
        for (mut head, image) in head.outer_iter_mut().zip(images.outer_iter()) {
            for channel in image.outer_iter() {
                head.zip_mut_with(&channel, |inside, &value| *inside |= value > -1.);
            }
        }
        Ok(Self {
            images,
            labels,
            head,
            patient,
            z,
            ids,
            sequences,
        })
    }

    /// Whether all arrays are of the same slices, as far as their shapes tell, and every slice has a patient. What the functions
    /// here give is so; the fields are open, however.
    ///
    /// # Errors
    /// [`Error::Shape`] names the first array that isn't, [`Error::InvalidConfig`] a patient that has no name.
    pub fn check(&self) -> Result<()> {
        let (n, channels, h, w) = self.images.dim();
        for (what, length, expected) in [
            ("labels", self.labels.len(), n),
            ("patients", self.patient.len(), n),
            ("positions", self.z.len(), n),
            ("sequences", self.sequences.len(), channels),
        ] {
            if length != expected {
                return Err(Error::shape(what, format!("({expected})"), &[length]));
            }
        }
        if self.head.dim() != (n, h, w) {
            let expected = format!("{:?}", (n, h, w));
            return Err(Error::shape("head", expected, self.head.shape()));
        }
        match self.patient.iter().find(|&&p| p >= self.ids.len()) {
            Some(p) => {
                let expected = format!("below {}, the number of names", self.ids.len());
                Err(Error::config("patient of a slice", expected, p))
            }
            None => Ok(()),
        }
    }

    /// The slices patient by patient, as what examines a patient takes them, each with the numbers of its slices here. They lie on a grid of
    /// their own, a voxel of 1 mm a pixel, for a set doesn't know where its slices were cut.
    ///
    /// # Errors
    /// As [`SliceSet::check`]; [`Error::Shape`] when slices aren't square.
    pub fn patients(&self) -> Result<Vec<(Vec<usize>, PatientSlices)>> {
        self.check()?;
        let (_, _, h, w) = self.images.dim();
        if h != w {
            let got = self.images.shape();
            return Err(Error::shape("slices", "square ones", got));
        }
        let mut numbers = vec![Vec::new(); self.ids.len()];
        for (n, &patient) in self.patient.iter().enumerate() {
            numbers[patient].push(n);
        }
        let named = numbers.into_iter().zip(&self.ids);
        let cut = named
            .filter(|(numbers, _)| !numbers.is_empty())
            .map(|(numbers, id)| {
                let z: Vec<usize> = numbers.iter().map(|&n| self.z[n]).collect();
                let stack = z.iter().max().map_or(0, |last| last + 1);
                let slices = PatientSlices {
                    id: id.clone(),
                    sequences: self.sequences.clone(),
                    images: self.images.select(Axis(0), &numbers),
                    z,
                    head: self.head.select(Axis(0), &numbers),
                    mask: None,
                    labels: Some(numbers.iter().map(|&n| self.labels[n]).collect()),
                    lesion: None,
                    notes: Vec::new(),
                    geometry: Geometry::of_square(stack, w),
                };
                (numbers, slices)
            });
        Ok(cut.collect())
    }

    /// The set with another head, (N, H, W).
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn with_head(self, head: Array3<bool>) -> Result<Self> {
        if head.dim() != self.head.dim() {
            let expected = format!("{:?}", self.head.dim());
            return Err(Error::shape("head", expected, head.shape()));
        }
        Ok(Self { head, ..self })
    }

    /// Cuts patients, wherever they come from, and takes the slices that the labels know.
    ///
    /// # Errors
    /// As [`Preprocess::apply`], [`PatientSlices::labelled`] and [`SliceSet::from_patients`].
    pub fn from_labelled(
        patients: impl IntoIterator<Item = Patient>,
        preprocess: &Preprocess,
        labels: &Labels,
    ) -> Result<Self> {
        let cut = patients
            .into_iter()
            .map(|patient| preprocess.apply(&patient)?.labelled(labels));
        Self::from_patients(cut.collect::<Result<Vec<_>>>()?)
    }

    /// Joins the slices of patients. Of each mask only the label of each slice is taken.
    ///
    /// # Errors
    /// [`Error::NoMask`] for a patient without labels; those of [`PatientSlices::check`]; [`Error::Shape`] or
    /// [`Error::InvalidConfig`] when patients differ in sizes or sequences; [`Error::EmptySplit`] for no patient.
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
        slices.check()?;
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
        let names = preprocess.names_to_read(sequences);
        let patients: Result<Vec<PatientSlices>> = ids
            .par_iter()
            .map(|id| {
                let mut patient = read_patient_below(root, id.as_ref(), &names, limits)?;
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
    /// [`Error::InvalidConfig`] for an index that is too large, and those of [`check`](Self::check).
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        self.check()?;
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
