//! Distances between all voxels of two masks: `SimpleITK`'s definition.

use super::bits::Bits;
use super::border::{Connectivity, border, both};
use super::distances::map_planes;
use super::grid::Mask;
use crate::error::Result;
use crate::score::Undefined;
use ndarray::{ArrayView, Dimension};

/// Largest and average distance from *all* voxels of one mask to the nearest voxel of the other, in
/// both directions. Voxels in both masks have distance 0, inside ones included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VoxelDistances {
    /// The largest distance from a voxel of the result.
    pub largest_to_reference: f64,
    /// The largest distance from a voxel of the reference.
    pub largest_to_result: f64,
    /// The average over the result's voxels.
    pub average_to_reference: f64,
    /// The average over the reference's voxels.
    pub average_to_result: f64,
}

impl VoxelDistances {
    /// Measures two masks of 1 to 3 dimensions. The inner result says which mask is empty, if one
    /// is.
    ///
    /// # Errors
    /// If the shapes differ, the masks have not 1 to 3 axes, or there is not one finite positive
    /// spacing per axis.
    pub fn of<D: Dimension>(
        result: &ArrayView<'_, bool, D>,
        reference: &ArrayView<'_, bool, D>,
        spacing: &[f64],
    ) -> Result<std::result::Result<Self, Undefined>> {
        let (result, reference, spacing) = Mask::pair(result, reference, spacing)?;
        let axes = result.axes;
        let (result, reference) = (Bits::of(&result), Bits::of(&reference));
        Ok(both(&result, &reference).map(|()| {
            let (largest_to_reference, average_to_reference) =
                directed(&result, &reference, axes, spacing);
            let (largest_to_result, average_to_result) =
                directed(&reference, &result, axes, spacing);
            Self {
                largest_to_reference,
                largest_to_result,
                average_to_reference,
                average_to_result,
            }
        }))
    }

    /// The Hausdorff distance: the larger of the two largest. `SimpleITK`
    /// `GetHausdorffDistance`.
    #[must_use]
    pub fn hausdorff(&self) -> f64 {
        self.largest_to_reference.max(self.largest_to_result)
    }

    /// The mean of the two averages. `SimpleITK` `GetAverageHausdorffDistance`.
    #[must_use]
    pub fn average(&self) -> f64 {
        0.5 * (self.average_to_reference + self.average_to_result)
    }
}

/// Largest and average distance from the voxels of `from` to those of `to`, both not empty.
fn directed(from: &Bits, to: &Bits, axes: [bool; 3], spacing: [f64; 3]) -> (f64, f64) {
    // Voxels of both masks have distance 0 and need no search; the nearest voxel of any other is a
    // border voxel.
    let set = border(to, axes, Connectivity::Faces);
    let planes = map_planes(&from.without(to), &set, spacing, |_, squared| {
        squared
            .iter()
            .fold((0.0, 0.0), |(largest, sum): (f64, f64), squared| {
                (largest.max(*squared), sum + squared.sqrt())
            })
    });
    let (largest, sum) = planes.iter().fold((0.0, 0.0), |all: (f64, f64), plane| {
        (all.0.max(plane.0), all.1 + plane.1)
    });
    (largest.sqrt(), sum / from.count() as f64)
}
