//! Sixteen-lane vectors of f32 in three forms, chosen at run time.
//!
//! Kernels are written once over [`Simd`] and compiled for each instruction set by the `kernel!` macro. The generic
//! body is `#[inline(always)]`, so it takes on the target features of the wrapper that calls it.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

use std::sync::atomic::{AtomicU8, Ordering};

/// The instruction set that kernels run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 (F, BW, DQ, VL) with FMA.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// Plain Rust, which the compiler vectorises for the target's baseline.
    Portable,
}

impl Isa {
    /// The instruction sets that this machine can run, best first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                all.push(Self::Avx512);
            }
            if avx2 {
                all.push(Self::Avx2);
            }
        }
        all.push(Self::Portable);
        all
    }

    /// The one that kernels run on now: the best of this machine, the one that `FNDM_SIMD` (`avx512`, `avx2` or
    /// `portable`) names where the machine has it, or the choice of [`set_simd`].
    #[must_use]
    pub fn current() -> Self {
        match CURRENT.load(Ordering::Relaxed) {
            1 => Self::Avx512,
            2 => Self::Avx2,
            3 => Self::Portable,
            _ => {
                let available = Self::available();
                let wanted = std::env::var("FNDM_SIMD").ok();
                let named = match wanted.as_deref() {
                    Some("avx512") => Some(Self::Avx512),
                    Some("avx2") => Some(Self::Avx2),
                    Some("portable") => Some(Self::Portable),
                    _ => None,
                };
                let named = named.filter(|isa| available.contains(isa));
                let isa = named.unwrap_or(available[0]);
                match wanted {
                    Some(wanted) if named.is_none() => {
                        tracing::warn!(wanted, taken = ?isa, "FNDM_SIMD is not to be had here");
                    }
                    _ => tracing::debug!(?isa, "instruction set"),
                }
                CURRENT.store(isa.code(), Ordering::Relaxed);
                isa
            }
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Avx512 => 1,
            Self::Avx2 => 2,
            Self::Portable => 3,
        }
    }
}

/// The code of the current instruction set; 0 before the first use.
static CURRENT: AtomicU8 = AtomicU8::new(0);

/// Makes every kernel of the process run on `isa`.
///
/// # Errors
/// When this machine doesn't have it.
pub fn set_simd(isa: Isa) -> candle_core::Result<()> {
    if !Isa::available().contains(&isa) {
        candle_core::bail!(
            "set_simd: expected one of {:?}, got {isa:?}",
            Isa::available()
        );
    }
    CURRENT.store(isa.code(), Ordering::Relaxed);
    Ok(())
}

/// 2^r = 1 + r (c4 + r (c3 + ..)) on -1/2 to 1/2 with the least greatest relative error, the highest power first.
const EXP2: [f32; 5] = [
    0.001_326_47,
    0.009_671_51,
    0.055_507_34,
    0.240_222_42,
    std::f32::consts::LN_2,
];

