//! Winograd F(4x4, 3x3): 3x3 convolution of stride 1 and padding 1 with a quarter of the multiplications.
//!
//! Every 4x4 block of the output (a tile) comes from a 6x6 block of the input:
//! `Y = A^T [ sum over channels (G w G^T) . (B^T x B) ] A`, see Lavin and Gray, "Fast algorithms for convolutional neural
//! networks" (2016). The 36 products over channels are matrix products. Lanes are channels throughout, so that any
//! height and width fits; tiles past the edge are computed on zeros and not stored.
//!
//! An image that was upsampled to twice its size needs no more than 25 of the 36 products: the 6x6 block repeats the
//! pixels of a 4x4 block, and the points at -1 then see nothing. The same holds for its gradient, where the four
//! pixels of one are summed.

mod few;
mod points;
mod rows;
mod weight;

use super::Shape;
use crate::memory::{Input, Scratch, filled};
use crate::simd::{Isa, Simd, kernel};
use crate::tile::{Onto, clear, from_lanes_onto, product_rows, to_lanes};
pub(super) use few::{few, forward_few};
use fndm_runtime::parallel;
use points::{KEPT, POINTS, kernel_points, output_from_points, summed_from_points};
use rows::x_row;
pub(super) use weight::weight_gradient;

/// Tiles in a task, about: enough to keep the weights of a step in the nearest cache.
const TILES: usize = 32;

/// Sizes of one convolution in tiles.
#[derive(Clone, Copy)]
struct Tiles {
    batch: usize,
    /// Input and output channels, and both rounded up to whole vectors.
    ci: usize,
    co: usize,
    cip: usize,
    cop: usize,
    h: usize,
    w: usize,
    /// Tiles down and across an image.
    th: usize,
    tw: usize,
    /// Tile rows in a task.
    rows: usize,
    /// The input is given at half of `h` and `w`, and each of its pixels stands for four.
    up: bool,
    /// Each 2x2 block of the output is summed to one pixel.
    down: bool,
}

impl Tiles {
    fn new(s: &Shape) -> Self {
        let (th, tw) = (s.h.div_ceil(4), s.w.div_ceil(4));
        Self {
            batch: s.batch,
            ci: s.ci,
            co: s.co,
            cip: s.ci.next_multiple_of(16),
            cop: s.co.next_multiple_of(16),
            h: s.h,
            w: s.w,
            th,
            tw,
            rows: TILES.div_ceil(tw),
            up: false,
            down: false,
        }
    }

    /// Pixels of an input image as it is given, and of an output image as it is stored.
    fn pixels(&self) -> (usize, usize) {
        let all = self.h * self.w;
        let of = |quarter: bool| if quarter { all / 4 } else { all };
        (of(self.up), of(self.down))
    }

    /// The points whose products aren't zero or unused.
    fn points(&self) -> impl Iterator<Item = usize> + use<> {
        let s = *self;
        (0..POINTS).filter(move |&p| s.uses(p))
    }

    /// The points that [`points`](Self::points) leaves out.
    fn unused(&self) -> impl Iterator<Item = usize> + use<> {
        let s = *self;
        (0..POINTS).filter(move |&p| !s.uses(p))
    }

    fn uses(&self, p: usize) -> bool {
        !(self.up || self.down) || (p / 6 != 2 && p % 6 != 2)
    }

    fn all_rows(&self) -> usize {
        self.batch * self.th
    }

    fn tasks(&self) -> usize {
        self.all_rows().div_ceil(self.rows)
    }
}

/// The weights of [`forward`], transformed: `[36][chunk of 32 outputs][input][output in chunk]`.
pub(crate) struct Weights {
    data: Scratch,
    inputs: usize,
    outputs: usize,
}

impl Weights {
    /// From `(co, ci, 3, 3)`. With `transposed` the weights of the input gradient: inputs and outputs change places
    /// and the kernel is turned by half a turn. `keep`: they will stay in memory.
    pub(crate) fn pack(
        isa: Isa,
        w: &[f32],
        (co, ci): (usize, usize),
        transposed: bool,
        keep: bool,
    ) -> Self {
        assert_eq!(w.len(), co * ci * 9);
        let (inputs, outputs) = if transposed { (co, ci) } else { (ci, co) };
        let blocks = outputs.div_ceil(16);
        let len = POINTS * inputs * blocks * 16;
        let data = if keep {
            Scratch::to_keep(len)
        } else {
            Scratch::new(len)
        };
        let (u, w) = (data.shared(), Input(w));
        parallel(blocks, |block| {
            let tmp = Scratch::new(16 * 9 * 16);
            // SAFETY: each block writes its own 16 lanes of `u`, which holds every block.
            unsafe {
                pack_block(isa, w.all(), co, ci, transposed, block, tmp.ptr(), u.all());
            };
        });
        Self {
            data,
            inputs,
            outputs,
        }
    }
}

