use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// A uniform random sample of the rows seen so far, of bounded size (Vitter 1985, algorithm R).
///
/// Below its capacity it keeps every row, in order.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    values: Vec<f32>,
    dimension: usize,
    capacity: usize,
    seen: u64,
    rng: ChaCha8Rng,
}

impl Pool {
    /// Room for as many rows as `bytes` hold, at least one.
    pub(crate) fn new(dimension: usize, bytes: u64, seed: u64) -> Result<Self> {
        let row = 4 * dimension as u64;
        let capacity = usize::try_from(bytes.checked_div(row).unwrap_or(0)).unwrap_or(usize::MAX);
        if capacity == 0 {
            return Err(Error::Budget { row, budget: bytes });
        }
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Ok(Self {
            values: Vec::new(),
            dimension,
            capacity,
            seen: 0,
            rng,
        })
    }

    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    pub(crate) fn push(&mut self, row: &[f32]) {
        self.seen += 1;
        if self.values.len() < self.capacity * self.dimension {
            self.values.extend_from_slice(row);
            return;
        }
        let at = self.rng.random_range(0..self.seen);
        if at < self.capacity as u64 {
            self.values[at as usize * self.dimension..][..self.dimension].copy_from_slice(row);
        }
    }

    pub(crate) fn into_rows(self) -> Result<Array2<f32>> {
        let rows = self.values.len() / self.dimension;
        Array2::from_shape_vec((rows, self.dimension), self.values)
            .map_err(|e| Error::shape("pool", "rows of one length", e))
    }
}
