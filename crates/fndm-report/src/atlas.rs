//! All slices of a layer as one PNG.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]

use fndm_pictures::{bit_png, grey_png};
use ndarray::{Array2, ArrayView3, Axis, s};

use crate::Result;

/// Slices side by side, in rows of `columns`: slice n stands in row n / columns. A browser draws no picture that is very long.
#[derive(Debug, Clone)]
pub(crate) struct Atlas {
    pub(crate) columns: usize,
    pub(crate) png: Vec<u8>,
}

impl Atlas {
    pub(crate) fn grey(slices: ArrayView3<'_, u8>) -> Result<Self> {
        let (columns, all) = joined(slices);
        let (height, width) = all.dim();
        let png = grey_png(&all.into_raw_vec_and_offset().0, width, height)?;
        Ok(Self { columns, png })
    }

    /// One bit a pixel.
    pub(crate) fn bits(slices: ArrayView3<'_, bool>) -> Result<Self> {
        let (columns, all) = joined(slices);
        let (height, width) = all.dim();
        let png = bit_png(&all.into_raw_vec_and_offset().0, width, height)?;
        Ok(Self { columns, png })
    }
}

/// In rows one after the other.
fn joined<T: Copy + Default>(slices: ArrayView3<'_, T>) -> (usize, Array2<T>) {
    let (n, height, width) = slices.dim();
    let columns = (1..=n).find(|c| c * c >= n).unwrap_or(1);
    let rows = n.div_ceil(columns);
    let mut all = Array2::from_elem((rows * height, columns * width), T::default());
    for (at, slice) in slices.axis_iter(Axis(0)).enumerate() {
        let (top, left) = (at / columns * height, at % columns * width);
        all.slice_mut(s![top..top + height, left..left + width])
            .assign(&slice);
    }
    (columns, all)
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    #[test]
    fn slices_stand_in_rows() {
        let slices = Array3::from_shape_fn((5, 2, 3), |(n, y, x)| (100 * n + 10 * y + x) as u16);
        let (columns, all) = joined(slices.view());
        assert_eq!((columns, all.dim()), (3, (4, 9)));
        assert_eq!(all[(0, 3)], 100);
        assert_eq!(all[(3, 5)], 412);
        assert_eq!(all[(3, 8)], 0);
    }
}