/// Width and place of the chunk that holds 16-lane block `block`, in one of the 36 planes.
#[inline(always)]
fn chunk_of(block: usize, blocks: usize, k: usize) -> (usize, usize) {
    let chunk = block / 2;
    let width = if blocks - 2 * chunk >= 2 { 32 } else { 16 };
    (width, 32 * chunk * k + 16 * (block % 2))
}

kernel! {
    unsafe fn pack_block[S](
        w: *const f32, co: usize, ci: usize, transposed: bool, block: usize, tmp: *mut f32, u: *mut f32,
    ) {
        let (k, outputs) = if transposed { (co, ci) } else { (ci, co) };
        let blocks = outputs.div_ceil(16);
        let rows = (outputs - 16 * block).min(16);
        let plane = k * blocks * 16;
        let (width, place) = chunk_of(block, blocks, k);
        let place = (u.add(place), plane, width);
        let outputs = (16 * block, 16 * block + rows);
        pack_inputs::<S>(w, (co, ci), transposed, outputs, (0, k), tmp, place);
    }
}

/// The nine weights of up to 16 neighbours, which lie one behind the other, as lanes.
#[inline(always)]
unsafe fn neighbours<S: Simd>(w: *const f32, rows: usize) -> [S::V; 9] {
    // SAFETY: the caller has `9 * rows` floats at `w`.
    unsafe {
        let mut m = [S::zero(); 16];
        if rows == 16 {
            // Whole vectors, which end among the last one's weights.
            for (r, m) in m.iter_mut().enumerate().take(15) {
                *m = S::load(w.add(9 * r));
            }
            m[15] = S::load_first(w.add(9 * 15), 9);
        } else {
            for (r, m) in m.iter_mut().enumerate().take(rows) {
                *m = S::load_first(w.add(9 * r), 9);
            }
        }
        S::transpose(&mut m);
        [m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8]]
    }
}

/// The 36 points of a kernel, `plane` floats apart.
#[inline(always)]
unsafe fn store_points<S: Simd>(g: &[S::V; 9], dst: *mut f32, plane: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut t = [[S::zero(); 3]; 6];
        for j in 0..3 {
            let r = kernel_points::<S>([g[j], g[3 + j], g[6 + j]]);
            for i in 0..6 {
                t[i][j] = r[i];
            }
        }
        for i in 0..6 {
            let r = kernel_points::<S>(t[i]);
            for j in 0..6 {
                S::store(dst.add((6 * i + j) * plane), r[j]);
            }
        }
    }
}

/// Inputs by which turned weights are asked for ahead.
const AHEAD: usize = 8;

/// Transforms the weights of inputs `first..last` for the outputs of `o..end`, up to 32 from a multiple of 16 on, to
/// `u[point * plane + input * width + output]`; lanes past `end` get zeros. `tmp`: `16 * 9 * 16` floats.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn pack_inputs<S: Simd>(
    w: *const f32,
    (co, ci): (usize, usize),
    transposed: bool,
    (o, end): (usize, usize),
    (first, last): (usize, usize),
    tmp: *mut f32,
    (u, plane, width): (*mut f32, usize, usize),
) {
    debug_assert!(o < end && end <= if transposed { ci } else { co });
    debug_assert!(last <= if transposed { co } else { ci });
    // SAFETY: the caller's contract.
    unsafe {
        if transposed {
            for c in first..last {
                // Each input's weights lie far from the last one's.
                let next = w.wrapping_add(((c + AHEAD) * ci + o) * 9);
                for i in 0..(end - o) * 9 / 16 {
                    S::prefetch(next.wrapping_add(16 * i));
                }
                let dst = u.add((c - first) * width);
                for at in (o..end).step_by(16) {
                    let mut g = neighbours::<S>(w.add((c * ci + at) * 9), (end - at).min(16));
                    g.reverse();
                    store_points::<S>(&g, dst.add(at - o), plane);
                }
            }
            return;
        }
        for at in (o..end).step_by(16) {
            let rows = (end - at).min(16);
            for c in (first..last).step_by(16) {
                let n = (last - c).min(16);
                to_lanes::<S>(w.add((at * ci + c) * 9), ci * 9, rows, n * 9, tmp, 16);
                for i in 0..n {
                    let mut g = [S::zero(); 9];
                    for (j, g) in g.iter_mut().enumerate() {
                        *g = S::load(tmp.add(16 * (9 * i + j)));
                    }
                    let dst = u.add((c + i - first) * width + at - o);
                    store_points::<S>(&g, dst, plane);
                }
            }
        }
    }
}

