//! The transforms of one row or column of a tile; Lavin and Gray's matrices in factored form.

use crate::simd::Simd;

/// Elements of a tile in the transformed domain.
pub(super) const POINTS: usize = 36;
/// Of the six points of a row or column, those that an upsampled image has.
pub(super) const KEPT: [usize; 5] = [0, 1, 3, 4, 5];

/// G g
#[inline(always)]
pub(super) unsafe fn kernel_points<S: Simd>(g: [S::V; 3]) -> [S::V; 6] {
    unsafe {
        let even = S::add(g[0], g[2]);
        let far = S::fma(S::splat(4.), g[2], g[0]);
        let two = S::add(g[1], g[1]);
        let sixth = S::splat(-1. / 6.);
        let small = S::splat(1. / 24.);
        [
            S::mul(S::splat(0.25), g[0]),
            S::mul(sixth, S::add(even, g[1])),
            S::mul(sixth, S::sub(even, g[1])),
            S::mul(small, S::add(far, two)),
            S::mul(small, S::sub(far, two)),
            g[2],
        ]
    }
}

/// G^T m
#[inline(always)]
pub(super) unsafe fn kernel_from_points<S: Simd>(m: [S::V; 6]) -> [S::V; 3] {
    unsafe {
        let (s1, d1) = (S::add(m[1], m[2]), S::sub(m[2], m[1]));
        let (s2, d2) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        let sixth = S::splat(1. / 6.);
        let s1 = S::mul(sixth, s1);
        let s2 = S::mul(S::splat(1. / 24.), s2);
        [
            S::add(S::fma(S::splat(0.25), m[0], s2), S::sub(S::zero(), s1)),
            S::fma(S::splat(1. / 12.), d2, S::mul(sixth, d1)),
            S::add(S::fma(S::splat(4.), s2, m[5]), S::sub(S::zero(), s1)),
        ]
    }
}

/// B^T d
#[inline(always)]
pub(super) unsafe fn input_points<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
    unsafe {
        let (c4, c5) = (S::splat(4.), S::splat(5.));
        let a = S::fnma(c4, d[2], d[4]);
        let b = S::fnma(c4, d[1], d[3]);
        let e = S::sub(d[4], d[2]);
        let f = S::sub(d[3], d[1]);
        let f = S::add(f, f);
        [
            S::fma(c4, d[0], S::fnma(c5, d[2], d[4])),
            S::add(a, b),
            S::sub(a, b),
            S::add(e, f),
            S::sub(e, f),
            S::fma(c4, d[1], S::fnma(c5, d[3], d[5])),
        ]
    }
}

/// A^T m
#[inline(always)]
pub(super) unsafe fn output_from_points<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
    unsafe {
        let (s1, d1) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (s2, d2) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(S::add(m[0], s1), s2),
            S::fma(S::splat(2.), d2, d1),
            S::fma(S::splat(4.), s2, s1),
            S::add(S::fma(S::splat(8.), d2, d1), m[5]),
        ]
    }
}

/// A y
#[inline(always)]
pub(super) unsafe fn gradient_points<S: Simd>(y: [S::V; 4]) -> [S::V; 6] {
    unsafe {
        let c4 = S::splat(4.);
        let (e, o) = (S::add(y[0], y[2]), S::add(y[1], y[3]));
        let e2 = S::fma(c4, y[2], y[0]);
        let o2 = S::fma(c4, y[3], y[1]);
        let o2 = S::add(o2, o2);
        [
            y[0],
            S::add(e, o),
            S::sub(e, o),
            S::add(e2, o2),
            S::sub(e2, o2),
            y[3],
        ]
    }
}

/// B^T of the six pixels s0 s1 s1 s2 s2 s3, at the [`KEPT`] points.
#[inline(always)]
pub(super) unsafe fn upsampled_points<S: Simd>(s: [S::V; 4]) -> [S::V; 5] {
    unsafe {
        let (c4, c5) = (S::splat(4.), S::splat(5.));
        let a = S::fnma(c4, s[1], s[2]);
        let d = S::sub(s[2], s[1]);
        [
            S::fma(c4, s[0], S::fnma(c5, s[1], s[2])),
            S::add(a, a),
            S::mul(S::splat(3.), d),
            S::sub(S::zero(), d),
            S::fma(c4, s[1], S::fnma(c5, s[2], s[3])),
        ]
    }
}

/// A^T m, with neighbours summed: `[y0 + y1, y2 + y3]`.
#[inline(always)]
pub(super) unsafe fn summed_from_points<S: Simd>(m: [S::V; 6]) -> [S::V; 2] {
    unsafe {
        let two = S::add(m[1], m[1]);
        let d = S::fma(S::splat(3.), m[3], S::sub(S::zero(), m[4]));
        [
            S::add(S::add(m[0], two), d),
            S::fma(S::splat(4.), d, S::add(two, m[5])),
        ]
    }
}
