//! Linear combinations of f64, f16 and bf16 tensors on the CPU, in one threaded pass each.

use crate::config::{Backend, backend};
use crate::tensor::contiguous;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, WithDType};
use fndm_runtime::parallel;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::mem::MaybeUninit;

/// Elements in a task.
const CHUNK: usize = 1 << 15;
/// Elements whose sums are held at a time; a multiple of every vector's length.
const BLOCK: usize = 256;

/// An element type, with the type that its sums are kept in.
trait Element: WithDType {
    type Sum: Copy + Default + Send;

    /// `sums[i] += c * x[i]`.
    fn accumulate(sums: &mut [Self::Sum], c: f64, x: &[Self]);

    /// Rounds `sums` to `out`.
    fn store(sums: &[Self::Sum], out: &mut [MaybeUninit<Self>]);
}

impl Element for f64 {
    type Sum = f64;

    fn accumulate(sums: &mut [f64], c: f64, x: &[f64]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += c * x;
        }
    }

    fn store(sums: &[f64], out: &mut [MaybeUninit<f64>]) {
        for (out, sum) in out.iter_mut().zip(sums) {
            out.write(*sum);
        }
    }
}

macro_rules! half_element {
    ($t:ty) => {
        impl Element for $t {
            type Sum = f32;

            fn accumulate(sums: &mut [f32], c: f64, x: &[$t]) {
                let mut wide = [0f32; BLOCK];
                let wide = &mut wide[..x.len()];
                x.convert_to_f32_slice(wide);
                let c = c as f32;
                for (sum, x) in sums.iter_mut().zip(wide) {
                    *sum += c * *x;
                }
            }

            fn store(sums: &[f32], out: &mut [MaybeUninit<$t>]) {
                let mut narrow = [<$t>::ZERO; BLOCK];
                let narrow = &mut narrow[..sums.len()];
                narrow.convert_from_f32_slice(sums);
                for (out, v) in out.iter_mut().zip(narrow) {
                    out.write(*v);
                }
            }
        }
    };
}

half_element!(f16);
half_element!(bf16);

/// The sum of `coefficient * tensor`, or `None` where this file has no pass for the tensors: another type or device,
/// or a gradient to track. All terms have one shape and type.
pub(crate) fn linear_combination(terms: &[(f64, &Tensor)]) -> Option<Result<Tensor>> {
    let plain = backend() == Backend::Candle;
    if plain
        || terms
            .iter()
            .any(|(_, t)| t.track_op() || !t.device().is_cpu())
    {
        return None;
    }
    match terms.first()?.1.dtype() {
        DType::F64 => Some(combined::<f64>(terms)),
        DType::F16 => Some(combined::<f16>(terms)),
        DType::BF16 => Some(combined::<bf16>(terms)),
        _ => None,
    }
}

fn combined<T: Element>(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let tensors = terms
        .iter()
        .map(|(_, t)| contiguous(t))
        .collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = Vec::with_capacity(terms.len());
    for ((storage, layout), (c, _)) in guards.iter().zip(terms) {
        let Storage::Cpu(storage) = &**storage else {
            candle_core::bail!("linear_combination: expected a tensor on the CPU")
        };
        slices.push((*c, elements::<T>(storage, layout)?));
    }
    let shape = tensors[0].shape();
    Tensor::from_vec(combine(&slices, shape.elem_count()), shape, &Device::Cpu)
}

fn elements<'a, T: Element>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let all = storage.as_slice::<T>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) if end <= all.len() => Ok(&all[start..end]),
        _ => candle_core::bail!("linear_combination: expected a contiguous tensor, got {layout:?}"),
    }
}

/// Elements that are written in chunks, each by one thread.
struct Target<T>(*mut MaybeUninit<T>);

// SAFETY: the chunks are disjoint.
unsafe impl<T: Send> Sync for Target<T> {}

