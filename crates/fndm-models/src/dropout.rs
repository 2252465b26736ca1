//! Dropout whose masks depend on a seed and the place in the network alone.

use candle_core::{Result, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a pass through a network is run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pass {
    /// Seed of the dropout masks; none in inference.
    pub(crate) dropout: Option<u64>,
}

/// The dropout of one block. `place` tells the blocks of a network apart, so that a block that is run again
/// with the same seed draws the same mask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub(crate) rate: f64,
    pub(crate) place: u64,
}

impl Dropout {
    pub(crate) fn forward(self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let Some(seed) = pass.dropout.filter(|_| self.rate > 0.) else {
            return Ok(x.clone());
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(self.place);
        let keep = (1. / (1. - self.rate)) as f32;
        let mask: Vec<f32> = (0..x.elem_count())
            .map(|_| {
                if rng.random::<f64>() < self.rate {
                    0.
                } else {
                    keep
                }
            })
            .collect();
        x * Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?
    }
}
