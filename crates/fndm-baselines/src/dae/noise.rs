use candle_core::{DType, Tensor};
use rand::RngExt;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::enlarge::{Corners, enlarge};
use crate::{Error, Result};

/// Tissue is where the sum over sequences is above this.
const BACKGROUND: f64 = 0.01;

/// The coarse noise that is to be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoiseConfig {
    /// Its deviation before it is enlarged.
    pub std: f64,
    /// Cells a side, before it is enlarged.
    pub resolution: usize,
}

impl Default for NoiseConfig {
    /// The authors'.
    fn default() -> Self {
        Self {
            std: 0.2,
            resolution: 16,
        }
    }
}

impl NoiseConfig {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// Names the first that doesn't.
    pub fn check(&self) -> Result<()> {
        if !(self.std > 0.0 && self.std.is_finite()) {
            return Err(Error::config("noise.std", "above 0", self.std));
        }
        if !(1..=4096).contains(&self.resolution) {
            return Err(Error::config(
                "noise.resolution",
                "1 to 4096",
                self.resolution,
            ));
        }
        Ok(())
    }

    /// So many planes of it, row by row.
    pub(crate) fn draw(&self, rng: &mut impl rand::Rng, planes: usize) -> Vec<f32> {
        let cells = planes * self.resolution * self.resolution;
        let mut value = || rng.sample::<f64, _>(StandardNormal);
        (0..cells).map(|_| (self.std * value()) as f32).collect()
    }
}

/// Where tissue is, 1 or 0: `(B, C, H, W)` to `(B, 1, H, W)`.
///
/// # Errors
/// When the slices haven't four dimensions.
pub fn foreground(slices: &Tensor) -> Result<Tensor> {
    let sum = slices.detach().sum_keepdim(1)?;
    Ok(sum.gt(BACKGROUND)?.to_dtype(slices.dtype())?)
}

/// Coarse noise at this size, its outer cells on the outer pixels: `(B, C, r, r)` to `(B, C, H, W)`.
///
/// # Errors
/// When it hasn't four dimensions.
pub fn enlarged(noise: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    enlarge(noise, size, Corners::Aligned)
}

/// Images moved down and to the right by so many pixels; what leaves on one side comes in on the other.
///
/// # Errors
/// When they haven't four dimensions.
pub fn rolled(images: &Tensor, (rows, columns): (i64, i64)) -> Result<Tensor> {
    let (_, _, h, w) = images.dims4()?;
    let mut images = images.clone();
    for (axis, side, by) in [(2, h, rows), (3, w, columns)] {
        let by = by.rem_euclid(side.max(1) as i64) as usize;
        if by > 0 {
            let parts = [
                images.narrow(axis, side - by, by)?,
                images.narrow(axis, 0, side - by)?,
            ];
            images = Tensor::cat(&parts, axis)?;
        }
    }
    Ok(images)
}

/// Clean slices with coarse noise, enlarged and moved, on their tissue.
///
/// # Errors
/// When the shapes don't fit.
pub fn with_noise(clean: &Tensor, noise: &Tensor, rolls: (i64, i64)) -> Result<Tensor> {
    let (_, _, h, w) = clean.dims4()?;
    let noise = rolled(&enlarged(noise, (h, w))?, rolls)?;
    Ok((clean + noise.broadcast_mul(&foreground(clean)?)?)?)
}

/// The loss of each slice, `(B)`: squared differences on the clean slice's tissue, over all pixels and sequences.
///
/// # Errors
/// When the shapes differ.
pub fn loss(output: &Tensor, clean: &Tensor) -> Result<Tensor> {
    let clean = clean.detach();
    let squares = (output - &clean)?.sqr()?;
    let inside = squares.broadcast_mul(&foreground(&clean)?)?;
    let rows = inside.flatten_from(1)?;
    Ok(rows.to_dtype(DType::F32)?.mean(1)?)
}