impl<T> Target<T> {
    /// # Safety
    /// The `len` elements from `at` on are in range, and nobody else has them.
    #[allow(clippy::mut_from_ref)]
    unsafe fn chunk(&self, at: usize, len: usize) -> &mut [MaybeUninit<T>] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// All inputs have `n` elements.
fn combine<T: Element>(terms: &[(f64, &[T])], n: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(n);
    let target = Target(out.spare_capacity_mut().as_mut_ptr());
    parallel(n.div_ceil(CHUNK), |i| {
        let at = i * CHUNK;
        // SAFETY: the capacity is `n`, and the chunks don't overlap.
        let chunk = unsafe { target.chunk(at, CHUNK.min(n - at)) };
        combine_chunk(terms, at, chunk);
    });
    // SAFETY: the chunks cover the first `n` elements, and each is written in full.
    unsafe { out.set_len(n) };
    out
}

/// The sums of the elements from `start` on, as many as `out` has.
fn combine_chunk<T: Element>(terms: &[(f64, &[T])], start: usize, out: &mut [MaybeUninit<T>]) {
    for (j, out) in out.chunks_mut(BLOCK).enumerate() {
        let at = start + j * BLOCK;
        let mut sums = [T::Sum::default(); BLOCK];
        let sums = &mut sums[..out.len()];
        for (c, x) in terms {
            T::accumulate(sums, *c, &x[at..at + out.len()]);
        }
        T::store(sums, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers over 8: exact in every type, so that rounding happens in the result alone.
    fn input(n: usize, k: usize) -> Vec<f64> {
        (0..n)
            .map(|i| ((i * 7 + k * 13) % 41) as f64 / 8.0 - 2.5)
            .collect()
    }

    #[test]
    fn sums_are_rounded_once() -> Result<()> {
        let coefficients = [0.75, -1.5, 2.25, 0.03];
        // Rounding of the result, and of the sums on the way.
        for (dtype, last, inner) in [
            (DType::F64, 0.0, 1e-15),
            (DType::F16, 4.9e-4, 4e-7),
            (DType::BF16, 3.95e-3, 4e-7),
        ] {
            let sizes = [1, 17, 255, 256, 257, CHUNK - 1, 2 * CHUNK + 300];
            // An interpreter would take minutes for the last.
            let sizes = if cfg!(miri) { &sizes[..5] } else { &sizes[..] };
            for &n in sizes {
                for count in 1..=4 {
                    let inputs: Vec<Vec<f64>> = (0..count).map(|k| input(n, k)).collect();
                    let tensors = inputs
                        .iter()
                        .map(|x| Tensor::from_slice(x, n, &Device::Cpu)?.to_dtype(dtype))
                        .collect::<Result<Vec<_>>>()?;
                    let terms: Vec<_> = coefficients.iter().copied().zip(&tensors).collect();
                    let got = crate::linear_combination(&terms)?;
                    assert_eq!(got.dtype(), dtype);
                    let got = got.to_dtype(DType::F64)?.to_vec1::<f64>()?;
                    for (i, got) in got.iter().enumerate() {
                        let parts = coefficients.iter().zip(&inputs).map(|(c, x)| c * x[i]);
                        let (sum, size) =
                            parts.fold((0.0, 0.0), |(s, a): (f64, f64), p| (s + p, a + p.abs()));
                        assert!(
                            (got - sum).abs() <= last * sum.abs() + inner * size,
                            "{dtype:?} {i} of {n}: {got}, {sum}"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn views_and_empty_tensors() -> Result<()> {
        let x = Tensor::from_vec(input(12, 0), (3, 4), &Device::Cpu)?.t()?;
        let y = Tensor::from_vec(input(12, 1), (4, 3), &Device::Cpu)?;
        let got = crate::linear_combination(&[(2.0, &x), (-1.0, &y)])?;
        assert_eq!(got.to_vec2::<f64>()?, ((x * 2.0)? - y)?.to_vec2::<f64>()?);
        let none = Tensor::zeros((0, 3), DType::F64, &Device::Cpu)?;
        assert_eq!(crate::linear_combination(&[(2.0, &none)])?.dims(), [0, 3]);
        Ok(())
    }
}
