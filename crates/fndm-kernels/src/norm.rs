//! `SiLU`, and group normalisation fused with it.

use crate::config::fast_path;
use crate::memory::{Input, filled};
use crate::plain;
use crate::simd::{Isa, Simd, kernel};
use crate::tape::{apply1, apply3};
use crate::tensor::{contiguous, floats, from_floats, with_floats};
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};
use fndm_runtime::parallel;

/// Floats in a task of an elementwise operation.
const CHUNK: usize = 1 << 15;

/// x * sigmoid(x), elementwise.
///
/// # Errors
/// Those of candle.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(&[x]) {
        return crate::cuda::silu(x);
    }
    if fast_path(&[x]) {
        apply1(&contiguous(x)?, Silu)
    } else {
        plain::silu(x)
    }
}

/// Group normalisation of `(B, C, ...)`; `weight` and `bias` are `(C)`. The result has the type of `x`; with a wider weight it is
/// computed in the weight's type.
///
/// # Errors
/// When `groups` doesn't divide C or a shape doesn't fit.
pub fn group_norm(
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    check(x, groups, weight, bias)?;
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(&[x]) && crate::cuda::on_device(&[weight, bias]) {
        return crate::cuda::group_norm(x, groups, weight, bias, eps, false);
    }
    if x.dtype() != weight.dtype() {
        return group_norm(&x.to_dtype(weight.dtype())?, groups, weight, bias, eps)?
            .to_dtype(x.dtype());
    }
    if fast_path(&[x, weight, bias]) && x.elem_count() > 0 {
        fused(x, groups, weight, bias, eps, false)
    } else {
        plain::group_norm(x, groups, weight, bias, eps)
    }
}

/// `silu(group_norm(x) * (1 + scale) + shift)`; scale and shift are `(B, C)`, or absent. Types are as in [`group_norm`].
///
/// # Errors
/// When `groups` doesn't divide C or a shape doesn't fit.
pub fn group_norm_silu(
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    scale_shift: Option<(&Tensor, &Tensor)>,
) -> Result<Tensor> {
    let (b, c) = check(x, groups, weight, bias)?;
    if let Some((scale, shift)) = scale_shift
        && (scale.dims() != [b, c] || shift.dims() != [b, c])
    {
        candle_core::bail!(
            "group_norm_silu: expected scale and shift of shape ({b}, {c}), got {:?} and {:?}",
            scale.dims(),
            shift.dims()
        );
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(&[x]) && crate::cuda::on_device(&[weight, bias]) {
        match scale_shift {
            None => return crate::cuda::group_norm(x, groups, weight, bias, eps, true),
            Some((scale, shift)) if crate::cuda::on_device(&[scale, shift]) => {
                let small = ((weight, bias), (scale, shift));
                return crate::cuda::group_norm_scale_shift(x, groups, small.0, small.1, eps);
            }
            Some(_) => {}
        }
    }
    if x.dtype() != weight.dtype() {
        let wide = x.to_dtype(weight.dtype())?;
        return group_norm_silu(&wide, groups, weight, bias, eps, scale_shift)?.to_dtype(x.dtype());
    }
    let Some((scale, shift)) = scale_shift else {
        return if fast_path(&[x, weight, bias]) && x.elem_count() > 0 {
            fused(x, groups, weight, bias, eps, true)
        } else {
            plain::group_norm_silu(x, groups, weight, bias, eps, None)
        };
    };
    if fast_path(&[x, weight, bias, scale, shift]) && x.elem_count() > 0 {
        // A candle operation takes three tracked inputs, so the four small ones become a factor and an offset.
        let scale = (scale + 1.)?;
        let factor = scale.broadcast_mul(weight)?;
        let offset = (scale.broadcast_mul(bias)? + shift)?;
        fused(x, groups, &factor, &offset, eps, true)
    } else {
        plain::group_norm_silu(x, groups, weight, bias, eps, scale_shift)
    }
}

fn check(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor) -> Result<(usize, usize)> {
    let (b, c) = match x.dims() {
        [b, c, ..] => (*b, *c),
        d => candle_core::bail!("group_norm: expected (B, C, ...), got {d:?}"),
    };
    if groups == 0 || c % groups != 0 {
        candle_core::bail!("group_norm: {groups} groups don't divide {c} channels");
    }
    if weight.dims() != [c] || bias.dims() != [c] {
        candle_core::bail!(
            "group_norm: expected a weight and a bias of {c} values, got {:?} and {:?}",
            weight.dims(),
            bias.dims()
        );
    }
    Ok((b, c))
}

/// `factor` and `offset` are `(C)` or `(B, C)`.
fn fused(
    x: &Tensor,
    groups: usize,
    factor: &Tensor,
    offset: &Tensor,
    eps: f64,
    activate: bool,
) -> Result<Tensor> {
    let (b, c) = (x.dim(0)?, x.dim(1)?);
    let op = GroupNorm {
        batch: b,
        channels: c,
        pixels: x.elem_count() / (b * c),
        groups,
        eps,
        activate,
        per_image: factor.rank() == 2,
    };
    apply3(
        &contiguous(x)?,
        &contiguous(factor)?,
        &contiguous(offset)?,
        op,
    )
}

#[derive(Debug, Clone, Copy)]
struct GroupNorm {
    batch: usize,
    channels: usize,
    pixels: usize,
    groups: usize,
    eps: f64,
    activate: bool,
    /// Factor and offset differ between images.
    per_image: bool,
}

/// [`moments`] where f32 overflows on the way, in f64, which it doesn't: a variance of infinity would divide everything to zero
/// and leave the bias alone. Of values that aren't finite both are NaN.
#[cold]
#[inline(never)]
fn wide_moments(x: &[f32], eps: f64) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let var = x
        .iter()
        .map(|v| (f64::from(*v) - mean).powi(2))
        .sum::<f64>()
        / n;
    if var.is_finite() {
        (mean as f32, (1. / (var + eps).sqrt()) as f32)
    } else {
        (f32::NAN, f32::NAN)
    }
}

