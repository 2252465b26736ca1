//! Classifier guidance.

use candle_core::Tensor;
use fndm_kernels::linear_combination;
use serde::{Deserialize, Serialize};

use crate::{Error, Prediction, Result};

/// Steers a noise prediction by a classifier's gradient (Li et al. 2023, eq. 8; Dhariwal and Nichol 2021, algorithm 2):
///
/// `epsilon_hat` = epsilon - scale * `sigma_t` * `grad_x` log p(y | `x_t`)
///
/// It knows nothing of the classifier: the gradient is a tensor, however it came about. A [`Solver`](crate::Solver) applies it where
/// a model's [`Answer`](crate::Answer) has one. The paper guides sampling alone;
/// encoding goes without.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guidance {
    /// Strength of the guidance; 0 is none, 1 is the posterior's own score.
    pub scale: f64,
}

impl Default for Guidance {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

impl Guidance {
    /// The guided noise. `noise` and `gradient` (of log p(y | `x_t`) in `x_t`) have one shape.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn apply(&self, noise: &Tensor, gradient: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(linear_combination(&[
            (1.0, noise),
            (-self.scale * sigma, gradient),
        ])?)
    }

    /// The guided output of a network that predicts something else than noise: the same change of the noise, said in
    /// that network's terms.
    ///
    /// # Errors
    /// When the shapes differ; [`Error::Conversion`] for x0 and v at alpha = 0, where no change of the noise is one of them.
    pub fn apply_to(
        &self,
        prediction: Prediction,
        output: &Tensor,
        gradient: &Tensor,
        alpha: f64,
        sigma: f64,
    ) -> Result<Tensor> {
        let weight = match prediction {
            Prediction::Noise => -sigma,
            Prediction::X0 => sigma * sigma / alpha,
            Prediction::V => -sigma / alpha,
            Prediction::Score => 1.0,
        };
        if self.scale == 0.0 {
            return Ok(output.clone());
        }
        if !f64::is_finite(weight) {
            return Err(Error::Conversion {
                wanted: "guided output",
                given: prediction.name(),
                alpha,
                sigma,
            });
        }
        Ok(linear_combination(&[
            (1.0, output),
            (self.scale * weight, gradient),
        ])?)
    }
}
