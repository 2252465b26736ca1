use candle_core::{DType, Device, Tensor};
use fndm_models::Mode;
use rayon::prelude::*;

use super::{UNet, foreground};
use crate::Result;

/// Side of the windows of erosion and median.
const SIDE: usize = 5;
const REACH: isize = (SIDE / 2) as isize;
/// Of the 25 pixels of a window, so large a share must be tissue.
const SHARE: f64 = 0.95;

/// Tissue `(B, 1, H, W)` of 1 and 0 without its edge: pixels whose 5x5 neighbours are tissue, but for one. Beyond the image is none.
///
/// # Errors
/// When it hasn't four dimensions.
pub fn eroded(foreground: &Tensor) -> Result<Tensor> {
    windows(foreground, |x, (h, w), (y, c)| {
        let mut count = 0usize;
        for dy in -REACH..=REACH {
            for dx in -REACH..=REACH {
                let (row, column) = (y as isize + dy, c as isize + dx);
                if (0..h as isize).contains(&row) && (0..w as isize).contains(&column) {
                    count += usize::from(x[row as usize * w + column as usize] > 0.5);
                }
            }
        }
        f32::from(u8::from(count as f64 / (SIDE * SIDE) as f64 > SHARE))
    })
}

/// The median of each 5x5 window of `(B, C, H, W)`, the image mirrored at its edge. A window with a value that isn't a number gives
/// none.
///
/// # Errors
/// When it hasn't four dimensions.
pub fn median_5x5(images: &Tensor) -> Result<Tensor> {
    let mirrored = |i: isize, n: usize| {
        let last = n as isize - 1;
        let period = (2 * last).max(1);
        let at = i.rem_euclid(period);
        at.min(period - at).clamp(0, last) as usize
    };
    windows(images, move |x, (h, w), (y, c)| {
        let mut all = [0f32; SIDE * SIDE];
        let mut values = all.iter_mut();
        for dy in -REACH..=REACH {
            let row = mirrored(y as isize + dy, h);
            for dx in -REACH..=REACH {
                if let Some(value) = values.next() {
                    *value = x[row * w + mirrored(c as isize + dx, w)];
                }
            }
        }
        if all.iter().any(|v| v.is_nan()) {
            return f32::NAN;
        }
        let middle = all.len() / 2;
        *all.select_nth_unstable_by(middle, f32::total_cmp).1
    })
}

/// `f(plane, (H, W), (y, x))` at every pixel.
fn windows(
    images: &Tensor,
    f: impl Fn(&[f32], (usize, usize), (usize, usize)) -> f32 + Sync,
) -> Result<Tensor> {
    let (_, _, h, w) = images.dims4()?;
    let input = images.detach().to_device(&Device::Cpu)?;
    let input = input
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let mut out = vec![0f32; input.len()];
    if !out.is_empty() {
        out.par_chunks_mut(w).enumerate().for_each(|(line, out)| {
            let plane = &input[line / h * h * w..][..h * w];
            for (x, out) in out.iter_mut().enumerate() {
                *out = f(plane, (h, w), (line % h, x));
            }
        });
    }
    let out = Tensor::from_vec(out, images.dims(), &Device::Cpu)?;
    Ok(out.to_device(images.device())?.to_dtype(images.dtype())?)
}

/// What the network changes in slices `(B, C, H, W)`, on the eroded tissue, its mean over sequences: `(B, 1, H, W)`.
///
/// # Errors
/// When the slices don't fit the network.
pub fn unfiltered(network: &UNet, slices: &Tensor) -> Result<Tensor> {
    let output = network.forward(slices, Mode::Evaluate)?;
    let inside = eroded(&foreground(slices)?)?;
    let change = (slices - output)?.abs()?.broadcast_mul(&inside)?;
    Ok(change.mean_keepdim(1)?)
}

/// The same after a median over 5x5 pixels: the map, `(B, 1, H, W)`.
///
/// # Errors
/// When the slices don't fit the network.
pub fn score_map(network: &UNet, slices: &Tensor) -> Result<Tensor> {
    median_5x5(&unfiltered(network, slices)?)
}
