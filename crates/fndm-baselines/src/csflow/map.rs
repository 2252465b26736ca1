use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::enlarge::{Corners, enlarge};
use crate::flows::Flowed;
use crate::{Error, Result};

/// What a map is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapKind {
    /// The finest scale alone, as the official code and anomalib's `MAX` do.
    Finest,
    /// The product of the three, anomalib's `ALL`.
    Product,
    /// The sum of the three, which neither has.
    Sum,
}

/// The mean of z^2 over the channels of one scale: `(B, C, h, w)` to `(B, h, w)`.
///
/// # Errors
/// Those of candle.
pub fn scale_map(z: &Tensor) -> Result<Tensor> {
    Ok(z.sqr()?.mean(1)?)
}

/// Maps `(B, H, W)` of what a flow gave.
///
/// # Errors
/// When there is no scale.
pub fn score_map(scales: &[Flowed], kind: MapKind, size: (usize, usize)) -> Result<Tensor> {
    let used = match kind {
        MapKind::Finest => 1,
        MapKind::Product | MapKind::Sum => scales.len(),
    };
    let mut joined: Option<Tensor> = None;
    for Flowed { z, .. } in scales.iter().take(used) {
        let own = enlarge(&scale_map(z)?.unsqueeze(1)?, size, Corners::Free)?.squeeze(1)?;
        joined = Some(match (joined, kind) {
            (None, _) => own,
            (Some(before), MapKind::Product) => (before * own)?,
            (Some(before), MapKind::Finest | MapKind::Sum) => (before + own)?,
        });
    }
    joined.ok_or_else(|| Error::config("scales", "1 or more", 0))
}
