//! How likely a slice is diseased, learned from the bits of slices that the student hasn't seen.

use ndarray::{Array3, Axis};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Pixels whose mean says how suspicious a slice is.
const TOP: usize = 20;
/// What a probability is kept away from 0 and 1 by.
const EDGE: f64 = 1e-6;

/// From the highest pixels of a slice to its probability of being diseased.
///
/// No mask is looked at: it is a logistic regression on the bits of slices, of patients held apart, on the log-odds of the mean
/// of the 20 highest pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceCalibration {
    /// Log-odds of a slice whose highest pixels have log-odds 0.
    pub offset: f64,
    /// Log-odds of a slice per log-odds of its highest pixels.
    pub slope: f64,
    /// A slice that is less likely diseased than this counts as healthy: its mask is empty. 0 to 1.
    pub healthy_below: f64,
    /// Healthy and diseased slices that it was learned from.
    pub slices: [usize; 2],
}

impl SliceCalibration {
    /// A slice is as likely diseased as its highest pixels, and none counts as healthy.
    pub const NONE: Self = Self {
        offset: 0.0,
        slope: 1.0,
        healthy_below: 0.0,
        slices: [0, 0],
    };

    /// Whether anything was learned: without patients held apart, or where their slices say nothing, it is [`NONE`](Self::NONE) but for the
    /// counts.
    #[must_use]
    pub fn is_learned(&self) -> bool {
        Self {
            slices: Self::NONE.slices,
            ..*self
        } != Self::NONE
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// The one that doesn't.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("calibration.offset", self.offset),
            ("calibration.slope", self.slope),
        ] {
            if !value.is_finite() {
                return Err(Error::option(name, "a finite number", value));
            }
        }
        if !(0.0..=1.0).contains(&self.healthy_below) {
            let name = "calibration.healthy_below";
            return Err(Error::option(name, "0 to 1", self.healthy_below));
        }
        Ok(())
    }

    /// Learns from probabilities `(N, H, W)` of slices with these labels, 0 healthy and 1 diseased. The share `empty` of the
    /// healthy slices, 0 to 1, will count as healthy; more of them where slices are equally likely.
    ///
    /// Where the healthy slices are the more suspicious ones, which few patients can bring about, nothing is learned: what comes back is
    /// [`NONE`](Self::NONE) with the counts. By such a line the most suspicious slices would count as healthy.
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
        let points: Vec<(f64, f64)> = maps
            .axis_iter(Axis(0))
            .zip(labels)
            .map(|(map, &label)| (suspicion(map.iter().copied()), f64::from(label)))
            .collect();
        let (offset, slope) = logistic(&points);
        if slope <= 0.0 {
            tracing::warn!(
                healthy,
                diseased = slices[1],
                "the student finds healthy slices the more suspicious ones: it says nothing of whole slices"
            );
            return Ok(Self {
                slices,
                ..Self::NONE
            });
        }
        let mut found = Self {
            offset,
            slope,
            healthy_below: 0.0,
            slices,
        };
        let mut likely: Vec<f64> = points
            .iter()
            .filter(|(_, label)| *label == 0.0)
            .map(|&(x, _)| found.of(x))
            .collect();
        likely.sort_by(f64::total_cmp);
        // A share of 0.55 of 100 slices is 55 of them, whatever the last bit of the product says.
        let count = (empty * healthy as f64 - 1e-9).ceil() as usize;
        if let Some(last) = count.checked_sub(1).and_then(|i| likely.get(i)) {
            // The middle between the last that counts as healthy and the next that is more likely.
            let next = likely.iter().find(|next| *next > last);
            found.healthy_below = f64::midpoint(*last, next.copied().unwrap_or(1.0));
        }
        Ok(found)
    }

    /// How likely a slice is diseased, from the probabilities of its pixels.
    #[must_use]
    pub fn slice(&self, pixels: impl IntoIterator<Item = f32>) -> f64 {
        self.of(suspicion(pixels))
    }

    fn of(&self, suspicion: f64) -> f64 {
        1.0 / (1.0 + (-(self.offset + self.slope * suspicion)).exp())
    }
}

