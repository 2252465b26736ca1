use candle_core::Tensor;
use ndarray::{Array3, ArrayView3};

use crate::enlarge::{Corners, enlarge};
use crate::{Error, Result};

/// The authors' preprocessing of one sequence's volume: divided by the 99th percentile of what is above 0, linear between voxels.
///
/// # Errors
/// When nothing is above 0, or a value isn't finite.
#[allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]
pub fn by_99th_percentile(volume: ArrayView3<'_, f32>) -> Result<Array3<f32>> {
    if volume.iter().any(|v| !v.is_finite()) {
        return Err(Error::NonFinite {
            what: "the volume".to_owned(),
        });
    }
    let mut values: Vec<f32> = volume.iter().copied().filter(|v| *v > 0.0).collect();
    values.sort_unstable_by(f32::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return Err(Error::shape("the volume", "a voxel above 0", "none"));
    };
    let place = 0.99 * last as f64;
    let low = place as usize;
    let (a, b) = (
        f64::from(values[low]),
        f64::from(values[(low + 1).min(last)]),
    );
    let percentile = a + (place - low as f64) * (b - a);
    Ok(volume.mapv(|v| (f64::from(v) / percentile) as f32))
}

/// Slices `(B, C, H, W)` resized bilinearly, as the authors resize them to 128 x 128.
///
/// # Errors
/// When they haven't four dimensions.
pub fn resized(slices: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    enlarge(slices, size, Corners::Free)
}
