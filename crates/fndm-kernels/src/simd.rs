//! Sixteen-lane vectors of f32 in three forms, chosen at run time.
//!
//! Kernels are written once over [`Simd`] and compiled for each instruction set by the `kernel!` macro. The generic
//! body is `#[inline(always)]`, so it takes on the target features of the wrapper that calls it.

use std::sync::atomic::{AtomicU8, Ordering};

/// The instruction set that kernels run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 (F, BW, DQ, VL) with FMA.
    Avx512,
    /// AVX2 with FMA.
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
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
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
                let wanted = match std::env::var("FNDM_SIMD").as_deref() {
                    Ok("avx512") => Some(Self::Avx512),
                    Ok("avx2") => Some(Self::Avx2),
                    Ok("portable") => Some(Self::Portable),
                    _ => None,
                };
                let isa = wanted
                    .filter(|w| available.contains(w))
                    .unwrap_or(available[0]);
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

/// Sixteen lanes of f32.
///
/// # Safety
/// Every function needs the instruction set of the type at run time; pointers must be valid for the lanes that are
/// read or written (no alignment is asked for).
pub(crate) trait Simd: Copy {
    /// Sixteen lanes.
    type V: Copy;
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
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
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

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        unsafe { Self::splat(0.) }
    }

    /// e^x, within two units in the last place; clamped to the range of normal numbers.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        unsafe {
            let x = Self::min(Self::max(x, Self::splat(-87.3)), Self::splat(88.3));
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

    /// 1 / (1 + e^-x)
    #[inline(always)]
    unsafe fn sigmoid(x: Self::V) -> Self::V {
        unsafe {
            let one = Self::splat(1.);
            Self::recip(Self::add(one, Self::exp(Self::sub(Self::zero(), x))))
        }
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut r = [0f32; 16];
        for $i in 0..16 {
            r[$i] = $e;
        }
        r
    }};
}

