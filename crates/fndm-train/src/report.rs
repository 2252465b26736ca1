use serde::{Deserialize, Deserializer, Serialize};

use crate::loss_aware::{first_of, range_of};

/// What one iteration did. It is also a line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepReport {
    /// Iterations made, this one included.
    pub iteration: u64,
    /// The loss, averaged over the iteration's samples. What isn't finite is `null` in the log.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Share of right answers, where a classifier is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Euclidean norm of the gradient before clipping.
    #[serde(deserialize_with = "number")]
    pub gradient_norm: f64,
    /// Learning rate.
    pub rate: f64,
    /// Whether the weights were left as they were, since something wasn't finite.
    pub skipped: bool,
    /// Seconds of the iteration.
    pub step_s: f64,
    /// Seconds of them spent waiting for a batch.
    pub wait_s: f64,
    /// Seconds of them spent in the optimiser and the moving averages.
    pub optimizer_s: f64,
    /// Seconds of them spent on the exchange with other processes, waiting for them included.
    #[serde(default)]
    pub sync_s: f64,
    /// Seconds of the whole run so far.
    pub elapsed_s: f64,
    /// Timestep of each sample.
    pub timesteps: Vec<usize>,
    /// Unweighted loss of each sample.
    #[serde(deserialize_with = "numbers")]
    pub losses: Vec<f32>,
    /// Slice of each sample, as patient and height, where the iteration was skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batch: Vec<String>,
}

/// JSON has no name for what isn't finite: it is written as `null`.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

fn numbers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
    let values: Vec<Option<f32>> = Vec::deserialize(from)?;
    Ok(values.iter().map(|v| v.unwrap_or(f32::NAN)).collect())
}

/// The loss, and a classifier's accuracy, over a range of timesteps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TimeRange {
    /// First timestep of the range.
    pub from: usize,
    /// First timestep after it.
    pub to: usize,
    /// Samples drawn in it.
    pub samples: usize,
    /// Mean loss.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Share of right answers, where a classifier is tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// Averages by range of timesteps.
#[derive(Debug)]
pub(crate) struct ByTime {
    steps: usize,
    sums: Vec<(usize, f64, usize)>,
}

impl ByTime {
    pub(crate) fn new(steps: usize, ranges: usize) -> Self {
        Self {
            steps,
            sums: vec![(0, 0.0, 0); ranges.clamp(1, steps.max(1))],
        }
    }

    pub(crate) fn add(&mut self, timestep: usize, loss: f64, right: bool) {
        let range = range_of(timestep, self.steps, self.sums.len());
        let sum = &mut self.sums[range];
        sum.0 += 1;
        sum.1 += loss;
        sum.2 += usize::from(right);
    }

    pub(crate) fn finish(self, classifier: bool) -> Vec<TimeRange> {
        let ranges = self.sums.len();
        let edge = |range| first_of(range, self.steps, ranges);
        self.sums
            .iter()
            .enumerate()
            .map(|(range, &(samples, loss, right))| TimeRange {
                from: edge(range),
                to: edge(range + 1),
                samples,
                loss: loss / samples as f64,
                accuracy: classifier.then_some(right as f64 / samples as f64),
            })
            .collect()
    }
}
