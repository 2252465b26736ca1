//! Distances between border voxels: medpy's definition.

use super::bits::{Bits, from_above, from_below};
use super::distances::distances;
use super::grid::Mask;
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
        let result = border(&Bits::of(&result), result.axes, connectivity);
        let reference = border(&Bits::of(&reference), reference.axes, connectivity);
        Ok(both(&result, &reference).map(|()| Self {
            to_reference: distances(&result, &reference, spacing),
            to_result: distances(&reference, &result, spacing),
        }))
    }

    /// The distances from the result's border voxels, in the order of the voxels in memory.
    #[must_use]
    pub fn to_reference(&self) -> &[f64] {
        &self.to_reference
    }

    /// The distances from the reference's border voxels, in the order of the result's memory.
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
        let all = || self.to_reference.iter().chain(&self.to_result).copied();
        let count = self.to_reference.len() + self.to_result.len();
        let place = (count - 1) as f64 * (percent / 100.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let below = (place.floor() as usize).min(count - 1);
        let low = smallest(all, below);
        let share = place - below as f64;
        if share == 0.0 || below + 1 == count {
            return Ok(low);
        }
        // The next in order: equal, or the smallest of the larger ones.
        let high = if all().filter(|&d| d <= low).count() > below + 1 {
            low
        } else {
            all().filter(|&d| d > low).fold(f64::INFINITY, f64::min)
        };
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

/// The distance with `rank` smaller ones before it, with no copy made of them: distances sort as
/// their bits do, so its bits are found by counting, 16 at a time.
fn smallest<I: Iterator<Item = f64>>(distances: impl Fn() -> I, mut rank: usize) -> f64 {
    let mut found = 0u64;
    for shift in [48, 32, 16, 0] {
        let mut counts = vec![0usize; 1 << 16];
        for distance in distances() {
            let bits = distance.to_bits();
            if shift == 48 || bits >> (shift + 16) == found >> (shift + 16) {
                counts[(bits >> shift & 0xffff) as usize] += 1;
            }
        }
        for (digit, count) in counts.into_iter().enumerate() {
            if rank < count {
                found |= (digit as u64) << shift;
                break;
            }
            rank -= count;
        }
    }
    f64::from_bits(found)
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

/// Which of the two sets is empty, if one is.
pub(crate) fn both(result: &Bits, reference: &Bits) -> std::result::Result<(), Undefined> {
    match (result.is_empty(), reference.is_empty()) {
        (false, false) => Ok(()),
        (true, true) => Err(Undefined::BothEmpty),
        (true, false) => Err(Undefined::ResultEmpty),
        (false, true) => Err(Undefined::ReferenceEmpty),
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

/// The border voxels of a mask: those with a neighbour that is not in it, along the axes that the
/// caller's array has.
pub(crate) fn border(mask: &Bits, axes: [bool; 3], connectivity: Connectivity) -> Bits {
    let steps = |axis: usize| if axes[axis] { -1isize..=1 } else { 0..=0 };
    // Neighbouring rows, and whether a step along the row may come on top.
    let mut rows = Vec::new();
    for dx in steps(0) {
        for dy in steps(1) {
            let moved = usize::from(dx != 0) + usize::from(dy != 0);
            if moved <= connectivity.axes() {
                rows.push((dx, dy, moved < connectivity.axes()));
            }
        }
    }
    let [xs, ys, _] = mask.bounds().clone();
    let words = mask.shape()[2].div_ceil(64);
    Bits::build(mask.shape(), xs, |x, plane| {
        let mut inside = vec![0; words];
        for y in ys.clone() {
            inside.fill(u64::MAX);
            for &(dx, dy, slack) in &rows {
                let there = mask.row_at(x.checked_add_signed(dx), y.checked_add_signed(dy));
                let Some(there) = there else {
                    inside.fill(0);
                    break;
                };
                for (w, inside) in inside.iter_mut().enumerate() {
                    *inside &= there[w];
                    if slack {
                        *inside &= from_below(there, w) & from_above(there, w);
                    }
                }
            }
            let out = &mut plane[y * words..(y + 1) * words];
            for ((out, &here), &inside) in out.iter_mut().zip(mask.row(x, y)).zip(&inside) {
                *out = here & !inside;
            }
        }
    })
}
