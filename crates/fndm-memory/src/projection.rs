use ndarray::{Array2, ArrayView2};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::tensor::row_values;
use crate::{Error, Result};

/// A random linear map to fewer dimensions that keeps distances nearly: very sparse signs (Li, Hastie, Church 2006).
///
/// About one value in sqrt(D) takes part in each output, with sign + or - at random. Expected squared lengths are kept.
#[derive(Debug, Clone)]
pub struct SparseProjection {
    from: usize,
    /// For each output: the inputs that take part, and their signs.
    rows: Vec<Vec<(usize, f32)>>,
    scale: f32,
}

impl SparseProjection {
    /// A projection from `from` to `to` dimensions. The same seed gives the same projection.
    ///
    /// # Errors
    /// When a dimension is 0.
    pub fn new(from: usize, to: usize, seed: u64) -> Result<Self> {
        if from == 0 || to == 0 {
            return Err(Error::config(
                "projection",
                "expected dimensions of 1 or more, got 0",
            ));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let sparsity = (from as f64).sqrt();
        let rows = (0..to)
            .map(|_| {
                (0..from)
                    .filter_map(|i| {
                        let u: f64 = rng.random();
                        let u = u * sparsity;
                        (u < 1.0).then_some((i, if u < 0.5 { 1.0 } else { -1.0 }))
                    })
                    .collect()
            })
            .collect();
        Ok(Self {
            from,
            rows,
            scale: (sparsity / to as f64).sqrt() as f32,
        })
    }

    /// Projects rows `(N, from)` to `(N, to)`.
    ///
    /// # Errors
    /// When the rows are of another dimension.
    pub fn apply(&self, features: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        let (n, dimension) = features.dim();
        if dimension != self.from {
            return Err(Error::Dimension {
                expected: self.from,
                got: dimension,
            });
        }
        let to = self.rows.len();
        let values = row_values(features);
        let mut out = vec![0f32; n * to];
        out.par_chunks_mut(to)
            .zip(values.par_chunks(dimension))
            .with_min_len(64)
            .for_each(|(out, row)| {
                for (o, taps) in out.iter_mut().zip(&self.rows) {
                    *o = self.scale * taps.iter().map(|&(i, sign)| sign * row[i]).sum::<f32>();
                }
            });
        Array2::from_shape_vec((n, to), out)
            .map_err(|e| Error::shape("projected features", "rows of one length", e))
    }
}
