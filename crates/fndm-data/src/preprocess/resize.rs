//! Padding to a square and resizing, both ways.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, SliceInfo, SliceInfoElem, s};

/// A square that holds a slice in its middle, or the middle of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pad {
    /// Side of the square.
    pub(super) size: usize,
    rows: Span,
    columns: Span,
}

/// The common part of a slice and the square, along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    in_square: usize,
    in_slice: usize,
    length: usize,
}

impl Span {
    fn new(slice: usize, square: usize) -> Self {
        Self {
            in_square: square.saturating_sub(slice) / 2,
            in_slice: slice.saturating_sub(square) / 2,
            length: slice.min(square),
        }
    }
}

type Part = SliceInfo<[SliceInfoElem; 2], ndarray::Ix2, ndarray::Ix2>;

impl Pad {
    /// A square for slices of the given size: cropped to at most one size, then padded to at least another.
    pub(super) fn square(
        height: usize,
        width: usize,
        at_most: Option<usize>,
        at_least: Option<usize>,
    ) -> Self {
        let side = height.max(width).min(at_most.unwrap_or(usize::MAX));
        let size = side.max(at_least.unwrap_or(0));
        // Padding after cropping: what was cut off stays off.
        let span = |length: usize| {
            let kept = length.min(side);
            Span {
                in_slice: (length - kept) / 2,
                ..Span::new(kept, size)
            }
        };
        Self {
            size,
            rows: span(height),
            columns: span(width),
        }
    }

    /// Row and column of the slice at which the square begins; below 0 where the square is padded.
    pub(super) fn corner(&self) -> (isize, isize) {
        let begin = |span: Span| span.in_slice as isize - span.in_square as isize;
        (begin(self.rows), begin(self.columns))
    }

    /// The part of the square that the slice fills.
    pub(super) fn in_square(&self) -> Part {
        let (r, c) = (self.rows, self.columns);
        s![
            r.in_square..r.in_square + r.length,
            c.in_square..c.in_square + c.length
        ]
    }

    /// The part of the slice that stands in the square.
    pub(super) fn in_slice(&self) -> Part {
        let (r, c) = (self.rows, self.columns);
        s![
            r.in_slice..r.in_slice + r.length,
            c.in_slice..c.in_slice + c.length
        ]
    }
}

/// Resizes a square image, first along its rows, then along its columns.
///
/// Pixel centres are at half numbers, so that the image's edges stay where they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Resampler {
    input: usize,
    /// For each output pixel: first input pixel and the weights from there on.
    taps: Vec<(usize, Vec<f32>)>,
}

impl Resampler {
    /// Area averages when shrinking, linear when growing, a copy when neither.
    #[must_use]
    pub fn image(input: usize, output: usize) -> Self {
        if output < input {
            Self::area(input, output)
        } else {
            Self::linear(input, output)
        }
    }

    /// Each output pixel is the average of the area that it covers.
    #[must_use]
    pub fn area(input: usize, output: usize) -> Self {
        let step = input as f64 / output as f64;
        let taps = (0..output)
            .map(|n| {
                let (from, to) = (n as f64 * step, (n + 1) as f64 * step);
                // The subtraction keeps rounding from adding a pixel of weight 1e-16.
                let first = (from + 1e-9).floor() as usize;
                let last = ((to - 1e-9).floor() as usize).min(input.saturating_sub(1));
                let weights = (first..=last)
                    .map(|m| (((m + 1) as f64).min(to) - (m as f64).max(from)) / step)
                    .map(|w| w as f32)
                    .collect();
                (first, weights)
            })
            .collect();
        Self { input, taps }
    }

    /// Linear interpolation between pixel centres; the edge pixel beyond the outermost centres.
    #[must_use]
    pub fn linear(input: usize, output: usize) -> Self {
        let step = input as f64 / output as f64;
        let last = input.saturating_sub(1);
        let taps = (0..output)
            .map(|n| {
                let place = ((n as f64 + 0.5) * step - 0.5).clamp(0.0, last as f64);
                let first = place.floor() as usize;
                let part = (place - first as f64) as f32;
                if part == 0.0 || first == last {
                    (first, vec![1.0])
                } else {
                    (first, vec![1.0 - part, part])
                }
            })
            .collect();
        Self { input, taps }
    }

    /// The pixel that each output pixel's centre lies in.
    #[must_use]
    pub fn nearest(input: usize, output: usize) -> Self {
        let last = input.saturating_sub(1);
        let taps = (0..output)
            // (n + 1/2) * input / output, rounded down, in whole numbers.
            .map(|n| (((2 * n + 1) * input / (2 * output)).min(last), vec![1.0]))
            .collect();
        Self { input, taps }
    }

    /// Side of the images made.
    #[must_use]
    pub fn output(&self) -> usize {
        self.taps.len()
    }

    fn is_identity(&self) -> bool {
        let same = |(n, tap): (usize, &(usize, Vec<f32>))| tap.0 == n && tap.1 == [1.0];
        self.input == self.taps.len() && self.taps.iter().enumerate().all(same)
    }

    /// Resizes a square of the input's side into a square of the output's side.
    /// Images of other sizes are left alone.
    pub fn apply(&self, image: ArrayView2<'_, f32>, mut out: ArrayViewMut2<'_, f32>) {
        let size = self.output();
        if image.dim() != (self.input, self.input) || out.dim() != (size, size) {
            return;
        }
        if self.is_identity() {
            out.assign(&image);
            return;
        }
        let mut rows = Array2::<f32>::zeros((self.input, size));
        for (source, mut target) in image.rows().into_iter().zip(rows.rows_mut()) {
            for (value, (first, weights)) in target.iter_mut().zip(&self.taps) {
                *value = weights
                    .iter()
                    .zip(source.iter().skip(*first))
                    .map(|(w, v)| w * v)
                    .sum();
            }
        }
        for (mut target, (first, weights)) in out.rows_mut().into_iter().zip(&self.taps) {
            target.fill(0.0);
            for (weight, source) in weights.iter().zip(rows.rows().into_iter().skip(*first)) {
                target.scaled_add(*weight, &source);
            }
        }
    }
}

/// A mask padded and resized: set where at least half of the pixel's area is set.
pub(super) fn majority(bits: ArrayView2<'_, bool>, pad: &Pad, size: usize) -> Array2<bool> {
    let mut square = Array2::<f32>::zeros((pad.size, pad.size));
    square
        .slice_mut(pad.in_square())
        .zip_mut_with(&bits.slice(pad.in_slice()), |out, &bit| {
            *out = f32::from(u8::from(bit));
        });
    let mut small = Array2::<f32>::zeros((size, size));
    Resampler::area(pad.size, size).apply(square.view(), small.view_mut());
    // Weights are rounded: a half must count as a half.
    small.mapv(|share| share >= 0.5 - 1e-5)
}
