//! How far every voxel stands out from its background, on one scale for all sequences.

use ndarray::{ArrayView3, s};

use super::intensity::percentile;

/// A background is bright where the corners' median lies above this part of the scale.
/// In scans with a dark background it lies below 0.04.
const BRIGHT: f32 = 0.1;
/// Corners count as one background where this share of them ...
const SHARE: f64 = 0.8;
/// ... lies within this part of the scale around their median: tissue never does.
const FLAT: f32 = 0.05;
/// Least share of the voxels that is not background: in a volume cut to the inside of the head,
/// the value that all corners share is tissue.
const LEAST_HEAD: f64 = 0.02;

/// The scale of one sequence of one volume: 0 for the background, 1 for the 99th
/// percentile of what stands out from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contrast {
    /// Level of a bright background, from which distances are taken. `None` where the background is dark.
    background: Option<f32>,
    low: f32,
    range: f32,
}

impl Contrast {
    /// The scale of a stack (N, H, W); `None` where all voxels are equal.
    ///
    /// Most scans have a dark background, and the value itself is what stands out. Some
    /// don't: bias correction or compression can turn the air grey, and volumes brought to
    /// mean 0 have their zeros amid the range. Where the corners of the slices share
    /// one value well above the lowest, the distance from it takes the value's place.
    pub(super) fn of(stack: &ArrayView3<'_, f32>) -> Option<Self> {
        let dark = Self::above(stack, None)?;
        match dark.bright_background(stack) {
            Some(level) => Self::above(stack, Some(level)),
            None => Some(dark),
        }
    }

    /// From the lowest value to the 99th percentile of what is above it.
    fn above(stack: &ArrayView3<'_, f32>, background: Option<f32>) -> Option<Self> {
        let mut scale = Self {
            background,
            low: 0.0,
            range: 1.0,
        };
        let low = stack.fold(f32::INFINITY, |low, &v| low.min(scale.distance(v)));
        // Of its full length at once: a vector that grows holds its values twice while it does.
        let mut above: Vec<f32> = Vec::with_capacity(stack.len());
        let distances = stack.iter().map(|&v| scale.distance(v));
        above.extend(distances.filter(|v| *v > low));
        let high = percentile(&mut above, 99.0)?;
        (scale.low, scale.range) = (low, high - low);
        (scale.range > 0.0).then_some(scale)
    }

    /// The level of the corners, where it is one and not dark.
    fn bright_background(&self, stack: &ArrayView3<'_, f32>) -> Option<f32> {
        let (_, height, width) = stack.dim();
        let side = (height.min(width) / 16).max(1);
        let mut corners: Vec<f32> = Vec::new();
        for rows in [0..side, height.saturating_sub(side)..height] {
            for columns in [0..side, width.saturating_sub(side)..width] {
                corners.extend(stack.slice(s![.., rows.clone(), columns]));
            }
        }
        let level = percentile(&mut corners, 50.0)?;
        let flat = |v: f32| (v - level).abs() <= FLAT * self.range;
        let share = |flat: usize, of: usize| flat as f64 / of as f64;
        let corner = share(corners.iter().filter(|v| flat(**v)).count(), corners.len());
        if self.map(level) <= BRIGHT || corner < SHARE {
            return None;
        }
        let all = stack.fold(0, |count, &v| count + usize::from(flat(v)));
        (share(all, stack.len()) <= 1.0 - LEAST_HEAD).then_some(level)
    }

    fn distance(&self, value: f32) -> f32 {
        match self.background {
            Some(level) => (value - level).abs(),
            None => value,
        }
    }

    /// How far a value stands out, 0 to 1.
    pub(super) fn map(&self, value: f32) -> f32 {
        ((self.distance(value) - self.low) / self.range).min(1.0)
    }
}
