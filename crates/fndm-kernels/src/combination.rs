//! Linear combinations of f64, f16 and bf16 tensors on the CPU, in one threaded pass each.

use crate::config::{Backend, backend};
use crate::simd::{Isa, Simd, kernel};
use crate::sum::PAST_CACHES;
use crate::tensor::contiguous;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, WithDType};
use fndm_runtime::parallel;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::mem::MaybeUninit;

/// Elements in a task.
const CHUNK: usize = 1 << 15;
/// Sums of f64 that are held at a time.
const BLOCK: usize = 256;

/// The pass over a chunk of a linear combination.
trait Element: WithDType {
    /// Writes the sums of `coefficient * term`, rounded once. All terms are as long as `out`; past the caches where
    /// `stream` says so and the place of `out` allows it.
    fn combine(terms: &[(f64, &[Self])], out: &mut [MaybeUninit<Self>], stream: bool);
}

impl Element for f64 {
    fn combine(terms: &[(f64, &[f64])], out: &mut [MaybeUninit<f64>], _stream: bool) {
        for (j, out) in out.chunks_mut(BLOCK).enumerate() {
            let mut sums = [0f64; BLOCK];
            let sums = &mut sums[..out.len()];
            for (c, x) in terms {
                for (sum, x) in sums.iter_mut().zip(&x[j * BLOCK..]) {
                    *sum += c * x;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                out.write(*sum);
            }
        }
    }
}

impl Element for f16 {
    fn combine(terms: &[(f64, &[f16])], out: &mut [MaybeUninit<f16>], stream: bool) {
        half_chunk::<f16>(terms, out, stream, false);
    }
}

impl Element for bf16 {
    fn combine(terms: &[(f64, &[bf16])], out: &mut [MaybeUninit<bf16>], stream: bool) {
        half_chunk::<bf16>(terms, out, stream, true);
    }
}

fn half_chunk<T>(terms: &[(f64, &[T])], out: &mut [MaybeUninit<T>], stream: bool, bf16: bool)
where
    [T]: HalfFloatSliceExt,
{
    assert!(terms.iter().all(|(_, x)| x.len() == out.len()));
    let inputs: Vec<(f32, *const u16)> = terms
        .iter()
        .map(|(c, x)| (*c as f32, x.reinterpret_cast().as_ptr()))
        .collect();
    let target = out.as_mut_ptr().cast::<u16>();
    let stream = stream && target.addr().is_multiple_of(64);
    // SAFETY: f16 and bf16 are 16 bits each, and inputs and target have as many as `out`.
    unsafe { combine_half(Isa::current(), bf16, &inputs, out.len(), target, stream) };
}

/// bf16 or f16 to f32.
#[inline(always)]
unsafe fn widen<S: Simd, const BF16: bool>(h: S::H) -> S::V {
    // SAFETY: the caller has the instruction set, here and below.
    unsafe {
        if BF16 {
            S::widen_bf16(h)
        } else {
            S::widen_f16(h)
        }
    }
}

/// f32 to bf16 or f16.
#[inline(always)]
unsafe fn narrow<S: Simd, const BF16: bool>(v: S::V) -> S::H {
    unsafe {
        if BF16 {
            S::narrow_bf16(v)
        } else {
            S::narrow_f16(v)
        }
    }
}

/// Writes `K` vectors of the sums of `coefficient * term`.
///
/// # Safety
/// Of the instruction set, and of every pointer for `16 * K` elements from `i` on.
#[inline(always)]
unsafe fn half_sums<S: Simd, const BF16: bool, const K: usize>(
    inputs: &[(f32, *const u16)],
    i: usize,
    out: *mut u16,
    stream: bool,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [S::zero(); K];
        for &(c, x) in inputs {
            let c = S::splat(c);
            for (k, acc) in acc.iter_mut().enumerate() {
                *acc = S::fma(c, widen::<S, BF16>(S::load_half(x.add(i + 16 * k))), *acc);
            }
        }
        for (k, acc) in acc.iter().enumerate() {
            let h = narrow::<S, BF16>(*acc);
            if stream {
                S::stream_half(out.add(i + 16 * k), h);
            } else {
                S::store_half(out.add(i + 16 * k), h);
            }
        }
    }
}

