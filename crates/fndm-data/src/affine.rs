//! Voxel-to-world matrices, orientation codes and reorientation.
//!
//! World space is RAS+: x grows to the right, y to the front (anterior), z up
//! (superior), in millimetres.

use ndarray::{Array3, ArrayView3, ArrayViewMut3, Axis, ShapeBuilder};

use crate::{Error, Result, Volume};

/// A 4 x 4 matrix, rows first, that maps voxel indices (i, j, k, 1) to millimetres.
pub type Affine = [[f64; 4]; 4];

/// The matrix with the given voxel sizes on its diagonal and no offset.
#[must_use]
pub fn diagonal(spacing: [f64; 3]) -> Affine {
    let [x, y, z] = spacing;
    [
        [x, 0.0, 0.0, 0.0],
        [0.0, y, 0.0, 0.0],
        [0.0, 0.0, z, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
}

/// Edge lengths of a voxel: the lengths of the first three columns.
#[must_use]
pub fn spacing(affine: &Affine) -> [f64; 3] {
    std::array::from_fn(|c| {
        (0..3)
            .map(|r| affine[r][c] * affine[r][c])
            .sum::<f64>()
            .sqrt()
    })
}

/// For every array axis, the world axis that it runs along and its direction.
///
/// As nibabel does it: the matrix is replaced by the nearest rotation (or
/// reflection), so that shear and voxel sizes do not matter; the array axis that runs nearest
/// to a world axis takes it, then the next, until each has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation {
    /// For each array axis: world axis (0 = right, 1 = front, 2 = up) and whether
    /// the array runs against it.
    pub axes: [(usize, bool); 3],
}

impl Orientation {
    /// The orientation of a grid.
    #[must_use]
    pub fn of(affine: &Affine) -> Self {
        let rotation = nearest_rotation(affine);
        let strength = |axis: usize| (0..3).map(|w| rotation[w][axis].abs()).fold(0.0, f64::max);
        let mut order = [0, 1, 2];
        order.sort_by(|&a, &b| strength(b).total_cmp(&strength(a)));
        let mut axes = [(usize::MAX, false); 3];
        for axis in order {
            let free = (0..3).filter(|&world| axes.iter().all(|a| a.0 != world));
            let best = free.fold(None, |best: Option<usize>, world| match best {
                Some(b) if rotation[b][axis].abs() >= rotation[world][axis].abs() => Some(b),
                _ => Some(world),
            });
            let world = best.unwrap_or(axis);
            axes[axis] = (world, rotation[world][axis] < 0.0);
        }
        Self { axes }
    }

    /// One letter per array axis: the direction in which it grows.
    #[must_use]
    pub fn codes(&self) -> [char; 3] {
        self.axes.map(|(world, flipped)| match (world, flipped) {
            (0, false) => 'R',
            (0, true) => 'L',
            (1, false) => 'A',
            (1, true) => 'P',
            (_, false) => 'S',
            (_, true) => 'I',
        })
    }
}

/// The orthogonal factor of the polar decomposition of the directions of the columns,
/// by Newton's iteration. Where there is none (a singular matrix), the directions themselves.
fn nearest_rotation(affine: &Affine) -> [[f64; 3]; 3] {
    let scale = spacing(affine);
    let direction = |row: usize, column: usize| {
        let value = affine[row][column] / scale[column];
        if value.is_finite() { value } else { 0.0 }
    };
    let start: [[f64; 3]; 3] = std::array::from_fn(|r| std::array::from_fn(|c| direction(r, c)));
    let mut current = start;
    for _ in 0..100 {
        let Some(inverse) = inverse_transposed(&current) else {
            return start;
        };
        let next: [[f64; 3]; 3] =
            std::array::from_fn(|r| std::array::from_fn(|c| 0.5 * (current[r][c] + inverse[r][c])));
        let change = (0..9)
            .map(|n| (next[n / 3][n % 3] - current[n / 3][n % 3]).abs())
            .fold(0.0, f64::max);
        current = next;
        if change < 1e-14 {
            break;
        }
    }
    current
}

/// Transposed inverse of a 3 x 3 matrix: cofactors over the determinant.
fn inverse_transposed(m: &[[f64; 3]; 3]) -> Option<[[f64; 3]; 3]> {
    let cofactor = |r: usize, c: usize| {
        let (r1, r2, c1, c2) = ((r + 1) % 3, (r + 2) % 3, (c + 1) % 3, (c + 2) % 3);
        m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]
    };
    let determinant: f64 = (0..3).map(|c| m[0][c] * cofactor(0, c)).sum();
    if determinant.is_nan() || determinant.abs() <= 1e-12 {
        return None;
    }
    Some(std::array::from_fn(|r| {
        std::array::from_fn(|c| cofactor(r, c) / determinant)
    }))
}

