use candle_core::{D, DType, Tensor};

use crate::enlarge::{Corners, enlarge};
use crate::{Error, Result};

/// The maps of a set of slices.
#[derive(Debug, Clone)]
pub struct ScoreMap {
    /// `(B, H, W)`, f64: higher is more anomalous.
    pub map: Tensor,
    /// The largest value of each slice.
    pub scores: Vec<f64>,
}

/// The sum over layers of exp(l - largest l), enlarged with aligned corners; then the largest sum minus each.
///
/// `layers` are log-likelihoods per dimension `(B, h, w)`. `largest` are their maxima, layer by layer; without it they are those of
/// the slices given, and the largest sum is theirs too, as in the peers, so that a map depends on which slices stand beside it. With it
/// the largest sum is the number of layers, which no sum of slices like those that `largest` is of exceeds.
///
/// # Errors
/// When there is no layer, or shapes don't fit.
pub fn score_map(
    layers: &[Tensor],
    largest: Option<&[f64]>,
    size: (usize, usize),
) -> Result<ScoreMap> {
    let mut sum: Option<Tensor> = None;
    for (at, layer) in layers.iter().enumerate() {
        let wide = layer.to_dtype(DType::F64)?;
        let most = match largest {
            None => wide.max_all()?.to_scalar::<f64>()?,
            Some(largest) => *largest.get(at).ok_or_else(|| {
                Error::config(
                    "largest",
                    format!("one for each of {} layers", layers.len()),
                    at,
                )
            })?,
        };
        let likelihood = (wide - most)?.exp()?.unsqueeze(1)?;
        let enlarged = enlarge(&likelihood, size, Corners::Aligned)?.squeeze(1)?;
        sum = Some(match sum {
            Some(sum) => (sum + enlarged)?,
            None => enlarged,
        });
    }
    let sum = sum.ok_or_else(|| Error::config("layers", "1 or more", 0))?;
    let most = match largest {
        None => sum.max_all()?.to_scalar::<f64>()?,
        Some(_) => layers.len() as f64,
    };
    let map = (sum.neg()? + most)?;
    let scores = map.flatten_from(1)?.max(D::Minus1)?.to_vec1::<f64>()?;
    Ok(ScoreMap { map, scores })
}
