use serde::{Deserialize, Serialize};

/// What one iteration did. It is also a line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Iterations made, this one included.
    pub iteration: u64,
    /// The loss, averaged over the iteration's samples.
    pub loss: f64,
    /// Share of right answers, where a classifier is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Euclidean norm of the gradient before clipping.
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
    /// Seconds of the whole run so far.
    pub elapsed_s: f64,
    /// Timestep of each sample.
    pub timesteps: Vec<usize>,
    /// Unweighted loss of each sample.
    pub losses: Vec<f32>,
}

/// The loss, and a classifier's accuracy, over a range of timesteps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimeRange {
    /// First timestep of the range.
    pub from: usize,
    /// First timestep after it.
    pub to: usize,
    /// Samples drawn in it.
    pub samples: usize,
    /// Mean loss.
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
        let ranges = self.sums.len();
        let range = (timestep * ranges / self.steps.max(1)).min(ranges - 1);
        let sum = &mut self.sums[range];
        sum.0 += 1;
        sum.1 += loss;
        sum.2 += usize::from(right);
    }

    pub(crate) fn finish(self, classifier: bool) -> Vec<TimeRange> {
        let ranges = self.sums.len();
        let edge = |range: usize| (range * self.steps).div_ceil(ranges);
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
