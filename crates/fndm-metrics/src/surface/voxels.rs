//! Distances between all voxels of two masks: `SimpleITK`'s definition.

use super::border::{Connectivity, border, both};
use super::grid::{Mask, Points};
use super::transform::{crop, map_planes};
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
        let boxes = both(result.bounding_box(), reference.bounding_box());
        Ok(boxes.map(|(result_box, reference_box)| {
            let (largest_to_reference, average_to_reference) =
                directed(&result, result_box, &reference, spacing);
            let (largest_to_result, average_to_result) =
                directed(&reference, reference_box, &result, spacing);
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
fn directed(
    from: &Mask<'_>,
    (origin, shape): ([usize; 3], [usize; 3]),
    to: &Mask<'_>,
    spacing: [f64; 3],
) -> (f64, f64) {
    let mut flags = crop(from, origin, shape);
    let voxels = flags.iter().map(|&v| u64::from(v)).sum::<u64>();
    // Voxels of both masks have distance 0 and need no transform; the nearest voxel of any other
    // is a border voxel.
    for (flag, &other) in flags.iter_mut().zip(&crop(to, origin, shape)) {
        *flag &= 1 - other;
    }
    let asked = Points {
        origin,
        shape,
        flags,
    };
    let Some(set) = border(to, Connectivity::Faces) else {
        return (f64::INFINITY, f64::INFINITY);
    };
    let planes = map_planes(&asked, &set, spacing, |_, squared| {
        squared
            .iter()
            .fold((0.0, 0.0), |(largest, sum): (f64, f64), squared| {
                (largest.max(*squared), sum + squared.sqrt())
            })
    });
    let (largest, sum) = planes.iter().fold((0.0, 0.0), |all: (f64, f64), plane| {
        (all.0.max(plane.0), all.1 + plane.1)
    });
    (largest.sqrt(), sum / voxels as f64)
}
