//! Timesteps drawn by how large their losses are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::{Rng, RngExt};

use crate::{Error, Result, TimeSampling};

const LOSSES: &str = "times/losses";
const COUNTS: &str = "times/counts";
const SHARES: &str = "times/shares";

/// The latest losses by range of timesteps, and the distribution that batches are drawn by.
///
/// The distribution changes only every `refresh` iterations, so that batches can be prepared ahead, and follows from what is
/// saved, so that a resumed run draws the same.
#[derive(Debug)]
pub(crate) struct LossHistory {
    steps: usize,
    ranges: usize,
    depth: usize,
    uniform: f64,
    refresh: u64,
    /// The latest `depth` losses of each range, the oldest overwritten.
    losses: Vec<f32>,
    /// Losses seen in each range.
    counts: Vec<u32>,
    table: Option<Arc<TimeTable>>,
}

/// A distribution over timesteps.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TimeTable {
    steps: usize,
    /// Probability of each single timestep of a range.
    share: Vec<f64>,
    /// Probability of all ranges up to and with this one.
    cumulative: Vec<f64>,
}

/// The range of a timestep.
pub(crate) fn range_of(timestep: usize, steps: usize, ranges: usize) -> usize {
    (timestep * ranges / steps.max(1)).min(ranges - 1)
}

/// The first timestep of a range.
pub(crate) fn first_of(range: usize, steps: usize, ranges: usize) -> usize {
    (range * steps).div_ceil(ranges)
}

impl TimeTable {
    fn new(steps: usize, share: Vec<f64>) -> Self {
        let ranges = share.len();
        let mut sum = 0.0;
        let cumulative = (0..ranges)
            .map(|r| {
                let length = first_of(r + 1, steps, ranges) - first_of(r, steps, ranges);
                sum += share[r] * length as f64;
                sum
            })
            .collect();
        Self {
            steps,
            share,
            cumulative,
        }
    }

    pub(crate) fn draw(&self, rng: &mut impl Rng) -> usize {
        let ranges = self.share.len();
        let total = self.cumulative[ranges - 1];
        let u = rng.random::<f64>() * total;
        let range = self.cumulative.partition_point(|&c| c <= u).min(ranges - 1);
        let before = match range {
            0 => 0.0,
            r => self.cumulative[r - 1],
        };
        let (first, after) = (
            first_of(range, self.steps, ranges),
            first_of(range + 1, self.steps, ranges),
        );
        let within = ((u - before) / self.share[range]) as usize;
        (first + within).min(after - 1)
    }

    /// What a sample's loss is multiplied by, so that its mean stays that of timesteps drawn uniformly.
    pub(crate) fn correction(&self, timestep: usize) -> f64 {
        let range = range_of(timestep, self.steps, self.share.len());
        1.0 / (self.steps as f64 * self.share[range])
    }
}

impl LossHistory {
    /// None unless `times` asks for it.
    pub(crate) fn new(times: TimeSampling, steps: usize) -> Option<Self> {
        let TimeSampling::LossAware {
            ranges,
            history,
            uniform,
            refresh,
        } = times
        else {
            return None;
        };
        let ranges = ranges.min(steps);
        Some(Self {
            steps,
            ranges,
            depth: history,
            uniform,
            refresh,
            losses: vec![0.0; ranges * history],
            counts: vec![0; ranges],
            table: None,
        })
    }

    pub(crate) fn table(&self) -> Option<Arc<TimeTable>> {
        self.table.clone()
    }

    /// Takes the losses of one iteration's samples.
    pub(crate) fn record(&mut self, timesteps: &[usize], losses: &[f32]) {
        for (&timestep, &loss) in timesteps.iter().zip(losses) {
            let range = range_of(timestep, self.steps, self.ranges);
            let count = self.counts[range];
            self.losses[range * self.depth + count as usize % self.depth] = loss;
            // Below the largest number, the place of the next loss stays right after wrapping around.
            self.counts[range] = match count + 1 {
                next if next as usize == 2 * self.depth => self.depth as u32,
                next => next,
            };
        }
    }

    /// Changes the distribution after an iteration where that is due, and says whether it did.
    ///
    /// As guided-diffusion's `LossSecondMomentResampler` (Nichol and Dhariwal 2021, section 3.3): uniform until every range has
    /// `history` losses, then proportional to the root of their mean square, mixed with a uniform share.
    pub(crate) fn refresh(&mut self, iteration: u64) -> bool {
        let full = self.counts.iter().all(|&c| c as usize >= self.depth);
        if !iteration.is_multiple_of(self.refresh) || !full {
            return false;
        }
        let roots: Vec<f64> = self
            .losses
            .chunks(self.depth)
            .map(|losses| {
                let sum: f64 = losses.iter().map(|&l| f64::from(l).powi(2)).sum();
                (sum / self.depth as f64).sqrt()
            })
            .collect();
        let length =
            |r| first_of(r + 1, self.steps, self.ranges) - first_of(r, self.steps, self.ranges);
        let total: f64 = (0..self.ranges).map(|r| roots[r] * length(r) as f64).sum();
        let even = 1.0 / self.steps as f64;
        let share = roots
            .iter()
            .map(|root| match total > 0.0 {
                true => (1.0 - self.uniform) * root / total + self.uniform * even,
                false => even,
            })
            .collect();
        self.table = Some(Arc::new(TimeTable::new(self.steps, share)));
        true
    }

