//! The forward pass for few tiles, with weights that nobody has packed.
//!
//! The transformed weights are four times the weights: with few tiles, reading them from memory takes longer than all
//! arithmetic. Here a task transforms the weights of its outputs a part at a time, and uses each part while it is in
//! the nearest cache. The tiles are transformed once, by all threads.

use super::points::POINTS;
use super::rows::x_row;
use super::{Added, Resampling, Shape, Tiles, checked, clear_unused, output_rows, pack_inputs};
use crate::memory::{Input, Scratch, filled};
use crate::simd::{Isa, kernel};
use crate::tile::{Onto, product_rows};
use fndm_runtime::parallel;

/// Tiles up to which this is the faster way, where packed weights stay and where each use would pack its own. With 256 tiles and packed
/// weights the two are equal on a processor of one's own; beside work that shares its caches this one takes 1.4 times as long, since
/// it reads all tiles again for every 32 outputs.
const FEW: [usize; 2] = [128, 256];
/// Inputs whose weights are transformed at a time, at most: 36 * 128 * 32 floats are half of a second-level cache.
const INPUTS: usize = 128;

/// Inputs whose weights are transformed at a time. The more, the less often sums are loaded and stored; the fewer tiles, the fewer times
/// a transformed weight is used, and the nearer it should be.
fn inputs(tiles: usize) -> usize {
    if tiles < 64 { INPUTS / 2 } else { INPUTS }
}

/// Whether a convolution has few tiles; `packed`: its packed weights would stay.
pub(in crate::conv) fn few(shape: &Shape, packed: bool) -> bool {
    let s = Tiles::new(shape);
    s.all_rows() * s.tw <= FEW[usize::from(!packed)]
}

kernel! {
    /// Row `row` of the input tiles, to its place among all of `v`.
    unsafe fn transform_row[S](x: *const f32, s: &Tiles, row: usize, buf: *mut f32, v: *mut f32, vplane: usize) {
        x_row::<S>(x, s, row, buf, v.add(row * s.tw * s.cip), vplane);
    }
}

/// What a task works in.
#[derive(Clone, Copy)]
struct Work {
    /// Transformed weights, `[36][INPUTS][32]`, with 16 floats between the planes.
    u: *mut f32,
    /// Weights with outputs as lanes, `[16][9][16]`.
    tmp: *mut f32,
    /// Products, `36 * (tiles * 32 + 16)`.
    m: *mut f32,
    /// `4 * 4 tw * 16`
    buf: *mut f32,
}

kernel! {
    /// Tile rows `first..first + rows` of output channels `o..o + width` (16 or 32). `v`: all tiles, transformed. `depth`: inputs at a time, up to
    /// `INPUTS`.
    unsafe fn forward_chunk[S](
        v: *const f32, vplane: usize, w: *const f32, transposed: bool, bias: *const f32, bias_step: usize,
        base: *const f32, s: &Tiles, first: usize, rows: usize, o: usize, width: usize, depth: usize, work: &Work,
        out: *mut f32,
    ) {
        let s = *s;
        let (tiles, v) = (rows * s.tw, v.add(first * s.tw * s.cip));
        let mplane = tiles * 32 + 16;
        // As the weights are stored.
        let size = if transposed { (s.ci, s.co) } else { (s.co, s.ci) };
        // Not a multiple of 4 KB: the 36 places of a weight would share one set of the nearest cache.
        let uplane = depth * width + 16;
        clear_unused::<S>(&s, work.m, tiles);
        let mut c = 0;
        while c < s.ci {
            let n = (s.ci - c).min(depth);
            let place = (work.u, uplane, width);
            let end = (o + width).min(s.co);
            pack_inputs::<S>(w, size, transposed, (o, end), (c, c + n), work.tmp, place);
            for p in s.points() {
                let (vp, mp) = (v.add(p * vplane + c), work.m.add(p * mplane));
                product_rows::<S>(
                    tiles, width, |r| vp.add(r * s.cip), &[(0, 0)], n,
                    work.u.add(p * uplane), width, |r| mp.add(r * 32), if c > 0 { Onto::Output } else { Onto::Nothing },
                );
            }
            c += n;
        }
        output_rows::<S>(&s, first, rows, (o, width), work.m, bias, bias_step, base, work.buf, out);
    }
}

/// As [`forward`](super::forward) from weights as they are, `(O, I, 3, 3)`; `(I, O, 3, 3)` with `transposed`, for the
/// input gradient.
pub(in crate::conv) fn forward_few(
    isa: Isa,
    shape: &Shape,
    x: &[f32],
    w: &[f32],
    transposed: bool,
    added: Added,
    resampling: Resampling,
) -> Vec<f32> {
    let (s, bias_step) = checked(shape, x, added, resampling);
    assert_eq!(w.len(), s.co * s.ci * 9);
    let tiles = s.all_rows() * s.tw;
    let vplane = tiles * s.cip + 16;
    let v = Scratch::new(POINTS * vplane);
    let vs = v.shared();
    let (x, w) = (Input(x), Input(w));
    let (bias, base) = (added.bias.map(Input), added.base.map(Input));
    parallel(s.all_rows(), |row| {
        let buf = Scratch::new(6 * (4 * s.tw + 2) * 16);
        // SAFETY: each row writes tiles of its own; the scratch is of the size that `x_row` asks for.
        unsafe { transform_row(isa, x.all(), &s, row, buf.ptr(), vs.all(), vplane) };
    });
    let chunks = s.cop.div_ceil(32);
    // Fewer chunks than threads: the tiles are split as well, and each group transforms the weights for itself.
    let groups = rayon::current_num_threads()
        .div_ceil(chunks)
        .min(s.all_rows());
    let per_group = s.all_rows().div_ceil(groups);
    // By all tiles and not by a group's, whose number hangs on that of the threads: a sum's parts decide on its last bits.
    let depth = inputs(tiles);
    let groups = s.all_rows().div_ceil(per_group);
    // SAFETY: a task writes the pixels of its rows for its channels; the scratch is as `Work` says.
    unsafe {
        filled(s.batch * s.co * s.pixels().1, |out| {
            parallel(chunks * groups, |i| {
                let (o, first) = (i / groups * 32, i % groups * per_group);
                let rows = per_group.min(s.all_rows() - first);
                let u = Scratch::new(POINTS * (INPUTS * 32 + 16));
                let tmp = Scratch::new(16 * 9 * 16);
                let m = Scratch::new(POINTS * (rows * s.tw * 32 + 16));
                let buf = Scratch::new(4 * 4 * s.tw * 16);
                let work = Work {
                    u: u.ptr(),
                    tmp: tmp.ptr(),
                    m: m.ptr(),
                    buf: buf.ptr(),
                };
                let bias = bias.as_ref().map_or(std::ptr::null(), Input::all);
                let base = base.as_ref().map_or(std::ptr::null(), Input::all);
                forward_chunk(
                    isa,
                    vs.all(),
                    vplane,
                    w.all(),
                    transposed,
                    bias,
                    bias_step,
                    base,
                    &s,
                    first,
                    rows,
                    o,
                    (s.cop - o).min(32),
                    depth,
                    &work,
                    out.all(),
                );
            });
        })
    }
}
