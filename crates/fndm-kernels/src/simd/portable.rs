//! Vectors in plain Rust.

use super::Simd;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

macro_rules! lanes {
    ($i:ident => $e:expr) => { lanes!(0f32; $i => $e) };
    ($zero:expr; $i:ident => $e:expr) => {{
        let mut r = [$zero; 16];
        for $i in 0..16 {
            r[$i] = $e;
        }
        r
    }};
}

impl Simd for Portable {
    type V = [f32; 16];
    type H = [u16; 16];
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
    #[inline(always)]
    unsafe fn load_half(p: *const u16) -> Self::H {
        unsafe { p.cast::<[u16; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_half(p: *mut u16, h: Self::H) {
        unsafe { p.cast::<[u16; 16]>().write_unaligned(h) }
    }
    #[inline(always)]
    unsafe fn widen_f16(h: Self::H) -> Self::V {
        // The crate `half` knows the instructions of more processors.
        let mut v = [0f32; 16];
        h.reinterpret_cast::<f16>().convert_to_f32_slice(&mut v);
        v
    }
    #[inline(always)]
    unsafe fn widen_bf16(h: Self::H) -> Self::V {
        lanes!(i => f32::from_bits(u32::from(h[i]) << 16))
    }
    #[inline(always)]
    unsafe fn narrow_f16(v: Self::V) -> Self::H {
        let mut h = [0u16; 16];
        h.reinterpret_cast_mut::<f16>().convert_from_f32_slice(&v);
        h
    }
    #[inline(always)]
    unsafe fn narrow_bf16(v: Self::V) -> Self::H {
        lanes!(0u16; i => {
            let bits = v[i].to_bits();
            // Half of the last place less one, and one more where the last place is odd.
            let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
            let quiet = bits >> 16 | 0x40;
            (if v[i].is_nan() { quiet } else { rounded }) as u16
        })
    }
}
