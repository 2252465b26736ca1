//! `SiLU`, resampling and linear combinations on a GPU.

use super::super::machine::{Machine, View};
use super::super::program::elementwise as program;
use super::gpu::Gpu;
use super::tensors::{all_views, device, kind, like, no_cpu, output, tensor, view, with_views};
use crate::tape::{apply1, apply2, apply3};
use crate::tensor::contiguous;
use candle_core::backend::BackendStorage;
use candle_core::cuda::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    apply1(&contiguous(x)?, Silu)
}

/// `(B, C, H, W)` to `(B, C, 2H, 2W)`.
pub(crate) fn upsample(x: &Tensor) -> Result<Tensor> {
    apply1(&contiguous(x)?, Upsample)
}

/// `(B, C, H, W)` with even H and W to `(B, C, H/2, W/2)`.
pub(crate) fn avg_pool(x: &Tensor) -> Result<Tensor> {
    apply1(&contiguous(x)?, AvgPool)
}

struct Silu;

impl CustomOp1 for Silu {
    fn name(&self) -> &'static str {
        "fndm-silu"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        let (gpu, n) = (Gpu(x.device()), l.shape().elem_count());
        let y = gpu.alloc(kind(x.dtype())?, n)?;
        program::silu(&gpu, view(x, l)?, gpu.view(&y), n)?;
        output(y, x.device(), l.shape().clone())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (there, dy) = (device(x)?, contiguous(dy)?);
        with_views([x, &dy], |gpu, [xv, dyv]| {
            let dx = like(gpu, x)?;
            program::silu_grad(gpu, xv, dyv, gpu.view(&dx), x.elem_count())?;
            tensor(dx, there, x.shape()).map(Some)
        })
    }
}

struct Upsample;

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "fndm-upsample-nearest-2x"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        let (b, c, h, w) = l.shape().dims4()?;
        let gpu = Gpu(x.device());
        let y = gpu.alloc(kind(x.dtype())?, 4 * l.shape().elem_count())?;
        program::expand(&gpu, view(x, l)?, gpu.view(&y), (b * c * h, w), 1.)?;
        output(y, x.device(), (b, c, 2 * h, 2 * w))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (b, c, h, w) = x.dims4()?;
        let (there, dy) = (device(x)?, contiguous(dy)?);
        with_views([&dy], |gpu, [dyv]| {
            let dx = like(gpu, x)?;
            program::reduce(gpu, dyv, gpu.view(&dx), (b * c * h, w), 1.)?;
            tensor(dx, there, x.shape()).map(Some)
        })
    }
}

struct AvgPool;

impl CustomOp1 for AvgPool {
    fn name(&self) -> &'static str {
        "fndm-avg-pool-2x"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        let (b, c, h, w) = l.shape().dims4()?;
        let (gpu, h, w) = (Gpu(x.device()), h / 2, w / 2);
        let y = gpu.alloc(kind(x.dtype())?, b * c * h * w)?;
        program::reduce(&gpu, view(x, l)?, gpu.view(&y), (b * c * h, w), 0.25)?;
        output(y, x.device(), (b, c, h, w))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (b, c, h, w) = x.dims4()?;
        let (there, dy) = (device(x)?, contiguous(dy)?);
        with_views([&dy], |gpu, [dyv]| {
            let dx = like(gpu, x)?;
            program::expand(gpu, dyv, gpu.view(&dx), (b * c * h / 2, w / 2), 0.25)?;
            tensor(dx, there, x.shape()).map(Some)
        })
    }
}

/// The sum of `coefficient * tensor`, at least one term, all of one shape and type.
pub(crate) fn combination(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    if !terms.iter().any(|(_, t)| t.track_op()) {
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
            let head = combination(&terms[..n - 2])?;
            combination(&[(1., &head), terms[n - 2], terms[n - 1]])
        }
    }
}

/// [`combination`] without a gradient.
fn untracked_combination(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let tensors = terms
        .iter()
        .map(|(_, t)| contiguous(t))
        .collect::<Result<Vec<_>>>()?;
    let all: Vec<&Tensor> = tensors.iter().collect();
    let Some(first) = all.first() else {
        candle_core::bail!("linear_combination: expected at least one term, got none")
    };
    let there = device(first)?;
    all_views(&all, |gpu, views| {
        let y = like(gpu, first)?;
        let terms: Vec<(f32, View)> = terms
            .iter()
            .zip(views)
            .map(|((c, _), v)| (*c as f32, *v))
            .collect();
        program::combine(gpu, &terms, gpu.view(&y), first.elem_count())?;
        tensor(y, there, first.shape())
    })
}

struct Combination<const N: usize>([f32; N]);

impl<const N: usize> Combination<N> {
    fn forward(&self, inputs: [(&CudaStorage, &Layout); N]) -> Result<(CudaStorage, Shape)> {
        let (x, l) = inputs[0];
        let (gpu, n) = (Gpu(x.device()), l.shape().elem_count());
        let mut terms = Vec::with_capacity(N);
        for (c, (x, l)) in self.0.iter().zip(inputs) {
            terms.push((*c, view(x, l)?));
        }
        let y = gpu.alloc(kind(x.dtype())?, n)?;
        program::combine(&gpu, &terms, gpu.view(&y), n)?;
        output(y, x.device(), l.shape().clone())
    }

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

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu("fndm-linear-combination")
    }

    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward([(x, l)])
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
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        no_cpu("fndm-linear-combination")
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward([(a, al), (b, bl)])
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
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        no_cpu("fndm-linear-combination")
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
        c: &CudaStorage,
        cl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward([(a, al), (b, bl), (c, cl)])
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
