use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;

use crate::{Error, Result};

/// Bilinear resizing of planes: half-pixel centres, no aligned corners, edges held.
#[derive(Debug)]
pub(crate) struct Bilinear {
    from: (usize, usize),
    to: (usize, usize),
    rows: Vec<(usize, usize, f32)>,
    columns: Vec<(usize, usize, f32)>,
}

impl Bilinear {
    pub(crate) fn new(from: (usize, usize), to: (usize, usize)) -> Self {
        Self {
            from,
            to,
            rows: taps(from.0, to.0),
            columns: taps(from.1, to.1),
        }
    }

    /// `input` has the values of `from`, `out` those of `to`.
    pub(crate) fn apply(&self, input: &[f32], out: &mut [f32]) {
        let width = self.from.1;
        for (out, &(y0, y1, fy)) in out.chunks_exact_mut(self.to.1).zip(&self.rows) {
            let (top, bottom) = (&input[y0 * width..][..width], &input[y1 * width..][..width]);
            for (o, &(x0, x1, fx)) in out.iter_mut().zip(&self.columns) {
                let a = top[x0] + fx * (top[x1] - top[x0]);
                let b = bottom[x0] + fx * (bottom[x1] - bottom[x0]);
                *o = a + fy * (b - a);
            }
        }
    }
}

/// For every output cell: the two input cells and the second one's weight.
fn taps(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let at = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
            let low = (at as usize).min(from - 1);
            let high = (low + 1).min(from - 1);
            (low, high, (at - low as f64) as f32)
        })
        .collect()
}

/// Resizes planes `(B, h, w)` to `(B, H, W)` bilinearly, with half-pixel centres.
///
/// # Errors
/// When a side is 0.
pub fn upsample_bilinear(planes: ArrayView3<'_, f32>, size: (usize, usize)) -> Result<Array3<f32>> {
    let (b, h, w) = planes.dim();
    if h * w * size.0 * size.1 == 0 {
        return Err(Error::shape(
            "planes to resize",
            "sides of 1 or more",
            (planes.dim(), size),
        ));
    }
    let resize = Bilinear::new((h, w), size);
    let mut out = Array3::zeros((b, size.0, size.1));
    let input = planes.as_standard_layout();
    if let (Some(input), Some(out)) = (input.as_slice(), out.as_slice_mut()) {
        out.par_chunks_mut(size.0 * size.1)
            .zip(input.par_chunks(h * w))
            .for_each(|(out, input)| resize.apply(input, out));
    }
    Ok(out)
}
