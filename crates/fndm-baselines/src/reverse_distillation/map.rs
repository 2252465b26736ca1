use candle_core::Tensor;
use fndm_memory::Edge;
use serde::{Deserialize, Serialize};

use super::loss::{check_pairs, cosine};
use crate::enlarge::{Corners, enlarge};
use crate::maps::blurred;
use crate::{Error, Result};

/// Deviation of the authors' Gaussian that smooths a map, in pixels.
pub const SIGMA: f64 = 4.0;

/// How the layers' maps become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Joined {
    /// Their sum.
    #[default]
    Sum,
    /// Their product.
    Product,
}

/// 1 - cosine at every pixel, layer by layer, enlarged: `(B, H, W)` each.
///
/// # Errors
/// When the decoder's maps aren't of the encoder's shapes.
pub fn layer_maps(
    encoder: &[Tensor],
    decoder: &[Tensor],
    size: (usize, usize),
) -> Result<Vec<Tensor>> {
    check_pairs(encoder, decoder)?;
    encoder
        .iter()
        .zip(decoder)
        .map(|(e, d)| {
            let distance = cosine(&e.detach(), &d.detach(), 1)?.affine(-1.0, 1.0)?;
            Ok(enlarge(&distance, size, Corners::Aligned)?.squeeze(1)?)
        })
        .collect()
}

/// The layers' maps joined, not yet smoothed: `(B, H, W)`.
///
/// # Errors
/// When the decoder's maps aren't of the encoder's shapes.
pub fn score_map(
    encoder: &[Tensor],
    decoder: &[Tensor],
    size: (usize, usize),
    how: Joined,
) -> Result<Tensor> {
    let maps = layer_maps(encoder, decoder, size)?.into_iter();
    let joined = maps.map(Ok).reduce(|a, b| {
        let (a, b): (Tensor, Tensor) = (a?, b?);
        Ok(match how {
            Joined::Sum => (a + b)?,
            Joined::Product => (a * b)?,
        })
    });
    joined.unwrap_or_else(|| Err(Error::config("layers", "1 or more", 0)))
}

/// A map smoothed by a Gaussian of this deviation in pixels, 0 for none; the authors' is [`SIGMA`]. Theirs mirrors the map with its edge
/// repeated, anomalib's without.
///
/// # Errors
/// When it isn't a map `(B, H, W)`, or the deviation makes no sense.
pub fn smoothed(map: &Tensor, sigma: f64, edge: Edge) -> Result<Tensor> {
    blurred(map, sigma, edge)
}
