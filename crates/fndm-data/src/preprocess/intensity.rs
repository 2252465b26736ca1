//! Scaling intensities to [-1, 1].

use ndarray::{Array3, ArrayView3, Zip};
use serde::{Deserialize, Serialize};

use super::HistogramReference;
use crate::{Error, Result};

/// How the intensities within the head are scaled, for each volume and sequence by
/// itself. The background is -1 in any case.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalization {
    /// The lower percentile becomes -1, the upper 1, linear between.
    #[default]
    Percentile,
    /// Mean 0 and standard deviation 1 within the head, after clipping at the
    /// percentiles; then `clip` deviations become 1, and what is beyond is clipped.
    ZScore {
        /// Deviations that become 1. Above 0; 3 is usual.
        clip: f64,
    },
    /// Percentiles of the head are mapped to those of reference volumes, linear between.
    Histogram {
        /// The reference, one list of landmarks for each sequence.
        reference: HistogramReference,
    },
}

impl Normalization {
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::ZScore { clip } if !(clip.is_finite() && *clip > 0.0) => {
                Err(Error::config("Normalization::ZScore.clip", "above 0", clip))
            }
            Self::Histogram { reference } => reference.check(),
            Self::Percentile | Self::ZScore { .. } => Ok(()),
        }
    }

    /// The scaling of one sequence of one volume.
    pub(super) fn fit(
        &self,
        sequence: &str,
        stack: &ArrayView3<'_, f32>,
        head: &Array3<bool>,
        percentiles: (f64, f64),
    ) -> Result<Scale> {
        let mut values = inside(stack, head);
        let low = percentile(&mut values, percentiles.0).unwrap_or(0.0);
        let high = percentile(&mut values, percentiles.1).unwrap_or(0.0);
        let (low, high) = spread(low, high, stack);
        Ok(match self {
            Self::Percentile => Scale::linear(low, high, -1.0, 1.0),
            Self::ZScore { clip } => {
                let clipped = || values.iter().map(|v| f64::from(v.clamp(low, high)));
                let count = values.len().max(1) as f64;
                let mean = clipped().sum::<f64>() / count;
                let variance = clipped().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
                let reach = clip * variance.sqrt();
                let at =
                    |value: f32| ((f64::from(value) - mean) / reach.max(f64::MIN_POSITIVE)) as f32;
                Scale::linear(low, high, at(low), at(high))
            }
            Self::Histogram { reference } => {
                let wanted = reference.landmarks(sequence)?;
                let mut found = HistogramReference::percentiles(&mut values, percentiles);
                if let [first, .., last] = found.as_mut_slice() {
                    (*first, *last) = (low, high);
                }
                Scale::pieces(&found, wanted)
            }
        })
    }
}

/// Percentiles that differ: where nearly all of the head has one value, the volume's
/// own lowest and highest take their place.
fn spread(low: f32, high: f32, stack: &ArrayView3<'_, f32>) -> (f32, f32) {
    if high > low {
        return (low, high);
    }
    let least = stack.fold(f32::INFINITY, |least, v| least.min(*v));
    let most = stack.fold(f32::NEG_INFINITY, |most, v| most.max(*v));
    if high > least {
        (least, high)
    } else {
        (least, most)
    }
}

/// The values within the head.
pub(crate) fn inside(stack: &ArrayView3<'_, f32>, head: &Array3<bool>) -> Vec<f32> {
    let count = head.iter().filter(|bit| **bit).count();
    let mut values = Vec::with_capacity(count);
    Zip::from(stack).and(head).for_each(|&value, &inside| {
        if inside {
            values.push(value);
        }
    });
    values
}

/// A rising map, linear between points, clipped at its ends and at -1 and 1.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    /// Input and output, inputs rising strictly.
    points: Vec<(f32, f32)>,
}

impl Scale {
    fn linear(low: f32, high: f32, from: f32, to: f32) -> Self {
        Self {
            points: vec![(low, from), (high, to)],
        }
    }

    /// A map through points; of points with the same input the last is kept.
    fn pieces(inputs: &[f32], outputs: &[f32]) -> Self {
        let mut points: Vec<(f32, f32)> = Vec::with_capacity(inputs.len());
        for (&input, &output) in inputs.iter().zip(outputs) {
            match points.last_mut() {
                Some(last) if input <= last.0 => last.1 = output,
                _ => points.push((input, output)),
            }
        }
        Self { points }
    }

    /// The scaled value, in [-1, 1].
    pub(super) fn map(&self, value: f32) -> f32 {
        let above = self.points.partition_point(|p| p.0 <= value);
        let below = above.checked_sub(1).and_then(|n| self.points.get(n));
        let out = match (below, self.points.get(above)) {
            (Some(a), Some(b)) => {
                // In f64: volumes of any range keep their order.
                let part = (f64::from(value) - f64::from(a.0)) / (f64::from(b.0) - f64::from(a.0));
                (f64::from(a.1) + part * (f64::from(b.1) - f64::from(a.1))) as f32
            }
            (Some(end), None) | (None, Some(end)) => end.1,
            (None, None) => -1.0,
        };
        out.clamp(-1.0, 1.0)
    }
}

/// The q-th percentile (0 to 100) with linear interpolation between ranks, as numpy
/// does by default. `None` for no value. The order of the values is changed.
pub(crate) fn percentile(values: &mut [f32], q: f64) -> Option<f32> {
    let last = values.len().checked_sub(1)?;
    let rank = q / 100.0 * last as f64;
    let below = (rank.floor() as usize).min(last);
    let (_, &mut low, rest) = values.select_nth_unstable_by(below, f32::total_cmp);
    let high = rest.iter().copied().fold(f32::INFINITY, f32::min);
    let part = rank - below as f64;
    if part == 0.0 || rest.is_empty() {
        return Some(low);
    }
    Some((f64::from(low) + (f64::from(high) - f64::from(low)) * part) as f32)
}
