use fndm_memory::{Edge, gaussian_blur, upsample_bilinear};
use ndarray::{Array3, ArrayView3};

use crate::{Error, Result};

/// Deviation of the authors' Gaussian that smooths a map, in pixels.
pub const SIGMA: f64 = 4.0;

/// Distances of patches `(B, h, w)` enlarged to `(B, H, W)`.
///
/// # Errors
/// When a side is 0.
#[allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]
pub fn upsampled(distances: ArrayView3<'_, f32>, size: (usize, usize)) -> Result<Array3<f32>> {
    Ok(upsample_bilinear(distances, size)?)
}

/// Maps smoothed by a Gaussian of this deviation in pixels, 0 for none; the authors' is [`SIGMA`]. Theirs mirrors the map with its edge
/// repeated, anomalib's without.
///
/// # Errors
/// Those of the smoothing.
pub fn smoothed(mut maps: Array3<f32>, sigma: f64, edge: Edge) -> Result<Array3<f32>> {
    gaussian_blur(&mut maps, sigma, edge)?;
    Ok(maps)
}

/// Maps of a whole set brought to 0 to 1, from the smallest value of all to the largest. All 0 where these are equal.
///
/// # Errors
/// When a value isn't finite.
pub fn over_the_set(mut maps: Array3<f32>) -> Result<Array3<f32>> {
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for &v in &maps {
        if !v.is_finite() {
            return Err(Error::NonFinite {
                what: "the maps".to_owned(),
            });
        }
        (low, high) = (low.min(v), high.max(v));
    }
    let range = high - low;
    maps.mapv_inplace(|v| match range > 0.0 {
        true => (v - low) / range,
        false => 0.0,
    });
    Ok(maps)
}
