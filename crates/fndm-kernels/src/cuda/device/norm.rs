//! Group normalisation on a GPU.

use super::super::machine::{Kind, Machine};
use super::super::program::elementwise::sum_rows;
use super::super::program::norm::{self, Gradients, Inputs, Norm};
use super::gpu::Gpu;
use super::tensors::{device, kind, like, no_cpu, output, tensor, view, with_views};
use crate::tape::apply3;
use crate::tensor::contiguous;
use candle_core::backend::BackendStorage;
use candle_core::cuda::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// `x` is f32 or bf16, and so is the result; everything else is computed in f32. `factor` and `offset` are `(C)` or `(B, C)`.
pub(crate) fn group_norm(
    x: &Tensor,
    groups: usize,
    factor: &Tensor,
    offset: &Tensor,
    eps: f64,
    activate: bool,
) -> Result<Tensor> {
    let (batch, channels) = (x.dim(0)?, x.dim(1)?);
    let norm = Norm {
        batch,
        channels,
        pixels: x.elem_count() / (batch * channels),
        groups,
        eps,
        activate,
        per_image: factor.rank() == 2,
    };
    let op = GroupNorm {
        norm,
        moments: OnceLock::new(),
    };
    let small = |t: &Tensor| contiguous(&t.to_dtype(DType::F32)?);
    apply3(&contiguous(x)?, &small(factor)?, &small(offset)?, op)
}

/// [`group_norm`] with `SiLU`, and scale and shift `(B, C)` beside weight and bias `(C)`.
pub(crate) fn group_norm_scale_shift(
    x: &Tensor,
    groups: usize,
    (weight, bias): (&Tensor, &Tensor),
    (scale, shift): (&Tensor, &Tensor),
    eps: f64,
) -> Result<Tensor> {
    let all = [weight, bias, scale, shift].map(|t| t.to_dtype(DType::F32));
    let [weight, bias, scale, shift] = all;
    let (weight, bias) = (contiguous(&weight?)?, contiguous(&bias?)?);
    let (scale, shift) = (contiguous(&scale?)?, contiguous(&shift?)?);
    let small = [&weight, &bias, &scale, &shift];
    let (factor, offset) = if small.iter().any(|t| t.track_op()) {
        let scale = (&scale + 1.)?;
        (
            scale.broadcast_mul(&weight)?,
            (scale.broadcast_mul(&bias)? + &shift)?,
        )
    } else {
        let (b, c) = scale.dims2()?;
        let there = device(&scale)?;
        with_views(small, |gpu, [w, o, s, h]| {
            let factor = gpu.alloc(Kind::F32, b * c)?;
            let offset = gpu.alloc(Kind::F32, b * c)?;
            let out = (gpu.view(&factor), gpu.view(&offset));
            norm::scale_shift(gpu, (w, o), (s, h), out, (b, c))?;
            Ok((
                tensor(factor, there, (b, c))?,
                tensor(offset, there, (b, c))?,
            ))
        })?
    };
    group_norm(x, groups, &factor, &offset, eps, true)
}

struct GroupNorm {
    norm: Norm,
    /// Left by the forward pass.
    moments: OnceLock<Tensor>,
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "fndm-group-norm"
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
        no_cpu(self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        f: &CudaStorage,
        fl: &Layout,
        o: &CudaStorage,
        ol: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let device = x.device();
        let gpu = Gpu(device);
        let inputs = Inputs {
            x: view(x, xl)?,
            factor: view(f, fl)?,
            offset: view(o, ol)?,
        };
        let y = gpu.alloc(kind(x.dtype())?, xl.shape().elem_count())?;
        let moments = gpu.alloc(Kind::F32, self.norm.moments())?;
        self.norm
            .forward(&gpu, &inputs, gpu.view(&y), gpu.view(&moments))?;
        _ = self
            .moments
            .set(tensor(moments, device, self.norm.moments())?);
        output(y, device, xl.shape().clone())
    }

    fn bwd(
        &self,
        x: &Tensor,
        f: &Tensor,
        o: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(moments) = self.moments.get() else {
            candle_core::bail!("group_norm: the gradient before the output")
        };
        let (there, dy) = (device(x)?, contiguous(dy)?);
        let (b, c) = (self.norm.batch, self.norm.channels);
        with_views([x, f, o, moments, &dy], |gpu, [xv, fv, ov, mv, dyv]| {
            let dx = like(gpu, x)?;
            let df = gpu.alloc(Kind::F32, b * c)?;
            let d0 = gpu.alloc(Kind::F32, b * c)?;
            let inputs = Inputs {
                x: xv,
                factor: fv,
                offset: ov,
            };
            let gradients = Gradients {
                x: gpu.view(&dx),
                factor: gpu.view(&df),
                offset: gpu.view(&d0),
            };
            self.norm.backward(gpu, &inputs, mv, dyv, &gradients)?;
            let small = |g, like: &Tensor| {
                if !like.track_op() {
                    return Ok(None);
                }
                if self.norm.per_image {
                    return tensor(g, there, like.shape()).map(Some);
                }
                let sum = gpu.alloc(Kind::F32, c)?;
                sum_rows(gpu, gpu.view(&g), gpu.view(&sum), b, c)?;
                tensor(sum, there, like.shape()).map(Some)
            };
            let (df, d0) = (small(df, f)?, small(d0, o)?);
            let dx = x.track_op().then(|| tensor(dx, there, x.shape()));
            Ok((dx.transpose()?, df, d0))
        })
    }
}
