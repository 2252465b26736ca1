//! The gradient of the weights of a 3x3 convolution, as products of transformed tiles.
//!
//! Many tiles: blocks of tiles are transformed and their products added to sums of all weights. Few tiles: all are
//! transformed once, and the sums of a handful of weights at a time stay in the nearest cache until they are done.

use super::points::{POINTS, kernel_from_points};
use super::rows::{dy_row, x_row};
use super::{Shape, Tiles};
use crate::memory::{Input, Scratch, filled};
use crate::simd::{Isa, Simd, kernel};
use crate::tile::{clear, outer_rows};
use fndm_runtime::parallel;

/// Tiles up to which all of them are transformed first.
const FEW: usize = 128;
/// Floats of the transformed tiles of a block, at most.
const BLOCK: usize = 2 << 20;

/// The 3x3 gradients of one output channel and `lanes` (up to 16) input channels from their 36 sums, `plane` floats
/// apart; each is the total of `parts` sums, `part` floats apart.
#[inline(always)]
unsafe fn finish<S: Simd>(
    du: *const f32,
    plane: usize,
    (parts, part): (usize, usize),
    dw: *mut f32,
    lanes: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut t = [[S::zero(); 6]; 3];
        for j in 0..6 {
            let mut col = [S::zero(); 6];
            for i in 0..6 {
                let src = du.add((6 * i + j) * plane);
                col[i] = S::load(src);
                for q in 1..parts {
                    col[i] = S::add(col[i], S::load(src.add(q * part)));
                }
            }
            let r = kernel_from_points::<S>(col);
            for i in 0..3 {
                t[i][j] = r[i];
            }
        }
        let mut g = [S::zero(); 16];
        for i in 0..3 {
            let r = kernel_from_points::<S>(t[i]);
            g[3 * i..3 * i + 3].copy_from_slice(&r);
        }
        S::transpose(&mut g);
        for (r, g) in g.iter().enumerate().take(lanes) {
            if r + 2 <= lanes {
                // Whole vectors, whose ends the next ones overwrite.
                S::store(dw.add(9 * r), *g);
            } else {
                S::store_first(dw.add(9 * r), *g, 9);
            }
        }
    }
}

kernel! {
    /// Sums of the products of tile rows `first..last` for output channels `o..last_o`, to `du`, `[36][co][cip]`.
    unsafe fn weight_task[S](
        x: *const f32, dy: *const f32, s: &Tiles, first: usize, last: usize, o: usize, last_o: usize,
        v: *mut f32, m: *mut f32, buf: *mut f32, du: *mut f32,
    ) {
        let s = *s;
        let duplane = s.co * s.cip;
        let (co, cop) = (last_o - o, (last_o - o).next_multiple_of(16));
        for p in s.unused() {
            clear::<S>(du.add(p * duplane + o * s.cip), co * s.cip / 16);
        }
        let mut at = first;
        while at < last {
            let rows = s.rows.min(last - at);
            let tiles = rows * s.tw;
            let vplane = tiles * s.cip + 16;
            let mplane = tiles * cop + 16;
            for row in 0..rows {
                x_row::<S>(x, &s, at + row, buf, v.add(row * s.tw * s.cip), vplane);
                dy_row::<S>(dy, &s, at + row, (o, co, cop), buf, m.add(row * s.tw * cop), mplane);
            }
            for p in s.points() {
                outer_rows::<S>(
                    co, s.cip, (1, tiles), m.add(p * mplane), (0, cop), v.add(p * vplane), (0, s.cip),
                    du.add(p * duplane + o * s.cip), s.cip, at > first,
                );
            }
            at += rows;
        }
    }
}

kernel! {
    /// Sums `parts` partial results and transforms them back, for output channel `o`.
    unsafe fn finish_channel[S](du: *const f32, parts: usize, part: usize, s: &Tiles, o: usize, dw: *mut f32) {
        let s = *s;
        let duplane = s.co * s.cip;
        for block in 0..s.cip / 16 {
            let lanes = (s.ci - 16 * block).min(16);
            let dst = dw.add((o * s.ci + 16 * block) * 9);
            finish::<S>(du.add(o * s.cip + 16 * block), duplane, (parts, part), dst, lanes);
        }
    }
}

/// The gradient of the weights, `(O, I, 3, 3)`; `up`: x is given at half the size and upsampled first.
pub(in crate::conv) fn weight_gradient(
    isa: Isa,
    shape: &Shape,
    x: &[f32],
    dy: &[f32],
    up: bool,
) -> Vec<f32> {
    let s = Tiles {
        up,
        ..Tiles::new(shape)
    };
    assert!(!up || s.h.is_multiple_of(2) && s.w.is_multiple_of(2));
    assert_eq!(x.len(), s.batch * s.ci * s.pixels().0);
    assert_eq!(dy.len(), s.batch * s.co * s.h * s.w);
    // Also where the transformed tiles take less room than the sums of all weights would.
    let tiles = s.all_rows() * s.tw;
    if tiles <= FEW || tiles <= 4 * FEW && tiles * (s.cip + s.cop) <= s.co * s.cip {
        few_tiles(isa, &s, x, dy)
    } else {
        many_tiles(isa, s, x, dy)
    }
}

