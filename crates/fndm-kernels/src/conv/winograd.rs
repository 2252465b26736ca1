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

use super::Shape;
use crate::memory::{Input, Scratch, filled, parallel};
use crate::simd::{Isa, Simd, kernel};
use crate::tile::{clear, from_lanes, outer_rows, product_rows, to_lanes};

/// Tiles in a task, about: enough to keep the weights of a step in the nearest cache.
const TILES: usize = 32;
/// Elements of a tile in the transformed domain.
const POINTS: usize = 36;
/// Of the six points of a row or column, those that an upsampled image has.
const KEPT: [usize; 5] = [0, 1, 3, 4, 5];

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
        let all = !(self.up || self.down);
        (0..POINTS).filter(move |p| all || (p / 6 != 2 && p % 6 != 2))
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
    /// and the kernel is turned by half a turn.
    pub(crate) fn pack(isa: Isa, w: &[f32], co: usize, ci: usize, transposed: bool) -> Self {
        assert_eq!(w.len(), co * ci * 9);
        let (inputs, outputs) = if transposed { (co, ci) } else { (ci, co) };
        let blocks = outputs.div_ceil(16);
        let data = Scratch::new(POINTS * inputs * blocks * 16);
        let (u, w) = (data.ptr(), Input(w));
        parallel(blocks, |block| {
            let tmp = Scratch::new(ci.max(2) * 9 * 16);
            // SAFETY: each block writes its own 16 lanes of `u`, which holds every block.
            unsafe {
                pack_block(
                    isa,
                    w.at(0),
                    co,
                    ci,
                    transposed,
                    block,
                    tmp.ptr().0,
                    u.at(0),
                );
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
        if !transposed {
            to_lanes::<S>(w.add(block * 16 * ci * 9), ci * 9, rows, ci * 9, tmp, 16);
        }
        for c in 0..k {
            let mut g = [S::zero(); 9];
            if transposed {
                to_lanes::<S>(w.add((c * ci + block * 16) * 9), 9, rows, 9, tmp, 16);
                for i in 0..9 {
                    g[i] = S::load(tmp.add(16 * (8 - i)));
                }
            } else {
                for i in 0..9 {
                    g[i] = S::load(tmp.add(16 * (9 * c + i)));
                }
            }
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
                    S::store(u.add((6 * i + j) * plane + place + c * width), r[j]);
                }
            }
        }
    }
}

