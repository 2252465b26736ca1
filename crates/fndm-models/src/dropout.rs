//! How a pass through a network is run; dropout whose masks depend on a seed and the place in the network alone.

use candle_core::{Result, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a pass through a network is run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pass {
    /// Seed of the dropout masks; none in inference.
    pub(crate) dropout: Option<u64>,
    /// Whether weights are constants: no gradient of them is computed, even where they are variables.
    pub(crate) constant_weights: bool,
}

impl Pass {
    /// A weight as this pass sees it.
    pub(crate) fn weight(self, weight: &Tensor) -> Tensor {
        if self.constant_weights {
            weight.detach()
        } else {
            weight.clone()
        }
    }
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

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Every value is dropped or divided by what is kept on average, so the mean stays.
    #[test]
    fn the_share_of_dropped_values_is_the_rate() {
        let n = 100_000;
        let x = Tensor::full(3f32, n, &Device::Cpu).unwrap();
        for rate in [0.1, 0.5, 0.9] {
            for place in [1, 2] {
                let pass = Pass {
                    dropout: Some(7),
                    ..Pass::default()
                };
                let y = Dropout { rate, place }.forward(&x, pass).unwrap();
                let values: Vec<f32> = y.to_vec1().unwrap();
                let kept = (3. / (1. - rate)) as f32;
                assert!(
                    values
                        .iter()
                        .all(|v| *v == 0. || (v - kept).abs() < 1e-5 * kept)
                );
                let dropped = values.iter().filter(|v| **v == 0.).count() as f64;
                let deviation = (n as f64 * rate * (1. - rate)).sqrt();
                assert!(
                    (dropped - n as f64 * rate).abs() < 5. * deviation,
                    "{dropped}"
                );
            }
        }
        let still = Dropout {
            rate: 0.5,
            place: 1,
        };
        let same = still.forward(&x, Pass::default()).unwrap();
        assert_eq!(same.to_vec1::<f32>().unwrap(), x.to_vec1::<f32>().unwrap());
        assert_eq!(same.dtype(), DType::F32);
    }
}
