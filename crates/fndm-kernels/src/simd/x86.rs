//! Vectors of x86: AVX-512, and pairs of AVX2.

// SAFETY of this file: each function is called only under the instruction set of its type, and each pointer is
// valid for the lanes touched, as the trait asks of the caller.
#![allow(unsafe_op_in_unsafe_fn)]

use super::Simd;
use std::arch::x86_64::*;

/// Sixteen halves fill one vector of 256 bits on either instruction set.
macro_rules! half_memory {
    () => {
        #[inline(always)]
        unsafe fn load_half(p: *const u16) -> __m256i {
            _mm256_loadu_si256(p.cast())
        }
        #[inline(always)]
        unsafe fn store_half(p: *mut u16, h: __m256i) {
            _mm256_storeu_si256(p.cast(), h);
        }
        #[inline(always)]
        unsafe fn stream_half(p: *mut u16, h: __m256i) {
            _mm256_stream_si256(p.cast(), h);
        }
    };
}

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
    type H = __m256i;
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
    half_memory!();
    #[inline(always)]
    unsafe fn widen_f16(h: __m256i) -> __m512 {
        _mm512_cvtph_ps(h)
    }
    #[inline(always)]
    unsafe fn widen_bf16(h: __m256i) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(h)))
    }
    #[inline(always)]
    unsafe fn narrow_f16(v: __m512) -> __m256i {
        _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v)
    }
    #[inline(always)]
    unsafe fn narrow_bf16(v: __m512) -> __m256i {
        let bits = _mm512_castps_si512(v);
        let high = _mm512_srli_epi32::<16>(bits);
        // Half of the last place less one, and one more where the last place is odd.
        let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
        let round = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, round));
        let not_a_number = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
        _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, not_a_number, quiet))
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

    /// The bits of bf16 in the lower half of each lane.
    #[inline(always)]
    unsafe fn rounded_bf16(v: __m256) -> __m256i {
        let bits = _mm256_castps_si256(v);
        let high = _mm256_srli_epi32::<16>(bits);
        // Half of the last place less one, and one more where the last place is odd.
        let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
        let round = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
        let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, round));
        let not_a_number = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
        _mm256_blendv_epi8(rounded, quiet, not_a_number)
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
    type H = __m256i;
    const MR: usize = 6;
    const NV: usize = 1;

    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
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
    half_memory!();
    #[inline(always)]
    unsafe fn widen_f16(h: __m256i) -> Pair {
        let (low, high) = (_mm256_castsi256_si128(h), _mm256_extracti128_si256::<1>(h));
        Pair(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
    }
    #[inline(always)]
    unsafe fn widen_bf16(h: __m256i) -> Pair {
        let (low, high) = (_mm256_castsi256_si128(h), _mm256_extracti128_si256::<1>(h));
        let low = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(low));
        let high = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(high));
        Pair(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
    }
    #[inline(always)]
    unsafe fn narrow_f16(v: Pair) -> __m256i {
        let low = _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v.0);
        let high = _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v.1);
        _mm256_set_m128i(high, low)
    }
    #[inline(always)]
    unsafe fn narrow_bf16(v: Pair) -> __m256i {
        let packed = _mm256_packus_epi32(Self::rounded_bf16(v.0), Self::rounded_bf16(v.1));
        // Packing works on quarters: its second and third change places.
        _mm256_permute4x64_epi64::<0b11_01_10_00>(packed)
    }
}