    /// Adds what must be saved.
    pub(crate) fn save(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
        let cpu = &Device::Cpu;
        let shape = (self.ranges, self.depth);
        tensors.insert(
            LOSSES.to_owned(),
            Tensor::from_slice(&self.losses, shape, cpu)?,
        );
        tensors.insert(
            COUNTS.to_owned(),
            Tensor::from_slice(&self.counts, self.ranges, cpu)?,
        );
        if let Some(table) = &self.table {
            let share = Tensor::from_slice(&table.share, self.ranges, cpu)?;
            tensors.insert(SHARES.to_owned(), share);
        }
        Ok(())
    }

    /// What [`save`](Self::save) saved.
    pub(crate) fn restored(&self, path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
        let get = |name: &str, shape: &[usize]| match tensors.get(name) {
            Some(tensor) if tensor.dims() == shape => Ok(tensor),
            other => Err(Error::checkpoint(
                path,
                format!(
                    "tensor {name}: expected {shape:?}, got {:?}",
                    other.map(Tensor::dims)
                ),
            )),
        };
        let losses = get(LOSSES, &[self.ranges, self.depth])?;
        let counts = get(COUNTS, &[self.ranges])?;
        let table = match tensors.contains_key(SHARES) {
            true => {
                let share = get(SHARES, &[self.ranges])?.to_vec1::<f64>()?;
                Some(Arc::new(TimeTable::new(self.steps, share)))
            }
            false => None,
        };
        Ok(Self {
            losses: losses.flatten_all()?.to_vec1::<f32>()?,
            counts: counts.to_vec1::<u32>()?,
            table,
            ..*self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, generator};

    fn history(ranges: usize) -> LossHistory {
        let times = TimeSampling::LossAware {
            ranges,
            history: 3,
            uniform: 0.1,
            refresh: 2,
        };
        LossHistory::new(times, 10).unwrap()
    }

    /// Three ranges of 10 timesteps are 0..4, 4..7 and 7..10.
    #[test]
    fn shares_are_the_root_mean_squares() {
        let mut history = history(3);
        history.record(&[0, 3, 4, 6, 7, 9], &[9.0; 6]);
        assert!(!history.refresh(2), "two of three losses");
        // The oldest of four go.
        for (t, loss) in [(1, 1.0), (2, 2.0), (0, 2.0), (5, 0.0), (5, 0.0), (5, 3.0)] {
            history.record(&[t], &[loss]);
        }
        history.record(&[8, 8, 8], &[1.0, 1.0, 1.0]);
        assert!(!history.refresh(3), "not due");
        assert!(history.refresh(4));
        let roots = [3.0_f64.sqrt(), 3.0_f64.sqrt(), 1.0];
        let total = 4.0 * roots[0] + 3.0 * roots[1] + 3.0 * roots[2];
        let table = history.table().unwrap();
        for (r, root) in roots.iter().enumerate() {
            let expected = 0.9 * root / total + 0.1 / 10.0;
            assert!((table.share[r] - expected).abs() < 1e-12);
        }
        assert!((table.cumulative[2] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn draws_follow_the_shares_and_the_corrected_mean_is_the_uniform_one() {
        let table = TimeTable::new(10, vec![0.05, 0.2, 0.2 / 3.0]);
        let mut rng = generator(1, Purpose::Validation, 0);
        let (n, mut counts, mut sum) = (100_000, [0.0; 10], 0.0);
        for _ in 0..n {
            let t = table.draw(&mut rng);
            counts[t] += 1.0;
            sum += table.correction(t) * (t * t) as f64;
        }
        for (t, count) in counts.iter().enumerate() {
            let p = table.share[range_of(t, 10, 3)];
            let deviation = (f64::from(n) * p * (1.0 - p)).sqrt();
            assert!(
                (count - f64::from(n) * p).abs() < 5.0 * deviation,
                "{t} {count}"
            );
        }
        // The mean of t^2 over 0..10, drawn uniformly, is 28.5.
        assert!((sum / f64::from(n) - 28.5).abs() < 0.5, "{sum}");
    }

    #[test]
    fn what_is_saved_comes_back() {
        let mut there = history(10);
        for i in 0..35_usize {
            there.record(&[i % 10], &[i as f32]);
        }
        there.refresh(6);
        there.record(&[4], &[0.5]);
        let mut tensors = BTreeMap::new();
        there.save(&mut tensors).unwrap();
        let back = history(10).restored(Path::new("x"), &tensors).unwrap();
        assert_eq!(
            (&back.losses, &back.counts, &back.table),
            (&there.losses, &there.counts, &there.table)
        );
        assert!(back.table.is_some());
        let error = history(5).restored(Path::new("x"), &tensors).unwrap_err();
        assert!(error.to_string().contains("times/losses"), "{error}");
    }
}
