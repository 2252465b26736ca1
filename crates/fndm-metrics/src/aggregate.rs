//! Many scores as one line that says how many were left out, and why.

use crate::score::{Score, Undefined};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Mean, median and spread of the defined scores, and the count of the others by reason.
///
/// ```
/// use fndm_metrics::{Aggregate, Score, Undefined};
///
/// let scores = [
///     Score::Value(0.5),
///     Score::Value(0.7),
///     Score::Undefined(Undefined::BothEmpty),
/// ];
/// let aggregate = Aggregate::of(scores);
/// assert_eq!(aggregate.mean, Some(0.6));
/// assert_eq!(aggregate.counted, 2);
/// assert_eq!(aggregate.skipped[&Undefined::BothEmpty], 1);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Aggregate {
    /// The mean of the defined scores; none if there is none.
    pub mean: Option<f64>,
    /// Their median: the mean of the two middle ones if their number is even.
    pub median: Option<f64>,
    /// Their sample standard deviation (divided by n - 1); none below two scores.
    pub standard_deviation: Option<f64>,
    /// The smallest.
    pub minimum: Option<f64>,
    /// The largest.
    pub maximum: Option<f64>,
    /// How many scores these figures are made of.
    pub counted: usize,
    /// How many scores were left out, by reason.
    pub skipped: BTreeMap<Undefined, usize>,
}

impl Aggregate {
    /// Aggregates the scores. Their order does not matter to the bits of the result. Values that are
    /// NaN or infinite are skipped and counted as such.
    pub fn of(scores: impl IntoIterator<Item = Score>) -> Self {
        let mut values = Vec::new();
        let mut skipped = BTreeMap::new();
        for score in scores {
            match score.finite() {
                Score::Value(value) => values.push(value),
                Score::Undefined(reason) => *skipped.entry(reason).or_insert(0) += 1,
            }
        }
        values.sort_by(f64::total_cmp);
        let mean = mean(&values);
        let standard_deviation = mean.filter(|_| values.len() > 1).map(|mean| {
            let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
            (squares / (values.len() - 1) as f64).sqrt()
        });
        Self {
            mean,
            median: sorted_median(&values),
            standard_deviation,
            minimum: values.first().copied(),
            maximum: values.last().copied(),
            counted: values.len(),
            skipped,
        }
    }

    /// How many scores were left out, whatever the reason.
    #[must_use]
    pub fn skipped_total(&self) -> usize {
        self.skipped.values().sum()
    }

    /// The skipped cases in words: "2 both empty, 1 result empty"; empty if there are none.
    #[must_use]
    pub fn skipped_in_words(&self) -> String {
        let parts: Vec<String> = self
            .skipped
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        parts.join(", ")
    }
}

impl FromIterator<Score> for Aggregate {
    fn from_iter<I: IntoIterator<Item = Score>>(scores: I) -> Self {
        Self::of(scores)
    }
}

/// The mean, none of no values.
pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The median of sorted values.
pub(crate) fn sorted_median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(0.5 * (sorted.get(middle.wrapping_sub(1))? + upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_counted_is_no_number() {
        let aggregate = Aggregate::of([Score::Undefined(Undefined::NoPositive)]);
        assert_eq!(aggregate.mean, None);
        assert_eq!(aggregate.median, None);
        assert_eq!(aggregate.counted, 0);
        assert_eq!(aggregate.skipped_total(), 1);
        assert_eq!(aggregate.skipped_in_words(), "1 no positive");
    }

    #[test]
    fn what_is_no_number_is_counted_apart() {
        let aggregate = Aggregate::of([f64::NAN, 1.0, f64::INFINITY].map(Score::Value));
        assert_eq!((aggregate.mean, aggregate.counted), (Some(1.0), 1));
        assert_eq!(aggregate.skipped_in_words(), "2 not finite");
    }

    #[test]
    fn median_and_deviation_of_known_numbers() {
        let aggregate: Aggregate = [4.0, 1.0, 2.0, 3.0].map(Score::Value).into_iter().collect();
        assert_eq!(aggregate.mean, Some(2.5));
        assert_eq!(aggregate.median, Some(2.5));
        assert_eq!(aggregate.minimum, Some(1.0));
        assert_eq!(aggregate.maximum, Some(4.0));
        // Squares 2.25 + 0.25 + 0.25 + 2.25 over 3.
        assert!((aggregate.standard_deviation.unwrap() - (5.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(Aggregate::of([Score::Value(7.0)]).median, Some(7.0));
    }
}
