//! From candle's tensors to places on the GPU and back.

use super::super::machine::{Kind, Machine, View};
use super::gpu::{Gpu, Memory};
use candle_core::backend::BackendStorage;
use candle_core::cuda::CudaStorage;
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, DType, Device, Layout, Result, Shape, Storage, Tensor};
use half::bf16;

/// Where a contiguous tensor's values begin.
pub(super) fn view(storage: &CudaStorage, layout: &Layout) -> Result<View> {
    let Some((start, _)) = layout.contiguous_offsets() else {
        candle_core::bail!("cuda: expected a contiguous tensor, got {layout:?}")
    };
    let stream = storage.device().cuda_stream();
    let (address, kind) = match storage.dtype() {
        DType::F32 => {
            let slice: &CudaSlice<f32> = storage.as_cuda_slice()?;
            (slice.device_ptr(&stream).0, Kind::F32)
        }
        DType::BF16 => {
            let slice: &CudaSlice<bf16> = storage.as_cuda_slice()?;
            (slice.device_ptr(&stream).0, Kind::Bf16)
        }
        other => candle_core::bail!("cuda: expected f32 or bf16, got {other:?}"),
    };
    Ok(View { address, kind }.offset(start))
}

/// Calls `f` with the places of contiguous tensors of one CUDA device.
pub(super) fn with_views<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce(&Gpu<'_>, [View; N]) -> Result<R>,
) -> Result<R> {
    all_views(&tensors, |gpu, views| match views.try_into() {
        Ok(views) => f(gpu, views),
        Err(_) => candle_core::bail!("cuda: expected {N} tensors"),
    })
}

/// As [`with_views`] for any number of tensors, at least one.
///
/// Held are locks for reading, also of variables that a kernel writes to: the stream keeps the order of reads and writes.
pub(super) fn all_views<R>(
    tensors: &[&Tensor],
    f: impl FnOnce(&Gpu<'_>, &[View]) -> Result<R>,
) -> Result<R> {
    let Some(first) = tensors.first() else {
        candle_core::bail!("cuda: expected at least one tensor, got none")
    };
    let device = first.device().as_cuda_device()?;
    let guards: Vec<_> = tensors.iter().map(|t| t.storage_and_layout()).collect();
    let views = guards
        .iter()
        .map(|(storage, layout)| match &**storage {
            Storage::Cuda(storage) => view(storage, layout),
            _ => candle_core::bail!("cuda: expected tensors on one CUDA device"),
        })
        .collect::<Result<Vec<_>>>()?;
    f(&Gpu(device), &views)
}

/// The output of a custom operation.
pub(super) fn output(
    memory: Memory,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> Result<(CudaStorage, Shape)> {
    Ok((memory.into_storage(device)?, shape.into()))
}

/// A tensor that no one tracks.
pub(super) fn tensor(
    memory: Memory,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> Result<Tensor> {
    let storage = Storage::Cuda(memory.into_storage(device)?);
    Ok(Tensor::from_storage(
        storage,
        shape,
        BackpropOp::none(),
        false,
    ))
}

/// Memory for a tensor like this one.
pub(super) fn like(gpu: &Gpu<'_>, x: &Tensor) -> Result<Memory> {
    gpu.alloc(kind(x.dtype())?, x.elem_count())
}

pub(super) fn kind(dtype: DType) -> Result<Kind> {
    match dtype {
        DType::F32 => Ok(Kind::F32),
        DType::BF16 => Ok(Kind::Bf16),
        other => candle_core::bail!("cuda: expected f32 or bf16, got {other:?}"),
    }
}

/// The CUDA device of a tensor.
pub(super) fn device(x: &Tensor) -> Result<&CudaDevice> {
    match x.device() {
        Device::Cuda(device) => Ok(device),
        other => candle_core::bail!("expected a CUDA device, got {:?}", other.location()),
    }
}

/// The CPU pass of an operation that exists on CUDA alone.
pub(super) fn no_cpu<R>(name: &str) -> Result<R> {
    candle_core::bail!("{name}: expected tensors on a CUDA device, got tensors on the CPU")
}