/// Log-odds of the mean of a slice's highest pixels.
fn suspicion(pixels: impl IntoIterator<Item = f32>) -> f64 {
    let mut values: Vec<f32> = pixels.into_iter().collect();
    values.sort_by(|a, b| b.total_cmp(a));
    let top = &values[..TOP.min(values.len())];
    let mean = top.iter().map(|&v| f64::from(v)).sum::<f64>() / top.len().max(1) as f64;
    let p = mean.clamp(EDGE, 1.0 - EDGE);
    (p / (1.0 - p)).ln()
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
            let p = 1.0 / (1.0 + (-(a + b * x)).exp());
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
    fn the_share_asked_for_of_the_healthy_slices_counts_as_healthy() {
        // Ten healthy slices whose highest pixels are 0.05, 0.10, ..., 0.50, and five diseased ones.
        let maps = Array3::from_shape_fn((15, 8, 8), |(n, y, x)| {
            let top = if n < 10 { 0.05 * (n + 1) as f32 } else { 0.9 };
            if y < 5 && x < 5 { top } else { 0.01 }
        });
        let labels: Vec<u8> = (0..15).map(|n| u8::from(n >= 10)).collect();
        for (empty, expected) in [(0.9, 9), (1.0, 10), (0.0, 0), (0.35, 4)] {
            let found = SliceCalibration::learn(&maps, &labels, empty).unwrap();
            assert_eq!(found.slices, [10, 5]);
            found.check().unwrap();
            let of = |n: usize| found.slice(maps.index_axis(Axis(0), n).iter().copied());
            let healthy = |n: &usize| of(*n) < found.healthy_below;
            assert_eq!((0..10).filter(healthy).count(), expected);
            assert_eq!((10..15).filter(healthy).count(), 0);
            assert!(of(14) > 0.8 && of(0) < 0.2, "{} {}", of(14), of(0));
        }
        assert!(SliceCalibration::learn(&maps, &labels[1..], 0.9).is_err());
        assert!(SliceCalibration::learn(&maps, &[0; 15], 0.9).is_err());
        assert!(SliceCalibration::learn(&maps, &labels, 1.1).is_err());
        let wrong = SliceCalibration {
            slope: f64::NAN,
            ..SliceCalibration::NONE
        };
        assert!(wrong.check().is_err());
        // One with counts alone says nothing.
        let counted = SliceCalibration {
            slices: [3, 4],
            ..SliceCalibration::NONE
        };
        assert!(!counted.is_learned() && !SliceCalibration::NONE.is_learned());
        let learned = SliceCalibration::learn(&maps, &labels, 0.9).unwrap();
        assert!(learned.is_learned());
    }

    /// Maps of 8 by 8 whose values are all the same in a slice.
    fn flat(values: &[f32]) -> Array3<f32> {
        Array3::from_shape_fn((values.len(), 8, 8), |(n, _, _)| values[n])
    }

    #[test]
    fn slices_that_are_equally_likely_are_emptied_together() {
        // 19 of 20 healthy slices have nothing in them.
        let mut values = vec![0.0; 19];
        values.extend([0.2, 0.9, 0.8]);
        let mut labels = vec![0; 20];
        labels.extend([1, 1]);
        let found = SliceCalibration::learn(&flat(&values), &labels, 0.9).unwrap();
        let emptied = values
            .iter()
            .map(|&v| found.slice([v; 64]) < found.healthy_below);
        let expected: Vec<bool> = (0..22).map(|n| n < 19).collect();
        assert_eq!(emptied.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_share_is_no_more_than_it_says() {
        let mut values: Vec<f32> = (1..=100).map(|n| n as f32 / 250.0).collect();
        values.extend([0.9, 0.8]);
        let labels: Vec<u8> = (0..102).map(|n| u8::from(n >= 100)).collect();
        // In f64 0.55 * 100 is a little more than 55.
        for (empty, expected) in [(0.55, 55), (0.07, 7), (0.551, 56), (1.0, 100)] {
            let found = SliceCalibration::learn(&flat(&values), &labels, empty).unwrap();
            let emptied = values
                .iter()
                .filter(|&&v| found.slice([v; 64]) < found.healthy_below);
            assert_eq!(emptied.count(), expected, "{empty}");
        }
    }

    #[test]
    fn a_line_that_falls_is_not_learned() {
        // Of a patient whose lesion is fainter than what is found in healthy slices.
        let values = [0.14, 0.18, 0.23, 0.12, 0.27, 0.07, 0.08, 0.05, 0.1, 0.06];
        let labels = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1];
        let found = SliceCalibration::learn(&flat(&values), &labels, 0.9).unwrap();
        let none = SliceCalibration {
            slices: [5, 5],
            ..SliceCalibration::NONE
        };
        assert_eq!(found, none);
        assert!(
            values
                .iter()
                .all(|&v| found.slice([v; 64]) >= found.healthy_below)
        );
    }

    /// Data made by a known line is fitted by it.
    #[test]
    fn the_regression_finds_the_line_that_made_the_labels() {
        let (a, b) = (-1.0, 2.0);
        let mut points = Vec::new();
        for i in -40..=40 {
            let x = f64::from(i) / 10.0;
            // As many of 1000 labels as the probability says.
            let ones = (1000.0 / (1.0 + (-(a + b * x)).exp())).round() as usize;
            points.extend((0..1000).map(|k| (x, f64::from(u8::from(k < ones)))));
        }
        let (found_a, found_b) = logistic(&points);
        assert!((found_a - a).abs() < 0.01 && (found_b - b).abs() < 0.01);
        // Labels that part perfectly have a finite answer.
        let (a, b) = logistic(&[(-1.0, 0.0), (1.0, 1.0)]);
        assert!(a.abs() < 1e-6 && (1.0..10.0).contains(&b), "{a} {b}");
    }
}
