//! A volume on another's grid.

use ndarray::Array3;

use crate::affine::{self, Affine};
use crate::{Error, Result, Volume};

/// Brings a volume onto the grid of another, by linear interpolation in space: where the two affines say that a voxel lies. Nothing is
/// registered: both must be in the same space. Voxels outside of the volume are 0.
///
/// # Errors
/// [`Error::InvalidConfig`] when the volume's affine has no inverse.
///
/// ```
/// use fndm_data::{Volume, affine, resample};
/// use ndarray::Array3;
/// // Voxels of 2 mm, then of 1 mm: between two values lies their mean.
/// let coarse = Array3::from_shape_fn((2, 1, 1), |(i, ..)| 10.0 * i as f32);
/// let coarse = Volume::new(coarse, affine::diagonal([2.0, 1.0, 1.0]));
/// let fine = Volume::new(Array3::zeros((3, 1, 1)), affine::diagonal([1.0; 3]));
/// assert_eq!(resample(&coarse, &fine)?.data.as_slice().unwrap(), [0.0, 5.0, 10.0]);
/// # Ok::<(), fndm_data::Error>(())
/// ```
pub fn resample(volume: &Volume, like: &Volume) -> Result<Volume> {
    onto(volume, like, at)
}

/// As [`resample`], for a mask: each voxel is the nearest one of `volume`, so that no values come up in between.
///
/// # Errors
/// As there.
///
/// ```
/// use fndm_data::{Volume, affine, resample_mask};
/// use ndarray::Array3;
/// let coarse = Array3::from_shape_fn((2, 1, 1), |(i, ..)| i as f32);
/// let coarse = Volume::new(coarse, affine::diagonal([4.0, 1.0, 1.0]));
/// let fine = Volume::new(Array3::zeros((8, 1, 1)), affine::diagonal([1.0; 3]));
/// let found = resample_mask(&coarse, &fine)?.data;
/// assert_eq!(found.as_slice().unwrap(), [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
/// # Ok::<(), fndm_data::Error>(())
/// ```
pub fn resample_mask(volume: &Volume, like: &Volume) -> Result<Volume> {
    onto(volume, like, nearest)
}

/// `at` gives the value at a place between voxels.
fn onto(
    volume: &Volume,
    like: &Volume,
    at: impl Fn(&Volume, [usize; 3], [f64; 3]) -> f32,
) -> Result<Volume> {
    let to = compose(&inverse(&volume.affine)?, &like.affine);
    let shape = volume.shape();
    let data = Array3::from_shape_fn(like.shape(), |(i, j, k)| {
        let place: [f64; 3] = std::array::from_fn(|row| {
            let [a, b, c, d] = to[row];
            a * i as f64 + b * j as f64 + c * k as f64 + d
        });
        at(volume, shape, place)
    });
    Ok(Volume::new(data, like.affine))
}

/// The nearest voxel's value, the upper one's of two; 0 outside of all voxels.
fn nearest(volume: &Volume, shape: [usize; 3], place: [f64; 3]) -> f32 {
    let mut index = [0; 3];
    for axis in 0..3 {
        let x = (place[axis] + 0.5).floor();
        // Also where it's NaN.
        if !(x >= 0.0 && x < shape[axis] as f64) {
            return 0.0;
        }
        index[axis] = x as usize;
    }
    volume.data[index]
}

/// The value at a place between voxels; 0 farther out than the rounding of affines.
fn at(volume: &Volume, shape: [usize; 3], place: [f64; 3]) -> f32 {
    let mut cell = [(0usize, 0usize, 0f64); 3];
    for axis in 0..3 {
        let last = shape[axis] as f64 - 1.0;
        let x = place[axis];
        // Also where it's NaN.
        if !(x >= -1e-3 && x <= last + 1e-3) {
            return 0.0;
        }
        let x = x.clamp(0.0, last);
        let below = x.floor() as usize;
        cell[axis] = (below, (below + 1).min(shape[axis] - 1), x - x.floor());
    }
    let mut sum = 0f64;
    for corner in 0..8 {
        let mut weight = 1.0;
        let mut index = [0; 3];
        for (axis, &(below, above, share)) in cell.iter().enumerate() {
            let upper = corner >> axis & 1 == 1;
            index[axis] = if upper { above } else { below };
            weight *= if upper { share } else { 1.0 - share };
        }
        if weight > 0.0 {
            sum += weight * f64::from(volume.data[index]);
        }
    }
    sum as f32
}

fn inverse(m: &Affine) -> Result<Affine> {
    let determinant = affine::determinant(m);
    if !affine::is_invertible(m) {
        return Err(Error::config(
            "affine",
            "one with an inverse",
            format!("{m:?}"),
        ));
    }
    let linear = |row: usize, column: usize| {
        let (a, b) = ((column + 1) % 3, (column + 2) % 3);
        let (c, d) = ((row + 1) % 3, (row + 2) % 3);
        (m[a][c] * m[b][d] - m[a][d] * m[b][c]) / determinant
    };
    let line = |row: usize| {
        let [x, y, z] = [0, 1, 2].map(|column| linear(row, column));
        [x, y, z, -(x * m[0][3] + y * m[1][3] + z * m[2][3])]
    };
    Ok([line(0), line(1), line(2), [0.0, 0.0, 0.0, 1.0]])
}

fn compose(a: &Affine, b: &Affine) -> Affine {
    std::array::from_fn(|row| {
        std::array::from_fn(|column| (0..4).map(|n| a[row][n] * b[n][column]).sum())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function that is linear in space is the same on every grid.
    #[test]
    fn ramps_stay() {
        let turned = [
            [0.0, -1.5, 0.2, 3.0],
            [2.0, 0.1, 0.0, -7.0],
            [0.0, 0.3, 1.2, 1.0],
            [0.0, 0.0, 0.0, 1.0],
        ];
        let ramp = |affine: &Affine, shape: [usize; 3]| {
            Array3::from_shape_fn(shape, |(i, j, k)| {
                let x: [f64; 3] = std::array::from_fn(|row| {
                    let [a, b, c, d] = affine[row];
                    a * i as f64 + b * j as f64 + c * k as f64 + d
                });
                (100.0 + x[0] - 2.0 * x[1] + 0.5 * x[2]) as f32
            })
        };
        let source = Volume::new(ramp(&turned, [9, 8, 7]), turned);
        let mut inner = turned;
        for (row, values) in inner.iter_mut().enumerate().take(3) {
            let middle: f64 = (0..3).map(|n| 2.3 * turned[row][n]).sum();
            values[3] += middle;
            for value in values.iter_mut().take(3) {
                *value *= 0.7;
            }
        }
        let like = Volume::new(Array3::zeros((4, 5, 3)), inner);
        let got = resample(&source, &like).unwrap();
        let expected = ramp(&inner, [4, 5, 3]);
        for (a, b) in got.data.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
        // The same grid gives the same values, another place nothing.
        assert_eq!(resample(&source, &source).unwrap().data, source.data);
        inner[0][3] += 1e4;
        let far = Volume::new(Array3::zeros((4, 5, 3)), inner);
        assert!(
            resample(&source, &far)
                .unwrap()
                .data
                .iter()
                .all(|v| *v == 0.0)
        );
        let flat = Volume::new(source.data.clone(), [[0.0; 4]; 4]);
        assert!(resample(&flat, &like).is_err());
    }
}
