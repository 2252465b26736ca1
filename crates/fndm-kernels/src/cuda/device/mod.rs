//! The operations on a GPU: candle's custom operations, whose passes are programs of [`super::program`].

mod attention;
mod cat;
mod conv;
#[cfg(feature = "cudnn")]
mod cudnn;
mod elementwise;
mod gpu;
mod norm;
mod optim;
mod tensors;

use crate::config::{Backend, backend};
use candle_core::{DType, Device, Result, Tensor};

pub(crate) use attention::attention;
pub(crate) use cat::cat;
pub(crate) use conv::conv2d;
pub(crate) use elementwise::{avg_pool, combination, combine, silu, upsample};
pub(crate) use norm::{group_norm, group_norm_scale_shift};
pub(crate) use optim::{adam, ema};

/// A device whose work all goes through one stream of its own, in order, whichever thread asks for it.
pub(crate) fn open(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    // SAFETY: with one stream, what was asked for first is done first, so no tensor is read before it is written or freed before
    // it is read.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    // The environment's choice reaches candle before its first product.
    crate::config::tf32();
    Ok(device)
}

/// Whether this module takes these tensors: of one CUDA device, and all f32 or all bf16.
pub(crate) fn takes(tensors: &[&Tensor]) -> bool {
    let dtype = tensors.first().map(|t| t.dtype());
    backend() == Backend::Fast
        && matches!(dtype, Some(DType::F32 | DType::BF16))
        && on_device(tensors)
        && tensors.iter().all(|t| Some(t.dtype()) == dtype)
}

/// Whether tensors lie on a CUDA device and have values.
pub(crate) fn on_device(tensors: &[&Tensor]) -> bool {
    backend() == Backend::Fast
        && tensors
            .iter()
            .all(|t| t.device().is_cuda() && t.elem_count() > 0)
}