fn many_tiles(isa: Isa, mut s: Tiles, x: &[f32], dy: &[f32]) -> Vec<f32> {
    // Each block of tiles costs a pass over the sums, so blocks are long; but there are two at least.
    while s.rows * s.tw < FEW
        && 4 * s.rows <= s.all_rows()
        && POINTS * 2 * s.rows * s.tw * (s.cip + s.cop) <= BLOCK
    {
        s.rows *= 2;
    }
    let s = s;
    let part = POINTS * s.co * s.cip;
    // The parts depend on the shape alone, and so does the order of the sum.
    let most = ((32 << 20) / (4 * part)).clamp(2, 16);
    let parts = s.tasks().div_ceil(4).clamp(1, most).max(s.tasks().min(2));
    let per_part = s.tasks().div_ceil(parts) * s.rows;
    let parts = s.all_rows().div_ceil(per_part);
    // Few parts: the output channels are split as well, and each group transforms the input for itself.
    let groups = rayon::current_num_threads()
        .div_ceil(parts)
        .min(s.co.div_ceil(32));
    let per_group = s.co.div_ceil(groups).next_multiple_of(16);
    let groups = s.co.div_ceil(per_group);
    let sums = Scratch::new(parts * part);
    let du = sums.shared();
    let (x, dy) = (Input(x), Input(dy));
    parallel(parts * groups, |i| {
        let (i, o) = (i / groups, i % groups * per_group);
        let tiles = s.rows * s.tw;
        let v = Scratch::new(POINTS * (tiles * s.cip + 16));
        let m = Scratch::new(POINTS * (tiles * per_group + 16));
        let buf = Scratch::new(6 * (4 * s.tw + 2) * 16);
        let last = ((i + 1) * per_part).min(s.all_rows());
        // SAFETY: part and group name sums that one task writes; the scratch is of the sizes that the kernel uses.
        unsafe {
            weight_task(
                isa,
                x.all(),
                dy.all(),
                &s,
                i * per_part,
                last,
                o,
                (o + per_group).min(s.co),
                v.ptr(),
                m.ptr(),
                buf.ptr(),
                du.at(i * part, part),
            );
        }
    });
    // SAFETY: output channel `o` writes its own range of the gradient.
    unsafe {
        filled(s.co * s.ci * 9, |dw| {
            parallel(s.co, |o| {
                finish_channel(isa, du.all(), parts, part, &s, o, dw.all());
            });
        })
    }
}

kernel! {
    /// Row `row` of both sides, to its place among all tiles of `v` and `m`.
    unsafe fn transform_row[S](
        x: *const f32, dy: *const f32, s: &Tiles, row: usize, buf: *mut f32,
        v: *mut f32, vplane: usize, m: *mut f32, mplane: usize,
    ) {
        x_row::<S>(x, s, row, buf, v.add(row * s.tw * s.cip), vplane);
        dy_row::<S>(dy, s, row, (0, s.co, s.cop), buf, m.add(row * s.tw * s.cop), mplane);
    }
}

/// Output channels whose sums are held at a time.
const HELD: usize = 8;

kernel! {
    /// The gradient for input channels `i..i + width` (32 or fewer), output channels `o..last_o`. `du`:
    /// `36 * HELD * 32` floats.
    unsafe fn few_task[S](
        v: *const f32, vplane: usize, m: *const f32, mplane: usize, s: &Tiles, i: usize, o: usize, last_o: usize,
        du: *mut f32, dw: *mut f32,
    ) {
        let width = (s.cip - i).min(32);
        let tiles = s.all_rows() * s.tw;
        debug_assert!(last_o <= s.co && tiles * s.cip + 16 == vplane && tiles * s.cop + 16 == mplane);
        for p in s.unused() {
            clear::<S>(du.add(p * HELD * 32), HELD * 2);
        }
        let mut o = o;
        while o < last_o {
            let n = (last_o - o).min(HELD);
            for p in s.points() {
                outer_rows::<S>(
                    n, width, (1, tiles), m.add(p * mplane + o), (0, s.cop), v.add(p * vplane + i), (0, s.cip),
                    du.add(p * HELD * 32), 32, false,
                );
            }
            for r in 0..n {
                for sub in 0..width / 16 {
                    let c = i + 16 * sub;
                    if c < s.ci {
                        let src = du.add(r * 32 + 16 * sub).cast_const();
                        let dst = dw.add(((o + r) * s.ci + c) * 9);
                        finish::<S>(src, HELD * 32, (1, 0), dst, (s.ci - c).min(16));
                    }
                }
            }
            o += n;
        }
    }
}

fn few_tiles(isa: Isa, s: &Tiles, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let tiles = s.all_rows() * s.tw;
    let (vplane, mplane) = (tiles * s.cip + 16, tiles * s.cop + 16);
    let (v, m) = (Scratch::new(POINTS * vplane), Scratch::new(POINTS * mplane));
    let (vs, ms) = (v.shared(), m.shared());
    let (x, dy) = (Input(x), Input(dy));
    parallel(s.all_rows(), |row| {
        let buf = Scratch::new(6 * (4 * s.tw + 2) * 16);
        // SAFETY: each row writes the tiles of its own.
        unsafe {
            transform_row(
                isa,
                x.all(),
                dy.all(),
                s,
                row,
                buf.ptr(),
                vs.all(),
                vplane,
                ms.all(),
                mplane,
            );
        }
    });
    let blocks = s.cip.div_ceil(32);
    let groups = (4 * rayon::current_num_threads())
        .div_ceil(blocks)
        .min(s.co.div_ceil(HELD));
    let per_group = s.co.div_ceil(groups).next_multiple_of(HELD);
    let groups = s.co.div_ceil(per_group);
    // SAFETY: block and group name weights that one task writes.
    unsafe {
        filled(s.co * s.ci * 9, |dw| {
            parallel(blocks * groups, |i| {
                let (i, o) = (i / groups * 32, i % groups * per_group);
                let last_o = (o + per_group).min(s.co);
                let du = Scratch::new(POINTS * HELD * 32);
                few_task(
                    isa,
                    vs.all(),
                    vplane,
                    ms.all(),
                    mplane,
                    s,
                    i,
                    o,
                    last_o,
                    du.ptr(),
                    dw.all(),
                );
            });
        })
    }
}
