//! What a student's numbers mean, learned from the bits of slices that it hasn't seen.

use ndarray::{Array3, Axis};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Pixels whose mean says how suspicious a slice is.
const TOP: usize = 20;
/// What a probability is kept away from 0 and 1 by.
const EDGE: f64 = 1e-6;

/// The threshold of a pixel, and the line from a slice's highest pixels to its probability of being diseased.
///
/// No mask is looked at. The threshold is the lowest above which few healthy slices have any pixel; probabilities are shifted
/// on the scale of log-odds, so that it comes to lie at 0.5. The line is a logistic regression on the bits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentCalibration {
    /// The probability that is shifted to 0.5.
    pub threshold: f64,
    /// Log-odds of a slice whose mean log-odds of the highest pixels are 0.
    pub offset: f64,
    /// Log-odds of a slice per log-odds of its highest pixels.
    pub slope: f64,
    /// Healthy and diseased slices that it was learned from.
    pub slices: [usize; 2],
}

impl StudentCalibration {
    /// No shift, and a slice as likely diseased as its highest pixels.
    pub const NONE: Self = Self {
        threshold: 0.5,
        offset: 0.0,
        slope: 1.0,
        slices: [0, 0],
    };

    /// Learns from probabilities `(N, H, W)` of slices with these labels, 0 healthy and 1 diseased. The share `empty` of the
    /// healthy slices, 0 to 1, gets an empty mask.
    ///
    /// # Errors
    /// When the lengths differ, or there is no healthy or no diseased slice.
    pub fn learn(maps: &Array3<f32>, labels: &[u8], empty: f64) -> Result<Self> {
        let healthy = labels.iter().filter(|&&l| l == 0).count();
        let slices = [healthy, labels.len() - healthy];
        if labels.len() != maps.dim().0 || slices.contains(&0) {
            return Err(Error::Input {
                what: "slices to calibrate by".into(),
                expected: "a label for each, of both kinds".into(),
                got: format!("{} slices, {slices:?} healthy and diseased", maps.dim().0),
            });
        }
        if !(0.0..=1.0).contains(&empty) {
            return Err(Error::option("empty", "0 to 1", empty));
        }
        let mut highest: Vec<f32> = maps
            .axis_iter(Axis(0))
            .zip(labels)
            .filter(|&(_, &label)| label == 0)
            .map(|(map, _)| map.fold(0.0, |m, &v| f32::max(m, v)))
            .collect();
        highest.sort_by(f32::total_cmp);
        let at = ((empty * healthy as f64).ceil() as usize).clamp(1, healthy) - 1;
        let points: Vec<(f64, f64)> = maps
            .axis_iter(Axis(0))
            .zip(labels)
            .map(|(map, &label)| (suspicion(map.iter().copied()), f64::from(label)))
            .collect();
        let (offset, slope) = logistic(&points);
        Ok(Self {
            threshold: f64::from(highest[at]).clamp(EDGE, 1.0 - EDGE),
            offset,
            slope,
            slices,
        })
    }

    /// The probability of a pixel, shifted.
    #[must_use]
    pub fn pixel(&self, probability: f32) -> f32 {
        let shifted = log_odds(f64::from(probability)) - log_odds(self.threshold);
        odds_to_probability(shifted) as f32
    }

    /// How likely a slice is diseased, from its pixels before the shift.
    #[must_use]
    pub fn slice(&self, pixels: impl IntoIterator<Item = f32>) -> f64 {
        odds_to_probability(self.offset + self.slope * suspicion(pixels))
    }
}

fn log_odds(p: f64) -> f64 {
    let p = p.clamp(EDGE, 1.0 - EDGE);
    (p / (1.0 - p)).ln()
}

fn odds_to_probability(odds: f64) -> f64 {
    1.0 / (1.0 + (-odds).exp())
}

/// Log-odds of the mean of a slice's highest pixels.
fn suspicion(pixels: impl IntoIterator<Item = f32>) -> f64 {
    let mut values: Vec<f32> = pixels.into_iter().collect();
    values.sort_by(|a, b| b.total_cmp(a));
    let top = &values[..TOP.min(values.len())];
    log_odds(top.iter().map(|&v| f64::from(v)).sum::<f64>() / top.len().max(1) as f64)
}

