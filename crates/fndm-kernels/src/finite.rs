//! Whether every value of a tensor is a finite number: what comes before a network's output becomes a decision.

use crate::simd::{Isa, kernel};
use crate::tensor::contiguous;
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use fndm_runtime::parallel;
use half::slice::HalfFloatSliceExt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Values in a task.
const CHUNK: usize = 1 << 15;

/// Bits of a number without its sign: from `infinite` on it isn't finite.
trait Bits: Copy + Sync {
    /// The largest of the bits without the sign.
    fn largest(values: &[Self]) -> Self;
    fn is_finite(self) -> bool;
}

macro_rules! bits {
    ($bits:ty, $kernel:ident, $infinite:expr) => {
        kernel! {
            /// # Safety
            /// `x` holds `n` values.
            unsafe fn $kernel[S](x: *const $bits, n: usize, largest: &mut $bits) {
                // Comparing integers is what vectors of every instruction set do, NaN or not.
                for x in std::slice::from_raw_parts(x, n) {
                    *largest = (*largest).max(x & (<$bits>::MAX >> 1));
                }
                _ = S::MR;
            }
        }

        impl Bits for $bits {
            fn largest(values: &[Self]) -> Self {
                let mut largest = 0;
                // SAFETY: pointer and length are those of the slice.
                unsafe { $kernel(Isa::current(), values.as_ptr(), values.len(), &mut largest) };
                largest
            }

            fn is_finite(self) -> bool {
                self & (<$bits>::MAX >> 1) < $infinite
            }
        }
    };
}

bits!(u16, largest_f16, 0x7c00);
bits!(u32, largest_f32, 0x7f80_0000);
bits!(u64, largest_f64, 0x7ff0_0000_0000_0000);

/// bfloat16, whose bits are the upper half of a float's.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Brain(u16);

impl Bits for Brain {
    fn largest(values: &[Self]) -> Self {
        // SAFETY: `Brain` is a `u16` in memory.
        let bits = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) };
        Self(u16::largest(bits))
    }

    fn is_finite(self) -> bool {
        self.0 & 0x7fff < 0x7f80
    }
}

/// The index of the first value that is NaN or infinite, counted over the whole tensor in the order of its shape (the last axis
/// runs fastest); `None` where all are finite, or the type holds integers.
///
/// On CPUs one pass at the speed of memory; on a GPU a sum, and one number that comes back.
///
/// # Errors
/// When the device fails.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::new(&[[1f32, 2.], [f32::NAN, f32::INFINITY]], &Device::Cpu)?;
/// assert_eq!(fndm_kernels::first_non_finite(&x)?, Some(2));
/// assert_eq!(fndm_kernels::first_non_finite(&x.narrow(0, 0, 1)?)?, None);
/// # Ok(())
/// # }
/// ```
pub fn first_non_finite(x: &Tensor) -> Result<Option<usize>> {
    if x.elem_count() == 0 {
        return Ok(None);
    }
    let mut x = contiguous(&x.detach())?;
    if matches!(x.dtype(), DType::F8E4M3) {
        x = x.to_dtype(DType::F32)?;
    }
    if !x.device().is_cpu() {
        if !x.dtype().is_float() {
            return Ok(None);
        }
        // Zero times a number is zero, and times anything else NaN, which no sum loses.
        let sum = (x.to_dtype(DType::F32)? * 0.)?.sum_all()?;
        // A value of f64 may be too large for f32 alone: the pass on the CPU decides.
        if sum.to_scalar::<f32>()? == 0. {
            return Ok(None);
        }
        x = x.to_device(&Device::Cpu)?;
    }
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("first_non_finite: expected a tensor on the CPU")
    };
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("first_non_finite: expected a contiguous tensor, got {layout:?}")
    };
    Ok(match storage {
        CpuStorage::F32(v) => first(bits_of_f32(&v[start..end])),
        CpuStorage::F64(v) => first(bits_of_f64(&v[start..end])),
        CpuStorage::F16(v) => first(v[start..end].reinterpret_cast()),
        CpuStorage::BF16(v) => first(brains(v[start..end].reinterpret_cast())),
        _ => None,
    })
}

fn bits_of_f32(v: &[f32]) -> &[u32] {
    // SAFETY: floats and integers of one size; every pattern of bits is an integer.
    unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), v.len()) }
}

fn bits_of_f64(v: &[f64]) -> &[u64] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), v.len()) }
}

fn brains(v: &[u16]) -> &[Brain] {
    // SAFETY: `Brain` is a `u16` in memory.
    unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), v.len()) }
}

fn first<T: Bits>(values: &[T]) -> Option<usize> {
    let found = AtomicUsize::new(usize::MAX);
    parallel(values.len().div_ceil(CHUNK), |i| {
        let at = i * CHUNK;
        let chunk = &values[at..(at + CHUNK).min(values.len())];
        if !T::largest(chunk).is_finite()
            && let Some(n) = chunk.iter().position(|v| !v.is_finite())
        {
            found.fetch_min(at + n, Ordering::Relaxed);
        }
    });
    Some(found.into_inner()).filter(|&at| at != usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_found_in_every_type_and_place() -> Result<()> {
        let sizes = [1, 7, 33, 1000, 2 * CHUNK + 5];
        let sizes = if cfg!(miri) { &sizes[..3] } else { &sizes[..] };
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            for &n in sizes {
                // The largest numbers of the type are finite.
                let top = match dtype {
                    DType::F16 => 65504.,
                    DType::F64 => f64::MAX,
                    _ => f64::from(half::bf16::MAX.to_f32()),
                };
                let fine: Vec<f64> = (0..n).map(|i| [top, -top, 0., 1e-3][i % 4]).collect();
                let find = |v: &[f64]| {
                    first_non_finite(&Tensor::from_slice(v, n, &Device::Cpu)?.to_dtype(dtype)?)
                };
                assert_eq!(find(&fine)?, None, "{dtype:?} {n}");
                for at in [0, n / 2, n - 1] {
                    for bad in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                        let mut v = fine.clone();
                        v[n - 1] = f64::NAN;
                        v[at] = bad;
                        assert_eq!(find(&v)?, Some(at), "{dtype:?} {n} {bad}");
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn views_count_in_their_own_order() -> Result<()> {
        let x = Tensor::new(&[[1f32, f32::NAN], [2., 3.], [4., 5.]], &Device::Cpu)?;
        assert_eq!(first_non_finite(&x)?, Some(1));
        assert_eq!(first_non_finite(&x.t()?)?, Some(3));
        assert_eq!(first_non_finite(&x.narrow(0, 1, 2)?)?, None);
        assert_eq!(
            first_non_finite(&Tensor::new(&[1u32], &Device::Cpu)?)?,
            None
        );
        let none = Tensor::zeros((0, 2), DType::F32, &Device::Cpu)?;
        assert_eq!(first_non_finite(&none)?, None);
        Ok(())
    }
}
