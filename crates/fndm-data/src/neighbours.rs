//! The neighbours of a slice in its volume.

use std::collections::BTreeMap;

use ndarray::{Array2, Array4, ArrayView2, ArrayView4, Axis, s};

use crate::{Error, Result, SliceImages};

/// A wider context is taken for a mistake.
const MAX_CONTEXT: usize = 1024;

/// For each slice, the indices of the slices from `context` below to `context` above it in the volume: `(N, 2 context + 1)`,
/// the slice itself in the middle.
///
/// `patient` and `z` have the patient of each slice and its position in the volume. Where a volume's slices end, or one is
/// missing, the last one on the way stands for what lies beyond.
///
/// ```
/// use fndm_data::neighbours;
/// // Two patients; the slice at 6 of the first is missing.
/// let table = neighbours(&[0, 0, 0, 1], &[4, 5, 7, 5], 1)?;
/// assert_eq!(table, ndarray::array![[0, 0, 1], [0, 1, 1], [2, 2, 2], [3, 3, 3]]);
/// # Ok::<(), fndm_data::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] when `patient` and `z` differ in length; [`Error::InvalidConfig`] for a context above 1024.
pub fn neighbours(patient: &[usize], z: &[usize], context: usize) -> Result<Array2<usize>> {
    if patient.len() != z.len() {
        let expected = format!("{} patients, one for each position", z.len());
        return Err(Error::shape("patient", expected, &[patient.len()]));
    }
    if context > MAX_CONTEXT {
        let expected = format!("at most {MAX_CONTEXT}");
        return Err(Error::config("context", expected, context));
    }
    let place: BTreeMap<(usize, usize), usize> = patient
        .iter()
        .zip(z)
        .enumerate()
        .map(|(n, (&p, &z))| ((p, z), n))
        .collect();
    let mut table = Array2::zeros((z.len(), 2 * context + 1));
    for (n, (&p, &at)) in patient.iter().zip(z).enumerate() {
        let (mut below, mut above) = (n, n);
        let (mut down, mut up) = (true, true);
        table[[n, context]] = n;
        for step in 1..=context {
            let found = at.checked_sub(step).and_then(|z| place.get(&(p, z)));
            down &= found.is_some();
            below = found.filter(|_| down).copied().unwrap_or(below);
            table[[n, context - step]] = below;
            let found = at.checked_add(step).and_then(|z| place.get(&(p, z)));
            up &= found.is_some();
            above = found.filter(|_| up).copied().unwrap_or(above);
            table[[n, context + step]] = above;
        }
    }
    Ok(table)
}

/// Slices `(N, C, H, W)` with their neighbours beside them, `(N, C (2 context + 1), H, W)`: all channels of the lowest first.
///
/// # Errors
/// [`Error::Shape`] when `patient`, `z` and the images differ in length; [`Error::InvalidConfig`] as [`neighbours`].
pub fn with_neighbours(
    images: ArrayView4<'_, f32>,
    patient: &[usize],
    z: &[usize],
    context: usize,
) -> Result<Array4<f32>> {
    let n = images.len_of(Axis(0));
    if n != z.len() {
        let expected = format!("{n} positions, one for each slice");
        return Err(Error::shape("z", expected, &[z.len()]));
    }
    neighbours_of(&images, neighbours(patient, z, context)?.view())
}

/// As [`with_neighbours`], of some of the slices alone: those whose rows of the table of [`neighbours`] are given. So the images of a
/// whole patient needn't be in memory with their neighbours beside them.
///
/// # Errors
/// [`Error::Shape`] for a number in the table that no slice has; [`Error::Io`], where the images are on the disk.
pub fn neighbours_of<I: SliceImages>(
    images: &I,
    table: ArrayView2<'_, usize>,
) -> Result<Array4<f32>> {
    let (n, c, h, w) = images.dim();
    if let Some(&beyond) = table.iter().find(|&&from| from >= n) {
        return Err(Error::shape("neighbours", format!("below {n}"), &[beyond]));
    }
    let mut out = Array4::zeros((table.nrows(), c * table.ncols(), h, w));
    for ((i, k), &from) in table.indexed_iter() {
        let one = images.part(from..from + 1)?;
        out.slice_mut(s![i, k * c..(k + 1) * c, .., ..])
            .assign(&one.index_axis(Axis(0), 0));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_without_end_is_refused() {
        let refused = neighbours(&[0], &[0], usize::MAX);
        assert!(matches!(refused, Err(Error::InvalidConfig { .. })));
    }

    #[test]
    fn neighbours_are_of_the_same_patient_and_next_in_z() {
        // Out of order, with a gap at 3 of patient 1.
        let (patient, z) = ([1, 0, 1, 0, 1, 1], [2, 8, 1, 7, 5, 4]);
        let table = neighbours(&patient, &z, 2).unwrap();
        let expected = [
            [2, 2, 0, 0, 0],
            [3, 3, 1, 1, 1],
            [2, 2, 2, 0, 0],
            [3, 3, 3, 1, 1],
            [5, 5, 4, 4, 4],
            [5, 5, 5, 4, 4],
        ];
        for (row, expected) in table.rows().into_iter().zip(expected) {
            assert_eq!(row.to_vec(), expected);
        }
        let alone = neighbours(&patient, &z, 0).unwrap();
        assert_eq!(alone.column(0).to_vec(), [0, 1, 2, 3, 4, 5]);
        assert!(neighbours(&patient, &z[1..], 1).is_err());
    }

    #[test]
    fn channels_are_those_of_the_neighbours() {
        let images = Array4::from_shape_fn((3, 2, 2, 2), |(n, c, y, x)| {
            (100 * n + 10 * c + 2 * y + x) as f32
        });
        let out = with_neighbours(images.view(), &[0; 3], &[4, 5, 6], 1).unwrap();
        assert!(with_neighbours(images.view(), &[0; 2], &[4, 5], 1).is_err());
        assert_eq!(out.dim(), (3, 6, 2, 2));
        for ((n, k, y, x), &v) in out.indexed_iter() {
            let from = (n + k / 2).saturating_sub(1).min(2);
            assert_eq!(v, images[[from, k % 2, y, x]]);
        }
    }
}
