//! Telling the head from the background.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, Zip};
use serde::{Deserialize, Serialize};

use super::background::Contrast;
use crate::{Error, Result};

/// The threshold between background and head, on the mean of the sequences, each
/// scaled from its lowest value (0) to its 99th percentile (1).
///
/// Where a sequence's background is bright (the corners of its slices share one value, a
/// tenth of the scale or more above the lowest), the distance from that value takes the
/// value's place. After thresholding, the largest connected part of the volume is kept and holes are
/// filled in each slice. Works with and without skull.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum HeadThreshold {
    /// Otsu's threshold times `scale`. Otsu's own (1) lies between dark and bright
    /// tissue in many scans; half of it lies below the tissue.
    Otsu {
        /// Factor, above 0 and at most 1.
        scale: f64,
    },
    /// A fixed fraction of the 99th percentile.
    Fraction {
        /// The fraction, between 0 and 1.
        value: f64,
    },
}

impl Default for HeadThreshold {
    fn default() -> Self {
        Self::Otsu { scale: 0.5 }
    }
}

impl HeadThreshold {
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Otsu { scale } if !(scale > 0.0 && scale <= 1.0) => Err(Error::config(
                "HeadThreshold::Otsu.scale",
                "above 0, at most 1",
                scale,
            )),
            Self::Fraction { value } if !(value > 0.0 && value < 1.0) => Err(Error::config(
                "HeadThreshold::Fraction.value",
                "between 0 and 1",
                value,
            )),
            _ => Ok(()),
        }
    }

    /// The head by the mean of its sequences.
    pub(super) fn find(self, mean: HeadMean) -> Array3<bool> {
        let mean = mean.sum;
        let threshold = match self {
            Self::Otsu { scale } => otsu(&mean) * scale as f32,
            Self::Fraction { value } => value as f32,
        };
        let mut head = mean.mapv(|v| v > threshold);
        drop(mean);
        keep_largest(&mut head);
        for slice in head.axis_iter_mut(Axis(0)) {
            fill_holes(slice);
        }
        head
    }
}

/// The mean of stacks (N, H, W), each scaled from 0 (background) to 1 (what stands out most). The stacks come one after the other, so
/// that one is in memory at a time.
pub(super) struct HeadMean {
    sum: Array3<f32>,
    /// What each of them counts.
    share: f32,
}

impl HeadMean {
    /// Of so many stacks of this shape that are still to come.
    pub(super) fn of(shape: (usize, usize, usize), stacks: usize) -> Self {
        Self {
            sum: Array3::zeros(shape),
            share: 1.0 / stacks as f32,
        }
    }

    /// Adds a stack. One that is constant counts nothing.
    pub(super) fn add(&mut self, stack: &ArrayView3<'_, f32>) {
        let Some(contrast) = Contrast::of(stack) else {
            return;
        };
        let share = self.share;
        Zip::from(&mut self.sum).and(stack).for_each(|m, &v| {
            *m += contrast.map(v) * share;
        });
    }
}

/// Otsu's threshold of values in [0, 1], from 256 bins.
fn otsu(values: &Array3<f32>) -> f32 {
    const BINS: usize = 256;
    let mut counts = [0u64; BINS];
    for &value in values {
        let bin = (value * BINS as f32) as usize;
        counts[bin.min(BINS - 1)] += 1;
    }
    let centre = |bin: usize| (bin as f64 + 0.5) / BINS as f64;
    let total: f64 = counts.iter().sum::<u64>() as f64;
    let sum: f64 = (0..BINS).map(|bin| counts[bin] as f64 * centre(bin)).sum();
    let (mut below, mut sum_below) = (0.0, 0.0);
    let (mut best, mut threshold) = (-1.0, 0.0);
    for (bin, &count) in counts.iter().enumerate().take(BINS - 1) {
        below += count as f64;
        sum_below += count as f64 * centre(bin);
        let above = total - below;
        if below == 0.0 || above == 0.0 {
            continue;
        }
        let gap = sum_below / below - (sum - sum_below) / above;
        let between = below * above * gap * gap;
        if between > best {
            best = between;
            threshold = (bin + 1) as f64 / BINS as f64;
        }
    }
    threshold as f32
}

