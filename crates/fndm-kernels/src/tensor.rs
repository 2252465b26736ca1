//! From candle's tensors to slices and back.

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor};

/// The floats of a contiguous f32 tensor.
pub(crate) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) if end <= all.len() => Ok(&all[start..end]),
        _ => candle_core::bail!("expected a contiguous f32 tensor, got {layout:?}"),
    }
}

/// Calls `f` with the floats of contiguous f32 tensors on the CPU.
pub(crate) fn with_floats<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else {
            candle_core::bail!("expected a tensor on the CPU")
        };
        *slice = floats(storage, layout)?;
    }
    f(slices)
}

/// A tensor on the CPU.
pub(crate) fn from_floats(data: Vec<f32>, shape: &Shape) -> Result<Tensor> {
    Tensor::from_vec(data, shape.clone(), &Device::Cpu)
}

/// The tensor itself, or a contiguous copy.
pub(crate) fn contiguous(x: &Tensor) -> Result<Tensor> {
    if x.is_contiguous() {
        Ok(x.clone())
    } else {
        x.contiguous()
    }
}
