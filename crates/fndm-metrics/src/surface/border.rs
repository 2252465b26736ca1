//! Distances between border voxels: medpy's definition.

use super::grid::{Mask, Points};
use super::transform::{crop, distances};
use crate::error::{Error, Result};
use crate::score::{Score, Undefined};
use ndarray::{ArrayView, Dimension};
use serde::{Deserialize, Serialize};

/// Which neighbours make a voxel a border voxel when they are background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connectivity {
    /// Those that share a face (4 in 2-D, 6 in 3-D): medpy's `connectivity=1`, its default.
    #[default]
    Faces,
    /// Those that share at least an edge (8 in 2-D, 18 in 3-D): `connectivity=2`.
    Edges,
    /// Those that share at least a corner (8 in 2-D, 26 in 3-D): `connectivity=3`.
    Corners,
}

impl Connectivity {
    /// The largest number of axes along which a neighbour may differ.
    pub(crate) fn axes(self) -> usize {
        match self {
            Self::Faces => 1,
            Self::Edges => 2,
            Self::Corners => 3,
        }
    }
}

/// The distances from every border voxel of one mask to the nearest border voxel of the other, in
/// both directions. Compute them once and ask for as many metrics as wanted.
///
/// A border voxel is one with a background neighbour; outside the image is background.
///
/// ```
/// use fndm_metrics::{BorderDistances, Connectivity};
/// use ndarray::array;
///
/// let result = array![[true, true, false, false, false]];
/// let reference = array![[false, false, false, true, false]];
/// let distances = BorderDistances::of(
///     &result.view(), &reference.view(), &[1.0, 2.0], Connectivity::Faces,
/// )?.unwrap();
/// assert_eq!(distances.hausdorff(), 6.0);
/// assert_eq!(distances.average_symmetric(), (6.0 + 4.0 + 4.0) / 3.0);
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BorderDistances {
    to_reference: Vec<f64>,
    to_result: Vec<f64>,
}

impl BorderDistances {
    /// Measures two masks of 1 to 3 dimensions. The inner result says which mask is empty, if one
    /// is: then there are no distances.
    ///
    /// # Errors
    /// If the shapes differ, the masks have not 1 to 3 axes, or there is not one finite positive
    /// spacing per axis.
    pub fn of<D: Dimension>(
        result: &ArrayView<'_, bool, D>,
        reference: &ArrayView<'_, bool, D>,
        spacing: &[f64],
        connectivity: Connectivity,
    ) -> Result<std::result::Result<Self, Undefined>> {
        let (result, reference, spacing) = Mask::pair(result, reference, spacing)?;
        let result = border(&result, connectivity);
        let reference = border(&reference, connectivity);
        Ok(
            both(result.as_ref(), reference.as_ref()).map(|(result, reference)| Self {
                to_reference: distances(result, reference, spacing),
                to_result: distances(reference, result, spacing),
            }),
        )
    }

    /// The distances from the result's border voxels, in array order.
    #[must_use]
    pub fn to_reference(&self) -> &[f64] {
        &self.to_reference
    }

    /// The distances from the reference's border voxels, in array order.
    #[must_use]
    pub fn to_result(&self) -> &[f64] {
        &self.to_result
    }

    /// The Hausdorff distance: the largest of all. medpy `hd`.
    #[must_use]
    pub fn hausdorff(&self) -> f64 {
        let all = self.to_reference.iter().chain(&self.to_result);
        all.copied().fold(0.0, f64::max)
    }