/// Floats by which those to come are asked for: the next group's lie behind this one's.
const AHEAD: usize = 512;

/// Mean and 1 / standard deviation of `n` floats.
#[inline(always)]
unsafe fn moments<S: Simd>(x: *const f32, n: usize, eps: f64) -> (f32, f32) {
    unsafe {
        let whole = n / 64 * 64;
        let mut acc = [S::zero(); 4];
        let mut i = 0;
        while i < whole {
            for j in 0..4 {
                let p = x.add(i + 16 * j);
                S::prefetch(p.wrapping_add(AHEAD));
                acc[j] = S::add(acc[j], S::load(p));
            }
            i += 64;
        }
        while i < n {
            acc[0] = S::add(acc[0], S::load_first(x.add(i), (n - i).min(16)));
            i += 16;
        }
        let sum = S::sum(S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3])));
        let mean = (f64::from(sum) / n as f64) as f32;
        let mv = S::splat(mean);
        let mut acc = [S::zero(); 4];
        let mut i = 0;
        while i < whole {
            for j in 0..4 {
                let d = S::sub(S::load(x.add(i + 16 * j)), mv);
                acc[j] = S::fma(d, d, acc[j]);
            }
            i += 64;
        }
        let mut rest = 0f32;
        while i < n {
            let d = *x.add(i) - mean;
            rest += d * d;
            i += 1;
        }
        let sum = S::sum(S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3]))) + rest;
        if !sum.is_finite() {
            return wide_moments(std::slice::from_raw_parts(x, n), eps);
        }
        let var = f64::from(sum) / n as f64;
        (mean, (1. / (var + eps).sqrt()) as f32)
    }
}

kernel! {
    /// One group of one image.
    unsafe fn norm_group[S](
        x: *const f32, factor: *const f32, offset: *const f32, channels: usize, pixels: usize, eps: f64,
        activate: bool, y: *mut f32,
    ) {
        let (mean, rstd) = moments::<S>(x, channels * pixels, eps);
        for c in 0..channels {
            let scale = rstd * *factor.add(c);
            let (a, b) = (S::splat(scale), S::splat(*offset.add(c) - mean * scale));
            let (x, y) = (x.add(c * pixels), y.add(c * pixels));
            let mut i = 0;
            while i < pixels {
                let n = (pixels - i).min(16);
                let v = if n == 16 { S::load(x.add(i)) } else { S::load_first(x.add(i), n) };
                let mut u = S::fma(v, a, b);
                if activate {
                    u = S::mul(u, S::sigmoid(u));
                }
                if n == 16 {
                    S::store(y.add(i), u);
                } else {
                    S::store_first(y.add(i), u, n);
                }
                i += 16;
            }
        }
    }
}

