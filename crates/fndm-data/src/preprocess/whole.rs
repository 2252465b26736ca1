//! The lesion of a whole volume, kept beside slices of it.

use ndarray::{ArrayView2, ArrayView3};

use super::PatientSlices;
use crate::{Error, Result, Volume, is_lesion};

/// Which voxels of a whole volume are lesion, in the slices that are used and in all others. A lesion is a small part of a volume, so that
/// the rows that it fills are kept, and not the voxels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeLesion {
    /// Of each slice of the volume, from the lower end: row, first column, and the column after the last.
    slices: Vec<Vec<[u32; 3]>>,
}

/// Voxels of a volume by whether a mask has them and whether they are lesion; those with neither aren't counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overlap {
    /// In the mask, and lesion.
    pub both: u64,
    /// In the mask alone.
    pub mask_only: u64,
    /// Lesion that isn't in the mask.
    pub lesion_only: u64,
}

impl WholeLesion {
    /// Of a mask turned to the axes of the slices, (N, H, W).
    pub(super) fn of(mask: ArrayView3<'_, f32>) -> Self {
        let runs = |slice: ArrayView2<'_, f32>| {
            let mut runs: Vec<[u32; 3]> = Vec::new();
            for ((row, column), &value) in slice.indexed_iter() {
                if !is_lesion(value) {
                    continue;
                }
                let (row, column) = (row as u32, column as u32);
                match runs.last_mut() {
                    Some([last, _, end]) if (*last, *end) == (row, column) => *end += 1,
                    _ => runs.push([row, column, column + 1]),
                }
            }
            runs
        };
        Self {
            slices: mask.outer_iter().map(runs).collect(),
        }
    }

    /// Voxels of the lesion.
    #[must_use]
    pub fn voxels(&self) -> u64 {
        (0..self.slices.len()).map(|z| self.voxels_in(z)).sum()
    }

    /// Voxels of the lesion in one slice of the volume, counted from the lower end.
    #[must_use]
    pub fn voxels_in(&self, z: usize) -> u64 {
        let runs = self.slices.get(z).into_iter().flatten();
        runs.map(|[_, first, end]| u64::from(end - first)).sum()
    }
}

impl<I> PatientSlices<I> {
    /// A mask on the input's grid, as [`to_mask_above`](Self::to_mask_above) gives it, beside the lesion of the whole volume: lesion in slices
    /// that aren't used is missed. `None` where no lesion is known ([`lesion`](Self::lesion)).
    ///
    /// # Errors
    /// [`Error::Shape`] for a mask on another grid.
    pub fn whole_overlap(&self, mask: &Volume) -> Result<Option<Overlap>> {
        let Some(lesion) = &self.lesion else {
            return Ok(None);
        };
        let expected = self.geometry.shape();
        if mask.shape() != expected {
            return Err(Error::shape("mask", format!("{expected:?}"), &mask.shape()));
        }
        // `fold` goes in the order of memory, `iter` does not.
        let marked = |count: u64, &value: &f32| count + u64::from(is_lesion(value));
        let marked = mask.data.fold(0, marked);
        let stack = self.geometry.reorder().view(mask.data.view());
        let mut both = 0;
        for (slice, runs) in stack.outer_iter().zip(&lesion.slices) {
            for &[row, first, end] in runs {
                let row = slice.row(row as usize);
                let hits = (first..end).filter(|&x| is_lesion(row[x as usize]));
                both += hits.count() as u64;
            }
        }
        Ok(Some(Overlap {
            both,
            mask_only: marked - both,
            lesion_only: lesion.voxels() - both,
        }))
    }
}
