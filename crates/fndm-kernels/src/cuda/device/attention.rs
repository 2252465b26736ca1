//! Attention on a GPU.

use super::super::machine::Machine;
use super::super::program::attention::Attention;
use super::gpu::Gpu;
use super::tensors::{device, kind, like, no_cpu, output, tensor, view, with_views};
use crate::tape::apply3;
use crate::tensor::contiguous;
use candle_core::backend::BackendStorage;
use candle_core::cuda::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// q, k and v are `(B, heads, C, T)`, all f32 or all bf16.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (b, heads, channels, tokens) = q.dims4()?;
    let op = Attention {
        heads: b * heads,
        channels,
        tokens,
    };
    apply3(&contiguous(q)?, &contiguous(k)?, &contiguous(v)?, op)
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "fndm-attention"
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
        q: &CudaStorage,
        ql: &Layout,
        k: &CudaStorage,
        kl: &Layout,
        v: &CudaStorage,
        vl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let gpu = Gpu(q.device());
        let out = gpu.alloc(kind(q.dtype())?, ql.shape().elem_count())?;
        let qkv = [view(q, ql)?, view(k, kl)?, view(v, vl)?];
        self.forward(&gpu, qkv, gpu.view(&out))?;
        output(out, q.device(), ql.shape().clone())
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (there, dy) = (device(q)?, contiguous(dy)?);
        with_views([q, k, v, &dy], |gpu, [qv, kv, vv, dyv]| {
            let (dq, dk, dv) = (like(gpu, q)?, like(gpu, k)?, like(gpu, v)?);
            let out = [gpu.view(&dq), gpu.view(&dk), gpu.view(&dv)];
            self.backward(gpu, [qv, kv, vv], dyv, out)?;
            let tracked = |t: &Tensor, g| {
                t.track_op()
                    .then(|| tensor(g, there, t.shape()))
                    .transpose()
            };
            Ok((tracked(q, dq)?, tracked(k, dk)?, tracked(v, dv)?))
        })
    }
}
