//! Operations that only move memory, in one threaded pass each.

use crate::combination;
use crate::config::{fast_path, own};
use crate::memory::{Input, Shared, filled};
use crate::plain;
use crate::simd::{Isa, kernel};
use crate::sum::{combine, untracked_combination};
use crate::tape::{apply1, apply2, apply3};
use crate::tensor::{contiguous, copy_images, floats, from_floats, with_floats};
#[cfg(feature = "cuda")]
use candle_core::cuda::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use fndm_runtime::parallel;

/// Floats in a task.
const CHUNK: usize = 1 << 15;

/// The sum of `coefficient * tensor` over all terms; at least one term, all of one shape and type.
///
/// # Errors
/// When there is no term, or shapes or types differ.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::new(&[1f32, 2.], &Device::Cpu)?;
/// let y = Tensor::new(&[10f32, 20.], &Device::Cpu)?;
/// let z = fndm_kernels::linear_combination(&[(2., &x), (-0.5, &y)])?;
/// assert_eq!(z.to_vec1::<f32>()?, [-3., -6.]);
/// # Ok(())
/// # }
/// ```
pub fn linear_combination(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let Some(((_, first), rest)) = terms.split_first() else {
        candle_core::bail!("linear_combination: expected at least one term, got none");
    };
    for (_, x) in rest {
        if x.dims() != first.dims() || x.dtype() != first.dtype() {
            candle_core::bail!(
                "linear_combination: expected every term like the first, {:?} {:?}, got {:?} {:?}",
                first.dims(),
                first.dtype(),
                x.dims(),
                x.dtype()
            );
        }
    }
    let tensors: Vec<&Tensor> = terms.iter().map(|(_, t)| *t).collect();
    if !own(&tensors) {
        return combination::untracked(terms).unwrap_or_else(|| plain::linear_combination(terms));
    }
    if !tensors.iter().any(|t| t.track_op()) {
        return untracked_combination(terms);
    }
    // Candle's operations take three tracked inputs: more terms join by their sum.
    let c = |i: usize| terms[i].0 as f32;
    let t = |i: usize| contiguous(terms[i].1);
    match terms.len() {
        1 => apply1(&t(0)?, Combination([c(0)])),
        2 => apply2(&t(0)?, &t(1)?, Combination([c(0), c(1)])),
        3 => apply3(&t(0)?, &t(1)?, &t(2)?, Combination([c(0), c(1), c(2)])),
        n => {
            let head = linear_combination(&terms[..n - 2])?;
            linear_combination(&[(1., &head), terms[n - 2], terms[n - 1]])
        }
    }
}

/// `a + b` for tensors of one shape, threaded.
///
/// # Errors
/// When the shapes or types differ.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    linear_combination(&[(1., a), (1., b)])
}

#[derive(Debug, Clone, Copy)]
struct Combination<const N: usize>([f32; N]);

impl<const N: usize> Combination<N> {
    fn gradient(&self, i: usize, x: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        if self.0[i] == 1. {
            return Ok(Some(dy.clone()));
        }
        untracked_combination(&[(f64::from(self.0[i]), dy)]).map(Some)
    }
}

