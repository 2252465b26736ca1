//! The two products that everything is made of, and the change between planar and channel-last layout.

// SAFETY of this module: the functions work on raw pointers; each states the ranges that it touches, and is called
// only inside kernels for the instruction set of `S`.
#![allow(unsafe_op_in_unsafe_fn, clippy::needless_range_loop)]

use crate::simd::Simd;

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Onto {
    Nothing,
    /// What is in the output already.
    Output,
    /// A number for each row of the output, the same in all lanes.
    Rows(*const f32),
}

impl Onto {
    /// The same from row `r` on.
    #[inline(always)]
    unsafe fn from(self, r: usize) -> Self {
        match self {
            Self::Rows(p) => Self::Rows(p.add(r)),
            other => other,
        }
    }
}

/// `out[r][0..16 NV] = sum over taps and c of a[r][tap.0 + c] * b[tap.1 + c * ldb ..][0..16 NV]`, added to `onto`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn product<S: Simd, const MR: usize, const NV: usize>(
    a: &[*const f32; MR],
    taps: &[(usize, usize)],
    k: usize,
    b: *const f32,
    ldb: usize,
    out: &[*mut f32; MR],
    onto: Onto,
) {
    let mut acc = [[S::zero(); NV]; MR];
    for &(ta, tb) in taps {
        let mut bp = b.add(tb);
        for c in ta..ta + k {
            let mut bv = [S::zero(); NV];
            for n in 0..NV {
                bv[n] = S::load(bp.add(16 * n));
            }
            for r in 0..MR {
                let av = S::splat(*a[r].add(c));
                for n in 0..NV {
                    acc[r][n] = S::fma(av, bv[n], acc[r][n]);
                }
            }
            // The last step may lead past the end.
            bp = bp.wrapping_add(ldb);
        }
    }
    for r in 0..MR {
        for n in 0..NV {
            let p = out[r].add(16 * n);
            // Sums of parts round less often than one long sum.
            let v = match onto {
                Onto::Nothing => acc[r][n],
                Onto::Output => S::add(S::load(p), acc[r][n]),
                Onto::Rows(row) => S::add(S::splat(*row.add(r)), acc[r][n]),
            };
            S::store(p, v);
        }
    }
}

/// [`product`] for `rows` rows given by functions of the row, and `lanes` (16 or 32) lanes.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn product_rows<S: Simd>(
    rows: usize,
    lanes: usize,
    a: impl Fn(usize) -> *const f32,
    taps: &[(usize, usize)],
    k: usize,
    b: *const f32,
    ldb: usize,
    out: impl Fn(usize) -> *mut f32,
    onto: Onto,
) {
    let mut r = 0;
    macro_rules! step {
        ($mr:literal, $nv:literal, $lane:expr) => {{
            let mut ap = [std::ptr::null(); $mr];
            let mut op = [std::ptr::null_mut(); $mr];
            for i in 0..$mr {
                ap[i] = a(r + i);
                op[i] = out(r + i).add($lane);
            }
            product::<S, $mr, $nv>(&ap, taps, k, b.add($lane), ldb, &op, onto.from(r));
        }};
    }
    macro_rules! lanes {
        ($mr:literal) => {{
            if S::NV == 2 && lanes == 32 {
                step!($mr, 2, 0);
            } else {
                step!($mr, 1, 0);
                if lanes == 32 {
                    step!($mr, 1, 16);
                }
            }
            r += $mr;
        }};
    }
    if S::MR == 8 {
        while r + 8 <= rows {
            lanes!(8);
        }
    }
    if S::MR == 6 {
        while r + 6 <= rows {
            lanes!(6);
        }
    }
    if S::MR >= 4 && r + 4 <= rows {
        lanes!(4);
    }
    while r + 2 <= rows {
        lanes!(2);
    }
    while r < rows {
        lanes!(1);
    }
}

/// `out[r * ldo ..][0..16 NV] = sum over i < outer, j < inner of a[i * a.0 + j * a.1 + r] * b[i * b.0 + j * b.1 ..]`, plus
/// what is in `out` already when `add`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn outer_product<S: Simd, const MR: usize, const NV: usize>(
    (outer, inner): (usize, usize),
    a: *const f32,
    sa: (usize, usize),
    b: *const f32,
    sb: (usize, usize),
    out: *mut f32,
    ldo: usize,
    add: bool,
) {
    let mut acc = [[S::zero(); NV]; MR];
    for i in 0..outer {
        let mut ap = a.add(i * sa.0);
        let mut bp = b.add(i * sb.0);
        for _ in 0..inner {
            let mut bv = [S::zero(); NV];
            for n in 0..NV {
                bv[n] = S::load(bp.add(16 * n));
            }
            for r in 0..MR {
                let av = S::splat(*ap.add(r));
                for n in 0..NV {
                    acc[r][n] = S::fma(av, bv[n], acc[r][n]);
                }
            }
            ap = ap.wrapping_add(sa.1);
            bp = bp.wrapping_add(sb.1);
        }
    }
    for r in 0..MR {
        for n in 0..NV {
            let p = out.add(r * ldo + 16 * n);
            let v = if add {
                S::add(S::load(p), acc[r][n])
            } else {
                acc[r][n]
            };
            S::store(p, v);
        }
    }
}

