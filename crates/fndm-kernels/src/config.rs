//! The switches: which implementation runs, and how exactly.

use candle_core::{DType, Tensor};
use std::sync::atomic::{AtomicU8, Ordering};

/// Which implementation of the operations runs on CPU f32 tensors. Other devices and types always use candle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// This crate's kernels.
    Fast,
    /// Candle's own operations: the reference.
    Candle,
}

/// How convolutions are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Winograd where it pays: an error of about 1e-5 of the largest output.
    Fast,
    /// Direct sums only: an error of about 1e-7 per term.
    Exact,
}

/// How products and convolutions of f32 are computed on CUDA devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixMath {
    /// In f32 throughout.
    Full,
    /// On tensor cores, which read f32 as TF32: 10 bits of mantissa, about three digits; sums are f32.
    Tf32,
}

const UNSET: u8 = 2;
static TF32: AtomicU8 = AtomicU8::new(UNSET);
static BACKEND: AtomicU8 = AtomicU8::new(UNSET);
static PRECISION: AtomicU8 = AtomicU8::new(UNSET);

fn read(switch: &AtomicU8, from_env: impl FnOnce() -> bool) -> bool {
    match switch.load(Ordering::Relaxed) {
        UNSET => {
            let on = from_env();
            switch.store(u8::from(on), Ordering::Relaxed);
            on
        }
        v => v == 1,
    }
}

fn plain_only() -> bool {
    read(&BACKEND, || {
        std::env::var("FNDM_KERNELS").is_ok_and(|v| v == "candle")
    })
}

/// Whether convolutions must avoid Winograd.
pub(crate) fn exact() -> bool {
    read(&PRECISION, || {
        std::env::var("FNDM_EXACT").is_ok_and(|v| v == "1")
    })
}

/// Whether this crate's kernels take these tensors.
pub(crate) fn fast_path(tensors: &[&Tensor]) -> bool {
    !plain_only()
        && tensors
            .iter()
            .all(|t| t.dtype() == DType::F32 && t.device().is_cpu())
}

/// Whether this crate's kernels take these tensors, on whichever device.
pub(crate) fn own(tensors: &[&Tensor]) -> bool {
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(tensors) {
        return true;
    }
    fast_path(tensors)
}

/// Chooses the implementation for the whole process. The start value is `Candle` where the environment has
/// `FNDM_KERNELS=candle`, else `Fast`.
pub fn set_backend(backend: Backend) {
    BACKEND.store(u8::from(backend == Backend::Candle), Ordering::Relaxed);
}

/// The implementation in use.
#[must_use]
pub fn backend() -> Backend {
    if plain_only() {
        Backend::Candle
    } else {
        Backend::Fast
    }
}

/// Chooses how convolutions are computed, for the whole process. The start value is `Exact` where the environment
/// has `FNDM_EXACT=1`, else `Fast`.
pub fn set_precision(precision: Precision) {
    PRECISION.store(u8::from(precision == Precision::Exact), Ordering::Relaxed);
}

/// How convolutions are computed at present.
#[must_use]
pub fn precision() -> Precision {
    if exact() {
        Precision::Exact
    } else {
        Precision::Fast
    }
}

/// Whether products of f32 may read it as TF32.
pub(crate) fn tf32() -> bool {
    read(&TF32, || {
        let on = std::env::var("FNDM_TF32").is_ok_and(|v| v == "1");
        tell_candle(on);
        on
    })
}

#[cfg(feature = "cuda")]
fn tell_candle(tf32: bool) {
    candle_core::cuda::set_gemm_reduced_precision_f32(tf32);
}

#[cfg(not(feature = "cuda"))]
fn tell_candle(_: bool) {}

/// Chooses how products and convolutions of f32 are computed on CUDA devices, candle's too, for the whole process. The start
/// value is `Tf32` where the environment has `FNDM_TF32=1`, else `Full`. CPUs always compute in full f32.
pub fn set_matrix_math(math: MatrixMath) {
    let on = math == MatrixMath::Tf32;
    tell_candle(on);
    TF32.store(u8::from(on), Ordering::Relaxed);
}

/// How products and convolutions of f32 are computed on CUDA devices at present.
#[must_use]
pub fn matrix_math() -> MatrixMath {
    if tf32() {
        MatrixMath::Tf32
    } else {
        MatrixMath::Full
    }
}
