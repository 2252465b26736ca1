use fndm_data::{PatientSlices, Volume};
use ndarray::{Array3, Array4};

use super::none_of;
use crate::Result;

/// What the method says of the slices of one patient.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SliceMaps {
    /// The healthy reconstruction, `(N, C, H, W)` in [-1, 1]; `None` of rows without diffusion.
    pub healthy: Option<Array4<f32>>,
    /// The soft coarse map, `(N, H, W)`, 0 and up; all zero where none is used.
    pub coarse: Array3<f32>,
    /// The coarse segmentation x_seg as the UNet saw it, `(N, H, W)`.
    pub x_seg: Array3<bool>,
    /// The anomaly map, `(N, H, W)`, 0 and up, 0 outside `inner_head`.
    pub anomaly: Array3<f32>,
    /// The head without its rim: where the map counts, `(N, H, W)`.
    pub inner_head: Array3<bool>,
    /// The mask, `(N, H, W)`.
    pub mask: Array3<bool>,
    /// The threshold of each slice.
    pub thresholds: Vec<f32>,
    /// Whether the anomaly map is of probabilities, 0 to 1: a student's is, unless it was brought to the scale of its volume.
    pub probability: bool,
    /// How likely each slice is diseased, 0 to 1, where the model has a student.
    pub diseased: Option<Vec<f64>>,
    /// Evaluations per slice: of the UNet, and of the student where the row's map or mask comes from what it says.
    pub evaluations: usize,
    /// Gradients of the classifier per slice.
    pub gradient_evaluations: usize,
    /// Wall time in milliseconds, without what the student is asked beside: `diseased`, where neither map nor mask comes from it.
    pub milliseconds: f64,
}

impl SliceMaps {
    /// The mask on the grid of the patient's volumes, 0 or 1: what is above the slice's threshold there, where the grid is finer than the map's, so that
    /// borders lie between its pixels. Slices whose mask is empty stay so.
    ///
    /// # Errors
    /// When the maps are of other slices.
    pub fn to_mask<I>(&self, slices: &PatientSlices<I>) -> Result<Volume> {
        Ok(slices.to_mask_above(&self.anomaly, &self.thresholds, &self.mask)?)
    }

    pub(super) fn empty<I>(slices: &PatientSlices<I>) -> Self {
        Self {
            healthy: None,
            coarse: Array3::zeros(slices.head.dim()),
            x_seg: none_of(slices),
            anomaly: Array3::zeros(slices.head.dim()),
            inner_head: none_of(slices),
            mask: none_of(slices),
            thresholds: Vec::new(),
            probability: false,
            diseased: None,
            evaluations: 0,
            gradient_evaluations: 0,
            milliseconds: 0.,
        }
    }
}

/// What the method says of one patient, on the grid of the patient's volumes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Detection {
    /// The mask: 1 in the lesion, 0 elsewhere.
    pub mask: Volume,
    /// The anomaly map, 0 and up.
    pub anomaly: Volume,
    /// The slices that were examined.
    pub slices: PatientSlices,
    /// The maps of these slices.
    pub maps: SliceMaps,
}
