//! Axes with round numbers on them.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;

/// An axis of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub(crate) name: String,
    low: f64,
    high: f64,
    logarithmic: bool,
    /// The labels; none for round numbers.
    at: Vec<f64>,
}

impl Axis {
    /// From `low` to `high` in equal steps. An axis of no length gets one, and one that isn't finite is that from 0 to 1.
    #[must_use]
    pub fn linear(name: &str, low: f64, high: f64) -> Self {
        let (low, high) = match low.is_finite() && high.is_finite() {
            true => (low, high),
            false => (0., 1.),
        };
        Self {
            name: name.into(),
            low,
            high: if high > low { high } else { low + 1. },
            logarithmic: false,
            at: Vec::new(),
        }
    }

    /// From `low` to `high`, both above 0, in equal ratios. An axis of no length gets one, and any other is that from 1 to 10.
    #[must_use]
    pub fn logarithmic(name: &str, low: f64, high: f64) -> Self {
        let (low, high) = match low > 0. && high > 0. && low.is_finite() && high.is_finite() {
            true => (low, high),
            false => (1., 10.),
        };
        Self {
            high: if high > low { high } else { low * 2. },
            logarithmic: true,
            ..Self::linear(name, low, high)
        }
    }

    /// With labels at these values, in place of round numbers.
    #[must_use]
    pub fn labelled(mut self, at: Vec<f64>) -> Self {
        self.at = at;
        self
    }

    /// The value on a linear scale.
    fn even(&self, value: f64) -> f64 {
        if self.logarithmic { value.ln() } else { value }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let even = RangedCoordf64::from(self.even(self.low)..self.even(self.high));
        even.map(&self.even(*value), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if !self.at.is_empty() {
            return self.at.clone();
        }
        match self.logarithmic {
            true => round_ratios(self.low, self.high),
            false => RangedCoordf64::from(self.low..self.high).key_points(hint),
        }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    /// As people write it: 0.3, not 0.30000000000000004.
    fn format(value: &f64) -> String {
        // Steps added up to next to nothing.
        if value.abs() < 1e-12 {
            return "0".into();
        }
        let rounded = format!("{value:.6e}").parse().unwrap_or(*value);
        rounded.to_string()
    }
}

/// 1, 2 and 5 times powers of ten within the range.
fn round_ratios(low: f64, high: f64) -> Vec<f64> {
    let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    (from..=to)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| (digit, power)))
        // By way of text, so that 5e-2 is written 0.05.
        .filter_map(|(digit, power)| format!("{digit}e{power}").parse().ok())
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_round() {
        assert_eq!(round_ratios(0.03, 3.0), [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]);
        assert_eq!(Axis::format(&(0.1 + 0.2)), "0.3");
        assert_eq!(Axis::format(&16_000.), "16000");
        assert_eq!(Axis::format(&(0.3 - 0.1 - 0.2)), "0");
    }

    /// Ticks between 0 and 10 in equal ratios would have no end.
    #[test]
    fn an_axis_that_is_none_has_an_end() {
        for (low, high) in [(0., 10.), (-1., 1.), (f64::NAN, 1.), (1., f64::INFINITY)] {
            let axis = Axis::logarithmic("steps", low, high);
            assert_eq!(axis.range(), 1.0..10.0);
        }
        let axis = Axis::linear("Dice", f64::NEG_INFINITY, 1.);
        assert_eq!(axis.range(), 0.0..1.0);
    }

    #[test]
    fn equal_ratios_are_equal_steps() {
        let axis = Axis::logarithmic("steps", 1., 100.);
        let at = [1., 10., 100.].map(|value| axis.map(&value, (0, 200)));
        assert_eq!(at, [0, 100, 200]);
        let axis = Axis::linear("Dice", 0., 1.);
        let at = [0., 0.25, 1.].map(|value| axis.map(&value, (200, 0)));
        assert_eq!(at, [200, 150, 0]);
    }
}
