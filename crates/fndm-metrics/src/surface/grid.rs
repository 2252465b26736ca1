//! Masks of 1 to 3 dimensions seen as boxes of a 3-D lattice.

use crate::empty::check_spacing;
use crate::error::{Error, Result, same_shape};
use ndarray::{ArrayView, ArrayView3, Axis, Dimension, Ix3};

/// A mask of 1 to 3 dimensions as one of 3: missing axes have length 1 and come first.
pub(crate) struct Mask<'a> {
    pub(crate) view: ArrayView3<'a, bool>,
    /// Which axes the caller's array has. The outside is background along these alone.
    pub(crate) axes: [bool; 3],
}

/// The spacing as three numbers, 1 for a missing axis.
pub(crate) fn spacing_3d(axes: usize, spacing: &[f64]) -> Result<[f64; 3]> {
    check_spacing(axes, spacing)?;
    let mut all = [1.0; 3];
    all[3 - axes..].copy_from_slice(spacing);
    Ok(all)
}

impl<'a> Mask<'a> {
    pub(crate) fn new<D: Dimension>(
        what: &'static str,
        mask: &'a ArrayView<'_, bool, D>,
    ) -> Result<Self> {
        let axes = mask.ndim();
        let wrong = || Error::Dimension {
            what,
            expected: "1, 2 or 3",
            found: axes,
        };
        if axes == 0 || axes > 3 {
            return Err(wrong());
        }
        let mut view = mask.view().into_dyn();
        while view.ndim() < 3 {
            view = view.insert_axis(Axis(0));
        }
        let view = view.into_dimensionality::<Ix3>().map_err(|_| wrong())?;
        Ok(Self {
            view,
            axes: std::array::from_fn(|axis| axis + axes >= 3),
        })
    }

    /// The two masks of a comparison and their spacing, checked.
    pub(crate) fn pair<D: Dimension>(
        result: &'a ArrayView<'_, bool, D>,
        reference: &'a ArrayView<'_, bool, D>,
        spacing: &[f64],
    ) -> Result<(Self, Self, [f64; 3])> {
        same_shape("result mask", reference.shape(), result.shape())?;
        let spacing = {
            // The dimension is checked first: it is the more telling error.
            let _ = Self::new("result mask", result)?;
            spacing_3d(result.ndim(), spacing)?
        };
        Ok((
            Self::new("result mask", result)?,
            Self::new("reference mask", reference)?,
            spacing,
        ))
    }

    /// The smallest box that holds every true voxel: its first corner and its shape.
    pub(crate) fn bounding_box(&self) -> Option<([usize; 3], [usize; 3])> {
        let mut low = [usize::MAX; 3];
        let mut high = [0; 3];
        for (x, plane) in self.view.outer_iter().enumerate() {
            for (y, row) in plane.outer_iter().enumerate() {
                let ends = match row.as_slice() {
                    Some(row) => ends(row),
                    None => row
                        .iter()
                        .position(|&v| v)
                        .map(|first| (first, row.iter().rposition(|&v| v).unwrap_or(first))),
                };
                if let Some((first, last)) = ends {
                    for (axis, (from, to)) in
                        [(x, x), (y, y), (first, last)].into_iter().enumerate()
                    {
                        low[axis] = low[axis].min(from);
                        high[axis] = high[axis].max(to);
                    }
                }
            }
        }
        (low[0] != usize::MAX).then(|| (low, std::array::from_fn(|a| high[a] + 1 - low[a])))
    }
}

/// The first and last true position of a row, sixteen voxels at a time where they are all false.
fn ends(row: &[bool]) -> Option<(usize, usize)> {
    const STEP: usize = 16;
    let any = |chunk: &[bool]| chunk.iter().fold(false, |a, &b| a | b);
    let start = row.chunks(STEP).position(any)? * STEP;
    let first = start + row[start..].iter().position(|&v| v)?;
    let last = row.iter().rposition(|&v| v)?;
    Some((first, last))
}

/// A set of lattice points: a flag (0 or not) for each point of a box.
#[derive(Debug, Clone)]
pub(crate) struct Points {
    /// The box's first corner on the common lattice.
    pub(crate) origin: [usize; 3],
    /// The box's shape.
    pub(crate) shape: [usize; 3],
    /// Row-major flags of the box; any value but 0 is a point of the set.
    pub(crate) flags: Vec<u8>,
}

impl Points {
    /// The flags of one plane of the first axis, given by its place in the box.
    pub(crate) fn plane(&self, x: usize) -> &[u8] {
        let size = self.shape[1] * self.shape[2];
        &self.flags[x * size..(x + 1) * size]
    }

    /// One past the last coordinate along an axis.
    pub(crate) fn end(&self, axis: usize) -> usize {
        self.origin[axis] + self.shape[axis]
    }
}
