use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::enlarge::{Corners, enlarge};
use crate::maps::norm_at_least;
use crate::{Error, Result};

/// Each norm in a cosine is taken to be this at least.
const LEAST: f64 = 1e-8;

/// What is compared by its cosine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistillationLoss {
    /// A layer's whole map as one vector, summed over layers: the authors' code, and anomalib's.
    #[default]
    Flattened,
    /// The vector of every pixel, its mean summed over layers: the paper.
    PerPixel,
    /// The vector of every pixel of all layers together, each enlarged to the first one's size: in the authors' code, unused there.
    Concatenated,
}

/// Fails unless both have the same maps, and one or more.
pub(crate) fn check_pairs(encoder: &[Tensor], decoder: &[Tensor]) -> Result<()> {
    let shapes = |maps: &[Tensor]| maps.iter().map(|t| t.dims().to_vec()).collect::<Vec<_>>();
    if encoder.is_empty() || shapes(encoder) != shapes(decoder) {
        return Err(Error::shape(
            "the decoder's maps",
            format!("those of the encoder, {:?}", shapes(encoder)),
            shapes(decoder),
        ));
    }
    Ok(())
}

/// The cosine over an axis, which stays with length 1. That of a zero vector is 0.
pub(crate) fn cosine(a: &Tensor, b: &Tensor, axis: usize) -> Result<Tensor> {
    let product = (a * b)?.sum_keepdim(axis)?;
    let norms = (norm_at_least(a, axis, LEAST)? * norm_at_least(b, axis, LEAST)?)?;
    Ok((product / norms)?)
}

/// The loss of each slice, `(B)`; the mean of them is the batch's.
///
/// # Errors
/// When the decoder's maps aren't of the encoder's shapes.
pub fn loss(encoder: &[Tensor], decoder: &[Tensor], kind: DistillationLoss) -> Result<Tensor> {
    check_pairs(encoder, decoder)?;
    let encoder: Vec<Tensor> = encoder.iter().map(Tensor::detach).collect();
    if kind == DistillationLoss::Concatenated {
        let side = encoder[0].dim(D::Minus1)?;
        let join = |maps: &[Tensor]| -> Result<Tensor> {
            let same = maps
                .iter()
                .map(|map| enlarge(map, (side, side), Corners::Aligned))
                .collect::<Result<Vec<_>>>()?;
            Ok(Tensor::cat(&same, 1)?)
        };
        let cosine = cosine(&join(&encoder)?, &join(decoder)?, 1)?;
        return distance(&cosine);
    }
    let mut sum: Option<Tensor> = None;
    for (e, d) in encoder.iter().zip(decoder) {
        let own = match kind {
            DistillationLoss::Flattened => cosine(&e.flatten_from(1)?, &d.flatten_from(1)?, 1)?,
            DistillationLoss::PerPixel | DistillationLoss::Concatenated => cosine(e, d, 1)?,
        };
        let own = distance(&own)?;
        sum = Some(match sum {
            Some(sum) => (sum + own)?,
            None => own,
        });
    }
    sum.ok_or_else(|| Error::config("layers", "1 or more", 0))
}

/// The mean of 1 - cosine of each slice.
fn distance(cosine: &Tensor) -> Result<Tensor> {
    Ok(cosine.flatten_from(1)?.mean(D::Minus1)?.affine(-1.0, 1.0)?)
}
