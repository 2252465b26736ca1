//! A volume's score slice by slice.

use crate::error::{Error, Result, same_shape};
use crate::score::Score;
use ndarray::{ArrayView, Axis, RemoveAxis};

/// The metric of every slice of two masks along an axis, in order: an [`Aggregate`](crate::Aggregate)
/// of them is the figure "per slice", where the metric of the whole masks is the one "per volume".
///
/// A slice in which nothing is marked has no Dice: it is skipped and counted, or what
/// [`EmptyRules`](crate::EmptyRules) makes of it.
///
/// ```
/// use fndm_metrics::{Aggregate, dice, per_slice};
/// use ndarray::{Axis, array};
///
/// let result = array![[[true, true]], [[false, true]], [[false, false]]];
/// let reference = array![[[true, false]], [[false, true]], [[false, false]]];
/// let slices = per_slice(&result.view(), &reference.view(), Axis(0), dice)?;
/// let slices = Aggregate::of(slices);
/// assert_eq!((slices.mean, slices.counted), (Some((2.0 / 3.0 + 1.0) / 2.0), 2));
/// assert_eq!(slices.skipped_in_words(), "1 both empty");
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
///
/// # Errors
/// If the shapes differ, there is no such axis, or the metric fails for a slice.
pub fn per_slice<D: RemoveAxis>(
    result: &ArrayView<'_, bool, D>,
    reference: &ArrayView<'_, bool, D>,
    axis: Axis,
    metric: impl Fn(&ArrayView<'_, bool, D::Smaller>, &ArrayView<'_, bool, D::Smaller>) -> Result<Score>,
) -> Result<Vec<Score>> {
    same_shape("result mask", reference.shape(), result.shape())?;
    if axis.index() >= result.ndim() {
        return Err(Error::Dimension {
            what: "slices",
            expected: "more, for slices along the axis asked for",
            found: result.ndim(),
        });
    }
    let slices = result.axis_iter(axis).zip(reference.axis_iter(axis));
    slices.map(|(a, b)| metric(&a, &b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Definition, dice, hausdorff};
    use ndarray::{Array3, arr2};

    #[test]
    fn slices_are_scored_by_themselves() {
        let result = Array3::from_shape_fn((3, 4, 5), |(x, y, z)| (x + 2 * y + z) % 3 == 0);
        let reference = Array3::from_shape_fn((3, 4, 5), |(x, y, z)| (x * y + z) % 2 == 0);
        let (a, b) = (result.view(), reference.view());
        for axis in 0..3 {
            let scores = per_slice(&a, &b, Axis(axis), dice).unwrap();
            assert_eq!(scores.len(), a.len_of(Axis(axis)));
            for (i, score) in scores.into_iter().enumerate() {
                let (a, b) = (a.index_axis(Axis(axis), i), b.index_axis(Axis(axis), i));
                assert_eq!(score, dice(&a, &b).unwrap());
            }
        }
    }

    #[test]
    fn what_cannot_be_sliced_is_an_error() {
        let (a, b) = (arr2(&[[true]]), arr2(&[[true, false]]));
        assert!(per_slice(&a.view(), &b.view(), Axis(0), dice).is_err());
        assert!(per_slice(&a.view(), &a.view(), Axis(2), dice).is_err());
        // The metric's own error comes through: a spacing for each of the slice's axes.
        let bad = per_slice(&a.view(), &a.view(), Axis(0), |a, b| {
            hausdorff(a, b, &[1.0, 1.0], Definition::Medpy)
        });
        assert!(matches!(bad, Err(Error::Spacing { axes: 1, .. })));
    }
}