/// The sums of `n` elements.
///
/// # Safety
/// As for [`combine_half`].
#[inline(always)]
unsafe fn half_row<S: Simd, const BF16: bool>(
    inputs: &[(f32, *const u16)],
    n: usize,
    out: *mut u16,
    stream: bool,
) {
    const K: usize = 4;
    let mut i = 0;
    // SAFETY: the caller's contract; the last vector goes through memory of its own.
    unsafe {
        while i + 16 * K <= n {
            half_sums::<S, BF16, K>(inputs, i, out, stream);
            i += 16 * K;
        }
        while i + 16 <= n {
            half_sums::<S, BF16, 1>(inputs, i, out, false);
            i += 16;
        }
        if i < n {
            let mut acc = S::zero();
            for &(c, x) in inputs {
                let mut last = [0u16; 16];
                x.add(i).copy_to_nonoverlapping(last.as_mut_ptr(), n - i);
                acc = S::fma(
                    S::splat(c),
                    widen::<S, BF16>(S::load_half(last.as_ptr())),
                    acc,
                );
            }
            let mut last = [0u16; 16];
            S::store_half(last.as_mut_ptr(), narrow::<S, BF16>(acc));
            out.add(i).copy_from_nonoverlapping(last.as_ptr(), n - i);
        }
        if stream {
            S::fence();
        }
    }
}

kernel! {
    /// # Safety
    /// Every input and `out` hold `n` elements; `out` is a multiple of 32 bytes where it is streamed.
    unsafe fn combine_half[S](bf16: bool, inputs: &[(f32, *const u16)], n: usize, out: *mut u16, stream: bool) {
        if bf16 {
            half_row::<S, true>(inputs, n, out, stream);
        } else {
            half_row::<S, false>(inputs, n, out, stream);
        }
    }
}

/// The sum of `coefficient * tensor`, or `None` where this file has no pass for the tensors: another type or device,
/// or a gradient to track. All terms have one shape and type.
pub(crate) fn untracked(terms: &[(f64, &Tensor)]) -> Option<Result<Tensor>> {
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
    let large = (terms.len() + 1) * n * size_of::<T>() >= PAST_CACHES;
    let mut out = Vec::with_capacity(n);
    let target = Target(out.spare_capacity_mut().as_mut_ptr());
    parallel(n.div_ceil(CHUNK), |i| {
        let at = i * CHUNK;
        let len = CHUNK.min(n - at);
        let parts: Vec<_> = terms.iter().map(|(c, x)| (*c, &x[at..at + len])).collect();
        // SAFETY: the capacity is `n`, and the chunks don't overlap.
        T::combine(&parts, unsafe { target.chunk(at, len) }, large);
    });
    // SAFETY: the chunks cover the first `n` elements, and each is written in full.
    unsafe { out.set_len(n) };
    out
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

    /// Every number of half precision through every instruction set, against the conversions of the crate `half`.
    #[test]
    fn all_halves_round_as_defined() {
        fn check(
            isa: Isa,
            bf16: bool,
            c: f32,
            round: impl Fn(f32) -> u16,
            widen: impl Fn(u16) -> f32,
        ) {
            // One more, so that the last vector is not whole; an interpreter takes some of them.
            let step = if cfg!(miri) { 97 } else { 1 };
            let all: Vec<u16> = (0..=u16::MAX).step_by(step).chain([1]).collect();
            let mut got = vec![0u16; all.len()];
            let inputs = [(c, all.as_ptr())];
            // SAFETY: both hold as many numbers.
            unsafe { combine_half(isa, bf16, &inputs, all.len(), got.as_mut_ptr(), false) };
            for (x, got) in all.iter().zip(&got) {
                let want = c * widen(*x);
                let same = if want.is_nan() {
                    widen(*got).is_nan()
                } else {
                    // The sum starts from zero, which has no sign to keep.
                    *got == round(want) || want == 0.0 && widen(*got) == 0.0
                };
                assert!(same, "{isa:?}, bf16 {bf16}, {c} * {x:#x}: {got:#x}, {want}");
            }
        }
        for isa in Isa::available() {
            for c in [1.0, -0.7, 1.0 / 3.0, 1.1, 3e-5, 7e4] {
                let (round, widen) = (
                    |v| f16::from_f32(v).to_bits(),
                    |b| f16::from_bits(b).to_f32(),
                );
                check(isa, false, c, round, widen);
                let (round, widen) = (
                    |v| bf16::from_f32(v).to_bits(),
                    |b| bf16::from_bits(b).to_f32(),
                );
                check(isa, true, c, round, widen);
            }
        }
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
