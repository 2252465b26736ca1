//! Two tensors joined by their channels on a GPU.

use super::super::machine::Machine;
use super::super::program::elementwise::copy_images;
use super::gpu::Gpu;
use super::tensors::{device, kind, like, no_cpu, output, tensor, view, with_views};
use crate::tape::apply2;
use crate::tensor::contiguous;
use candle_core::backend::BackendStorage;
use candle_core::cuda::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

/// `(B, C1, ...)` and `(B, C2, ...)` to `(B, C1 + C2, ...)`.
pub(crate) fn cat(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    apply2(&contiguous(a)?, &contiguous(b)?, Cat)
}

struct Cat;

impl CustomOp2 for Cat {
    fn name(&self) -> &'static str {
        "fndm-cat-channels"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        no_cpu(self.name())
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (gpu, batch) = (Gpu(a.device()), al.dims()[0]);
        let (na, nb) = (
            al.shape().elem_count() / batch,
            bl.shape().elem_count() / batch,
        );
        let y = gpu.alloc(kind(a.dtype())?, batch * (na + nb))?;
        let out = gpu.view(&y);
        let (av, bv) = (view(a, al)?, view(b, bl)?);
        copy_images(&gpu, (av, na), (out, na + nb), na, batch)?;
        copy_images(&gpu, (bv, nb), (out.offset(na), na + nb), nb, batch)?;
        let mut dims = al.dims().to_vec();
        dims[1] += bl.dims()[1];
        output(y, a.device(), dims)
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (there, dy, batch) = (device(a)?, contiguous(dy)?, a.dim(0)?);
        let (na, nb) = (a.elem_count() / batch, b.elem_count() / batch);
        let part = |x: &Tensor, at: usize, n: usize| {
            if !x.track_op() {
                return Ok(None);
            }
            with_views([&dy], |gpu, [dyv]| {
                let g = like(gpu, x)?;
                let from = (dyv.offset(at), na + nb);
                copy_images(gpu, from, (gpu.view(&g), n), n, batch)?;
                tensor(g, there, x.shape()).map(Some)
            })
        };
        Ok((part(a, 0, na)?, part(b, na, nb)?))
    }
}
