//! Convolution on a GPU: cuDNN's where the crate has it, else candle's.

use candle_core::{Result, Tensor};

/// `x` `(B, I, H, W)` with `weight` `(O, I, k, k)` at same padding, plus `bias` `(O)` or `(B, O)`; with `up`, `x` is upsampled
/// first. All f32 or all bf16.
pub(crate) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    up: bool,
) -> Result<Tensor> {
    let larger;
    let x = if up {
        larger = super::upsample(x)?;
        &larger
    } else {
        x
    };
    #[cfg(feature = "cudnn")]
    {
        library::conv2d(x, weight, bias, stride)
    }
    #[cfg(not(feature = "cudnn"))]
    {
        crate::plain::conv2d(x, weight, bias, stride)
    }
}

#[cfg(feature = "cudnn")]
mod library {
    use super::super::super::machine::{Machine, View};
    use super::super::super::program::elementwise::{add_bias, bias_grad};
    use super::super::cudnn::{Operands, Pass, run};
    use super::super::gpu::Gpu;
    use super::super::tensors::{device, kind, like, no_cpu, output, tensor, view, with_views};
    use crate::conv::Shape;
    use crate::tape::{apply2, apply3};
    use crate::tensor::contiguous;
    use candle_core::backend::BackendStorage;
    use candle_core::cuda::CudaStorage;
    use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Tensor};

    pub(super) fn conv2d(
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        stride: usize,
    ) -> Result<Tensor> {
        let (batch, ci, h, w) = x.dims4()?;
        let (co, _, k, _) = weight.dims4()?;
        let op = Conv(Shape {
            batch,
            ci,
            co,
            h,
            w,
            k,
            stride,
        });
        let (x, weight) = (contiguous(x)?, contiguous(weight)?);
        match bias {
            Some(bias) => apply3(&x, &weight, &contiguous(bias)?, op),
            None => apply2(&x, &weight, op),
        }
    }

    struct Conv(Shape);

    impl Conv {
        fn forward(
            &self,
            (x, xl): (&CudaStorage, &Layout),
            (w, wl): (&CudaStorage, &Layout),
            bias: Option<(View, usize)>,
        ) -> Result<(CudaStorage, candle_core::Shape)> {
            let (gpu, s) = (Gpu(x.device()), &self.0);
            let pixels = s.oh() * s.ow();
            let y = gpu.alloc(kind(x.dtype())?, s.batch * s.co * pixels)?;
            let operands = Operands {
                x: view(x, xl)?,
                w: view(w, wl)?,
                y: gpu.view(&y),
            };
            run(&gpu, Pass::Forward, s, operands)?;
            if let Some((bias, values)) = bias {
                add_bias(&gpu, gpu.view(&y), bias, s.batch * s.co, pixels, values)?;
            }
            output(y, x.device(), (s.batch, s.co, s.oh(), s.ow()))
        }

        /// The gradients that someone tracks.
        fn gradients(
            &self,
            x: &Tensor,
            w: &Tensor,
            dy: &Tensor,
        ) -> Result<(Option<Tensor>, Option<Tensor>)> {
            let (there, s) = (device(x)?, &self.0);
            with_views([x, w, dy], |gpu, [xv, wv, dyv]| {
                let mut gradients = (None, None);
                if x.track_op() {
                    let dx = like(gpu, x)?;
                    let operands = Operands {
                        x: gpu.view(&dx),
                        w: wv,
                        y: dyv,
                    };
                    run(gpu, Pass::InputGradient, s, operands)?;
                    gradients.0 = Some(tensor(dx, there, x.shape())?);
                }
                if w.track_op() {
                    let dw = like(gpu, w)?;
                    let operands = Operands {
                        x: xv,
                        w: gpu.view(&dw),
                        y: dyv,
                    };
                    run(gpu, Pass::WeightGradient, s, operands)?;
                    gradients.1 = Some(tensor(dw, there, w.shape())?);
                }
                Ok(gradients)
            })
        }
    }

    impl CustomOp2 for Conv {
        fn name(&self) -> &'static str {
            "fndm-conv2d"
        }

        fn cpu_fwd(
            &self,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
        ) -> Result<(CpuStorage, candle_core::Shape)> {
            no_cpu("fndm-conv2d")
        }

        fn cuda_fwd(
            &self,
            x: &CudaStorage,
            xl: &Layout,
            w: &CudaStorage,
            wl: &Layout,
        ) -> Result<(CudaStorage, candle_core::Shape)> {
            self.forward((x, xl), (w, wl), None)
        }

        fn bwd(
            &self,
            x: &Tensor,
            w: &Tensor,
            _: &Tensor,
            dy: &Tensor,
        ) -> Result<(Option<Tensor>, Option<Tensor>)> {
            self.gradients(x, w, &contiguous(dy)?)
        }
    }

    impl CustomOp3 for Conv {
        fn name(&self) -> &'static str {
            "fndm-conv2d"
        }

        fn cpu_fwd(
            &self,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
        ) -> Result<(CpuStorage, candle_core::Shape)> {
            no_cpu("fndm-conv2d")
        }

        fn cuda_fwd(
            &self,
            x: &CudaStorage,
            xl: &Layout,
            w: &CudaStorage,
            wl: &Layout,
            b: &CudaStorage,
            bl: &Layout,
        ) -> Result<(CudaStorage, candle_core::Shape)> {
            let bias = (view(b, bl)?, bl.shape().elem_count());
            self.forward((x, xl), (w, wl), Some(bias))
        }

        fn bwd(
            &self,
            x: &Tensor,
            w: &Tensor,
            b: &Tensor,
            _: &Tensor,
            dy: &Tensor,
        ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
            let dy = contiguous(dy)?;
            let (dx, dw) = self.gradients(x, w, &dy)?;
            let db = if b.track_op() {
                let s = &self.0;
                let shape = (s.batch, s.co, s.oh() * s.ow());
                Some(with_views([&dy], |gpu, [dyv]| {
                    let db = like(gpu, b)?;
                    bias_grad(gpu, dyv, shape, b.rank() == 2, gpu.view(&db))?;
                    tensor(db, device(b)?, b.shape())
                })?)
            } else {
                None
            };
            Ok((dx, dw, db))
        }
    }
}