impl Simd for Portable {
    type V = [f32; 16];
    const MR: usize = 2;
    const NV: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        unsafe { p.cast::<[f32; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        unsafe { p.cast::<[f32; 16]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V {
        unsafe { lanes!(i => if i < n { *p.add(i) } else { 0. }) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: Self::V, n: usize) {
        for (i, x) in v.iter().enumerate().take(n) {
            unsafe { *p.add(i) = *x };
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn sqrt(a: Self::V) -> Self::V {
        lanes!(i => a[i].sqrt())
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Without hardware support `mul_add` is a slow library call.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            lanes!(i => a[i].mul_add(b[i], c[i]))
        } else {
            lanes!(i => a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            lanes!(i => (-a[i]).mul_add(b[i], c[i]))
        } else {
            lanes!(i => c[i] - a[i] * b[i])
        }
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Adding and taking away 1.5 * 2^23 rounds to even.
        lanes!(i => (a[i] + 12_582_912.) - 12_582_912.)
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::V) -> Self::V {
        lanes!(i => f32::from_bits(((n[i] as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        let mut s = [0f32; 4];
        for i in 0..4 {
            s[i] = (a[i] + a[i + 8]) + (a[i + 4] + a[i + 12]);
        }
        (s[0] + s[2]) + (s[1] + s[3])
    }
    #[inline(always)]
    unsafe fn largest(a: Self::V) -> f32 {
        a.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn transpose(m: &mut [Self::V; 16]) {
        for i in 0..16 {
            for j in 0..i {
                let t = m[i][j];
                m[i][j] = m[j][i];
                m[j][i] = t;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    // SAFETY of this module: each function is called only under the instruction set of its type, and each pointer is
    // valid for the lanes touched, as the trait asks of the caller.
    #![allow(unsafe_op_in_unsafe_fn)]

    use super::Simd;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    impl Avx512 {
        #[inline(always)]
        fn mask(n: usize) -> u16 {
            if n >= 16 { u16::MAX } else { (1u16 << n) - 1 }
        }
    }

    impl Simd for Avx512 {
        type V = __m512;
        const MR: usize = 8;
        const NV: usize = 2;

        #[inline(always)]
        unsafe fn prefetch(p: *const f32) {
            _mm_prefetch::<_MM_HINT_T0>(p.cast());
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            _mm512_set1_ps(x)
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            _mm512_loadu_ps(p)
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            _mm512_storeu_ps(p, v);
        }
        #[inline(always)]
        unsafe fn stream(p: *mut f32, v: __m512) {
            _mm512_stream_ps(p, v);
        }
        #[inline(always)]
        unsafe fn fence() {
            _mm_sfence();
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize) -> __m512 {
            // Masks halve the rate of AMD's processors, also those that hold nothing back.
            if n >= 16 {
                return Self::load(p);
            }
            _mm512_maskz_loadu_ps(Self::mask(n), p)
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, v: __m512, n: usize) {
            if n >= 16 {
                return Self::store(p, v);
            }
            _mm512_mask_storeu_ps(p, Self::mask(n), v);
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            _mm512_add_ps(a, b)
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            _mm512_sub_ps(a, b)
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            _mm512_mul_ps(a, b)
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            _mm512_div_ps(a, b)
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            _mm512_max_ps(a, b)
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            _mm512_min_ps(a, b)
        }
        #[inline(always)]
        unsafe fn sqrt(a: __m512) -> __m512 {
            _mm512_sqrt_ps(a)
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }
        #[inline(always)]
        unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fnmadd_ps(a, b, c)
        }
        #[inline(always)]
        unsafe fn recip(a: __m512) -> __m512 {
            // 14 bits, then one step of Newton.
            let r = _mm512_rcp14_ps(a);
            _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(1.)), r)
        }
        #[inline(always)]
        unsafe fn round(a: __m512) -> __m512 {
            _mm512_roundscale_ps::<8>(a)
        }
        #[inline(always)]
        unsafe fn pow2(n: __m512) -> __m512 {
            _mm512_scalef_ps(_mm512_set1_ps(1.), n)
        }
        #[inline(always)]
        unsafe fn sum(a: __m512) -> f32 {
            _mm512_reduce_add_ps(a)
        }
        #[inline(always)]
        unsafe fn largest(a: __m512) -> f32 {
            _mm512_reduce_max_ps(a)
        }
        #[inline(always)]
        unsafe fn transpose(m: &mut [__m512; 16]) {
            let mut a = [_mm512_setzero_ps(); 16];
            let mut b = a;
            // Pairs of rows, then fours of rows, within 128-bit quarters.
            for i in 0..8 {
                a[2 * i] = _mm512_unpacklo_ps(m[2 * i], m[2 * i + 1]);
                a[2 * i + 1] = _mm512_unpackhi_ps(m[2 * i], m[2 * i + 1]);
            }
            for i in 0..4 {
                let d = |v: __m512| _mm512_castps_pd(v);
                let (p, q) = (4 * i, 4 * i + 2);
                b[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(d(a[p]), d(a[q])));
                b[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(d(a[p]), d(a[q])));
                b[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(d(a[p + 1]), d(a[q + 1])));
                b[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(d(a[p + 1]), d(a[q + 1])));
            }
            // b[4 i + j], quarter q: column 4 q + j of rows 4 i .. 4 i + 4. Now a 4x4 transpose of quarters.
            for j in 0..4 {
                let x0 = _mm512_shuffle_f32x4::<0x44>(b[j], b[4 + j]);
                let x1 = _mm512_shuffle_f32x4::<0xEE>(b[j], b[4 + j]);
                let y0 = _mm512_shuffle_f32x4::<0x44>(b[8 + j], b[12 + j]);
                let y1 = _mm512_shuffle_f32x4::<0xEE>(b[8 + j], b[12 + j]);
                m[j] = _mm512_shuffle_f32x4::<0x88>(x0, y0);
                m[4 + j] = _mm512_shuffle_f32x4::<0xDD>(x0, y0);
                m[8 + j] = _mm512_shuffle_f32x4::<0x88>(x1, y1);
                m[12 + j] = _mm512_shuffle_f32x4::<0xDD>(x1, y1);
            }
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    #[derive(Clone, Copy)]
    pub(crate) struct Pair(__m256, __m256);

    impl Avx2 {
        #[inline(always)]
        unsafe fn mask(n: usize) -> __m256i {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane)
        }

        #[inline(always)]
        unsafe fn transpose8(m: [__m256; 8]) -> [__m256; 8] {
            let mut a = [_mm256_setzero_ps(); 8];
            let mut b = a;
            for i in 0..4 {
                a[2 * i] = _mm256_unpacklo_ps(m[2 * i], m[2 * i + 1]);
                a[2 * i + 1] = _mm256_unpackhi_ps(m[2 * i], m[2 * i + 1]);
            }
            for i in 0..2 {
                let (p, q) = (4 * i, 4 * i + 2);
                b[4 * i] = _mm256_shuffle_ps::<0x44>(a[p], a[q]);
                b[4 * i + 1] = _mm256_shuffle_ps::<0xEE>(a[p], a[q]);
                b[4 * i + 2] = _mm256_shuffle_ps::<0x44>(a[p + 1], a[q + 1]);
                b[4 * i + 3] = _mm256_shuffle_ps::<0xEE>(a[p + 1], a[q + 1]);
            }
            for j in 0..4 {
                a[j] = _mm256_permute2f128_ps::<0x20>(b[j], b[4 + j]);
                a[4 + j] = _mm256_permute2f128_ps::<0x31>(b[j], b[4 + j]);
            }
            a
        }
    }

    macro_rules! pairwise {
        ($($name:ident($($arg:ident),+) = $intrinsic:ident;)+) => {$(
            #[inline(always)]
            unsafe fn $name($($arg: Pair),+) -> Pair {
                Pair($intrinsic($($arg.0),+), $intrinsic($($arg.1),+))
            }
        )+};
    }

    impl Simd for Avx2 {
        type V = Pair;
        const MR: usize = 6;
        const NV: usize = 1;

        pairwise! {
            add(a, b) = _mm256_add_ps;
            sub(a, b) = _mm256_sub_ps;
            mul(a, b) = _mm256_mul_ps;
            div(a, b) = _mm256_div_ps;
            max(a, b) = _mm256_max_ps;
            min(a, b) = _mm256_min_ps;
            sqrt(a) = _mm256_sqrt_ps;
            fma(a, b, c) = _mm256_fmadd_ps;
            fnma(a, b, c) = _mm256_fnmadd_ps;
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> Pair {
            let v = _mm256_set1_ps(x);
            Pair(v, v)
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Pair {
            Pair(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8)))
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Pair) {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
        #[inline(always)]
        unsafe fn stream(p: *mut f32, v: Pair) {
            _mm256_stream_ps(p, v.0);
            _mm256_stream_ps(p.add(8), v.1);
        }
        #[inline(always)]
        unsafe fn fence() {
            _mm_sfence();
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize) -> Pair {
            if n >= 16 {
                return Self::load(p);
            }
            let (lo, hi) = (Self::mask(n), Self::mask(n.saturating_sub(8)));
            Pair(
                _mm256_maskload_ps(p, lo),
                _mm256_maskload_ps(p.wrapping_add(8), hi),
            )
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, v: Pair, n: usize) {
            if n >= 16 {
                return Self::store(p, v);
            }
            _mm256_maskstore_ps(p, Self::mask(n), v.0);
            _mm256_maskstore_ps(p.wrapping_add(8), Self::mask(n.saturating_sub(8)), v.1);
        }
        #[inline(always)]
        unsafe fn round(a: Pair) -> Pair {
            Pair(_mm256_round_ps::<8>(a.0), _mm256_round_ps::<8>(a.1))
        }
        #[inline(always)]
        unsafe fn pow2(n: Pair) -> Pair {
            let bias = _mm256_set1_epi32(127);
            let lo = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), bias);
            let hi = _mm256_add_epi32(_mm256_cvtps_epi32(n.1), bias);
            Pair(
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(lo)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(hi)),
            )
        }
        #[inline(always)]
        unsafe fn sum(a: Pair) -> f32 {
            let s = _mm256_add_ps(a.0, a.1);
            let s = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
            let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps::<1>(s, s)))
        }
        #[inline(always)]
        unsafe fn largest(a: Pair) -> f32 {
            let s = _mm256_max_ps(a.0, a.1);
            let s = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
            let s = _mm_max_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps::<1>(s, s)))
        }
        #[inline(always)]
        unsafe fn transpose(m: &mut [Pair; 16]) {
            let z = _mm256_setzero_ps();
            let (mut q00, mut q01, mut q10, mut q11) = ([z; 8], [z; 8], [z; 8], [z; 8]);
            for i in 0..8 {
                q00[i] = m[i].0;
                q01[i] = m[i].1;
                q10[i] = m[8 + i].0;
                q11[i] = m[8 + i].1;
            }
            let (q00, q01) = (Self::transpose8(q00), Self::transpose8(q01));
            let (q10, q11) = (Self::transpose8(q10), Self::transpose8(q11));
            for i in 0..8 {
                m[i] = Pair(q00[i], q10[i]);
                m[8 + i] = Pair(q01[i], q11[i]);
            }
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
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $ty),*) {
                unsafe { body::<$crate::simd::Avx512>($($arg),*) }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
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
