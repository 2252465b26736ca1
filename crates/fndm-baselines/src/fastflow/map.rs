use candle_core::Tensor;

use crate::enlarge::{Corners, enlarge};
use crate::flows::Flowed;
use crate::{Error, Result};

/// Maps `(B, H, W)` between -1 and 0: the mean over layers of -exp(-z^2 / 2), with the mean of z^2 over channels, enlarged.
///
/// # Errors
/// When there is no layer.
pub fn score_map(layers: &[Flowed], size: (usize, usize)) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for Flowed { z, .. } in layers {
        let likelihood = (z.sqr()?.mean_keepdim(1)? * -0.5)?.exp()?.neg()?;
        let own = enlarge(&likelihood, size, Corners::Free)?.squeeze(1)?;
        sum = Some(match sum {
            Some(sum) => (sum + own)?,
            None => own,
        });
    }
    let sum = sum.ok_or_else(|| Error::config("layers", "1 or more", 0))?;
    Ok((sum / layers.len() as f64)?)
}
