//! Direct convolution on a channel-last copy of the image: any kernel of 1x1 or 3x3, stride 1 or 2.
//!
//! Lanes are output channels. For a handful of pixels the sums over taps and input channels stay in registers.

use std::ops::Range;

use super::Shape;
use crate::memory::{Input, Scratch, filled};
use crate::simd::{Isa, Simd, kernel};
use crate::tile::{Onto, clear, from_lanes, outer_rows, product_rows, to_lanes};
use fndm_runtime::parallel;

/// Floats of a channel-last strip, about: half of a second-level cache.
const STRIP: usize = 256 << 10;
/// Tasks for each thread, about, before several chunks of outputs are one task's.
const TASKS: usize = 4;
/// Pixels in a sum of the weights' gradient, about.
const SUM: usize = 1024;

/// The weights, `[chunk of 32 outputs][tap][input][output in chunk]`.
pub(crate) struct Weights {
    data: Scratch,
    inputs: usize,
    outputs: usize,
}

impl Weights {
    /// From `(co, ci, k, k)`; with `transposed`, inputs and outputs change places (the taps stay). `keep`: they will
    /// stay in memory.
    pub(crate) fn pack(
        isa: Isa,
        w: &[f32],
        (co, ci, k): (usize, usize, usize),
        transposed: bool,
        keep: bool,
    ) -> Self {
        let taps = k * k;
        assert_eq!(w.len(), co * ci * taps);
        let (inputs, outputs) = if transposed { (co, ci) } else { (ci, co) };
        let blocks = outputs.div_ceil(16);
        let len = taps * inputs * blocks * 16;
        let data = if keep {
            Scratch::to_keep(len)
        } else {
            Scratch::new(len)
        };
        let (u, w) = (data.shared(), Input(w));
        parallel(blocks, |block| {
            let tmp = Scratch::new(ci.max(2) * taps * 16);
            // SAFETY: each block writes its own 16 lanes of `u`, which holds every block.
            unsafe {
                pack_block(
                    isa,
                    w.all(),
                    co,
                    ci,
                    taps,
                    transposed,
                    block,
                    tmp.ptr(),
                    u.all(),
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

kernel! {
    unsafe fn pack_block[S](
        w: *const f32, co: usize, ci: usize, taps: usize, transposed: bool, block: usize, tmp: *mut f32, u: *mut f32,
    ) {
        let (k, outputs) = if transposed { (co, ci) } else { (ci, co) };
        let blocks = outputs.div_ceil(16);
        let rows = (outputs - 16 * block).min(16);
        let width = if blocks - 2 * (block / 2) >= 2 { 32 } else { 16 };
        let dst = u.add(32 * (block / 2) * taps * k + 16 * (block % 2));
        if !transposed {
            to_lanes::<S>(w.add(block * 16 * ci * taps), ci * taps, rows, ci * taps, tmp, 16);
        }
        for c in 0..k {
            let src = if transposed {
                to_lanes::<S>(w.add((c * ci + block * 16) * taps), taps, rows, taps, tmp, 16);
                tmp.cast_const()
            } else {
                tmp.cast_const().add(16 * taps * c)
            };
            for t in 0..taps {
                S::store(dst.add((t * k + c) * width), S::load(src.add(16 * t)));
            }
        }
    }
}

/// One stride-1 or stride-2 pass over a grid of output pixels: rows `start..start + count` by `step` and so on.
#[derive(Clone, Copy)]
struct Pass {
    /// First output row and column, and the step between them (2 for the parts of a stride-2 input gradient).
    oy: usize,
    ox: usize,
    step: usize,
    /// Output rows and columns of this pass.
    rows: usize,
    cols: usize,
    /// Input step for one output pixel.
    stride: usize,
    /// Taps: input row and column relative to the padded origin, and the tap of the kernel.
    taps: [(usize, usize, usize); 9],
    count: usize,
}

/// A plan: source image, destination image, and the passes between them.
struct Plan {
    batch: usize,
    /// Source channels, height and width; destination likewise.
    src: (usize, usize, usize),
    dst: (usize, usize, usize),
    kernel_taps: usize,
    passes: Vec<Pass>,
}

const NO_TAPS: [(usize, usize, usize); 9] = [(0, 0, 0); 9];

impl Plan {
    fn forward(s: &Shape) -> Self {
        let mut taps = NO_TAPS;
        let mut count = 0;
        for ky in 0..s.k {
            for kx in 0..s.k {
                // The copy has a border of one pixel; a 1x1 kernel looks at its middle.
                let d = 1 - s.k / 2;
                taps[count] = (ky + d, kx + d, ky * s.k + kx);
                count += 1;
            }
        }
        Self {
            batch: s.batch,
            src: (s.ci, s.h, s.w),
            dst: (s.co, s.oh(), s.ow()),
            kernel_taps: s.k * s.k,
            passes: vec![Pass {
                oy: 0,
                ox: 0,
                step: 1,
                rows: s.oh(),
                cols: s.ow(),
                stride: s.stride,
                taps,
                count,
            }],
        }
    }

    /// dx[y] = sum over taps with y + pad - tap a multiple of the stride.
    fn input_gradient(s: &Shape) -> Self {
        let pad = s.k / 2;
        let mut passes = Vec::new();
        for py in 0..s.stride.min(s.h) {
            for px in 0..s.stride.min(s.w) {
                let mut taps = NO_TAPS;
                let mut count = 0;
                for ky in 0..s.k {
                    for kx in 0..s.k {
                        // y = stride i + py; output row i + (py + pad - ky) / stride, plus one for the border.
                        let (ny, nx) = (s.stride + py + pad - ky, s.stride + px + pad - kx);
                        if ny % s.stride == 0 && nx % s.stride == 0 {
                            taps[count] = (ny / s.stride, nx / s.stride, ky * s.k + kx);
                            count += 1;
                        }
                    }
                }
                passes.push(Pass {
                    oy: py,
                    ox: px,
                    step: s.stride,
                    rows: (s.h - py).div_ceil(s.stride),
                    cols: (s.w - px).div_ceil(s.stride),
                    stride: 1,
                    taps,
                    count,
                });
            }
        }
        Self {
            batch: s.batch,
            src: (s.co, s.oh(), s.ow()),
            dst: (s.ci, s.h, s.w),
            kernel_taps: s.k * s.k,
            passes,
        }
    }
}

/// Copies source rows `y0 - 1 .. y0 - 1 + rows` channel-last, with a border: `buf[row][w + 2][cp]`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn channel_last<S: Simd>(
    image: *const f32,
    (c, h, w): (usize, usize, usize),
    y0: usize,
    rows: usize,
    border: usize,
    cp: usize,
    buf: *mut f32,
) {
    unsafe {
        let line = (w + 2 * border) * cp;
        for r in 0..rows {
            let y = y0 + r;
            let dst = buf.add(r * line);
            if y < border || y >= h + border {
                clear::<S>(dst, line / 16);
                continue;
            }
            clear::<S>(dst, border * cp / 16);
            clear::<S>(dst.add((w + border) * cp), border * cp / 16);
            let mut b = 0;
            while b < c {
                let src = image.add((b * h + y - border) * w);
                to_lanes::<S>(src, h * w, (c - b).min(16), w, dst.add(border * cp + b), cp);
                b += 16;
            }
        }
    }
}

kernel! {
    /// Rows `first..last` of each pass's grid, for the chunks of 32 output channels in `chunks`, which share the copy of the rows.
    unsafe fn run_task[S](
        src: *const f32, u: *const f32, bias: *const f32, bias_step: usize, plan: &Plan, image: usize, chunks: Range<usize>,
        first: usize, last: usize, buf: *mut f32, tmp: *mut f32, out: *mut f32,
    ) {
        let (c, h, w) = plan.src;
        let cp = c.next_multiple_of(16);
        let stride = plan.passes[0].stride;
        // Rows of the copy: from the border row above the first tap to two rows below the last.
        let y0 = first * stride;
        let copied = (last - first - 1) * stride + 3;
        channel_last::<S>(src.add(image * c * h * w), (c, h, w), y0, copied, 1, cp, buf);
        for chunk in chunks {
            run_chunk::<S>(u, bias, bias_step, plan, image, 32 * chunk, first, last, buf, tmp, out);
        }
    }
}

/// As [`run_task`], from the copy of the rows, for output channels `o..o + 32`.
///
/// # Safety
/// As there.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn run_chunk<S: Simd>(
    u: *const f32,
    bias: *const f32,
    bias_step: usize,
    plan: &Plan,
    image: usize,
    o: usize,
    first: usize,
    last: usize,
    buf: *const f32,
    tmp: *mut f32,
    out: *mut f32,
) {
    let (c, _, w) = plan.src;
    let (oc, oh, ow) = plan.dst;
    let cp = c.next_multiple_of(16);
    let width = (oc.next_multiple_of(16) - o).min(32);
    let stride = plan.passes[0].stride;
    let step = plan.passes[0].step;
    // SAFETY: the caller's contract.
    unsafe {
        let u = u.add(o * plan.kernel_taps * c);
        let line = (w + 2) * cp;
        for pass in &plan.passes {
            let rows = last.min(pass.rows);
            if first >= rows || pass.cols == 0 {
                continue;
            }
            let mut taps = [(0usize, 0usize); 9];
            for i in 0..pass.count {
                let (ty, tx, k) = pass.taps[i];
                taps[i] = (ty * line + tx * cp, k * c * width);
            }
            product_rows::<S>(
                (rows - first) * pass.cols,
                width,
                |p| buf.add((p / pass.cols) * stride * line + (p % pass.cols) * stride * cp),
                &taps[..pass.count],
                c,
                u,
                width,
                |p| {
                    let y = (p / pass.cols) * step + pass.oy;
                    tmp.add((y * ow + (p % pass.cols) * step + pass.ox) * 32)
                },
                Onto::Nothing,
            );
        }
        let top = first * step;
        let pixels = (last * step).min(oh) * ow - top * ow;
        for sub in 0..width / 16 {
            let c0 = o + 16 * sub;
            if c0 >= oc {
                continue;
            }
            let lanes = (oc - c0).min(16);
            if !bias.is_null() {
                let bv = S::load_first(bias.add(image * bias_step + c0), lanes);
                for p in 0..pixels {
                    let q = tmp.add(p * 32 + 16 * sub);
                    S::store(q, S::add(S::load(q), bv));
                }
            }
            debug_assert!(image < plan.batch && c0 + lanes <= oc && top * ow + pixels <= oh * ow);
            let dst = out.add((image * oc + c0) * oh * ow + top * ow);
            from_lanes::<S>(tmp.add(16 * sub), 32, dst, oh * ow, lanes, pixels);
        }
    }
}

fn run(isa: Isa, plan: &Plan, src: &[f32], weights: &Weights, bias: Option<&[f32]>) -> Vec<f32> {
    let (c, h, w) = plan.src;
    let (oc, oh, ow) = plan.dst;
    assert_eq!(src.len(), plan.batch * c * h * w);
    assert_eq!((weights.inputs, weights.outputs), (c, oc));
    assert!(bias.is_none_or(|b| b.len() == oc || b.len() == plan.batch * oc));
    let bias_step = if bias.is_some_and(|b| b.len() > oc) {
        oc
    } else {
        0
    };
    let cp = c.next_multiple_of(16);
    let grid_rows = plan.passes.iter().map(|p| p.rows).max().unwrap_or(0);
    let stride = plan.passes.first().map_or(1, |p| p.stride);
    let step = plan.passes.first().map_or(1, |p| p.step);
    let strip = (STRIP / ((w + 2) * cp * stride)).clamp(1, grid_rows.max(1));
    let strips = grid_rows.div_ceil(strip);
    // Chunks of a task share its copy of the rows; a few tasks for each thread are enough.
    let chunks = oc.div_ceil(32);
    let wanted = TASKS * rayon::current_num_threads();
    let groups = wanted
        .div_ceil((plan.batch * strips).max(1))
        .clamp(1, chunks.max(1));
    let group = chunks.div_ceil(groups).max(1);
    let groups = chunks.div_ceil(group);
    let (src, bias, u) = (Input(src), bias.map(Input), weights.data.shared());
    // SAFETY: image, strip and group of channels name a range of the output that one task writes in full.
    unsafe {
        filled(plan.batch * oc * oh * ow, |out| {
            parallel(plan.batch * strips * groups, |task| {
                let (image, rest) = (task / (strips * groups), task % (strips * groups));
                let (s, which) = (rest / groups, rest % groups);
                let (first, last) = (s * strip, ((s + 1) * strip).min(grid_rows));
                let buf = Scratch::new((strip * stride + 3) * (w + 2) * cp);
                let tmp = Scratch::new(strip * step * ow * 32);
                let bias = bias
                    .as_ref()
                    .map_or(std::ptr::null(), super::super::memory::Input::all);
                run_task(
                    isa,
                    src.all(),
                    u.all(),
                    bias,
                    bias_step,
                    plan,
                    image,
                    which * group..chunks.min((which + 1) * group),
                    first,
                    last,
                    buf.ptr(),
                    tmp.ptr(),
                    out.all(),
                );
            });
        })
    }
}

/// `(B, O, H', W')` from `(B, I, H, W)`.
pub(crate) fn forward(
    isa: Isa,
    shape: &Shape,
    x: &[f32],
    weights: &Weights,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    run(isa, &Plan::forward(shape), x, weights, bias)
}

/// `(B, I, H, W)` from the gradient of the output; `weights` packed with `transposed`.
pub(crate) fn input_gradient(isa: Isa, shape: &Shape, dy: &[f32], weights: &Weights) -> Vec<f32> {
    run(isa, &Plan::input_gradient(shape), dy, weights, None)
}

kernel! {
    /// Sums of the products of images `first..last` for output channels `o..last_o`, to `dw`, `[tap][co][cip]`.
    unsafe fn weight_task[S](
        x: *const f32, dy: *const f32, s: &Shape, first: usize, last: usize, o: usize, last_o: usize, strip: usize,
        xb: *mut f32, yb: *mut f32, dw: *mut f32,
    ) {
        let (cip, co) = (s.ci.next_multiple_of(16), last_o - o);
        let cop = co.next_multiple_of(16);
        let (oh, ow) = (s.oh(), s.ow());
        let line = (s.w + 2) * cip;
        let d = 1 - s.k / 2;
        debug_assert!(last <= s.batch && last_o <= s.co);
        for image in first..last {
            let mut y0 = 0;
            while y0 < oh {
                let rows = strip.min(oh - y0);
                let xi = x.add(image * s.ci * s.h * s.w);
                let yi = dy.add((image * s.co + o) * oh * ow);
                let copied = (rows - 1) * s.stride + 3;
                channel_last::<S>(xi, (s.ci, s.h, s.w), y0 * s.stride, copied, 1, cip, xb);
                channel_last::<S>(yi, (co, oh, ow), y0, rows, 0, cop, yb);
                // No sum is longer than `SUM` pixels: sums of sums round less often.
                for r0 in (0..rows).step_by(SUM.div_ceil(ow)) {
                    let part = (rows - r0).min(SUM.div_ceil(ow));
                    let xb = xb.add(r0 * s.stride * line);
                    for ky in 0..s.k {
                        for kx in 0..s.k {
                            outer_rows::<S>(
                                co, cip, (part, ow), yb.add(r0 * ow * cop), (ow * cop, cop),
                                xb.add((ky + d) * line + (kx + d) * cip), (s.stride * line, s.stride * cip),
                                dw.add(((ky * s.k + kx) * s.co + o) * cip), cip,
                                image > first || y0 + r0 > 0,
                            );
                        }
                    }
                }
                y0 += rows;
            }
        }
    }
}

kernel! {
    unsafe fn weight_finish[S](
        sums: *const f32, parts: usize, part: usize, s: &Shape, o: usize, dw: *mut f32,
    ) {
        let cip = s.ci.next_multiple_of(16);
        let taps = s.k * s.k;
        let mut tmp = [0f32; 9 * 16];
        for block in 0..cip / 16 {
            for t in 0..taps {
                let src = sums.add((t * s.co + o) * cip + 16 * block);
                let mut sum = S::load(src);
                for q in 1..parts {
                    sum = S::add(sum, S::load(src.add(q * part)));
                }
                S::store(tmp.as_mut_ptr().add(16 * t), sum);
            }
            let lanes = (s.ci - 16 * block).min(16);
            let dw = dw.add((o * s.ci + 16 * block) * taps);
            if taps == 1 {
                S::store_first(dw, S::load(tmp.as_ptr()), lanes);
            } else {
                from_lanes::<S>(tmp.as_ptr(), 16, dw, taps, lanes, taps);
            }
        }
    }
}

/// The gradient of the weights, `(O, I, k, k)`.
pub(crate) fn weight_gradient(isa: Isa, s: &Shape, x: &[f32], dy: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), s.batch * s.ci * s.h * s.w);
    assert_eq!(dy.len(), s.batch * s.co * s.oh() * s.ow());
    let cip = s.ci.next_multiple_of(16);
    let part = s.k * s.k * s.co * cip;
    // The parts depend on the shape alone, and so does the order of the sum.
    let most = ((16 << 20) / (4 * part)).clamp(2, 8);
    let per_part = s.batch.div_ceil(most);
    let parts = s.batch.div_ceil(per_part);
    // Few parts: the output channels are split as well, and each group copies the input for itself.
    let groups = (2 * rayon::current_num_threads())
        .div_ceil(parts)
        .min(s.co.div_ceil(32));
    let per_group = s.co.div_ceil(groups).next_multiple_of(16);
    let groups = s.co.div_ceil(per_group);
    let strip = (STRIP / ((s.w + 2) * cip * s.stride)).clamp(1, s.oh().max(1));
    let sums = Scratch::new(parts * part);
    let partial = sums.shared();
    let (x, dy) = (Input(x), Input(dy));
    parallel(parts * groups, |i| {
        let (i, o) = (i / groups, i % groups * per_group);
        let xb = Scratch::new((strip * s.stride + 3) * (s.w + 2) * cip);
        let yb = Scratch::new(strip * s.ow() * per_group);
        let last = ((i + 1) * per_part).min(s.batch);
        // SAFETY: part and group name sums that one task writes; the scratch holds the strips.
        unsafe {
            weight_task(
                isa,
                x.all(),
                dy.all(),
                s,
                i * per_part,
                last,
                o,
                (o + per_group).min(s.co),
                strip,
                xb.ptr(),
                yb.ptr(),
                partial.at(i * part, part),
            );
        }
    });
    // SAFETY: output channel `o` writes its own range of the gradient.
    unsafe {
        filled(s.co * s.ci * s.k * s.k, |dw| {
            parallel(s.co, |o| {
                weight_finish(isa, partial.all(), parts, part, s, o, dw.all());
            });
        })
    }
}
