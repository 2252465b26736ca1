//! Rows of tiles from planar images to the transformed domain.

use super::Tiles;
use super::points::{KEPT, gradient_points, input_points, upsampled_points};
use crate::simd::Simd;
use crate::tile::{clear, to_lanes};

/// How a row or column of `N` pixels of a tile becomes `P` of the six points.
trait Reading<const N: usize, const P: usize> {
    /// Pixels from one tile to the next.
    const STEP: usize;
    /// Pixels of the first tile that lie before the image.
    const BEFORE: usize;
    /// Which points they are.
    const PLACES: [usize; P];

    /// # Safety
    /// The processor has the instruction set of `S`.
    unsafe fn points<S: Simd>(pixels: [S::V; N]) -> [S::V; P];
}

/// The input of a convolution.
struct Plain;

impl Reading<6, 6> for Plain {
    const STEP: usize = 4;
    const BEFORE: usize = 1;
    const PLACES: [usize; 6] = [0, 1, 2, 3, 4, 5];

    #[inline(always)]
    unsafe fn points<S: Simd>(pixels: [S::V; 6]) -> [S::V; 6] {
        // SAFETY: the caller's contract.
        unsafe { input_points::<S>(pixels) }
    }
}

/// The input at half its size, upsampled.
struct Upsampled;

impl Reading<4, 5> for Upsampled {
    const STEP: usize = 2;
    const BEFORE: usize = 1;
    const PLACES: [usize; 5] = KEPT;

    #[inline(always)]
    unsafe fn points<S: Simd>(pixels: [S::V; 4]) -> [S::V; 5] {
        // SAFETY: the caller's contract.
        unsafe { upsampled_points::<S>(pixels) }
    }
}

/// The gradient of an output.
struct Gradient;

impl Reading<4, 6> for Gradient {
    const STEP: usize = 4;
    const BEFORE: usize = 0;
    const PLACES: [usize; 6] = [0, 1, 2, 3, 4, 5];

    #[inline(always)]
    unsafe fn points<S: Simd>(pixels: [S::V; 4]) -> [S::V; 6] {
        // SAFETY: the caller's contract.
        unsafe { gradient_points::<S>(pixels) }
    }
}

/// Row `row` of all tile rows, transformed.
#[inline(always)]
pub(super) unsafe fn x_row<S: Simd>(
    x: *const f32,
    s: &Tiles,
    row: usize,
    buf: *mut f32,
    v: *mut f32,
    plane: usize,
) {
    let (b, ty) = (row / s.th, row % s.th);
    debug_assert!(b < s.batch);
    // SAFETY: image `b` is one of the batch; the rest is the caller's contract.
    unsafe {
        let image = x.add(b * s.ci * s.pixels().0);
        if s.up {
            tile_row::<S, Upsampled, 4, 5>(
                image,
                (s.ci, s.cip, s.h / 2, s.w / 2),
                ty,
                s.tw,
                buf,
                v,
                plane,
            );
        } else {
            tile_row::<S, Plain, 6, 6>(image, (s.ci, s.cip, s.h, s.w), ty, s.tw, buf, v, plane);
        }
    }
}

/// As [`x_row`] for the gradient of output channels `o..o + co`; `cop` is `co` in whole vectors.
#[inline(always)]
pub(super) unsafe fn dy_row<S: Simd>(
    dy: *const f32,
    s: &Tiles,
    row: usize,
    (o, co, cop): (usize, usize, usize),
    buf: *mut f32,
    m: *mut f32,
    plane: usize,
) {
    let (b, ty) = (row / s.th, row % s.th);
    debug_assert!(b < s.batch && o + co <= s.co);
    // SAFETY: as for `x_row`.
    unsafe {
        let image = dy.add((b * s.co + o) * s.h * s.w);
        tile_row::<S, Gradient, 4, 6>(image, (co, cop, s.h, s.w), ty, s.tw, buf, m, plane);
    }
}

/// Transforms one row of `tw` tiles of an image of `c` channels (`cp` in whole vectors) at `h` by `w`: 16 channels at a
/// time through `buf` of N lines of `(STEP (tw - 1) + N) * 16` floats, to `v[point * plane + tile * cp + channel]`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile_row<S: Simd, R: Reading<N, P>, const N: usize, const P: usize>(
    image: *const f32,
    (c, cp, h, w): (usize, usize, usize, usize),
    ty: usize,
    tw: usize,
    buf: *mut f32,
    v: *mut f32,
    plane: usize,
) {
    let pixels = R::STEP * (tw - 1) + N;
    debug_assert!(R::BEFORE + w <= pixels);
    // SAFETY: the caller's contract.
    unsafe {
        for block in 0..cp / 16 {
            let lanes = (c - 16 * block).min(16);
            for y in 0..N {
                let dst = buf.add(y * pixels * 16);
                let row = R::STEP * ty + y;
                if row < R::BEFORE || row - R::BEFORE >= h {
                    clear::<S>(dst, pixels);
                } else {
                    let src = image.add((16 * block * h + row - R::BEFORE) * w);
                    clear::<S>(dst, R::BEFORE);
                    to_lanes::<S>(src, h * w, lanes, w, dst.add(16 * R::BEFORE), 16);
                    let done = R::BEFORE + w;
                    clear::<S>(dst.add(16 * done), pixels - done);
                }
            }
            for tx in 0..tw {
                let tile = buf.add(R::STEP * 16 * tx);
                let mut t = [[S::zero(); N]; P];
                for j in 0..N {
                    let mut column = [S::zero(); N];
                    for y in 0..N {
                        column[y] = S::load(tile.add((y * pixels + j) * 16));
                    }
                    let points = R::points::<S>(column);
                    for i in 0..P {
                        t[i][j] = points[i];
                    }
                }
                let dst = v.add(tx * cp + 16 * block);
                for i in 0..P {
                    let points = R::points::<S>(t[i]);
                    for j in 0..P {
                        S::store(
                            dst.add((6 * R::PLACES[i] + R::PLACES[j]) * plane),
                            points[j],
                        );
                    }
                }
            }
        }
    }
}
