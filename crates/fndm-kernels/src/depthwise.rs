//! Depthwise convolution, a channel by itself: of networks for small machines.

use crate::config::fast_path;
use crate::memory::{Input, Scratch, filled};
use crate::pads::{Pads, places};
use crate::plain;
use crate::simd::{Isa, kernel};
use crate::tensor::{contiguous, from_floats, with_floats};
use candle_core::{Result, Tensor};
use fndm_runtime::parallel;

/// Sums of a task, about.
const SUMS: usize = 1 << 13;
/// Sums side by side in registers.
const WIDE: usize = 64;

/// Each channel convolved by a kernel of its own: `x` is `(B, C, H, W)`, `weight` `(C, 1, k, k)`, `bias` `(C)`; the stride is 1 or 2,
/// and `pads` are the zeros around rows and columns. Gives `(B, C, (H + pads - k) / stride + 1, (W + pads - k) / stride + 1)`.
///
/// Where a gradient is asked for, and on a GPU, candle's grouped convolution does it.
///
/// # Errors
/// When a shape doesn't fit, or the padded image is smaller than the kernel.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::new(&[[[[1f32, 2., 3.]]]], &Device::Cpu)?;
/// let weight = Tensor::ones((1, 1, 3, 3), candle_core::DType::F32, &Device::Cpu)?;
/// let bias = Tensor::new(&[10f32], &Device::Cpu)?;
/// let y = fndm_kernels::depthwise(&x, &weight, &bias, 1, [(1, 1), (1, 1)])?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [13., 16., 15.]);
/// # Ok(())
/// # }
/// ```
pub fn depthwise(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    pads: [Pads; 2],
) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let k = weight.dims4()?.3;
    let fits = weight.dims() == [c, 1, k, k] && bias.dims() == [c];
    if !fits || k == 0 || !(1..=2).contains(&stride) {
        candle_core::bail!(
            "depthwise: expected x (B, C, H, W), a weight (C, 1, k, k), a bias (C) and stride 1 or 2, got {:?}, {:?}, {:?} and {stride}",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    let sides = (places(h, pads[0], k, stride), places(w, pads[1], k, stride));
    let (Some(oh), Some(ow)) = sides else {
        candle_core::bail!("depthwise: a kernel of {k} on images of {h}x{w}, padded by {pads:?}");
    };
    let tracked = [x, weight, bias].iter().any(|t| t.track_op());
    if tracked || !fast_path(&[x, weight, bias]) || b * c * h * w == 0 {
        return plain::depthwise(x, weight, bias, stride, pads);
    }
    let s = Sizes {
        c,
        h,
        w,
        k,
        stride,
        top: pads[0].0,
        left: pads[1].0,
        oh,
        ow,
        ph: oh + (k - 1) / stride,
        pw: ow + (k - 1) / stride,
    };
    let inputs = [&contiguous(x)?, &contiguous(weight)?, &contiguous(bias)?];
    let y = with_floats(inputs, |[x, w, bias]| Ok(forward(&s, b * c, x, w, bias)))?;
    from_floats(y, &(b, c, oh, ow).into())
}

/// The padded plane lies in `stride * stride` phases of `ph` x `pw`, so that the pixels under one tap of the kernel follow each other
/// whatever the stride.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    c: usize,
    h: usize,
    w: usize,
    k: usize,
    stride: usize,
    top: usize,
    left: usize,
    oh: usize,
    ow: usize,
    ph: usize,
    pw: usize,
}

impl Sizes {
    /// Floats of all phases, and what the widest sums read beyond the last.
    fn padded(&self) -> usize {
        self.stride * self.stride * self.ph * self.pw + self.pw + WIDE
    }

    /// Sums of whole rows of a phase, rounded up to whole vectors.
    fn sums(&self) -> usize {
        (self.oh * self.pw).next_multiple_of(16)
    }
}

kernel! {
    /// Planes `first..first + count`. `padded` and `sums`: as many floats as [`Sizes`] says.
    unsafe fn planes[S](
        x: *const f32, w: *const f32, bias: *const f32, s: &Sizes, first: usize, count: usize, padded: *mut f32, sums: *mut f32,
        y: *mut f32,
    ) {
        let s = *s;
        let phase = s.ph * s.pw;
        let place = |row: usize, column: usize| {
            ((row % s.stride) * s.stride + column % s.stride) * phase + row / s.stride * s.pw + column / s.stride
        };
        // The border stays zero from plane to plane.
        std::ptr::write_bytes(padded, 0, s.padded());
        let rows = s.h.min((s.ph * s.stride).saturating_sub(s.top));
        let columns = s.w.min((s.pw * s.stride).saturating_sub(s.left));
        for plane in first..first + count {
            let channel = plane % s.c;
            for row in 0..rows {
                let src = x.add((plane * s.h + row) * s.w);
                if s.stride == 1 {
                    std::ptr::copy_nonoverlapping(src, padded.add(place(row + s.top, s.left)), columns);
                } else {
                    for column in 0..columns {
                        *padded.add(place(row + s.top, column + s.left)) = *src.add(column);
                    }
                }
            }
            let (w, bias) = (w.add(channel * s.k * s.k), S::splat(*bias.add(channel)));
            let (mut at, end) = (0, s.sums());
            while at < end {
                let wide = at + WIDE <= end;
                let mut acc = [bias; WIDE / 16];
                for dy in 0..s.k {
                    for dx in 0..s.k {
                        let weight = S::splat(*w.add(dy * s.k + dx));
                        let src = padded.add(place(dy, dx) + at);
                        if wide {
                            for (n, acc) in acc.iter_mut().enumerate() {
                                *acc = S::fma(weight, S::load(src.add(16 * n)), *acc);
                            }
                        } else {
                            acc[0] = S::fma(weight, S::load(src), acc[0]);
                        }
                    }
                }
                if wide {
                    for (n, acc) in acc.iter().enumerate() {
                        S::store(sums.add(at + 16 * n), *acc);
                    }
                    at += WIDE;
                } else {
                    S::store(sums.add(at), acc[0]);
                    at += 16;
                }
            }
            for row in 0..s.oh {
                let dst = y.add((plane * s.oh + row) * s.ow);
                std::ptr::copy_nonoverlapping(sums.add(row * s.pw), dst, s.ow);
            }
        }
    }
}

fn forward(s: &Sizes, count: usize, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), count * s.h * s.w);
    assert_eq!((w.len(), bias.len()), (s.c * s.k * s.k, s.c));
    let each = SUMS.div_ceil(s.sums());
    let isa = Isa::current();
    let (x, w, bias) = (Input(x), Input(w), Input(bias));
    // SAFETY: a task writes its planes; the lengths were checked, and the scratch is as the kernel wants it.
    unsafe {
        filled(count * s.oh * s.ow, |y| {
            parallel(count.div_ceil(each), |task| {
                let first = task * each;
                let (padded, sums) = (Scratch::new(s.padded()), Scratch::new(s.sums()));
                planes(
                    isa,
                    x.all(),
                    w.all(),
                    bias.all(),
                    s,
                    first,
                    each.min(count - first),
                    padded.ptr(),
                    sums.ptr(),
                    y.all(),
                );
            });
        })
    }
}