/// Offset and slope of the logistic regression on (x, label), by Newton's method, with a weak pull to (0, 1): where the labels
/// part perfectly there is no greatest likelihood.
fn logistic(points: &[(f64, f64)]) -> (f64, f64) {
    const PULL: f64 = 0.1;
    let (mut a, mut b) = (0.0, 1.0);
    for _ in 0..50 {
        let (mut ga, mut gb) = (PULL * a, PULL * (b - 1.0));
        let (mut haa, mut hab, mut hbb) = (PULL, 0.0, PULL);
        for &(x, label) in points {
            let p = odds_to_probability(a + b * x);
            let v = p * (1.0 - p);
            ga += p - label;
            gb += (p - label) * x;
            haa += v;
            hab += v * x;
            hbb += v * x * x;
        }
        let determinant = haa * hbb - hab * hab;
        let (da, db) = (
            (hbb * ga - hab * gb) / determinant,
            (haa * gb - hab * ga) / determinant,
        );
        // Steps far out overshoot.
        let most = f64::max(da.abs(), db.abs()).max(1.0);
        a -= da / most;
        b -= db / most;
        if da.abs().max(db.abs()) < 1e-10 {
            break;
        }
    }
    (a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_healthy_slices_have_a_pixel_above_the_threshold() {
        // Ten healthy slices whose highest pixels are 0.05, 0.10, ..., 0.50, and five diseased ones.
        let maps = Array3::from_shape_fn((15, 8, 8), |(n, y, x)| {
            let top = if n < 10 { 0.05 * (n + 1) as f32 } else { 0.9 };
            if y < 5 && x < 5 { top } else { 0.01 }
        });
        let labels: Vec<u8> = (0..15).map(|n| u8::from(n >= 10)).collect();
        let found = StudentCalibration::learn(&maps, &labels, 0.9).unwrap();
        assert!((found.threshold - 0.45).abs() < 1e-6, "{found:?}");
        assert_eq!(found.slices, [10, 5]);
        let left = |n: usize| {
            maps.index_axis(Axis(0), n)
                .iter()
                .any(|&v| found.pixel(v) > 0.5)
        };
        assert_eq!((0..10).filter(|&n| left(n)).count(), 1);
        assert!((10..15).all(left));
        // The shift keeps the order, and 0 and 1.
        assert!(found.pixel(0.3) < found.pixel(0.4) && found.pixel(1.0) > 0.99);
        let of = |n: usize| found.slice(maps.index_axis(Axis(0), n).iter().copied());
        assert!(of(14) > 0.8 && of(0) < 0.2, "{} {}", of(14), of(0));
        assert!(StudentCalibration::learn(&maps, &labels[1..], 0.9).is_err());
        assert!(StudentCalibration::learn(&maps, &[0; 15], 0.9).is_err());
        assert!(StudentCalibration::learn(&maps, &labels, 1.1).is_err());
    }

    /// Data made by a known line is fitted by it.
    #[test]
    fn the_regression_finds_the_line_that_made_the_labels() {
        let (a, b) = (-1.0, 2.0);
        let mut points = Vec::new();
        for i in -40..=40 {
            let x = f64::from(i) / 10.0;
            // As many of 1000 labels as the probability says.
            let ones = (1000.0 * odds_to_probability(a + b * x)).round() as usize;
            points.extend((0..1000).map(|k| (x, f64::from(u8::from(k < ones)))));
        }
        let (found_a, found_b) = logistic(&points);
        assert!((found_a - a).abs() < 0.01 && (found_b - b).abs() < 0.01);
        // Labels that part perfectly have a finite answer.
        let (a, b) = logistic(&[(-1.0, 0.0), (1.0, 1.0)]);
        assert!(a.abs() < 1e-6 && (1.0..10.0).contains(&b), "{a} {b}");
    }
}
