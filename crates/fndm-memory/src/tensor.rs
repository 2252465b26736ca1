//! Passage between candle's tensors and plain slices.

use candle_core::{DType, Device, Storage, Tensor, WithDType};
use ndarray::{ArrayView2, ArrayView3, s};

use crate::{Error, Result};

/// Lends a contiguous CPU tensor's values without a copy.
pub(crate) fn with_slice<T: WithDType, R>(x: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::shape("tensor", "contiguous values", layout.stride()))?;
    match &*storage {
        Storage::Cpu(cpu) => {
            let all = cpu.as_slice::<T>()?;
            let part = all
                .get(start..end)
                .ok_or_else(|| Error::shape("tensor", "values for its shape", layout.shape()))?;
            Ok(f(part))
        }
        Storage::Cuda(_) | Storage::Metal(_) => Err(Error::shape(
            "tensor",
            "values on the CPU",
            x.device().location(),
        )),
    }
}

/// A feature map `(B, C, H, W)` of any device and type as f32 values on the CPU.
pub(crate) fn to_cpu(x: &Tensor) -> Result<Tensor> {
    Ok(x.detach()
        .to_dtype(DType::F32)?
        .to_device(&Device::Cpu)?
        .contiguous()?)
}

/// Checks images `(B, C, H, W)` and, if there is one, the head `(B, H, W)`; gives B, H and W.
pub(crate) fn check_images(
    images: &Tensor,
    head: Option<ArrayView3<'_, bool>>,
) -> Result<(usize, usize, usize)> {
    let &[b, _, h, w] = images.dims() else {
        return Err(Error::shape("images", "(B, C, H, W)", images.dims()));
    };
    if b == 0 || h == 0 || w == 0 {
        return Err(Error::Empty {
            what: "the set of images",
        });
    }
    if let Some(head) = head
        && head.dim() != (b, h, w)
    {
        return Err(Error::shape("head", format!("({b}, {h}, {w})"), head.dim()));
    }
    Ok((b, h, w))
}

/// Whether no value is NaN or infinite.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    // Without a branch for each value: most are all finite.
    values
        .chunks(1024)
        .all(|values| values.iter().fold(true, |all, v| all & v.is_finite()))
}

/// The rows of a matrix as one slice, copied only when they don't lie so already.
pub(crate) fn row_values(x: ArrayView2<'_, f32>) -> std::borrow::Cow<'_, [f32]> {
    match x.to_slice() {
        Some(values) => std::borrow::Cow::Borrowed(values),
        None => std::borrow::Cow::Owned(x.iter().copied().collect()),
    }
}

/// Slices `start..start + count` of masks `(N, H, W)`, within their number.
pub(crate) fn batch_of(
    masks: ArrayView3<'_, bool>,
    start: usize,
    count: usize,
) -> ArrayView3<'_, bool> {
    masks.slice_move(s![start..start + count, .., ..])
}
