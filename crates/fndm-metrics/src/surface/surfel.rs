//! Area-weighted distances between surface elements: surface-distance's definition.

use super::area::{contour_lengths, surface_areas};
use super::bits::{Bits, from_below, ones};
use super::border::{both, check_percent};
use super::distances::distances;
use super::grid::Mask;
use crate::error::{Error, Result};
use crate::score::Undefined;
use ndarray::{ArrayView, Dimension};
use rayon::prelude::*;

/// One direction's surface elements: distance to the other surface, and area.
type Surfels = Vec<(f64, f64)>;

/// The surface elements of both masks with their distance to the other surface and their area
/// (length in 2-D), as google-deepmind/surface-distance computes them (Nikolov et al. 2018).
///
/// Surface elements sit on the corners between voxels: a corner is on the surface if it touches
/// voxels of the mask and of the background; outside the image is background.
#[derive(Debug, Clone, PartialEq)]
pub struct SurfelDistances {
    /// Ascending.
    to_reference: Surfels,
    /// Ascending.
    to_result: Surfels,
}

impl SurfelDistances {
    /// Measures two masks of 2 or 3 dimensions. The inner result says which mask is empty, if one
    /// is.
    ///
    /// # Errors
    /// If the shapes differ, the masks have not 2 or 3 axes, or there is not one finite positive
    /// spacing per axis.
    pub fn of<D: Dimension>(
        result: &ArrayView<'_, bool, D>,
        reference: &ArrayView<'_, bool, D>,
        spacing: &[f64],
    ) -> Result<std::result::Result<Self, Undefined>> {
        let axes = result.ndim();
        if !(2..=3).contains(&axes) {
            return Err(Error::Dimension {
                what: "surface elements",
                expected: "2 or 3",
                found: axes,
            });
        }
        let (result, reference, spacing) = Mask::pair(result, reference, spacing)?;
        let areas = if axes == 3 {
            surface_areas(spacing)
        } else {
            contour_lengths([spacing[1], spacing[2]])
        };
        let flat = axes == 2;
        let (result, reference) = rayon::join(|| Bits::of(&result), || Bits::of(&reference));
        Ok(both(&result, &reference).map(|()| {
            let (of_result, of_reference) =
                rayon::join(|| corners(&result, flat), || corners(&reference, flat));
            let surfels = |mask: &Bits, from: &Bits, to: &Bits| {
                let distances = distances(from, to, spacing);
                by_distance(distances, &element_areas(mask, from, flat, &areas))
            };
            let (to_reference, to_result) = rayon::join(
                || surfels(&result, &of_result, &of_reference),
                || surfels(&reference, &of_reference, &of_result),
            );
            Self {
                to_reference,
                to_result,
            }
        }))
    }

    /// Distance and area of the result's surface elements, by rising distance.
    #[must_use]
    pub fn to_reference(&self) -> &[(f64, f64)] {
        &self.to_reference
    }

    /// Distance and area of the reference's surface elements, by rising distance.
    #[must_use]
    pub fn to_result(&self) -> &[(f64, f64)] {
        &self.to_result
    }

    /// The Hausdorff distance between the surfaces' corners: `compute_robust_hausdorff` at 100.
    #[must_use]
    pub fn hausdorff(&self) -> f64 {
        at_percent(&self.to_reference, 100.0).max(at_percent(&self.to_result, 100.0))
    }

    /// The larger of the two directions' percentiles (0 to 100), weighted by area, not
    /// interpolated: `compute_robust_hausdorff`.
    ///
    /// # Errors
    /// If `percent` is not in 0 to 100.
    pub fn percentile(&self, percent: f64) -> Result<f64> {
        check_percent(percent)?;
        Ok(at_percent(&self.to_reference, percent).max(at_percent(&self.to_result, percent)))
    }

    /// The area-weighted average distance from the result's surface.
    #[must_use]
    pub fn average_to_reference(&self) -> f64 {
        average(&self.to_reference)
    }

    /// The area-weighted average distance from the reference's surface. surface-distance's
    /// `compute_average_surface_distance` gives this one first.
    #[must_use]
    pub fn average_to_result(&self) -> f64 {
        average(&self.to_result)
    }

    /// Surface Dice: the share of both surfaces' area that lies within the tolerance of the other
    /// surface, `compute_surface_dice_at_tolerance`.
    ///
    /// # Errors
    /// If the tolerance is negative or NaN.
    pub fn surface_dice(&self, tolerance: f64) -> Result<f64> {
        check_tolerance(tolerance)?;
        let near = near(&self.to_reference, tolerance) + near(&self.to_result, tolerance);
        Ok(near / (area(&self.to_reference) + area(&self.to_result)))
    }

    /// The share of the result's surface, and of the reference's, that lies within the tolerance
    /// of the other.
    ///
    /// # Errors
    /// If the tolerance is negative or NaN.
    pub fn overlap(&self, tolerance: f64) -> Result<(f64, f64)> {
        check_tolerance(tolerance)?;
        let share = |surfels: &Surfels| near(surfels, tolerance) / area(surfels);
        Ok((share(&self.to_reference), share(&self.to_result)))
    }
}

pub(crate) fn check_tolerance(tolerance: f64) -> Result<()> {
    if tolerance >= 0.0 {
        return Ok(());
    }
    Err(Error::Parameter {
        what: "tolerance",
        expected: "0 or more",
        found: tolerance,
    })
}

