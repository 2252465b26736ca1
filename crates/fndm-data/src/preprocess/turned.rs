//! A patient turned to the axes of the slices, before anything is scaled or resized.

use ndarray::{Array3, ArrayView3};

use super::resize::Pad;
use super::{MOST_SIDE, Plane, Preprocess};
use crate::affine::Reorder;
use crate::{Error, Patient, Result};

/// A patient turned to the axes of the slices, with its head found: what slices are cut from, and what a check of the input measures.
#[derive(Debug)]
pub struct Turned<'a> {
    pub(super) patient: &'a Patient,
    pub(super) preprocess: &'a Preprocess,
    pub(super) reorder: Reorder,
    pub(super) pad: Pad,
    /// One stack (N, H, W) for each sequence.
    pub(crate) stacks: Vec<ArrayView3<'a, f32>>,
    /// The head, in the same axes.
    pub(crate) head: Array3<bool>,
    /// Millimetres between slices, rows and columns.
    pub(crate) spacing: [f64; 3],
    /// Indices of the slices that are used.
    pub(crate) used: Vec<usize>,
}

impl Turned<'_> {
    pub(crate) fn patient(&self) -> &Patient {
        self.patient
    }

    pub(crate) fn plane(&self) -> Plane {
        self.preprocess.plane
    }
}

impl Preprocess {
    /// Turns a patient and finds its head.
    ///
    /// # Errors
    /// Those of [`Preprocess::apply`] that come before scaling.
    pub fn turn<'a>(&'a self, patient: &'a Patient) -> Result<Turned<'a>> {
        self.check()?;
        patient.check()?;
        let reference = patient.reference()?;
        let reorder = Reorder::new(&reference.affine, self.plane.codes())?;
        let stacks: Vec<ArrayView3<'a, f32>> = patient
            .sequences
            .iter()
            .map(|(_, volume)| reorder.view(volume.data.view()))
            .collect();
        let (height, width) = stacks.first().map_or((0, 0), |s| (s.dim().1, s.dim().2));
        let pad = Pad::square(height, width, self.crop_to, self.pad_to);
        if pad.size > MOST_SIDE {
            let what = format!("slices of patient {}", patient.id);
            let expected = format!("({MOST_SIDE}, {MOST_SIDE}) or smaller, after cropping");
            return Err(Error::shape(what, expected, &[height, width]));
        }
        let head = self.head.find(&stacks);
        let used = self.chosen(&patient.id, &head)?;
        let spacing = reference.spacing();
        Ok(Turned {
            patient,
            preprocess: self,
            spacing: reorder.from.map(|axis| spacing[axis]),
            reorder,
            pad,
            stacks,
            head,
            used,
        })
    }
}
