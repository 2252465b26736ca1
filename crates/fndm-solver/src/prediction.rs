//! What a network predicts, and how one prediction is turned into another.

use candle_core::Tensor;
use fndm_kernels::linear_combination;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a network's output means, for x = alpha `x_0` + sigma epsilon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise epsilon.
    #[default]
    Noise,
    /// The clean image `x_0`.
    X0,
    /// The velocity alpha epsilon - sigma `x_0` (Salimans and Ho 2022).
    V,
    /// The score, -epsilon / sigma.
    Score,
}

/// A value as a combination `x * p + output * q` of a state and a network's output there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mix {
    pub(crate) x: f64,
    pub(crate) output: f64,
}

impl Prediction {
    pub(crate) fn noise_mix(self, alpha: f64, sigma: f64) -> Mix {
        match self {
            Self::Noise => Mix {
                x: 0.0,
                output: 1.0,
            },
            Self::X0 => Mix {
                x: 1.0 / sigma,
                output: -alpha / sigma,
            },
            Self::V => Mix {
                x: sigma,
                output: alpha,
            },
            Self::Score => Mix {
                x: 0.0,
                output: -sigma,
            },
        }
    }

    pub(crate) fn x0_mix(self, alpha: f64, sigma: f64) -> Mix {
        match self {
            Self::Noise => Mix {
                x: 1.0 / alpha,
                output: -sigma / alpha,
            },
            Self::X0 => Mix {
                x: 0.0,
                output: 1.0,
            },
            Self::V => Mix {
                x: alpha,
                output: -sigma,
            },
            Self::Score => Mix {
                x: 1.0 / alpha,
                output: sigma * sigma / alpha,
            },
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Noise => "the noise",
            Self::X0 => "x0",
            Self::V => "v",
            Self::Score => "the score",
        }
    }

    /// `mix`, unless it divides by zero.
    fn checked(self, wanted: &'static str, mix: Mix, alpha: f64, sigma: f64) -> Result<Mix> {
        if mix.x.is_finite() && mix.output.is_finite() {
            return Ok(mix);
        }
        Err(Error::Conversion {
            wanted,
            given: self.name(),
            alpha,
            sigma,
        })
    }

    /// The noise that the network's `output` at state `x` amounts to. All tensors have one shape.
    ///
    /// # Errors
    /// When the shapes differ; [`Error::Conversion`] from x0 at sigma = 0.
    pub fn noise(self, x: &Tensor, output: &Tensor, alpha: f64, sigma: f64) -> Result<Tensor> {
        self.checked("noise", self.noise_mix(alpha, sigma), alpha, sigma)?
            .apply(x, output)
    }

    /// The clean image that the network's `output` at state `x` amounts to.
    ///
    /// # Errors
    /// When the shapes differ; [`Error::Conversion`] from the noise or the score at alpha = 0.
    pub fn x0(self, x: &Tensor, output: &Tensor, alpha: f64, sigma: f64) -> Result<Tensor> {
        self.checked("x0", self.x0_mix(alpha, sigma), alpha, sigma)?
            .apply(x, output)
    }

    /// The velocity that the network's `output` at state `x` amounts to.
    ///
    /// # Errors
    /// When the shapes differ; [`Error::Conversion`] from x0 at sigma = 0, from the noise or the score at alpha = 0.
    pub fn v(self, x: &Tensor, output: &Tensor, alpha: f64, sigma: f64) -> Result<Tensor> {
        let (noise, x0) = (self.noise_mix(alpha, sigma), self.x0_mix(alpha, sigma));
        let mix = match self {
            Self::V => Mix {
                x: 0.0,
                output: 1.0,
            },
            Self::Noise | Self::X0 | Self::Score => Mix {
                x: alpha * noise.x - sigma * x0.x,
                output: alpha * noise.output - sigma * x0.output,
            },
        };
        self.checked("v", mix, alpha, sigma)?.apply(x, output)
    }

    /// What a network of this kind should output for the clean image `x0` and the noise in it: the training target.
    ///
    /// # Errors
    /// When the shapes differ; [`Error::Conversion`] for the score at sigma = 0.
    pub fn target(self, x0: &Tensor, noise: &Tensor, alpha: f64, sigma: f64) -> Result<Tensor> {
        let (of_x0, of_noise) = self.target_weights(alpha, sigma);
        if !of_noise.is_finite() {
            return Err(Error::Conversion {
                wanted: "score",
                given: "the noise",
                alpha,
                sigma,
            });
        }
        let mix = Mix {
            x: of_x0,
            output: of_noise,
        };
        mix.apply(x0, noise)
    }

    /// What a network of this kind should output at state `x` for a single step of order 1 (DDIM) to lead to the state `next`: what
    /// it is to learn where it takes a long step in the place of several short ones (Salimans and Ho 2022, appendix G). Each state
    /// is given with its alpha and sigma; all tensors have one shape.
    ///
    /// # Errors
    /// When the shapes differ; [`Error::Conversion`] where both states are equally noisy, or one is pure noise or clean.
    pub fn leading_to(
        self,
        (x, alpha, sigma): (&Tensor, f64, f64),
        (next, next_alpha, next_sigma): (&Tensor, f64, f64),
    ) -> Result<Tensor> {
        // next = next_alpha x0 + next_sigma epsilon and x = alpha x0 + sigma epsilon: two equations for both.
        let unit = next_alpha * sigma - next_sigma * alpha;
        let x0 = Mix {
            x: -next_sigma / unit,
            output: sigma / unit,
        };
        let noise = Mix {
            x: next_alpha / unit,
            output: -alpha / unit,
        };
        let (of_x0, of_noise) = self.target_weights(alpha, sigma);
        let both = Mix {
            x: of_x0 * x0.x + of_noise * noise.x,
            output: of_x0 * x0.output + of_noise * noise.output,
        };
        let given = "two states";
        if !(both.x.is_finite() && both.output.is_finite()) {
            return Err(Error::Conversion {
                wanted: self.name(),
                given,
                alpha,
                sigma,
            });
        }
        both.apply(x, next)
    }

    /// The weights of the clean image and of the noise in that target; that of the score is infinite at sigma = 0.
    #[must_use]
    pub fn target_weights(self, alpha: f64, sigma: f64) -> (f64, f64) {
        match self {
            Self::Noise => (0.0, 1.0),
            Self::X0 => (1.0, 0.0),
            Self::V => (-sigma, alpha),
            Self::Score => (0.0, -1.0 / sigma),
        }
    }
}

impl Mix {
    pub(crate) fn apply(self, x: &Tensor, output: &Tensor) -> Result<Tensor> {
        let terms = [(self.x, x), (self.output, output)];
        let used: Vec<(f64, &Tensor)> = terms.into_iter().filter(|(c, _)| *c != 0.0).collect();
        if let [(1.0, only)] = used[..] {
            return Ok(only.clone());
        }
        if used.is_empty() {
            return Ok(output.zeros_like()?);
        }
        Ok(linear_combination(&used)?)
    }
}
