//! Rectifiers and maxima that keep what isn't a number, which candle's own turn into zero or pass over.

use crate::config::fast_path;
use crate::memory::{Input, Shared, filled};
use crate::plain::{self, STEP, WINDOW};
use crate::simd::{Isa, kernel};
use crate::tape::apply1;
use crate::tensor::{contiguous, floats, from_floats, with_floats};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use fndm_runtime::parallel;

/// Floats in a task.
const CHUNK: usize = 1 << 15;

/// max(x, 0), elementwise; NaN stays NaN.
///
/// # Errors
/// Those of candle.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    rectify(x, f32::INFINITY)
}

/// min(max(x, 0), 6), elementwise; NaN stays NaN.
///
/// # Errors
/// Those of candle.
pub fn relu6(x: &Tensor) -> Result<Tensor> {
    rectify(x, 6.)
}

fn rectify(x: &Tensor, cap: f32) -> Result<Tensor> {
    if fast_path(&[x]) {
        apply1(&contiguous(x)?, Rectify(cap))
    } else {
        plain::rectify(x, cap)
    }
}

/// Calls `f(at, n)` for chunks of `len` values.
fn by_chunks(len: usize, f: impl Fn(usize, usize) + Sync + Send) {
    parallel(len.div_ceil(CHUNK), |i| {
        let at = i * CHUNK;
        f(at, CHUNK.min(len - at));
    });
}

kernel! {
    unsafe fn forward[S](x: *const f32, n: usize, cap: f32, y: *mut f32) {
        let (zero, cap) = (S::zero(), S::splat(cap));
        let mut i = 0;
        while i < n {
            let m = (n - i).min(16);
            // The value stands second, where a NaN is kept.
            let v = S::min(cap, S::max(zero, S::load_first(x.add(i), m)));
            S::store_first(y.add(i), v, m);
            i += 16;
        }
    }
}

kernel! {
    unsafe fn backward[S](x: *const f32, dy: *const f32, n: usize, cap: f32, dx: *mut f32) {
        for i in 0..n {
            let x = *x.add(i);
            // PyTorch's choice: no gradient at the bounds, all of it where x is NaN.
            *dx.add(i) = if x <= 0. || x >= cap { 0. } else { *dy.add(i) };
        }
        _ = S::MR;
    }
}

/// With the upper bound, which is infinite where there is none.
#[derive(Debug, Clone, Copy)]
struct Rectify(f32);

impl CustomOp1 for Rectify {
    fn name(&self) -> &'static str {
        "fndm-relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (isa, x) = (Isa::current(), Input(floats(x, l)?));
        // SAFETY: the chunks cover the floats once.
        let y = unsafe {
            filled(x.0.len(), |y| {
                by_chunks(x.0.len(), |at, n| {
                    forward(isa, x.at(at, n), n, self.0, y.at(at, n));
                });
            })
        };
        Ok((CpuStorage::F32(y), l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        // Infinity is no bound: there the gradient passes.
        let cap = if self.0.is_finite() { self.0 } else { f32::NAN };
        let dx = with_floats([x, &contiguous(dy)?], |[x, dy]| {
            if x.len() != dy.len() {
                candle_core::bail!("relu: shapes don't fit");
            }
            let (isa, x, dy) = (Isa::current(), Input(x), Input(dy));
            // SAFETY: the chunks cover the floats once.
            Ok(unsafe {
                filled(x.0.len(), |dx| {
                    by_chunks(x.0.len(), |at, n| {
                        backward(isa, x.at(at, n), dy.at(at, n), n, cap, dx.at(at, n));
                    });
                })
            })
        })?;
        from_floats(dx, x.shape()).map(Some)
    }
}

/// The largest of each window of 3x3 pixels at stride 2, without padding: `(B, C, H, W)` to
/// `(B, C, (H - 3) / 2 + 1, (W - 3) / 2 + 1)`. A window with a NaN gives NaN. The gradient goes to the largest pixel of a
/// window, to the first in reading order where several are equal.
///
/// # Errors
/// When `x` hasn't four dimensions, or H or W is below 3.
pub fn max_pool_3x3(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if h < WINDOW || w < WINDOW {
        candle_core::bail!("max_pool_3x3: expected at least 3x3 pixels, got {h}x{w}");
    }
    if fast_path(&[x]) {
        apply1(&contiguous(x)?, MaxPool)
    } else {
        plain::max_pool_3x3(x)
    }
}

struct MaxPool;

/// The larger, or the one that is NaN.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// One plane of `(h, w)`.
fn pool_plane(x: &[f32], w: usize, (oh, ow): (usize, usize), y: &mut [f32]) {
    // The largest of each column of a window, then of its columns.
    let mut columns = vec![0f32; w];
    for (i, out) in y.chunks_exact_mut(ow).take(oh).enumerate() {
        let rows = &x[STEP * i * w..][..WINDOW * w];
        columns.copy_from_slice(&rows[..w]);
        for row in rows[w..].chunks_exact(w) {
            for (top, v) in columns.iter_mut().zip(row) {
                *top = larger(*top, *v);
            }
        }
        for (j, out) in out.iter_mut().enumerate() {
            let window = &columns[STEP * j..][..WINDOW];
            *out = larger(larger(window[0], window[1]), window[2]);
        }
    }
}

/// Adds the gradient of each window to that of its largest pixel.
fn unpool_plane(x: &[f32], w: usize, ow: usize, dy: &[f32], dx: &mut [f32]) {
    for (i, dy) in dy.chunks_exact(ow).enumerate() {
        for (j, dy) in dy.iter().enumerate() {
            let corner = STEP * i * w + STEP * j;
            let mut best = corner;
            for dy in 0..WINDOW {
                for at in corner + dy * w..corner + dy * w + WINDOW {
                    if x[at] > x[best] || x[at].is_nan() {
                        best = at;
                    }
                }
            }
            dx[best] += dy;
        }
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "fndm-max-pool-3x3"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = l.shape().dims4()?;
        let x = floats(x, l)?;
        let (oh, ow) = ((h - WINDOW) / STEP + 1, (w - WINDOW) / STEP + 1);
        let plane = oh * ow;
        // SAFETY: each task fills its plane.
        let y = unsafe {
            filled(b * c * plane, |y: Shared| {
                parallel(b * c, |i| {
                    let out = y.at(i * plane, plane);
                    // A slice may not hold what was never written.
                    out.write_bytes(0, plane);
                    let out = std::slice::from_raw_parts_mut(out, plane);
                    pool_plane(&x[i * h * w..][..h * w], w, (oh, ow), out);
                });
            })
        };
        Ok((CpuStorage::F32(y), (b, c, oh, ow).into()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (b, c, h, w) = x.dims4()?;
        let (_, _, oh, ow) = y.dims4()?;
        let dx = with_floats([x, &contiguous(dy)?], |[x, dy]| {
            if x.len() != b * c * h * w || dy.len() != b * c * oh * ow {
                candle_core::bail!("max_pool_3x3: shapes don't fit");
            }
            // SAFETY: each task fills its plane.
            Ok(unsafe {
                filled(x.len(), |dx: Shared| {
                    parallel(b * c, |i| {
                        let out = dx.at(i * h * w, h * w);
                        // A slice may not hold what was never written.
                        out.write_bytes(0, h * w);
                        let out = std::slice::from_raw_parts_mut(out, h * w);
                        let x = &x[i * h * w..][..h * w];
                        unpool_plane(x, w, ow, &dy[i * oh * ow..][..oh * ow], out);
                    });
                })
            })
        })?;
        from_floats(dx, x.shape()).map(Some)
    }
}