kernel! {
    /// Gradients of one group of one image: of x, and of factor and offset per channel.
    unsafe fn norm_group_backward[S](
        x: *const f32, dy: *const f32, factor: *const f32, offset: *const f32, channels: usize, pixels: usize,
        eps: f64, activate: bool, dx: *mut f32, dfactor: *mut f32, doffset: *mut f32,
    ) {
        let count = channels * pixels;
        let (mean, rstd) = moments::<S>(x, count, eps);
        let (mv, rv) = (S::splat(mean), S::splat(rstd));
        let one = S::splat(1.);
        // Sums over the group of factor * du and factor * du * normalised x.
        let (mut g0, mut g1) = (0f64, 0f64);
        for c in 0..channels {
            let f = *factor.add(c);
            let (fv, ov) = (S::splat(f), S::splat(*offset.add(c)));
            let (x, dy, dx) = (x.add(c * pixels), dy.add(c * pixels), dx.add(c * pixels));
            let (mut s0, mut s1) = (S::zero(), S::zero());
            let mut i = 0;
            while i < pixels {
                let n = (pixels - i).min(16);
                let (v, mut d) = if n == 16 {
                    (S::load(x.add(i)), S::load(dy.add(i)))
                } else {
                    // The gradient is zero in the lanes past the end, which therefore add nothing.
                    (S::load_first(x.add(i), n), S::load_first(dy.add(i), n))
                };
                let xn = S::mul(S::sub(v, mv), rv);
                if activate {
                    let u = S::fma(xn, fv, ov);
                    let s = S::sigmoid(u);
                    // d silu = s (1 + u (1 - s))
                    d = S::mul(d, S::mul(s, S::fma(u, S::sub(one, s), one)));
                    if n == 16 {
                        S::store(dx.add(i), d);
                    } else {
                        S::store_first(dx.add(i), d, n);
                    }
                }
                s0 = S::add(s0, d);
                s1 = S::fma(d, xn, s1);
                i += 16;
            }
            let (s0, s1) = (S::sum(s0), S::sum(s1));
            *doffset.add(c) = s0;
            *dfactor.add(c) = s1;
            g0 += f64::from(f) * f64::from(s0);
            g1 += f64::from(f) * f64::from(s1);
        }
        // dx = rstd (f du - mean(f du) - xn mean(f du xn))
        let m0 = S::splat((g0 / count as f64) as f32);
        let m1 = S::splat((g1 / count as f64) as f32);
        for c in 0..channels {
            let fv = S::splat(*factor.add(c));
            let (x, dx) = (x.add(c * pixels), dx.add(c * pixels));
            let du = if activate { dx.cast_const() } else { dy.add(c * pixels) };
            let mut i = 0;
            while i < pixels {
                let n = (pixels - i).min(16);
                let (v, d) = if n == 16 {
                    (S::load(x.add(i)), S::load(du.add(i)))
                } else {
                    (S::load_first(x.add(i), n), S::load_first(du.add(i), n))
                };
                let xn = S::mul(S::sub(v, mv), rv);
                let r = S::mul(rv, S::fnma(xn, m1, S::sub(S::mul(fv, d), m0)));
                if n == 16 {
                    S::store(dx.add(i), r);
                } else {
                    S::store_first(dx.add(i), r, n);
                }
                i += 16;
            }
        }
    }
}

impl GroupNorm {
    /// Channels in a group, and where image `b`'s values for `group` start in factor and offset.
    fn place(&self, task: usize) -> (usize, usize, usize) {
        let per_group = self.channels / self.groups;
        let (b, g) = (task / self.groups, task % self.groups);
        let small = g * per_group + if self.per_image { b * self.channels } else { 0 };
        (per_group, small, task * per_group * self.pixels)
    }

    fn check(&self, x: &[f32], factor: &[f32], offset: &[f32]) -> Result<()> {
        let small = self.channels * if self.per_image { self.batch } else { 1 };
        if x.len() != self.batch * self.channels * self.pixels
            || factor.len() != small
            || offset.len() != small
        {
            candle_core::bail!("group_norm: shapes don't fit");
        }
        Ok(())
    }

    fn forward(&self, x: &[f32], factor: &[f32], offset: &[f32]) -> Result<Vec<f32>> {
        self.check(x, factor, offset)?;
        let isa = Isa::current();
        let (x, factor, offset) = (Input(x), Input(factor), Input(offset));
        // SAFETY: a task reads and writes one group of one image; the lengths were checked.
        Ok(unsafe {
            filled(x.0.len(), |y| {
                parallel(self.batch * self.groups, |task| {
                    let (n, small, big) = self.place(task);
                    norm_group(
                        isa,
                        x.at(big, n * self.pixels),
                        factor.at(small, n),
                        offset.at(small, n),
                        n,
                        self.pixels,
                        self.eps,
                        self.activate,
                        y.at(big, n * self.pixels),
                    );
                });
            })
        })
    }

