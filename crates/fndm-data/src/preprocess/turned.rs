//! A patient turned to the axes of the slices, before anything is scaled or resized.

use ndarray::{Array3, ArrayView3};

use super::Preprocess;
use crate::affine::Reorder;
use crate::{Patient, Result};

/// What slices are cut from.
pub(crate) struct Turned<'a> {
    /// One stack (N, H, W) for each sequence.
    pub(crate) stacks: Vec<ArrayView3<'a, f32>>,
    /// The head, in the same axes.
    pub(crate) head: Array3<bool>,
    /// Millimetres between slices, rows and columns.
    pub(crate) spacing: [f64; 3],
    /// Indices of the slices that would be used.
    pub(crate) used: Vec<usize>,
}

impl Preprocess {
    /// Turns a patient and finds its head.
    ///
    /// # Errors
    /// Those of [`Preprocess::apply`] that come before scaling.
    pub(crate) fn turn<'a>(&self, patient: &'a Patient) -> Result<Turned<'a>> {
        self.check()?;
        patient.check()?;
        let reference = patient.reference()?;
        let reorder = Reorder::new(&reference.affine, self.plane.codes())?;
        let stacks: Vec<ArrayView3<'a, f32>> = patient
            .sequences
            .iter()
            .map(|(_, volume)| reorder.view(volume.data.view()))
            .collect();
        let head = self.head.find(&stacks);
        let used = self.chosen(&patient.id, &head)?;
        let spacing = reference.spacing();
        Ok(Turned {
            stacks,
            head,
            spacing: reorder.from.map(|axis| spacing[axis]),
            used,
        })
    }
}
