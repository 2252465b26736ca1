use fndm_metrics::{Connectivity, connected_components};
use ndarray::{Array3, ArrayView3};

use crate::Result;

/// Components of fewer voxels than this are taken for noise.
pub const LEAST_VOXELS: u64 = 21;

/// A mask `(N, H, W)` of a patient without its components of fewer than `least` voxels, those that touch by a corner counting as one.
///
/// # Errors
/// When it has too many voxels to be counted.
#[allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]
pub fn without_small(mask: ArrayView3<'_, bool>, least: u64) -> Result<Array3<bool>> {
    let found = connected_components(&mask, Connectivity::Corners)?;
    Ok(found
        .labels
        .mapv(|label| label > 0 && found.sizes[label as usize - 1] >= least))
}
