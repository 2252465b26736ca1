//! Masks of 1 to 3 dimensions seen as sets of a 3-D lattice.

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

    /// The two masks of a comparison and their spacing, checked. Both have their axes in the order in
    /// which the result lies in memory, neighbours last: no distance depends on it.
    pub(crate) fn pair<D: Dimension>(
        result: &'a ArrayView<'_, bool, D>,
        reference: &'a ArrayView<'_, bool, D>,
        spacing: &[f64],
    ) -> Result<(Self, Self, [f64; 3])> {
        same_shape("result mask", reference.shape(), result.shape())?;
        let result = Self::new("result mask", result)?;
        let reference = Self::new("reference mask", reference)?;
        let axes = result.axes.iter().filter(|&&axis| axis).count();
        let spacing = spacing_3d(axes, spacing)?;
        let mut order = [0, 1, 2];
        let strides = result.view.strides();
        // The missing axes stay first.
        order[3 - axes..].sort_by_key(|&axis| std::cmp::Reverse(strides[axis].unsigned_abs()));
        let turned = |mask: Self| Self {
            view: mask.view.permuted_axes(order),
            axes: mask.axes,
        };
        let spacing = order.map(|axis| spacing[axis]);
        Ok((turned(result), turned(reference), spacing))
    }
}
