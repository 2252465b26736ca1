//! 1x1 convolution of stride 1: a product of the weights with the pixels of each image.
//!
//! Lanes are pixels, so that nothing changes its layout.

use super::Shape;
use crate::memory::{Input, Scratch, filled};
use crate::simd::{Isa, kernel};
use crate::tile::{Onto, product_rows, to_lanes};
use fndm_runtime::parallel;

/// Floats of a panel of pixels, about: half of a first-level cache.
const PANEL: usize = 6 << 10;

/// Sizes of one product: `k` channels in, `rows` channels out.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    k: usize,
    rows: usize,
    pixels: usize,
    /// Pixels of a panel, a multiple of 32.
    panel: usize,
    /// From one row of the weights to the next.
    lda: usize,
}

impl Sizes {
    fn new(batch: usize, k: usize, rows: usize, pixels: usize, lda: usize) -> Self {
        Self {
            batch,
            k,
            rows,
            pixels,
            panel: (PANEL / k / 32 * 32).clamp(32, 256),
            lda,
        }
    }
}

kernel! {
    /// Pixels `first..first + n` of one image. `panel`: `k * s.panel`, `tail`: `rows * 32` floats.
    unsafe fn task[S](
        x: *const f32, w: *const f32, bias: *const f32, s: Sizes, first: usize, n: usize,
        panel: *mut f32, tail: *mut f32, out: *mut f32,
    ) {
        for c in 0..s.k {
            let src = x.add(c * s.pixels + first);
            let mut i = 0;
            while i < n {
                // The next task's pixels: those of each channel lie in pages of their own, where nothing else asks for them ahead.
                S::prefetch(src.wrapping_add(i + n));
                S::store(panel.add(c * s.panel + i), S::load_first(src.add(i), (n - i).min(16)));
                i += 16;
            }
        }
        let onto = if bias.is_null() { Onto::Nothing } else { Onto::Rows(bias) };
        let mut l = 0;
        while l < n {
            let left = n - l;
            let lanes = if left > 16 { 32 } else { 16 };
            // Whole vectors go to the output, ragged ones by way of `tail`.
            let (dst, ldo) = if left >= lanes { (out.add(first + l), s.pixels) } else { (tail, 32) };
            product_rows::<S>(
                s.rows, lanes, |r| w.add(r * s.lda), &[(0, 0)], s.k, panel.add(l), s.panel,
                |r| dst.add(r * ldo), onto,
            );
            if left < lanes {
                for r in 0..s.rows {
                    std::ptr::copy_nonoverlapping(tail.add(r * 32), out.add(r * s.pixels + first + l), left);
                }
            }
            l += lanes;
        }
    }
}

/// `bias` is `(rows)` or `(batch, rows)`.
fn run(isa: Isa, s: Sizes, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    assert_eq!(x.len(), s.batch * s.k * s.pixels);
    assert!(w.len() >= (s.rows - 1) * s.lda + s.k);
    assert!(bias.is_none_or(|b| b.len() == s.rows || b.len() == s.batch * s.rows));
    let bias_step = if bias.is_some_and(|b| b.len() > s.rows) {
        s.rows
    } else {
        0
    };
    let (x, w, bias) = (Input(x), Input(w), bias.map(Input));
    let panels = s.pixels.div_ceil(s.panel);
    // SAFETY: image and panel name pixels that one task writes for every output channel.
    unsafe {
        filled(s.batch * s.rows * s.pixels, |out| {
            parallel(s.batch * panels, |i| {
                let (image, first) = (i / panels, i % panels * s.panel);
                let panel = Scratch::new(s.k * s.panel);
                let tail = Scratch::new(s.rows * 32);
                let bias = bias
                    .as_ref()
                    .map_or(std::ptr::null(), |b| b.at(image * bias_step, s.rows));
                task(
                    isa,
                    x.at(image * s.k * s.pixels, s.k * s.pixels),
                    w.all(),
                    bias,
                    s,
                    first,
                    s.panel.min(s.pixels - first),
                    panel.ptr(),
                    tail.ptr(),
                    out.at(image * s.rows * s.pixels, s.rows * s.pixels),
                );
            });
        })
    }
}

/// `(B, O, H, W)` from `(B, I, H, W)` and weights `(O, I)`.
pub(crate) fn forward(isa: Isa, s: &Shape, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let sizes = Sizes::new(s.batch, s.ci, s.co, s.h * s.w, s.ci);
    run(isa, sizes, x, w, bias)
}

kernel! {
    /// `dst[i * ldd + o] = w[o * ci + i]`; `ldd` is a multiple of 16.
    unsafe fn transpose[S](w: *const f32, co: usize, ci: usize, dst: *mut f32, ldd: usize) {
        let mut o = 0;
        while o < co {
            to_lanes::<S>(w.add(o * ci), ci, (co - o).min(16), ci, dst.add(o), ldd);
            o += 16;
        }
    }
}

/// `(B, I, H, W)` from the gradient of the output.
pub(crate) fn input_gradient(isa: Isa, s: &Shape, dy: &[f32], w: &[f32]) -> Vec<f32> {
    assert_eq!(w.len(), s.co * s.ci);
    let cop = s.co.next_multiple_of(16);
    let turned = Scratch::new(s.ci * cop);
    // SAFETY: `turned` holds `ci` rows of `cop` floats, which `transpose` writes and no one else sees.
    let turned_weights = unsafe {
        transpose(isa, Input(w).all(), s.co, s.ci, turned.ptr(), cop);
        std::slice::from_raw_parts(turned.ptr(), s.ci * cop)
    };
    let sizes = Sizes::new(s.batch, s.co, s.ci, s.h * s.w, cop);
    run(isa, sizes, dy, turned_weights, None)
}