    /// The percentile (0 to 100) of both directions' distances joined, linear between the two
    /// nearest. medpy `hd95` at 95.
    ///
    /// # Errors
    /// If `percent` is not in 0 to 100.
    pub fn percentile(&self, percent: f64) -> Result<f64> {
        check_percent(percent)?;
        let mut all = [self.to_reference.as_slice(), &self.to_result].concat();
        let place = (all.len() - 1) as f64 * (percent / 100.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let below = (place.floor() as usize).min(all.len() - 1);
        let (_, &mut low, rest) = all.select_nth_unstable_by(below, f64::total_cmp);
        let high = rest.iter().copied().fold(f64::INFINITY, f64::min);
        let share = place - below as f64;
        if share == 0.0 || high == f64::INFINITY {
            return Ok(low);
        }
        // As numpy does it: from the nearer end.
        let step = high - low;
        Ok(if share >= 0.5 {
            high - step * (1.0 - share)
        } else {
            low + step * share
        })
    }

    /// The average distance from the result's border to the reference's. medpy `asd(result,
    /// reference)`.
    #[must_use]
    pub fn average_to_reference(&self) -> f64 {
        average(&self.to_reference)
    }

    /// The average distance from the reference's border to the result's. medpy `asd(reference,
    /// result)`.
    #[must_use]
    pub fn average_to_result(&self) -> f64 {
        average(&self.to_result)
    }

    /// The average symmetric surface distance: the mean over both directions' distances joined.
    /// medpy 0.5 `assd`.
    #[must_use]
    pub fn average_symmetric(&self) -> f64 {
        let sum = self.to_reference.iter().sum::<f64>() + self.to_result.iter().sum::<f64>();
        sum / (self.to_reference.len() + self.to_result.len()) as f64
    }

    /// The mean of the two directions' averages, which is not the same when the borders differ in
    /// size. medpy `assd` before 0.5.
    #[must_use]
    pub fn mean_of_averages(&self) -> f64 {
        0.5 * (self.average_to_reference() + self.average_to_result())
    }
}

fn average(distances: &[f64]) -> f64 {
    distances.iter().sum::<f64>() / distances.len() as f64
}

pub(crate) fn check_percent(percent: f64) -> Result<()> {
    if (0.0..=100.0).contains(&percent) {
        return Ok(());
    }
    Err(Error::Parameter {
        what: "percentile",
        expected: "0 to 100",
        found: percent,
    })
}

/// Both values, or which is missing.
pub(crate) fn both<T>(
    result: Option<T>,
    reference: Option<T>,
) -> std::result::Result<(T, T), Undefined> {
    match (result, reference) {
        (Some(result), Some(reference)) => Ok((result, reference)),
        (None, None) => Err(Undefined::BothEmpty),
        (None, _) => Err(Undefined::ResultEmpty),
        (_, None) => Err(Undefined::ReferenceEmpty),
    }
}

/// A metric of distances that may be missing.
pub(crate) fn score<T>(
    distances: &std::result::Result<T, Undefined>,
    metric: impl FnOnce(&T) -> f64,
) -> Score {
    match distances {
        Ok(distances) => Score::Value(metric(distances)),
        Err(reason) => Score::Undefined(*reason),
    }
}

/// The border voxels of a mask; none if the mask is empty.
pub(crate) fn border(mask: &Mask<'_>, connectivity: Connectivity) -> Option<Points> {
    let (origin, shape) = mask.bounding_box()?;
    let voxels = crop(mask, origin, shape);
    let mut flags = voxels.clone();
    let [nx, ny, nz] = shape;
    let row = |x: usize, y: usize| (x * ny + y) * nz;
    let steps = |axis: usize| if mask.axes[axis] { -1isize..=1 } else { 0..=0 };

    // Bit 1 of a flag comes to say that a neighbour is background.
    for dx in steps(0) {
        for dy in steps(1) {
            for dz in steps(2) {
                let moved = [dx, dy, dz].iter().filter(|&&d| d != 0).count();
                if moved == 0 || moved > connectivity.axes() {
                    continue;
                }
                for x in 0..nx {
                    for y in 0..ny {
                        let here = row(x, y);
                        let out = &mut flags[here..here + nz];
                        let to = (x.checked_add_signed(dx), y.checked_add_signed(dy));
                        let (Some(to_x), Some(to_y)) = to else {
                            mark_outside(out);
                            continue;
                        };
                        if to_x >= nx || to_y >= ny {
                            mark_outside(out);
                            continue;
                        }
                        let there = row(to_x, to_y);
                        mark_row(out, &voxels[there..there + nz], dz);
                    }
                }
            }
        }
    }
    for (flag, &voxel) in flags.iter_mut().zip(&voxels) {
        *flag = voxel & (*flag >> 1);
    }
    Some(Points {
        origin,
        shape,
        flags,
    })
}

/// Marks a row whose neighbours lie outside the box, where all is background.
fn mark_outside(row: &mut [u8]) {
    for flag in row {
        *flag |= 2;
    }
}

/// Marks the voxels of a row whose neighbour, `step` along in `other`, is background.
fn mark_row(row: &mut [u8], other: &[u8], step: isize) {
    let n = row.len();
    let mark = |row: &mut [u8], other: &[u8]| {
        for (flag, &voxel) in row.iter_mut().zip(other) {
            *flag |= (1 - voxel) << 1;
        }
    };
    match step {
        0 => mark(row, other),
        1 => {
            mark(&mut row[..n - 1], &other[1..]);
            row[n - 1] |= 2;
        }
        _ => {
            mark(&mut row[1..], &other[..n - 1]);
            row[0] |= 2;
        }
    }
}
