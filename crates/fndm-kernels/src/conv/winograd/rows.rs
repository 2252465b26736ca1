//! Rows of tiles from planar images to the transformed domain.

use super::points::{KEPT, gradient_points, input_points, upsampled_points};
use crate::simd::Simd;
use crate::tile::{clear, to_lanes};

/// Transforms one row of input tiles: 16 channels at a time through `buf` of `6 * (4 tw + 2) * 16` floats, to
/// `v[point * plane + tile * cp + channel]`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn input_row<S: Simd>(
    image: *const f32,
    (c, cp, h, w): (usize, usize, usize, usize),
    ty: usize,
    tw: usize,
    buf: *mut f32,
    v: *mut f32,
    plane: usize,
) {
    unsafe {
        let line = (4 * tw + 2) * 16;
        for block in 0..cp / 16 {
            let lanes = (c - 16 * block).min(16);
            for y in 0..6 {
                let dst = buf.add(y * line);
                if 4 * ty + y == 0 || 4 * ty + y > h {
                    clear::<S>(dst, 4 * tw + 2);
                } else {
                    let src = image.add((16 * block * h + 4 * ty + y - 1) * w);
                    clear::<S>(dst, 1);
                    to_lanes::<S>(src, h * w, lanes, w, dst.add(16), 16);
                    clear::<S>(dst.add(16 * (w + 1)), 4 * tw + 1 - w);
                }
            }
            for tx in 0..tw {
                let d = buf.add(64 * tx);
                let mut t = [[S::zero(); 6]; 6];
                for j in 0..6 {
                    let mut col = [S::zero(); 6];
                    for y in 0..6 {
                        col[y] = S::load(d.add(y * line + 16 * j));
                    }
                    let r = input_points::<S>(col);
                    for i in 0..6 {
                        t[i][j] = r[i];
                    }
                }
                let dst = v.add(tx * cp + 16 * block);
                for i in 0..6 {
                    let r = input_points::<S>(t[i]);
                    for j in 0..6 {
                        S::store(dst.add((6 * i + j) * plane), r[j]);
                    }
                }
            }
        }
    }
}

/// As [`input_row`] for an image at half of `h` and `w`, upsampled: `buf` of `4 * (2 tw + 2) * 16` floats.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn upsampled_row<S: Simd>(
    image: *const f32,
    (c, cp, h, w): (usize, usize, usize, usize),
    ty: usize,
    tw: usize,
    buf: *mut f32,
    v: *mut f32,
    plane: usize,
) {
    unsafe {
        let (h, w) = (h / 2, w / 2);
        let line = (2 * tw + 2) * 16;
        for block in 0..cp / 16 {
            let lanes = (c - 16 * block).min(16);
            for y in 0..4 {
                let dst = buf.add(y * line);
                if 2 * ty + y == 0 || 2 * ty + y > h {
                    clear::<S>(dst, 2 * tw + 2);
                } else {
                    let src = image.add((16 * block * h + 2 * ty + y - 1) * w);
                    clear::<S>(dst, 1);
                    to_lanes::<S>(src, h * w, lanes, w, dst.add(16), 16);
                    clear::<S>(dst.add(16 * (w + 1)), 2 * tw + 1 - w);
                }
            }
            for tx in 0..tw {
                let d = buf.add(32 * tx);
                let mut t = [[S::zero(); 4]; 5];
                for j in 0..4 {
                    let mut col = [S::zero(); 4];
                    for y in 0..4 {
                        col[y] = S::load(d.add(y * line + 16 * j));
                    }
                    let r = upsampled_points::<S>(col);
                    for i in 0..5 {
                        t[i][j] = r[i];
                    }
                }
                let dst = v.add(tx * cp + 16 * block);
                for i in 0..5 {
                    let r = upsampled_points::<S>(t[i]);
                    for j in 0..5 {
                        S::store(dst.add((6 * KEPT[i] + KEPT[j]) * plane), r[j]);
                    }
                }
            }
        }
    }
}

/// As [`input_row`] for a row of output gradients: `buf` of `4 * 4 tw * 16` floats.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn gradient_row<S: Simd>(
    image: *const f32,
    (c, cp, h, w): (usize, usize, usize, usize),
    ty: usize,
    tw: usize,
    buf: *mut f32,
    v: *mut f32,
    plane: usize,
) {
    unsafe {
        let line = 4 * tw * 16;
        for block in 0..cp / 16 {
            let lanes = (c - 16 * block).min(16);
            for y in 0..4 {
                let dst = buf.add(y * line);
                if 4 * ty + y >= h {
                    clear::<S>(dst, 4 * tw);
                } else {
                    let src = image.add((16 * block * h + 4 * ty + y) * w);
                    to_lanes::<S>(src, h * w, lanes, w, dst, 16);
                    clear::<S>(dst.add(16 * w), 4 * tw - w);
                }
            }
            for tx in 0..tw {
                let d = buf.add(64 * tx);
                let mut t = [[S::zero(); 4]; 6];
                for j in 0..4 {
                    let mut col = [S::zero(); 4];
                    for y in 0..4 {
                        col[y] = S::load(d.add(y * line + 16 * j));
                    }
                    let r = gradient_points::<S>(col);
                    for i in 0..6 {
                        t[i][j] = r[i];
                    }
                }
                let dst = v.add(tx * cp + 16 * block);
                for i in 0..6 {
                    let r = gradient_points::<S>(t[i]);
                    for j in 0..6 {
                        S::store(dst.add((6 * i + j) * plane), r[j]);
                    }
                }
            }
        }
    }
}