/// The letters of the six directions, as used by [`Orientation::codes`].
const DIRECTIONS: [(char, usize, bool); 6] = [
    ('R', 0, false),
    ('L', 0, true),
    ('A', 1, false),
    ('P', 1, true),
    ('S', 2, false),
    ('I', 2, true),
];

/// Which input axis becomes which output axis, and which are turned round, to bring
/// an array from its own orientation to a wanted one. It copies nothing and can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reorder {
    /// For each output axis: the input axis.
    pub from: [usize; 3],
    /// For each output axis: whether it runs against the input axis.
    pub flipped: [bool; 3],
}

impl Reorder {
    /// From the orientation of a grid to the wanted codes, one letter for each output
    /// axis, for example `['R', 'A', 'S']`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when the codes do not name each of the three directions once.
    pub fn new(affine: &Affine, codes: [char; 3]) -> Result<Self> {
        let orientation = Orientation::of(affine);
        let mut from = [usize::MAX; 3];
        let mut flipped = [false; 3];
        for (out, code) in codes.iter().enumerate() {
            let wanted = DIRECTIONS.iter().find(|(letter, ..)| letter == code);
            let found = wanted.and_then(|&(_, world, against)| {
                let axis = orientation.axes.iter().position(|a| a.0 == world)?;
                Some((axis, orientation.axes[axis].1 != against))
            });
            match found {
                Some((axis, flip)) if !from.contains(&axis) => {
                    from[out] = axis;
                    flipped[out] = flip;
                }
                _ => {
                    let got: String = codes.iter().collect();
                    return Err(Error::config(
                        "orientation codes",
                        "one of R/L, one of A/P, one of S/I",
                        got,
                    ));
                }
            }
        }
        Ok(Self { from, flipped })
    }

    /// The array in the new orientation, as a view.
    #[must_use]
    pub fn view<'a, T>(&self, array: ArrayView3<'a, T>) -> ArrayView3<'a, T> {
        let mut out = array.permuted_axes(self.from);
        for axis in 0..3 {
            if self.flipped[axis] {
                out.invert_axis(Axis(axis));
            }
        }
        out
    }

    /// The array in the new orientation, as a view to write through.
    #[must_use]
    pub fn view_mut<'a, T>(&self, array: ArrayViewMut3<'a, T>) -> ArrayViewMut3<'a, T> {
        let mut out = array.permuted_axes(self.from);
        for axis in 0..3 {
            if self.flipped[axis] {
                out.invert_axis(Axis(axis));
            }
        }
        out
    }

    /// The affine of the reordered array. `shape` is that of the input array.
    #[must_use]
    pub fn affine(&self, affine: &Affine, shape: [usize; 3]) -> Affine {
        let mut out = *affine;
        for row in 0..3 {
            let mut offset = affine[row][3];
            for axis in 0..3 {
                let step = affine[row][self.from[axis]];
                if self.flipped[axis] {
                    offset += step * (shape[self.from[axis]] as f64 - 1.0);
                    out[row][axis] = -step;
                } else {
                    out[row][axis] = step;
                }
            }
            out[row][3] = offset;
        }
        out
    }
}

/// The volume with its axes in the given orientation: axes swapped and turned, no
/// voxel interpolated. The header is dropped, since it describes the other order.
///
/// # Errors
/// [`Error::InvalidConfig`] as [`Reorder::new`].
///
/// ```
/// use fndm_data::{Volume, affine};
/// let volume = Volume::new(ndarray::Array3::zeros((4, 5, 6)), affine::diagonal([-1.0, -1.0, 3.0]));
/// assert_eq!(volume.axis_codes(), ['L', 'P', 'S']);
/// let canonical = affine::reorient(&volume, ['R', 'A', 'S'])?;
/// assert_eq!(canonical.axis_codes(), ['R', 'A', 'S']);
/// # Ok::<(), fndm_data::Error>(())
/// ```
pub fn reorient(volume: &Volume, codes: [char; 3]) -> Result<Volume> {
    let reorder = Reorder::new(&volume.affine, codes)?;
    let view = reorder.view(volume.data.view());
    // Keep the first axis fastest, as files have it.
    let mut data = Array3::zeros(view.raw_dim().f());
    data.assign(&view);
    Ok(Volume::new(
        data,
        reorder.affine(&volume.affine, volume.shape()),
    ))
}

/// Determinant of the 3 x 3 part: the volume of a voxel in mm³, negative for a left-handed grid.
#[must_use]
pub fn determinant(affine: &Affine) -> f64 {
    let [a, b, c, _] = affine;
    a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
}

/// Whether all entries are finite and voxels have a volume.
#[must_use]
pub fn is_invertible(affine: &Affine) -> bool {
    let scale: f64 = spacing(affine).iter().product();
    affine.iter().flatten().all(|v| v.is_finite())
        && scale > 0.0
        && determinant(affine).abs() > 1e-9 * scale
}
