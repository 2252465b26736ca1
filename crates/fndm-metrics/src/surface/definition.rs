//! One function per metric, with the definition as an argument.

use super::border::{BorderDistances, Connectivity, score};
use super::surfel::SurfelDistances;
use super::voxels::VoxelDistances;
use crate::error::{Error, Result};
use crate::score::Score;
use ndarray::{ArrayView, Dimension};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Between which points of the two masks a distance is measured, named by the library that is
/// known for it. The crate's front page has the formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Definition {
    /// Between the centres of border voxels ([`BorderDistances`] by faces); every border voxel
    /// counts alike.
    #[default]
    Medpy,
    /// Between the corners on the surfaces, weighted by surface area ([`SurfelDistances`]).
    SurfaceDistance,
    /// Between the centres of all voxels ([`VoxelDistances`]).
    SimpleItk,
}

impl Definition {
    /// The library's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Medpy => "medpy",
            Self::SurfaceDistance => "surface-distance",
            Self::SimpleItk => "SimpleITK",
        }
    }
}

impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The Hausdorff distance: the largest distance from a point of one mask to the nearest of the
/// other.
///
/// Undefined when a mask is empty.
///
/// # Errors
/// If the shapes differ, the masks have not 1 to 3 axes (2 or 3 for
/// [`Definition::SurfaceDistance`]), or there is not one finite positive spacing per axis.
pub fn hausdorff<D: Dimension>(
    result: &ArrayView<'_, bool, D>,
    reference: &ArrayView<'_, bool, D>,
    spacing: &[f64],
    definition: Definition,
) -> Result<Score> {
    Ok(match definition {
        Definition::Medpy => score(
            &BorderDistances::of(result, reference, spacing, Connectivity::Faces)?,
            BorderDistances::hausdorff,
        ),
        Definition::SurfaceDistance => score(
            &SurfelDistances::of(result, reference, spacing)?,
            SurfelDistances::hausdorff,
        ),
        Definition::SimpleItk => score(
            &VoxelDistances::of(result, reference, spacing)?,
            VoxelDistances::hausdorff,
        ),
    })
}

/// A percentile of the distances; 95 is "HD95".
///
/// medpy joins both directions and interpolates; surface-distance takes the larger of the two
/// directions' area-weighted percentiles with no interpolation; `SimpleITK` defines none.
///
/// Undefined when a mask is empty.
///
/// ```
/// use fndm_metrics::{Definition, Score, percentile_hausdorff};
/// use ndarray::Array2;
///
/// let disc = |x0: f64| Array2::from_shape_fn((32, 32), |(x, y)| {
///     (x as f64 - x0).powi(2) + (y as f64 - 16.0).powi(2) < 25.0
/// });
/// let (result, reference) = (disc(14.0), disc(17.0));
/// let hd95 = percentile_hausdorff(
///     &result.view(), &reference.view(), &[1.0, 1.0], 95.0, Definition::Medpy,
/// )?;
/// assert_eq!(hd95, Score::Value(3.0));
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
///
/// # Errors
/// As [`hausdorff`], if `percent` is not in 0 to 100, and for [`Definition::SimpleItk`].
pub fn percentile_hausdorff<D: Dimension>(
    result: &ArrayView<'_, bool, D>,
    reference: &ArrayView<'_, bool, D>,
    spacing: &[f64],
    percent: f64,
    definition: Definition,
) -> Result<Score> {
    super::border::check_percent(percent)?;
    match definition {
        Definition::Medpy => {
            let distances = BorderDistances::of(result, reference, spacing, Connectivity::Faces)?;
            defined(distances, |distances| distances.percentile(percent))
        }
        Definition::SurfaceDistance => {
            let distances = SurfelDistances::of(result, reference, spacing)?;
            defined(distances, |distances| distances.percentile(percent))
        }
        Definition::SimpleItk => Err(Error::NotDefined {
            metric: "a percentile of the Hausdorff distance",
            definition: Definition::SimpleItk.as_str(),
        }),
    }
}

fn defined<T>(
    distances: std::result::Result<T, crate::Undefined>,
    metric: impl FnOnce(&T) -> Result<f64>,
) -> Result<Score> {
    match distances {
        Ok(distances) => metric(&distances).map(Score::Value),
        Err(reason) => Ok(Score::Undefined(reason)),
    }
}

/// The average distance from the result's surface to the reference's ("ASD"), one direction only.
///
/// Undefined when a mask is empty.
///
/// # Errors
/// As [`hausdorff`].
pub fn average_surface_distance<D: Dimension>(
    result: &ArrayView<'_, bool, D>,
    reference: &ArrayView<'_, bool, D>,
    spacing: &[f64],
    definition: Definition,
) -> Result<Score> {
    Ok(match definition {
        Definition::Medpy => score(
            &BorderDistances::of(result, reference, spacing, Connectivity::Faces)?,
            BorderDistances::average_to_reference,
        ),
        Definition::SurfaceDistance => score(
            &SurfelDistances::of(result, reference, spacing)?,
            SurfelDistances::average_to_reference,
        ),
        Definition::SimpleItk => score(
            &VoxelDistances::of(result, reference, spacing)?,
            |distances| distances.average_to_reference,
        ),
    })
}

/// The average symmetric surface distance ("ASSD").
///
/// medpy 0.5: the mean over both directions' distances joined. surface-distance: it has two
/// averages; this is their mean. `SimpleITK`: the mean of the averages over all voxels, its average
/// Hausdorff distance.
///
/// Undefined when a mask is empty.
///
/// # Errors
/// As [`hausdorff`].
pub fn average_symmetric_surface_distance<D: Dimension>(
    result: &ArrayView<'_, bool, D>,
    reference: &ArrayView<'_, bool, D>,
    spacing: &[f64],
    definition: Definition,
) -> Result<Score> {
    Ok(match definition {
        Definition::Medpy => score(
            &BorderDistances::of(result, reference, spacing, Connectivity::Faces)?,
            BorderDistances::average_symmetric,
        ),
        Definition::SurfaceDistance => score(
            &SurfelDistances::of(result, reference, spacing)?,
            |distances| 0.5 * (distances.average_to_reference() + distances.average_to_result()),
        ),
        Definition::SimpleItk => score(
            &VoxelDistances::of(result, reference, spacing)?,
            VoxelDistances::average,
        ),
    })
}

/// Surface Dice at a tolerance in the units of the spacing ("NSD"; Nikolov et al. 2018), as
/// surface-distance defines it. Undefined when both masks are empty; 0 when one of them is.
///
/// # Errors
/// As [`hausdorff`] with [`Definition::SurfaceDistance`], and if the tolerance is negative or NaN.
pub fn surface_dice<D: Dimension>(
    result: &ArrayView<'_, bool, D>,
    reference: &ArrayView<'_, bool, D>,
    spacing: &[f64],
    tolerance: f64,
) -> Result<Score> {
    super::surfel::check_tolerance(tolerance)?;
    match SurfelDistances::of(result, reference, spacing)? {
        Ok(distances) => distances.surface_dice(tolerance).map(Score::Value),
        Err(crate::Undefined::BothEmpty) => Ok(Score::Undefined(crate::Undefined::BothEmpty)),
        Err(_) => Ok(Score::Value(0.0)),
    }
}
