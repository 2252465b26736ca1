use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::layer_differences;
use crate::enlarge::{Corners, enlarge};
use crate::maps::largest;
use crate::{Error, Result};

/// The size of the authors' maps, whatever the slice's is.
pub const OFFICIAL_SIZE: (usize, usize) = (64, 64);

/// How the layers' differences become one map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapStyle {
    /// Their product: the authors' code.
    #[default]
    Official,
    /// The product of their halves.
    Anomalib,
}

/// Maps `(B, H, W)`: the layers' differences, enlarged to `size`, multiplied.
///
/// # Errors
/// When the student's maps aren't of the teacher's shapes.
pub fn score_map(
    teacher: &[Tensor],
    student: &[Tensor],
    size: (usize, usize),
    style: MapStyle,
) -> Result<Tensor> {
    let factor = match style {
        MapStyle::Official => 1.0,
        MapStyle::Anomalib => 0.5,
    };
    let mut product: Option<Tensor> = None;
    for layer in layer_differences(teacher, student)? {
        let own = (enlarge(&layer.detach(), size, Corners::Free)? * factor)?;
        product = Some(match product {
            Some(product) => (product * own)?,
            None => own,
        });
    }
    let product = product.ok_or_else(|| Error::config("layers", "1 or more", 0))?;
    Ok(product.squeeze(1)?)
}

/// The largest value of each map `(B, h, w)` after it is enlarged to `size`.
///
/// # Errors
/// When a side is 0.
pub fn scores(maps: &Tensor, size: (usize, usize)) -> Result<Vec<f32>> {
    largest(&enlarge(&maps.unsqueeze(1)?, size, Corners::Free)?)
}