/// [`outer_product`] for `rows` rows and `lanes` lanes (a multiple of 16).
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn outer_rows<S: Simd>(
    rows: usize,
    lanes: usize,
    counts: (usize, usize),
    a: *const f32,
    sa: (usize, usize),
    b: *const f32,
    sb: (usize, usize),
    out: *mut f32,
    ldo: usize,
    add: bool,
) {
    let mut l = 0;
    while l < lanes {
        let two = S::NV == 2 && l + 32 <= lanes;
        let mut r = 0;
        macro_rules! step {
            ($mr:literal) => {{
                let o = out.add(r * ldo + l);
                if two {
                    outer_product::<S, $mr, 2>(counts, a.add(r), sa, b.add(l), sb, o, ldo, add);
                } else {
                    outer_product::<S, $mr, 1>(counts, a.add(r), sa, b.add(l), sb, o, ldo, add);
                }
                r += $mr;
            }};
        }
        if S::MR == 8 {
            while r + 8 <= rows {
                step!(8);
            }
        }
        if S::MR == 6 {
            while r + 6 <= rows {
                step!(6);
            }
        }
        if S::MR >= 4 && r + 4 <= rows {
            step!(4);
        }
        while r + 2 <= rows {
            step!(2);
        }
        while r < rows {
            step!(1);
        }
        l += if two { 32 } else { 16 };
    }
}

/// `dst[col * ldd + lane] = src[lane * lds + col]` for `rows <= 16` lanes (the rest get zero) and `cols` columns.
#[inline(always)]
pub(crate) unsafe fn to_lanes<S: Simd>(
    src: *const f32,
    lds: usize,
    rows: usize,
    cols: usize,
    dst: *mut f32,
    ldd: usize,
) {
    let mut c = 0;
    // Whole blocks on their own: their vectors never leave the registers for an array in memory.
    while rows == 16 && c + 16 <= cols {
        let mut m = [S::zero(); 16];
        for r in 0..16 {
            let p = src.add(r * lds + c);
            m[r] = S::load(p);
            // The same columns of the next row of pixels come next.
            S::prefetch(p.wrapping_add(cols));
        }
        S::transpose(&mut m);
        for j in 0..16 {
            S::store(dst.add((c + j) * ldd), m[j]);
        }
        c += 16;
    }
    while c < cols {
        let n = (cols - c).min(16);
        let mut m = [S::zero(); 16];
        for r in 0..rows {
            m[r] = S::load_first(src.add(r * lds + c), n);
        }
        S::transpose(&mut m);
        for j in 0..n {
            S::store(dst.add((c + j) * ldd), m[j]);
        }
        c += 16;
    }
}

/// `dst[lane * ldd + col] = src[col * lds + lane]` for `rows <= 16` lanes and `cols` columns.
#[inline(always)]
pub(crate) unsafe fn from_lanes<S: Simd>(
    src: *const f32,
    lds: usize,
    dst: *mut f32,
    ldd: usize,
    rows: usize,
    cols: usize,
) {
    from_lanes_onto::<S>(src, lds, std::ptr::null(), dst, ldd, rows, cols);
}

/// As [`from_lanes`], plus what lies at the same places of `base` unless it is null.
#[inline(always)]
pub(crate) unsafe fn from_lanes_onto<S: Simd>(
    src: *const f32,
    lds: usize,
    base: *const f32,
    dst: *mut f32,
    ldd: usize,
    rows: usize,
    cols: usize,
) {
    let mut c = 0;
    // Whole blocks on their own: their vectors never leave the registers for an array in memory.
    while rows == 16 && c + 16 <= cols {
        let mut m = [S::zero(); 16];
        for j in 0..16 {
            m[j] = S::load(src.add((c + j) * lds));
        }
        S::transpose(&mut m);
        for r in 0..16 {
            let mut v = m[r];
            if !base.is_null() {
                v = S::add(S::load(base.add(r * ldd + c)), v);
            }
            S::store(dst.add(r * ldd + c), v);
        }
        c += 16;
    }
    while c < cols {
        let n = (cols - c).min(16);
        let mut m = [S::zero(); 16];
        for j in 0..n {
            m[j] = S::load(src.add((c + j) * lds));
        }
        S::transpose(&mut m);
        for r in 0..rows {
            let mut v = m[r];
            if !base.is_null() {
                v = S::add(S::load_first(base.add(r * ldd + c), n), v);
            }
            S::store_first(dst.add(r * ldd + c), v, n);
        }
        c += 16;
    }
}

/// Sets `n` vectors to zero.
#[inline(always)]
pub(crate) unsafe fn clear<S: Simd>(p: *mut f32, n: usize) {
    for i in 0..n {
        S::store(p.add(16 * i), S::zero());
    }
}