/// Keeps the largest part whose voxels touch by their faces.
fn keep_largest(bits: &mut Array3<bool>) {
    let (depth, height, width) = bits.dim();
    let mut part = Array3::<u32>::zeros((depth, height, width));
    // A place is one number here: the queue may hold a large part of the volume.
    let number = |z: usize, y: usize, x: usize| (z * height + y) * width + x;
    let mut queue: Vec<usize> = Vec::new();
    let (mut next, mut best, mut best_size) = (0u32, 0u32, 0usize);
    for start in ndarray::indices((depth, height, width)) {
        if !bits[start] || part[start] != 0 {
            continue;
        }
        next += 1;
        part[start] = next;
        queue.push(number(start.0, start.1, start.2));
        let mut size = 0;
        while let Some(at) = queue.pop() {
            size += 1;
            let (z, y, x) = (at / (height * width), at / width % height, at % width);
            let mut visit = |z: usize, y: usize, x: usize| {
                if bits[(z, y, x)] && part[(z, y, x)] == 0 {
                    part[(z, y, x)] = next;
                    queue.push(number(z, y, x));
                }
            };
            if z > 0 {
                visit(z - 1, y, x);
            }
            if z + 1 < depth {
                visit(z + 1, y, x);
            }
            if y > 0 {
                visit(z, y - 1, x);
            }
            if y + 1 < height {
                visit(z, y + 1, x);
            }
            if x > 0 {
                visit(z, y, x - 1);
            }
            if x + 1 < width {
                visit(z, y, x + 1);
            }
        }
        if size > best_size {
            (best, best_size) = (next, size);
        }
    }
    Zip::from(bits).and(&part).for_each(|bit, &part| {
        *bit = best != 0 && part == best;
    });
}

/// Sets every pixel that cannot be reached from the slice's border without crossing the head.
fn fill_holes(mut slice: ndarray::ArrayViewMut2<'_, bool>) {
    let (height, width) = slice.dim();
    let mut outside = Array2::from_elem((height, width), false);
    let mut queue = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let border = y == 0 || x == 0 || y + 1 == height || x + 1 == width;
            if border && !slice[(y, x)] {
                outside[(y, x)] = true;
                queue.push((y, x));
            }
        }
    }
    while let Some((y, x)) = queue.pop() {
        let mut visit = |y: usize, x: usize| {
            if !slice[(y, x)] && !outside[(y, x)] {
                outside[(y, x)] = true;
                queue.push((y, x));
            }
        };
        if y > 0 {
            visit(y - 1, x);
        }
        if y + 1 < height {
            visit(y + 1, x);
        }
        if x > 0 {
            visit(y, x - 1);
        }
        if x + 1 < width {
            visit(y, x + 1);
        }
    }
    Zip::from(&mut slice)
        .and(&outside)
        .for_each(|bit, &outside| *bit = !outside);
}

/// A mask (H, W) without the pixels that lie within `pixels` of its outside, by
/// city-block steps. The slice's border counts as outside.
///
/// Used to keep the scalp out of anomaly maps.
///
/// ```
/// use fndm_data::preprocess::erode;
/// let head = ndarray::Array2::from_elem((5, 5), true);
/// assert_eq!(erode(head.view(), 2).iter().filter(|b| **b).count(), 1);
/// ```
#[must_use]
pub fn erode(mask: ArrayView2<'_, bool>, pixels: usize) -> Array2<bool> {
    let (height, width) = mask.dim();
    let mut distance = mask.mapv(|bit| if bit { usize::MAX } else { 0 });
    for y in 0..height {
        for x in 0..width {
            let up = if y > 0 { distance[(y - 1, x)] } else { 0 };
            let left = if x > 0 { distance[(y, x - 1)] } else { 0 };
            let near = up.min(left).saturating_add(1);
            distance[(y, x)] = distance[(y, x)].min(near);
        }
    }
    for y in (0..height).rev() {
        for x in (0..width).rev() {
            let down = if y + 1 < height {
                distance[(y + 1, x)]
            } else {
                0
            };
            let right = if x + 1 < width {
                distance[(y, x + 1)]
            } else {
                0
            };
            let near = down.min(right).saturating_add(1);
            distance[(y, x)] = distance[(y, x)].min(near);
        }
    }
    distance.mapv(|d| d > pixels)
}