/// Sixteen lanes of f32.
///
/// # Safety
/// Every function needs the instruction set of the type at run time; pointers must be valid for the lanes that are
/// read or written (no alignment is asked for).
pub(crate) trait Simd: Copy {
    /// Sixteen lanes.
    type V: Copy;
    /// Sixteen numbers of half precision, as in memory.
    type H: Copy;
    /// Rows of a micro-tile whose accumulators fit the registers.
    const MR: usize;
    /// Vectors in a row of a micro-tile.
    const NV: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n <= 16` lanes; the others are zero and not read.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V;
    unsafe fn store_first(p: *mut f32, v: Self::V, n: usize);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where one of the two is NaN, as the instruction of x86 has it.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where one of the two is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// a * b + c
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// c - a * b
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// 1 / a, within two units in the last place.
    #[inline(always)]
    unsafe fn recip(a: Self::V) -> Self::V {
        unsafe { Self::div(Self::splat(1.), a) }
    }
    /// To the nearest integer.
    unsafe fn round(a: Self::V) -> Self::V;
    /// 2^n for whole n in -126..=127.
    unsafe fn pow2(n: Self::V) -> Self::V;
    unsafe fn sum(a: Self::V) -> f32;
    /// The largest lane; NaN may be passed over.
    unsafe fn largest(a: Self::V) -> f32;
    /// Lane j of vector i goes to lane i of vector j.
    unsafe fn transpose(m: &mut [Self::V; 16]);

    /// Asks for a cache line; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_p: *const f32) {}

    /// As `store`, past the caches; `p` is a multiple of 64 bytes, and `fence` comes after the last one.
    #[inline(always)]
    unsafe fn stream(p: *mut f32, v: Self::V) {
        unsafe { Self::store(p, v) }
    }

    /// Makes what was streamed visible to other threads.
    #[inline(always)]
    unsafe fn fence() {}

    unsafe fn load_half(p: *const u16) -> Self::H;
    unsafe fn store_half(p: *mut u16, h: Self::H);
    /// As `store_half`, past the caches; `p` is a multiple of 32 bytes, and `fence` comes after the last one.
    #[inline(always)]
    unsafe fn stream_half(p: *mut u16, h: Self::H) {
        unsafe { Self::store_half(p, h) }
    }
    unsafe fn widen_f16(h: Self::H) -> Self::V;
    unsafe fn widen_bf16(h: Self::H) -> Self::V;
    /// Rounds to the nearest, ties to even; what isn't a number stays so.
    unsafe fn narrow_f16(v: Self::V) -> Self::H;
    /// As `narrow_f16`.
    unsafe fn narrow_bf16(v: Self::V) -> Self::H;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        unsafe { Self::splat(0.) }
    }

    /// e^x, within two units in the last place; clamped to the range of normal numbers. NaN stays NaN.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        unsafe {
            // x stands second, where a NaN is kept.
            let x = Self::min(Self::splat(88.3), Self::max(Self::splat(-87.3), x));
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fnma(n, Self::splat(0.693_359_4), x);
            let r = Self::fnma(n, Self::splat(-2.121_944_4e-4), r);
            let mut p = Self::splat(1. / 5040.);
            for c in [1. / 720., 1. / 120., 1. / 24., 1. / 6., 0.5, 1., 1.] {
                p = Self::fma(p, r, Self::splat(c));
            }
            Self::mul(p, Self::pow2(n))
        }
    }

    /// 2^x for x of 127 at most, within three units in the last place; 2^-126 for all that is smaller. NaN stays NaN.
    #[inline(always)]
    unsafe fn exp2(x: Self::V) -> Self::V {
        unsafe {
            let x = Self::max(Self::splat(-126.), x);
            let n = Self::round(x);
            let r = Self::sub(x, n);
            // On -1/2 to 1/2 within 2e-7 of 2^r, and 1 at 0.
            let mut p = Self::splat(EXP2[0]);
            for c in [EXP2[1], EXP2[2], EXP2[3], EXP2[4], 1.] {
                p = Self::fma(p, r, Self::splat(c));
            }
            Self::mul(p, Self::pow2(n))
        }
    }

    /// 1 / (1 + e^-x)
    #[inline(always)]
    unsafe fn sigmoid(x: Self::V) -> Self::V {
        unsafe {
            let one = Self::splat(1.);
            Self::recip(Self::add(one, Self::exp(Self::sub(Self::zero(), x))))
        }
    }
}

/// Defines `unsafe fn name(isa, arguments)`, whose body is compiled for every instruction set; `$S` names the vectors.
macro_rules! kernel {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident[$S:ident]($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(isa: $crate::simd::Isa, $($arg: $ty),*) {
            // SAFETY: the contract of the arguments is the caller's; the instruction set was found at run time.
            #[inline(always)]
            #[allow(clippy::too_many_arguments, unsafe_op_in_unsafe_fn)]
            unsafe fn body<$S: $crate::simd::Simd>($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $ty),*) {
                unsafe { body::<$crate::simd::Avx512>($($arg),*) }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $ty),*) {
                unsafe { body::<$crate::simd::Avx2>($($arg),*) }
            }

            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Isa::Avx2 => avx2($($arg),*),
                    _ => body::<$crate::simd::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use kernel;

#[cfg(test)]
mod tests {
    use super::*;

    kernel! {
        unsafe fn exp2_of[S](x: *const f32, y: *mut f32) {
            S::store(y, S::exp2(S::load(x)));
        }
    }

    #[test]
    fn powers_of_two_are_those_of_f64() {
        let steps = (0..16 * 20_000).map(|i| -126. + 253. * i as f32 / (16. * 20_000.));
        let mut x: Vec<f32> = steps.collect();
        x.extend([0., -0., 0.5, -0.5, 1.5, 127., -126., 126.999]);
        x.extend([-127., -1e30, f32::NEG_INFINITY, f32::MIN]);
        x.extend([f32::NAN; 4]);
        let (blocks, rest) = x.as_chunks::<16>();
        assert!(rest.is_empty());
        for isa in Isa::available() {
            for block in blocks {
                let mut y = [0f32; 16];
                // SAFETY: both have 16 floats, and this machine has the instruction set.
                unsafe { exp2_of(isa, block.as_ptr(), y.as_mut_ptr()) };
                for (x, y) in block.iter().zip(y) {
                    let want = f64::from(x.max(-126.)).exp2();
                    let right = (f64::from(y) / want - 1.).abs() < 3.6e-7;
                    assert!(
                        right && !x.is_nan() || y.is_nan() && x.is_nan(),
                        "{isa:?}: {x} gives {y}"
                    );
                }
            }
        }
    }
}