    /// dx, and the gradients of factor and offset per image, `(B, C)`.
    fn backward(
        &self,
        x: &[f32],
        factor: &[f32],
        offset: &[f32],
        dy: &[f32],
    ) -> Result<[Vec<f32>; 3]> {
        self.check(x, factor, offset)?;
        if dy.len() != x.len() {
            candle_core::bail!("group_norm: shapes don't fit");
        }
        let isa = Isa::current();
        let small_len = self.batch * self.channels;
        let (mut df, mut d0) = (Vec::new(), Vec::new());
        let (x, factor, offset, dy) = (Input(x), Input(factor), Input(offset), Input(dy));
        // SAFETY: a task writes one group of one image in each of the outputs; the lengths were checked.
        let dx = unsafe {
            filled(x.0.len(), |dx| {
                df = filled(small_len, |df| {
                    d0 = filled(small_len, |d0| {
                        parallel(self.batch * self.groups, |task| {
                            let (n, small, big) = self.place(task);
                            norm_group_backward(
                                isa,
                                x.at(big, n * self.pixels),
                                dy.at(big, n * self.pixels),
                                factor.at(small, n),
                                offset.at(small, n),
                                n,
                                self.pixels,
                                self.eps,
                                self.activate,
                                dx.at(big, n * self.pixels),
                                df.at(task * n, n),
                                d0.at(task * n, n),
                            );
                        });
                    });
                });
            })
        };
        Ok([dx, df, d0])
    }

    /// The sum over images where one value serves all of them.
    fn small_gradient(&self, per_image: Vec<f32>, like: &Tensor) -> Result<Option<Tensor>> {
        if !like.track_op() {
            return Ok(None);
        }
        let data = if self.per_image {
            per_image
        } else {
            let mut sum = vec![0f32; self.channels];
            for image in per_image.chunks_exact(self.channels) {
                for (s, g) in sum.iter_mut().zip(image) {
                    *s += g;
                }
            }
            sum
        };
        from_floats(data, like.shape()).map(Some)
    }
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "fndm-group-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        f: &CpuStorage,
        fl: &Layout,
        o: &CpuStorage,
        ol: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(floats(x, xl)?, floats(f, fl)?, floats(o, ol)?)?;
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        f: &Tensor,
        o: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = contiguous(dy)?;
        let [dx, df, d0] = with_floats([x, f, o, &dy], |[x, f, o, dy]| self.backward(x, f, o, dy))?;
        let dx = if x.track_op() {
            Some(from_floats(dx, x.shape())?)
        } else {
            None
        };
        Ok((dx, self.small_gradient(df, f)?, self.small_gradient(d0, o)?))
    }
}

kernel! {
    unsafe fn silu_chunk[S](x: *const f32, n: usize, y: *mut f32) {
        let mut i = 0;
        while i < n {
            let m = (n - i).min(16);
            let v = S::load_first(x.add(i), m);
            S::store_first(y.add(i), S::mul(v, S::sigmoid(v)), m);
            i += 16;
        }
    }
}

kernel! {
    unsafe fn silu_chunk_backward[S](x: *const f32, dy: *const f32, n: usize, dx: *mut f32) {
        let one = S::splat(1.);
        let mut i = 0;
        while i < n {
            let m = (n - i).min(16);
            let u = S::load_first(x.add(i), m);
            let s = S::sigmoid(u);
            let d = S::mul(s, S::fma(u, S::sub(one, s), one));
            S::store_first(dx.add(i), S::mul(d, S::load_first(dy.add(i), m)), m);
            i += 16;
        }
    }
}

struct Silu;

impl CustomOp1 for Silu {
    fn name(&self) -> &'static str {
        "fndm-silu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Input(floats(x, l)?);
        let (isa, n) = (Isa::current(), x.0.len());
        // SAFETY: the chunks cover the floats once.
        let y = unsafe {
            filled(n, |y| {
                parallel(n.div_ceil(CHUNK), |i| {
                    let at = i * CHUNK;
                    let len = CHUNK.min(n - at);
                    silu_chunk(isa, x.at(at, len), len, y.at(at, len));
                });
            })
        };
        Ok((CpuStorage::F32(y), l.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = contiguous(dy)?;
        let dx = with_floats([x, &dy], |[x, dy]| {
            if x.len() != dy.len() {
                candle_core::bail!("silu: shapes don't fit");
            }
            let (isa, n) = (Isa::current(), x.len());
            let (x, dy) = (Input(x), Input(dy));
            // SAFETY: the chunks cover the floats once.
            Ok(unsafe {
                filled(n, |dx| {
                    parallel(n.div_ceil(CHUNK), |i| {
                        let at = i * CHUNK;
                        let len = CHUNK.min(n - at);
                        silu_chunk_backward(
                            isa,
                            x.at(at, len),
                            dy.at(at, len),
                            len,
                            dx.at(at, len),
                        );
                    });
                })
            })
        })?;
        from_floats(dx, x.shape()).map(Some)
    }
}