impl CustomOp1 for Combination<1> {
    fn name(&self) -> &'static str {
        "fndm-linear-combination"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = combine(&[(self.0[0], floats(x, l)?)]);
        Ok((CpuStorage::F32(y), l.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        crate::cuda::combine(self.0, [(x, l)])
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        self.gradient(0, x, dy)
    }
}

impl CustomOp2 for Combination<2> {
    fn name(&self) -> &'static str {
        "fndm-linear-combination"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = combine(&[(self.0[0], floats(a, al)?), (self.0[1], floats(b, bl)?)]);
        Ok((CpuStorage::F32(y), al.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        crate::cuda::combine(self.0, [(a, al), (b, bl)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.gradient(0, a, dy)?, self.gradient(1, b, dy)?))
    }
}

impl CustomOp3 for Combination<3> {
    fn name(&self) -> &'static str {
        "fndm-linear-combination"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
        c: &CpuStorage,
        cl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = combine(&[
            (self.0[0], floats(a, al)?),
            (self.0[1], floats(b, bl)?),
            (self.0[2], floats(c, cl)?),
        ]);
        Ok((CpuStorage::F32(y), al.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
        c: &CudaStorage,
        cl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        crate::cuda::combine(self.0, [(a, al), (b, bl), (c, cl)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok((
            self.gradient(0, a, dy)?,
            self.gradient(1, b, dy)?,
            self.gradient(2, c, dy)?,
        ))
    }
}

/// Nearest-neighbour upsampling of `(B, C, H, W)` to `(B, C, 2H, 2W)`.
///
/// # Errors
/// When `x` hasn't four dimensions.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    x.dims4()?;
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(&[x]) {
        return crate::cuda::upsample(x);
    }
    if fast_path(&[x]) {
        apply1(&contiguous(x)?, Upsample)
    } else {
        plain::upsample_nearest_2x(x)
    }
}

/// Mean of 2x2 blocks: `(B, C, H, W)` with even H and W to `(B, C, H/2, W/2)`.
///
/// # Errors
/// When `x` hasn't four dimensions, or H or W is odd.
pub fn avg_pool_2x(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if h % 2 != 0 || w % 2 != 0 {
        candle_core::bail!("avg_pool_2x: expected an even height and width, got {h}x{w}");
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(&[x]) {
        return crate::cuda::avg_pool(x);
    }
    if fast_path(&[x]) {
        apply1(&contiguous(x)?, AvgPool)
    } else {
        plain::avg_pool_2x(x)
    }
}

kernel! {
    /// Each pixel of `planes` planes of `h` by `w`, times `scale`, to 2x2 pixels.
    unsafe fn expand[S](x: *const f32, planes: usize, h: usize, w: usize, scale: f32, y: *mut f32) {
        for row in 0..planes * h {
            let src = std::slice::from_raw_parts(x.add(row * w), w);
            let top = y.add(row * 4 * w);
            for (i, v) in src.iter().enumerate() {
                let v = v * scale;
                *top.add(2 * i) = v;
                *top.add(2 * i + 1) = v;
            }
            std::ptr::copy_nonoverlapping(top, top.add(2 * w), 2 * w);
        }
        _ = S::MR;
    }
}

kernel! {
    /// The sum of each 2x2 block of `planes` planes of `2h` by `2w`, times `scale`.
    unsafe fn reduce[S](x: *const f32, planes: usize, h: usize, w: usize, scale: f32, y: *mut f32) {
        for row in 0..planes * h {
            let a = std::slice::from_raw_parts(x.add(row * 4 * w), 2 * w);
            let b = std::slice::from_raw_parts(x.add(row * 4 * w + 2 * w), 2 * w);
            let dst = y.add(row * w);
            for i in 0..w {
                *dst.add(i) = ((a[2 * i] + a[2 * i + 1]) + (b[2 * i] + b[2 * i + 1])) * scale;
            }
        }
        _ = S::MR;
    }
}

/// `(B, C, h, w)` to twice the size.
pub(crate) fn expanded(x: &[f32], h: usize, w: usize, scale: f32) -> Vec<f32> {
    by_planes(x.len(), h * w, x.len() * 4, |first, n, out| {
        let (isa, plane) = (Isa::current(), h * w);
        let src = Input(x).at(first * plane, n * plane);
        // SAFETY: `n` planes are in range of both.
        unsafe {
            expand(
                isa,
                src,
                n,
                h,
                w,
                scale,
                out.at(first * 4 * plane, n * 4 * plane),
            );
        };
    })
}

/// `(B, C, 2h, 2w)` to half the size.
pub(crate) fn reduced(x: &[f32], h: usize, w: usize, scale: f32) -> Vec<f32> {
    by_planes(x.len() / 4, h * w, x.len() / 4, |first, n, out| {
        let (isa, plane) = (Isa::current(), h * w);
        let src = Input(x).at(first * 4 * plane, n * 4 * plane);
        // SAFETY: `n` planes are in range of both.
        unsafe { reduce(isa, src, n, h, w, scale, out.at(first * plane, n * plane)) };
    })
}

/// Calls `f(first, count, out)` for ranges that cover `small / plane` planes; `f` fills their output.
fn by_planes(
    small: usize,
    plane: usize,
    len: usize,
    f: impl Fn(usize, usize, Shared) + Sync + Send,
) -> Vec<f32> {
    let planes = small.checked_div(plane).unwrap_or(0);
    let per_task = CHUNK.div_ceil(plane.max(1));
    // SAFETY: every plane belongs to one range, and `f` writes all of it.
    unsafe {
        filled(len, |out| {
            parallel(planes.div_ceil(per_task), |i| {
                let first = i * per_task;
                f(first, per_task.min(planes - first), out);
            });
        })
    }
}

struct Upsample;

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "fndm-upsample-nearest-2x"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = l.shape().dims4()?;
        let y = expanded(floats(x, l)?, h, w, 1.);
        Ok((CpuStorage::F32(y), (b, c, 2 * h, 2 * w).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, h, w) = x.dims4()?;
        let dx = with_floats([&contiguous(dy)?], |[dy]| Ok(reduced(dy, h, w, 1.)))?;
        from_floats(dx, x.shape()).map(Some)
    }
}

struct AvgPool;

impl CustomOp1 for AvgPool {
    fn name(&self) -> &'static str {
        "fndm-avg-pool-2x"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = l.shape().dims4()?;
        let y = reduced(floats(x, l)?, h / 2, w / 2, 0.25);
        Ok((CpuStorage::F32(y), (b, c, h / 2, w / 2).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, h, w) = x.dims4()?;
        let dx = with_floats([&contiguous(dy)?], |[dy]| {
            Ok(expanded(dy, h / 2, w / 2, 0.25))
        })?;
        from_floats(dx, x.shape()).map(Some)
    }
}

/// `(B, C1, ...)` and `(B, C2, ...)` to `(B, C1 + C2, ...)`, threaded.
///
/// # Errors
/// When the other dimensions or the types differ.
pub fn cat_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let fits = a.rank() >= 2
        && a.rank() == b.rank()
        && a.dims()[0] == b.dims()[0]
        && a.dims()[2..] == b.dims()[2..]
        && a.dtype() == b.dtype();
    if !fits {
        candle_core::bail!(
            "cat_channels: expected tensors that differ in channels alone, got {:?} {:?} and {:?} {:?}",
            a.dims(),
            a.dtype(),
            b.dims(),
            b.dtype()
        );
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(&[a, b]) {
        return crate::cuda::cat(a, b);
    }
    if fast_path(&[a, b]) && a.elem_count() > 0 && b.elem_count() > 0 {
        apply2(&contiguous(a)?, &contiguous(b)?, Cat)
    } else {
        Tensor::cat(&[a, b], 1)
    }
}

struct Cat;

impl CustomOp2 for Cat {
    fn name(&self) -> &'static str {
        "fndm-cat-channels"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (floats(a, al)?, floats(b, bl)?);
        let batch = al.dims()[0];
        let (na, nb) = (a.len() / batch, b.len() / batch);
        // SAFETY: the two copies fill every image.
        let y = unsafe {
            filled(a.len() + b.len(), |out| {
                copy_images(Input(a), na, out, na + nb, na, batch);
                let behind = out.part(na, a.len() + b.len() - na);
                copy_images(Input(b), nb, behind, na + nb, nb, batch);
            })
        };
        let mut dims = al.dims().to_vec();
        dims[1] += bl.dims()[1];
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        // Views: whoever can't take one copies it.
        let part = |x: &Tensor, first: usize| {
            let channels = || dy.narrow(1, first, x.dim(1)?).map(Some);
            if x.track_op() { channels() } else { Ok(None) }
        };
        Ok((part(a, 0)?, part(b, a.dim(1)?)?))
    }
}
