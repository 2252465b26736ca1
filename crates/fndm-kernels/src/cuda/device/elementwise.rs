//! `SiLU`, resampling and linear combinations on a GPU.

use super::super::machine::{Machine, View};
use super::super::program::elementwise as program;
use super::gpu::Gpu;
use super::tensors::{all_views, device, kind, like, no_cpu, output, tensor, view, with_views};
use crate::tape::apply1;
use crate::tensor::contiguous;
use candle_core::backend::BackendStorage;
use candle_core::cuda::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

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

/// The sum of `coefficient * tensor` of contiguous tensors, at least one, all of one shape and type, without a gradient.
pub(crate) fn combination(coefficients: &[f32], tensors: &[Tensor]) -> Result<Tensor> {
    let all: Vec<&Tensor> = tensors.iter().collect();
    let Some(first) = all.first() else {
        candle_core::bail!("linear_combination: expected at least one term, got none")
    };
    let there = device(first)?;
    all_views(&all, |gpu, views| {
        let y = like(gpu, first)?;
        let terms: Vec<(f32, View)> = coefficients
            .iter()
            .copied()
            .zip(views.iter().copied())
            .collect();
        program::combine(gpu, &terms, gpu.view(&y), first.elem_count())?;
        tensor(y, there, first.shape())
    })
}

/// The same as a custom operation's forward pass.
pub(crate) fn combine<const N: usize>(
    coefficients: [f32; N],
    inputs: [(&CudaStorage, &Layout); N],
) -> Result<(CudaStorage, Shape)> {
    let (x, l) = inputs[0];
    let (gpu, n) = (Gpu(x.device()), l.shape().elem_count());
    let mut terms = Vec::with_capacity(N);
    for (c, (x, l)) in coefficients.into_iter().zip(inputs) {
        terms.push((c, view(x, l)?));
    }
    let y = gpu.alloc(kind(x.dtype())?, n)?;
    program::combine(&gpu, &terms, gpu.view(&y), n)?;
    output(y, x.device(), l.shape().clone())
}