/// G g
#[inline(always)]
unsafe fn kernel_points<S: Simd>(g: [S::V; 3]) -> [S::V; 6] {
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
unsafe fn kernel_from_points<S: Simd>(m: [S::V; 6]) -> [S::V; 3] {
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
unsafe fn input_points<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
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
unsafe fn output_from_points<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
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
unsafe fn gradient_points<S: Simd>(y: [S::V; 4]) -> [S::V; 6] {
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

/// Transforms one row of input tiles: 16 channels at a time through `buf` of `6 * (4 tw + 2) * 16` floats, to
/// `v[point * plane + tile * cp + channel]`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn input_row<S: Simd>(
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

/// B^T of the six pixels s0 s1 s1 s2 s2 s3, at the [`KEPT`] points.
#[inline(always)]
unsafe fn upsampled_points<S: Simd>(s: [S::V; 4]) -> [S::V; 5] {
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
unsafe fn summed_from_points<S: Simd>(m: [S::V; 6]) -> [S::V; 2] {
    unsafe {
        let two = S::add(m[1], m[1]);
        let d = S::fma(S::splat(3.), m[3], S::sub(S::zero(), m[4]));
        [
            S::add(S::add(m[0], two), d),
            S::fma(S::splat(4.), d, S::add(two, m[5])),
        ]
    }
}

/// As [`input_row`] for an image at half of `h` and `w`, upsampled: `buf` of `4 * (2 tw + 2) * 16` floats.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn upsampled_row<S: Simd>(
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
unsafe fn gradient_row<S: Simd>(
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

kernel! {
    /// Output rows of one task, for output channels `o..last`. `v`: `36 * (tiles * cip + 16)`, `m`: `36 * (tiles * 32 + 16)`,
    /// `buf`: `6 * (4 tw + 2) * 16` floats.
    unsafe fn forward_task[S](
        x: *const f32, u: *const f32, bias: *const f32, bias_step: usize, s: &Tiles, task: usize, o: usize, last: usize,
        v: *mut f32, m: *mut f32, buf: *mut f32, out: *mut f32,
    ) {
        let s = *s;
        let first = task * s.rows;
        let rows = s.rows.min(s.all_rows() - first);
        let tiles = rows * s.tw;
        let vplane = tiles * s.cip + 16;
        let mplane = tiles * 32 + 16;
        let uplane = s.ci * s.cop;
        let (pixels_in, pixels) = s.pixels();
        for row in 0..rows {
            let (b, ty) = ((first + row) / s.th, (first + row) % s.th);
            let image = x.add(b * s.ci * pixels_in);
            let dst = v.add(row * s.tw * s.cip);
            let size = (s.ci, s.cip, s.h, s.w);
            if s.up {
                upsampled_row::<S>(image, size, ty, s.tw, buf, dst, vplane);
            } else {
                input_row::<S>(image, size, ty, s.tw, buf, dst, vplane);
            }
        }
        if s.up {
            for i in 0..6 {
                clear::<S>(m.add((12 + i) * mplane), tiles * 2);
                clear::<S>(m.add((6 * i + 2) * mplane), tiles * 2);
            }
        }
        let mut o = o;
        while o < last {
            let width = (s.cop - o).min(32);
            for p in s.points() {
                let (vp, mp) = (v.add(p * vplane), m.add(p * mplane));
                product_rows::<S>(
                    tiles, width, |r| vp.add(r * s.cip), &[(0, 0)], s.ci,
                    u.add(p * uplane + o * s.ci), width, |r| mp.add(r * 32), false,
                );
            }
            for sub in 0..width / 16 {
                let c0 = o + 16 * sub;
                if c0 >= s.co {
                    continue;
                }
                let lanes = (s.co - c0).min(16);
                for row in 0..rows {
                    let (b, ty) = ((first + row) / s.th, (first + row) % s.th);
                    let bv = if bias.is_null() { S::zero() } else { S::load_first(bias.add(b * bias_step + c0), lanes) };
                    // Stored rows and columns of a tile.
                    let (n, rows_out, cols_out) = if s.down { (2, s.h / 2, s.w / 2) } else { (4, s.h, s.w) };
                    let line = n * s.tw * 16;
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
                        let dst = out.add((b * s.co + c0) * pixels + (n * ty + i) * cols_out);
                        from_lanes::<S>(buf.add(i * line), 16, dst, pixels, lanes, cols_out);
                    }
                }
            }
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

/// `(B, O, H, W)` from `(B, I, H, W)`, where H and W are those of `shape`; half of them on the small side of a
/// resampling.
pub(crate) fn forward(
    isa: Isa,
    shape: &Shape,
    x: &[f32],
    weights: &Weights,
    bias: Option<&[f32]>,
    resampling: Resampling,
) -> Vec<f32> {
    let s = Tiles {
        up: resampling == Resampling::UpBefore,
        down: resampling == Resampling::SumAfter,
        ..Tiles::new(shape)
    };
    assert!(resampling == Resampling::None || s.h % 2 == 0 && s.w % 2 == 0);
    assert!(!s.down || bias.is_none());
    let (pixels_in, pixels_out) = s.pixels();
    assert_eq!(x.len(), s.batch * s.ci * pixels_in);
    assert_eq!((weights.inputs, weights.outputs), (s.ci, s.co));
    assert!(bias.is_none_or(|b| b.len() == s.co || b.len() == s.batch * s.co));
    let bias_step = if bias.is_some_and(|b| b.len() > s.co) {
        s.co
    } else {
        0
    };
    // Few tasks: the output channels are split as well, and each part transforms the input for itself.
    let chunks = s.cop.div_ceil(32);
    let groups = 4usize.div_ceil(s.tasks()).min(chunks);
    let per_group = 32 * chunks.div_ceil(groups);
    let groups = s.cop.div_ceil(per_group);
    let x = Input(x);
    let u = weights.data.ptr();
    let bias = bias.map(Input);
    // SAFETY: the tasks cover every tile row once, a task writes the pixels of its rows for every channel, and the
    // scratch is of the sizes that the kernel states.
    unsafe {
        filled(s.batch * s.co * pixels_out, |out| {
            parallel(s.tasks() * groups, |i| {
                let (task, o) = (i / groups, i % groups * per_group);
                let tiles = s.rows * s.tw;
                let v = Scratch::new(POINTS * (tiles * s.cip + 16));
                let m = Scratch::new(POINTS * (tiles * 32 + 16));
                let buf = Scratch::new(6 * (4 * s.tw + 2) * 16);
                let bias = bias.as_ref().map_or(std::ptr::null(), |b| b.at(0));
                forward_task(
                    isa,
                    x.at(0),
                    u.at(0),
                    bias,
                    bias_step,
                    &s,
                    task,
                    o,
                    (o + per_group).min(s.cop),
                    v.ptr().0,
                    m.ptr().0,
                    buf.ptr().0,
                    out.at(0),
                );
            });
        })
    }
}

kernel! {
    /// Adds the products of tile rows `first..last` to `du`, `[36][co][cip]`.
    unsafe fn weight_task[S](
        x: *const f32, dy: *const f32, s: &Tiles, first: usize, last: usize,
        v: *mut f32, m: *mut f32, buf: *mut f32, du: *mut f32,
    ) {
        let s = *s;
        let pixels = s.h * s.w;
        let (pixels_in, _) = s.pixels();
        let duplane = s.co * s.cip;
        clear::<S>(du, POINTS * duplane / 16);
        let mut at = first;
        while at < last {
            let rows = s.rows.min(last - at);
            let tiles = rows * s.tw;
            let vplane = tiles * s.cip + 16;
            let mplane = tiles * s.cop + 16;
            for row in 0..rows {
                let (b, ty) = ((at + row) / s.th, (at + row) % s.th);
                let image = x.add(b * s.ci * pixels_in);
                let dst = v.add(row * s.tw * s.cip);
                let size = (s.ci, s.cip, s.h, s.w);
                if s.up {
                    upsampled_row::<S>(image, size, ty, s.tw, buf, dst, vplane);
                } else {
                    input_row::<S>(image, size, ty, s.tw, buf, dst, vplane);
                }
                let image = dy.add(b * s.co * pixels);
                let dst = m.add(row * s.tw * s.cop);
                gradient_row::<S>(image, (s.co, s.cop, s.h, s.w), ty, s.tw, buf, dst, mplane);
            }
            for p in s.points() {
                outer_rows::<S>(
                    s.co, s.cip, (1, tiles), m.add(p * mplane), (0, s.cop), v.add(p * vplane), (0, s.cip),
                    du.add(p * duplane), s.cip,
                );
            }
            at += rows;
        }
    }
}

kernel! {
    /// Sums `parts` partial results and transforms them back, for output channel `o`.
    unsafe fn weight_finish[S](du: *const f32, parts: usize, part: usize, s: &Tiles, o: usize, dw: *mut f32) {
        let s = *s;
        let duplane = s.co * s.cip;
        let mut tmp = [0f32; 16 * 16];
        for block in 0..s.cip / 16 {
            let lanes = (s.ci - 16 * block).min(16);
            let mut t = [[S::zero(); 6]; 3];
            for j in 0..6 {
                let mut col = [S::zero(); 6];
                for i in 0..6 {
                    let src = du.add((6 * i + j) * duplane + o * s.cip + 16 * block);
                    let mut sum = S::load(src);
                    for q in 1..parts {
                        sum = S::add(sum, S::load(src.add(q * part)));
                    }
                    col[i] = sum;
                }
                let r = kernel_from_points::<S>(col);
                for i in 0..3 {
                    t[i][j] = r[i];
                }
            }
            for i in 0..3 {
                let r = kernel_from_points::<S>(t[i]);
                for j in 0..3 {
                    S::store(tmp.as_mut_ptr().add(16 * (3 * i + j)), r[j]);
                }
            }
            from_lanes::<S>(tmp.as_ptr(), 16, dw.add((o * s.ci + 16 * block) * 9), 9, lanes, 9);
        }
    }
}

/// The gradient of the weights, `(O, I, 3, 3)`; `up`: x is given at half the size and upsampled first.
pub(crate) fn weight_gradient(
    isa: Isa,
    shape: &Shape,
    x: &[f32],
    dy: &[f32],
    up: bool,
) -> Vec<f32> {
    let mut s = Tiles {
        up,
        ..Tiles::new(shape)
    };
    // Longer sums while both transforms stay in the second-level cache.
    while s.rows * s.tw < 128 && POINTS * 2 * s.rows * s.tw * (s.cip + s.cop) <= 192 << 10 {
        s.rows *= 2;
    }
    let s = s;
    assert!(!up || s.h % 2 == 0 && s.w % 2 == 0);
    assert_eq!(x.len(), s.batch * s.ci * s.pixels().0);
    assert_eq!(dy.len(), s.batch * s.co * s.h * s.w);
    let part = POINTS * s.co * s.cip;
    // The parts depend on the shape alone, and so does the order of the sum.
    let most = ((32 << 20) / (4 * part)).clamp(2, 16);
    let parts = s.tasks().div_ceil(4).clamp(1, most).max(s.tasks().min(2));
    let per_part = s.tasks().div_ceil(parts) * s.rows;
    let parts = s.all_rows().div_ceil(per_part);
    let sums = Scratch::new(parts * part);
    let du = sums.ptr();
    let (x, dy) = (Input(x), Input(dy));
    parallel(parts, |i| {
        let tiles = s.rows * s.tw;
        let v = Scratch::new(POINTS * (tiles * s.cip + 16));
        let m = Scratch::new(POINTS * (tiles * s.cop + 16));
        let buf = Scratch::new(6 * (4 * s.tw + 2) * 16);
        let last = ((i + 1) * per_part).min(s.all_rows());
        // SAFETY: each part sums into its own range; the scratch is of the sizes that the kernel uses.
        unsafe {
            weight_task(
                isa,
                x.at(0),
                dy.at(0),
                &s,
                i * per_part,
                last,
                v.ptr().0,
                m.ptr().0,
                buf.ptr().0,
                du.at(i * part),
            );
        }
    });
    // SAFETY: output channel `o` writes its own range of the gradient.
    unsafe {
        filled(s.co * s.ci * 9, |dw| {
            parallel(s.co, |o| {
                weight_finish(isa, du.at(0), parts, part, &s, o, dw.at(0));
            });
        })
    }
}
