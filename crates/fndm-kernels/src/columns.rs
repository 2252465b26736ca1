//! An image unfolded, so that a convolution of any kernel is a product.

use crate::config::fast_path;
use crate::memory::{Input, Shared, filled};
use crate::pads::{Pads, places};
use crate::plain;
use crate::tensor::{contiguous, from_floats, with_floats};
use candle_core::{Result, Tensor};
use fndm_runtime::parallel;

/// Floats in a task, about.
const CHUNK: usize = 1 << 14;

/// The pixels under each place of a `k` x `k` kernel as channels, row by row of the kernel: `(B, C, H, W)` with `pads` zeros around rows
/// and columns to `(B, k * k * C, H', W')`, where `H' = (H + pads - k) / stride + 1`; the stride is 1 or more.
///
/// A 1x1 convolution of that, its weights in the order (O, k, k, C), is the convolution by the `k` x `k` kernel. Where a gradient is asked
/// for, and on a GPU, candle does it.
///
/// # Errors
/// When `x` hasn't four dimensions, the stride is 0, or the padded image is smaller than the kernel.
pub fn unfold(x: &Tensor, k: usize, stride: usize, pads: [Pads; 2]) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let sides = (places(h, pads[0], k, stride), places(w, pads[1], k, stride));
    let (Some(oh), Some(ow)) = sides else {
        candle_core::bail!(
            "unfold: a kernel of {k}, stride {stride}, on images of {h}x{w}, padded by {pads:?}"
        );
    };
    if x.track_op() || !fast_path(&[x]) || b * c * h * w * k == 0 {
        return plain::unfold(x, k, stride, pads);
    }
    let plane = oh * ow;
    let planes = b * k * k * c;
    let y = with_floats([&contiguous(x)?], |[x]| {
        let x = Input(x);
        let each = CHUNK.div_ceil(plane);
        let fill = |n: usize, y: Shared| {
            let (image, tap, channel) = (n / (k * k * c), n / c % (k * k), n % c);
            let (dy, dx) = (tap / k, tap % k);
            let source = x.at((image * c + channel) * h * w, h * w);
            // SAFETY: the plane holds `plane` floats, and every source row lies within its channel.
            unsafe {
                let y = std::slice::from_raw_parts_mut(y.at(n * plane, plane), plane);
                let source = std::slice::from_raw_parts(source, h * w);
                tap_plane(source, (h, w), (dy, dx), stride, pads, y, ow);
            }
        };
        // SAFETY: each task writes its planes in full.
        Ok(unsafe {
            filled(planes * plane, |y| {
                parallel(planes.div_ceil(each), |task| {
                    (task * each..planes.min((task + 1) * each)).for_each(|n| fill(n, y));
                });
            })
        })
    })?;
    from_floats(y, &(b, k * k * c, oh, ow).into())
}

/// The pixels under one place of the kernel, zero beyond the image.
fn tap_plane(
    source: &[f32],
    (h, w): (usize, usize),
    (dy, dx): (usize, usize),
    stride: usize,
    pads: [Pads; 2],
    y: &mut [f32],
    ow: usize,
) {
    // The first output whose pixel isn't before the image, and the first one beyond it.
    let inside = |n: usize, d: usize, before: usize, outputs: usize| {
        let first = before.saturating_sub(d).div_ceil(stride).min(outputs);
        let end = (n + before).saturating_sub(d).div_ceil(stride).min(outputs);
        (first, end.max(first))
    };
    let (first, end) = inside(w, dx, pads[1].0, ow);
    for (oy, out) in y.chunks_exact_mut(ow).enumerate() {
        let row = (oy * stride + dy).checked_sub(pads[0].0);
        let Some(row) = row.filter(|&row| row < h) else {
            out.fill(0.0);
            continue;
        };
        out[..first].fill(0.0);
        out[end..].fill(0.0);
        if first == end {
            continue;
        }
        let from = row * w + first * stride + dx - pads[1].0;
        let out = &mut out[first..end];
        if stride == 1 {
            out.copy_from_slice(&source[from..from + out.len()]);
        } else {
            for (out, v) in out.iter_mut().zip(source[from..].iter().step_by(stride)) {
                *out = *v;
            }
        }
    }
}
