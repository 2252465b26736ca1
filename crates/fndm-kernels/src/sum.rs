//! Linear combinations of f32 tensors in one threaded pass, without a gradient.

use crate::memory::{Input, filled};
use crate::simd::{Isa, kernel};
use crate::tensor::{contiguous, floats, from_floats};
use candle_core::{Result, Tensor};
use fndm_runtime::parallel;

/// Floats in a task.
const CHUNK: usize = 1 << 15;

/// Bytes of all terms and the sum from which the sum is written past the caches, which it would not stay in.
pub(crate) const PAST_CACHES: usize = 32 << 20;

kernel! {
    unsafe fn combine_chunk[S](inputs: &[(f32, *const f32)], n: usize, out: *mut f32, stream: bool) {
        const ROW: usize = 4 * 16;
        let (c, x) = inputs[0];
        let mut i = 0;
        // Whole vectors without a mask: masked loads halve the rate of an AMD processor.
        while i + ROW <= n {
            let first = S::splat(c);
            let mut acc = [S::zero(); 4];
            for (k, acc) in acc.iter_mut().enumerate() {
                *acc = S::mul(first, S::load(x.add(i + 16 * k)));
            }
            for &(c, x) in &inputs[1..] {
                let c = S::splat(c);
                for (k, acc) in acc.iter_mut().enumerate() {
                    *acc = S::fma(c, S::load(x.add(i + 16 * k)), *acc);
                }
            }
            for (k, acc) in acc.iter().enumerate() {
                if stream {
                    S::stream(out.add(i + 16 * k), *acc);
                } else {
                    S::store(out.add(i + 16 * k), *acc);
                }
            }
            i += ROW;
        }
        while i < n {
            let m = (n - i).min(16);
            let mut acc = S::mul(S::splat(c), S::load_first(x.add(i), m));
            for &(c, x) in &inputs[1..] {
                acc = S::fma(S::splat(c), S::load_first(x.add(i), m), acc);
            }
            S::store_first(out.add(i), acc, m);
            i += 16;
        }
        if stream {
            S::fence();
        }
    }
}

/// The sum of `coefficient * term`. All terms have one length.
pub(crate) fn combine(terms: &[(f32, &[f32])]) -> Vec<f32> {
    let (isa, n) = (Isa::current(), terms[0].1.len());
    assert!(terms.iter().all(|t| t.1.len() == n));
    let large = (terms.len() + 1) * n * size_of::<f32>() >= PAST_CACHES;
    // SAFETY: the chunks cover the floats once.
    unsafe {
        filled(n, |out| {
            parallel(n.div_ceil(CHUNK), |i| {
                let at = i * CHUNK;
                let len = CHUNK.min(n - at);
                let inputs: Vec<(f32, *const f32)> = terms
                    .iter()
                    .map(|t| (t.0, Input(t.1).at(at, len)))
                    .collect();
                let out = out.at(at, len);
                let stream = large && out.addr().is_multiple_of(64);
                combine_chunk(isa, &inputs, len, out, stream);
            });
        })
    }
}

/// The sum of terms of one shape, without a gradient; on whichever device.
pub(crate) fn untracked_combination(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let tensors = terms
        .iter()
        .map(|t| contiguous(t.1))
        .collect::<Result<Vec<_>>>()?;
    #[cfg(feature = "cuda")]
    if tensors[0].device().is_cuda() {
        let coefficients: Vec<f32> = terms.iter().map(|t| t.0 as f32).collect();
        return crate::cuda::combination(&coefficients, &tensors);
    }
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = Vec::with_capacity(terms.len());
    for ((storage, layout), (c, _)) in guards.iter().zip(terms) {
        let candle_core::Storage::Cpu(storage) = &**storage else {
            candle_core::bail!("expected a tensor on the CPU")
        };
        slices.push((*c as f32, floats(storage, layout)?));
    }
    from_floats(combine(&slices), tensors[0].shape())
}