fn by_distance(distances: Vec<f64>, areas: &[f64]) -> Surfels {
    let mut surfels: Surfels = distances.into_iter().zip(areas.iter().copied()).collect();
    surfels.par_sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    surfels
}

fn area(surfels: &Surfels) -> f64 {
    pairwise_sum(surfels.len(), &|i| surfels[i].1)
}

fn average(surfels: &Surfels) -> f64 {
    pairwise_sum(surfels.len(), &|i| surfels[i].0 * surfels[i].1) / area(surfels)
}

fn near(surfels: &Surfels, tolerance: f64) -> f64 {
    let count = surfels.partition_point(|surfel| surfel.0 <= tolerance);
    pairwise_sum(count, &|i| surfels[i].1)
}

/// The first distance at which the area so far reaches the share.
fn at_percent(surfels: &Surfels, percent: f64) -> f64 {
    let (total, wanted) = (area(surfels), percent / 100.0);
    let mut sum = 0.0;
    for surfel in surfels {
        sum += surfel.1;
        if sum / total >= wanted {
            return surfel.0;
        }
    }
    surfels.last().map_or(f64::INFINITY, |surfel| surfel.0)
}

/// A sum in the order in which numpy takes it: blocks of 128 in eight lanes, then in pairs. Where
/// the area falls exactly on the percentile, the last bit decides which element is taken.
fn pairwise_sum(count: usize, value: &dyn Fn(usize) -> f64) -> f64 {
    fn block(from: usize, count: usize, value: &dyn Fn(usize) -> f64) -> f64 {
        if count < 8 {
            return (from..from + count).fold(0.0, |sum, i| sum + value(i));
        }
        if count <= 128 {
            let mut lanes: [f64; 8] = std::array::from_fn(|lane| value(from + lane));
            let whole = count / 8 * 8;
            for i in (8..whole).step_by(8) {
                for (lane, sum) in lanes.iter_mut().enumerate() {
                    *sum += value(from + i + lane);
                }
            }
            let [a, b, c, d, e, f, g, h] = lanes;
            let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
            return (from + whole..from + count).fold(sum, |sum, i| sum + value(i));
        }
        let half = count / 2 / 8 * 8;
        block(from, half, value) + block(from + half, count - half, value)
    }
    block(0, count, value)
}

/// The corners on the surface of a mask: those that touch voxels in it and others. Corner i lies
/// between the voxels i - 1 and i.
fn corners(mask: &Bits, flat: bool) -> Bits {
    let [nx, ny, nz] = mask.shape();
    let [xs, ys, _] = mask.bounds().clone();
    let shape = [if flat { 1 } else { nx + 1 }, ny + 1, nz + 1];
    let words = shape[2].div_ceil(64);
    let planes = xs.start..if flat { 1 } else { xs.end + 1 };
    Bits::build(shape, planes, |x, plane| {
        for y in ys.start..=ys.end {
            let out = &mut plane[y * words..(y + 1) * words];
            let around = around(mask, x, y, flat);
            for (w, out) in out.iter_mut().enumerate() {
                let (mut any, mut all) = (0, u64::MAX);
                for row in around.iter().take(if flat { 2 } else { 4 }) {
                    let row = row.unwrap_or(&[]);
                    let (here, below) = (row.get(w).copied().unwrap_or(0), from_below(row, w));
                    any |= here | below;
                    all &= here & below;
                }
                *out = any & !all;
            }
        }
    })
}

/// The rows of voxels around a row of corners: the one at the high side of both axes first, then
/// y - 1, x - 1, and both. In 2-D the first two alone.
fn around(mask: &Bits, x: usize, y: usize, flat: bool) -> [Option<&[u64]>; 4] {
    let (before_x, before_y) = (x.checked_sub(1), y.checked_sub(1));
    let before_x = if flat { None } else { before_x };
    [
        mask.row_at(Some(x), Some(y)),
        mask.row_at(Some(x), before_y),
        mask.row_at(before_x, Some(y)),
        mask.row_at(before_x, before_y),
    ]
}

/// The area of the surface at each corner, in order: the voxels around it make a code, for which
/// `areas` has the area. Bit 2 i is the voxel of row i at the high side of the corner, bit 2 i + 1
/// the one at its low side.
fn element_areas(mask: &Bits, corners: &Bits, flat: bool, areas: &[f64]) -> Vec<f64> {
    let [xs, ys, _] = corners.bounds().clone();
    let mut found = Vec::with_capacity(corners.count());
    for x in xs {
        for y in ys.clone() {
            let around = around(mask, x, y, flat);
            for z in ones(corners.row(x, y)) {
                let voxel = |row: &[u64], z: usize| {
                    row.get(z / 64)
                        .map_or(0, |word| (word >> (z % 64) & 1) as usize)
                };
                let mut code = 0;
                for (i, row) in around.iter().enumerate() {
                    let row = row.unwrap_or(&[]);
                    let below = z.checked_sub(1).map_or(0, |z| voxel(row, z));
                    code |= (voxel(row, z) | below << 1) << (2 * i);
                }
                found.push(areas[code]);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::pairwise_sum;

    #[test]
    fn sums_of_every_length_are_whole() {
        for count in [0, 1, 7, 8, 9, 127, 128, 129, 1000, 4099] {
            let sum = pairwise_sum(count, &|i| i as f64);
            assert_eq!(sum, (count * count.saturating_sub(1) / 2) as f64);
        }
    }
}