/// One tile of 4x4 pixels from its products, plus `bias`, to rows of `line` floats.
#[inline(always)]
unsafe fn output_tile<S: Simd>(
    src: *const f32,
    plane: usize,
    bias: S::V,
    dst: *mut f32,
    line: usize,
) {
    unsafe {
        let mut t = [[S::zero(); 6]; 4];
        for j in 0..6 {
            let mut col = [S::zero(); 6];
            for i in 0..6 {
                col[i] = S::load(src.add((6 * i + j) * plane));
            }
            let r = output_from_points::<S>(col);
            for i in 0..4 {
                t[i][j] = r[i];
            }
        }
        for i in 0..4 {
            let r = output_from_points::<S>(t[i]);
            for j in 0..4 {
                S::store(dst.add(i * line + j * 16), S::add(r[j], bias));
            }
        }
    }
}

/// As [`output_tile`], with each 2x2 block summed.
#[inline(always)]
unsafe fn summed_tile<S: Simd>(src: *const f32, plane: usize, dst: *mut f32, line: usize) {
    unsafe {
        let mut t = [[S::zero(); 6]; 2];
        for j in KEPT {
            let mut col = [S::zero(); 6];
            for i in KEPT {
                col[i] = S::load(src.add((6 * i + j) * plane));
            }
            let r = summed_from_points::<S>(col);
            for i in 0..2 {
                t[i][j] = r[i];
            }
        }
        for i in 0..2 {
            let r = summed_from_points::<S>(t[i]);
            for j in 0..2 {
                S::store(dst.add(i * line + j * 16), r[j]);
            }
        }
    }
}

/// Clears the products that [`Tiles::points`] leaves out, for a chunk of `m`.
#[inline(always)]
unsafe fn clear_unused<S: Simd>(s: &Tiles, m: *mut f32, tiles: usize) {
    if s.up {
        for p in s.unused() {
            // SAFETY: `m` holds 36 planes.
            unsafe { clear::<S>(m.add(p * (tiles * 32 + 16)), tiles * 2) };
        }
    }
}

/// Tile rows `first..first + rows` of output channels `o..o + width` from their products `m`,
/// `[36][tiles][32]`, plus `base`, an image like `out`, unless it is null; `buf`: `4 * 4 tw * 16` floats.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn output_rows<S: Simd>(
    s: &Tiles,
    first: usize,
    rows: usize,
    (o, width): (usize, usize),
    m: *const f32,
    bias: *const f32,
    bias_step: usize,
    base: *const f32,
    buf: *mut f32,
    out: *mut f32,
) {
    let mplane = rows * s.tw * 32 + 16;
    let pixels = s.pixels().1;
    // Stored rows and columns of a tile.
    let (n, rows_out, cols_out) = if s.down {
        (2, s.h / 2, s.w / 2)
    } else {
        (4, s.h, s.w)
    };
    let line = n * s.tw * 16;
    for sub in 0..width / 16 {
        let c0 = o + 16 * sub;
        if c0 >= s.co {
            continue;
        }
        let lanes = (s.co - c0).min(16);
        for row in 0..rows {
            let (b, ty) = ((first + row) / s.th, (first + row) % s.th);
            debug_assert!(b < s.batch && rows_out * cols_out == pixels);
            // SAFETY: image `b` is one of the batch and `lanes` channels from `c0` on are its own; the rest is the
            // caller's contract.
            unsafe {
                let bv = if bias.is_null() {
                    S::zero()
                } else {
                    S::load_first(bias.add(b * bias_step + c0), lanes)
                };
                for tx in 0..s.tw {
                    let src = m.add((row * s.tw + tx) * 32 + 16 * sub);
                    let dst = buf.add(n * tx * 16);
                    if s.down {
                        summed_tile::<S>(src, mplane, dst, line);
                    } else {
                        output_tile::<S>(src, mplane, bv, dst, line);
                    }
                }
                for i in 0..(rows_out - n * ty).min(n) {
                    let at = (b * s.co + c0) * pixels + (n * ty + i) * cols_out;
                    let base = if base.is_null() { base } else { base.add(at) };
                    let (src, dst) = (buf.add(i * line), out.add(at));
                    from_lanes_onto::<S>(src, 16, base, dst, pixels, lanes, cols_out);
                }
            }
        }
    }
}

