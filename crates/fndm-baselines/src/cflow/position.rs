use candle_core::{Device, Tensor};

use crate::{Error, Result};

/// Where a pixel is, as `D` numbers `(D, h, w)`: the first half of the channels encodes the column, the second half the row, in each
/// half sines on even and cosines on odd channels.
///
/// # Errors
/// When `channels` isn't a multiple of 4 above 0.
pub fn position_encoding(
    channels: usize,
    (h, w): (usize, usize),
    device: &Device,
) -> Result<Tensor> {
    if channels == 0 || !channels.is_multiple_of(4) {
        return Err(Error::config(
            "condition",
            "a multiple of 4 above 0",
            channels,
        ));
    }
    let half = channels / 2;
    let mut values = Vec::with_capacity(channels * h * w);
    for channel in 0..channels {
        let (of_rows, c) = (channel >= half, channel % half);
        let frequency = (-(1e4f64.ln()) * (c / 2 * 2) as f64 / half as f64).exp();
        for y in 0..h {
            for x in 0..w {
                let place = if of_rows { y } else { x };
                let at = place as f64 * frequency;
                let value = if c.is_multiple_of(2) {
                    at.sin()
                } else {
                    at.cos()
                };
                values.push(value as f32);
            }
        }
    }
    Ok(Tensor::from_vec(values, (channels, h, w), device)?)
}
