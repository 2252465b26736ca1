//! From candle's tensors to slices and back.

use crate::memory::{Input, Shared, filled};
use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor};
use fndm_runtime::parallel;

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
        return Ok(x.clone());
    }
    match together(x)? {
        Some(copy) => Ok(copy),
        None => x.contiguous(),
    }
}

/// Floats in a task.
const CHUNK: usize = 1 << 15;

/// A threaded copy of an f32 tensor on the CPU each of whose images lies together, as a part of the channels does; no gradient is asked for.
fn together(x: &Tensor) -> Result<Option<Tensor>> {
    let (storage, layout) = x.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(all)), [batch, inner @ ..], [step, strides @ ..]) =
        (&*storage, layout.dims(), layout.stride())
    else {
        return Ok(None);
    };
    let n = inner.iter().product::<usize>();
    let lies_together = Shape::from(inner).is_contiguous(strides);
    let last = layout.start_offset() + batch.saturating_sub(1) * step;
    if x.track_op() || !lies_together || *batch * n == 0 || last + n > all.len() {
        return Ok(None);
    }
    let source = Input(&all[layout.start_offset()..]);
    // SAFETY: the copy fills every image, and the last one lies within the source.
    let copy = unsafe {
        filled(batch * n, |out| {
            copy_images(source, *step, out, n, n, *batch);
        })
    };
    from_floats(copy, layout.shape()).map(Some)
}

/// Copies `n` floats per image from `src` at stride `from` to `dst` at stride `to`.
///
/// # Safety
/// `dst` holds `n` floats of each image at its stride.
pub(crate) unsafe fn copy_images(
    src: Input<'_>,
    from: usize,
    dst: Shared,
    to: usize,
    n: usize,
    batch: usize,
) {
    let parts = n.div_ceil(CHUNK);
    parallel(batch * parts, |i| {
        let (image, at) = (i / parts, i % parts * CHUNK);
        let len = CHUNK.min(n - at);
        let src = &src.0[image * from + at..][..len];
        // SAFETY: the ranges of the tasks are disjoint and within both.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst.at(image * to + at, len), len) };
    });
}