kernel! {
    /// Output rows of one task, for output channels `o..last`. `v`: `36 * (tiles * cip + 16)`, `m`: `36 * (tiles * 32 + 16)`,
    /// `buf`: `6 * (4 tw + 2) * 16` floats.
    unsafe fn forward_task[S](
        x: *const f32, u: *const f32, bias: *const f32, bias_step: usize, base: *const f32, s: &Tiles, task: usize,
        o: usize, last: usize, v: *mut f32, m: *mut f32, buf: *mut f32, out: *mut f32,
    ) {
        let s = *s;
        let first = task * s.rows;
        let rows = s.rows.min(s.all_rows() - first);
        let tiles = rows * s.tw;
        let vplane = tiles * s.cip + 16;
        let mplane = tiles * 32 + 16;
        let uplane = s.ci * s.cop;
        for row in 0..rows {
            x_row::<S>(x, &s, first + row, buf, v.add(row * s.tw * s.cip), vplane);
        }
        clear_unused::<S>(&s, m, tiles);
        let mut o = o;
        while o < last {
            let width = (s.cop - o).min(32);
            for p in s.points() {
                let (vp, mp) = (v.add(p * vplane), m.add(p * mplane));
                product_rows::<S>(
                    tiles, width, |r| vp.add(r * s.cip), &[(0, 0)], s.ci,
                    u.add(p * uplane + o * s.ci), width, |r| mp.add(r * 32), Onto::Nothing,
                );
            }
            output_rows::<S>(&s, first, rows, (o, width), m, bias, bias_step, base, buf, out);
            o += width;
        }
    }
}

/// What else happens to the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resampling {
    None,
    /// The input is upsampled to twice its size first.
    UpBefore,
    /// Each 2x2 block of the output is summed: the gradient of `UpBefore`. Takes no bias.
    SumAfter,
}

/// What is added to the result.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Added<'a> {
    /// One value a channel, `(O)`, or one a channel and image, `(B, O)`.
    pub(crate) bias: Option<&'a [f32]>,
    /// An image like the result.
    pub(crate) base: Option<&'a [f32]>,
}

/// The sizes in tiles, and the step between images' biases, of arguments that fit together.
fn checked(
    shape: &Shape,
    x: &[f32],
    Added { bias, base }: Added,
    resampling: Resampling,
) -> (Tiles, usize) {
    let s = Tiles {
        up: resampling == Resampling::UpBefore,
        down: resampling == Resampling::SumAfter,
        ..Tiles::new(shape)
    };
    assert!(resampling == Resampling::None || s.h.is_multiple_of(2) && s.w.is_multiple_of(2));
    assert!(!s.down || bias.is_none());
    assert_eq!(x.len(), s.batch * s.ci * s.pixels().0);
    assert!(bias.is_none_or(|b| b.len() == s.co || b.len() == s.batch * s.co));
    assert!(base.is_none_or(|b| b.len() == s.batch * s.co * s.pixels().1));
    let per_image = bias.is_some_and(|b| b.len() > s.co);
    (s, if per_image { s.co } else { 0 })
}

/// `(B, O, H, W)` from `(B, I, H, W)`, where H and W are those of `shape`; half of them on the small side of a
/// resampling.
pub(crate) fn forward(
    isa: Isa,
    shape: &Shape,
    x: &[f32],
    weights: &Weights,
    added: Added,
    resampling: Resampling,
) -> Vec<f32> {
    let (s, bias_step) = checked(shape, x, added, resampling);
    assert_eq!((weights.inputs, weights.outputs), (s.ci, s.co));
    // Few tasks: the output channels are split as well, and each part transforms the input for itself. No sum depends
    // on it.
    let chunks = s.cop.div_ceil(32);
    let wanted = 2 * rayon::current_num_threads();
    let groups = wanted.div_ceil(s.tasks()).min(chunks);
    let per_group = 32 * chunks.div_ceil(groups);
    let groups = s.cop.div_ceil(per_group);
    let x = Input(x);
    let u = weights.data.shared();
    let (bias, base) = (added.bias.map(Input), added.base.map(Input));
    // SAFETY: the tasks cover every tile row once, a task writes the pixels of its rows for every channel, and the
    // scratch is of the sizes that the kernel states.
    unsafe {
        filled(s.batch * s.co * s.pixels().1, |out| {
            parallel(s.tasks() * groups, |i| {
                let (task, o) = (i / groups, i % groups * per_group);
                let tiles = s.rows * s.tw;
                let v = Scratch::new(POINTS * (tiles * s.cip + 16));
                let m = Scratch::new(POINTS * (tiles * 32 + 16));
                let buf = Scratch::new(6 * (4 * s.tw + 2) * 16);
                let bias = bias.as_ref().map_or(std::ptr::null(), Input::all);
                let base = base.as_ref().map_or(std::ptr::null(), Input::all);
                forward_task(
                    isa,
                    x.all(),
                    u.all(),
                    bias,
                    bias_step,
                    base,
                    &s,
                    task,
                    o,
                    (o + per_group).min(s.cop),
                    v.ptr(),
                    m.ptr(),
                    buf.ptr(),
                    out.all(),
                );
            });
        })
    }
}
