//! Whole channels: their means, and each times a factor of its own, as squeeze-excitation has it.

use crate::config::fast_path;
use crate::memory::{Input, filled};
use crate::plain;
use crate::simd::{Isa, kernel};
use crate::tensor::{contiguous, from_floats, with_floats};
use candle_core::{Result, Tensor};
use fndm_runtime::parallel;

/// Floats in a task, about.
const CHUNK: usize = 1 << 15;

/// The mean of each channel: `(B, C, H, W)` to `(B, C)`. Where a gradient is asked for, and on a GPU, candle does it.
///
/// # Errors
/// When `x` hasn't four dimensions, or no pixel.
pub fn channel_means(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if h * w == 0 {
        candle_core::bail!("channel_means: expected pixels, got {h}x{w}");
    }
    if x.track_op() || !fast_path(&[x]) {
        return plain::channel_means(x);
    }
    let plane = h * w;
    let y = with_floats([&contiguous(x)?], |[x]| {
        let (isa, x) = (Isa::current(), Input(x));
        // SAFETY: each task writes the means of its channels.
        Ok(unsafe {
            filled(b * c, |y| {
                by_channels(b * c, plane, |first, count| {
                    let src = x.at(first * plane, count * plane);
                    means(isa, src, count, plane, y.at(first, count));
                });
            })
        })
    })?;
    from_floats(y, &(b, c).into())
}

/// Each channel times its factor: `x` is `(B, C, H, W)`, `factors` `(B, C)`. Where a gradient is asked for, and on a GPU, candle does it.
///
/// # Errors
/// When the shapes don't fit.
pub fn scale_channels(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if factors.dims() != [b, c] {
        candle_core::bail!(
            "scale_channels: expected factors ({b}, {c}), got {:?}",
            factors.dims()
        );
    }
    let tracked = x.track_op() || factors.track_op();
    if tracked || !fast_path(&[x, factors]) || h * w == 0 {
        return plain::scale_channels(x, factors);
    }
    let plane = h * w;
    let inputs = [&contiguous(x)?, &contiguous(factors)?];
    let y = with_floats(inputs, |[x, factors]| {
        let (isa, x, factors) = (Isa::current(), Input(x), Input(factors));
        // SAFETY: each task writes its channels.
        Ok(unsafe {
            filled(b * c * plane, |y| {
                by_channels(b * c, plane, |first, count| {
                    let src = x.at(first * plane, count * plane);
                    let dst = y.at(first * plane, count * plane);
                    scaled(isa, src, factors.at(first, count), count, plane, dst);
                });
            })
        })
    })?;
    from_floats(y, x.shape())
}

/// Calls `f(first, count)` for ranges that cover `channels` planes of `plane` floats.
fn by_channels(channels: usize, plane: usize, f: impl Fn(usize, usize) + Sync + Send) {
    let each = CHUNK.div_ceil(plane);
    parallel(channels.div_ceil(each), |task| {
        let first = task * each;
        f(first, each.min(channels - first));
    });
}

kernel! {
    unsafe fn means[S](x: *const f32, count: usize, plane: usize, y: *mut f32) {
        for channel in 0..count {
            let x = x.add(channel * plane);
            let mut acc = [S::zero(); 4];
            let mut i = 0;
            while i + 64 <= plane {
                for (n, acc) in acc.iter_mut().enumerate() {
                    *acc = S::add(*acc, S::load(x.add(i + 16 * n)));
                }
                i += 64;
            }
            while i < plane {
                acc[0] = S::add(acc[0], S::load_first(x.add(i), (plane - i).min(16)));
                i += 16;
            }
            let sum = S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3]));
            *y.add(channel) = S::sum(sum) / plane as f32;
        }
    }
}

kernel! {
    unsafe fn scaled[S](x: *const f32, factors: *const f32, count: usize, plane: usize, y: *mut f32) {
        for channel in 0..count {
            let (x, y) = (x.add(channel * plane), y.add(channel * plane));
            let factor = S::splat(*factors.add(channel));
            let mut i = 0;
            while i < plane {
                let n = (plane - i).min(16);
                S::store_first(y.add(i), S::mul(factor, S::load_first(x.add(i), n)), n);
                i += 16;
            }
        }
    }
}
